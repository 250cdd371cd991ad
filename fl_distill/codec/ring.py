"""Whole numbers that can be added before anybody reads them: the form that secure aggregation works on.

x is clipped to -clip .. clip; with the top level T = 2^bits - 1, code = round((x + clip) T / (2 clip) + d), the dither
d of `counter` (mean 0, so that clipped x is right on average, to 1 / 512 of a level), kept in 0 .. T. Codes take
bits + ceil(log2 sites) bits, so that those of `sites` senders can be added without overflow. The sum of n senders'
codes stands for codes * 2 clip / T - n clip, the sum of their vectors. Each sender needs a seed of its own.

Wire form: the codes as `packing` lays them; no scales. Bytes: packed_length(numel, bits + ceil(log2 sites)).

Source: Bonawitz et al. 2017, arXiv 1611.04482 (the ring); Alistarh et al. 2017, arXiv 1610.02132 (the rounding).
"""

from collections.abc import Iterator
from functools import partial
from typing import final

import numpy as np
import torch
from torch import Tensor

from ..checks import positive, require, whole
from ..errors import BadUpdate
from .buffers import filled, room
from .coder import About, Bytes, Grid, check_length
from .counter import dithers
from .packing import TILE, Codes, Raw, pack_tile, packed_length, spare, unpack, unpack_tile

MOST_BITS = 16


@final
class Ring(Grid):
    """Levels from -clip to clip, in as many bits as the sum over all sites needs."""

    word = "ring"

    def __init__(self, bits: int = 8, sites: int = 16, clip: float = 0.1) -> None:
        require(
            (whole(bits) and bits <= MOST_BITS, f"ring has 1 to {MOST_BITS} bits, not {bits!r}"),
            (whole(sites), f"ring is for one site or more, not {sites!r}"),
            (positive(clip) and 1e-30 <= clip <= 1e30, f"ring clips at a number from 1e-30 to 1e30, not {clip!r}"),
        )
        self.bits, self.sites, self.clip = bits, sites, float(clip)
        self.width = bits + (sites - 1).bit_length()
        require((self.width <= MOST_BITS, f"ring: {bits} bits for {sites} sites are {self.width}, above {MOST_BITS}"))

    def encode(self, x: Tensor, about: About) -> bytes:
        """The codes of one sender."""
        return filled(packed_length(len(x), self.width), partial(self._fill, x, about))

    def decode(self, data: Bytes, about: About) -> Tensor:
        """The clipped and rounded numbers of one sender."""
        out = room(about.numel).zero_()
        self.add(data, about, out, 1.0)
        return out

    def add(self, data: Bytes, about: About, into: Tensor, weight: float) -> None:
        """`into` += `weight` * (codes * 2 clip / T - clip)."""
        check_length(data, packed_length(about.numel, self.width), self.word)
        packed = np.frombuffer(data, np.uint8)
        # Every code is checked before a number is added.
        for first, codes in self._codes(packed, about.numel):
            check_codes(codes, (1 << self.bits) - 1, first)
        for first, codes in self._codes(packed, about.numel):
            into[first : first + len(codes)].add_(restore(codes, 1, self.bits, self.clip), alpha=weight)

    def lengths(self, about: About) -> tuple[int, int]:
        """The packed codes."""
        length = packed_length(about.numel, self.width)
        return length, length

    def codes(self, data: Bytes, about: About) -> Codes:
        """The codes of one sender, ready to be added to those of others; uint16 where they have more than 8 bits."""
        check_length(data, packed_length(about.numel, self.width), self.word)
        codes = unpack(np.frombuffer(data, np.uint8), self.width, about.numel)
        check_codes(codes, (1 << self.bits) - 1)
        return codes

    def _fill(self, x: Tensor, about: About, out: Raw) -> None:
        top = (1 << self.bits) - 1
        for start in range(0, len(x), TILE):
            levels = x[start : start + TILE].clamp(-self.clip, self.clip)
            levels.add_(self.clip).mul_(top / (2 * self.clip)).add_(dithers(about.seed, start, len(levels)))
            whole_levels = levels.round_().clamp_(0, top).to(torch.int32).numpy()
            codes = spare(len(levels), self.width)
            codes[:] = whole_levels
            pack_tile(codes, self.width, out[start * self.width // 8 :])

    def _codes(self, packed: Raw, count: int) -> Iterator[tuple[int, Codes]]:
        """The place of each tile and its codes, which the next one overwrites."""
        memory = spare(min(count, TILE), self.width)
        for start in range(0, count, TILE):
            codes = memory[: min(TILE, count - start)]
            unpack_tile(packed[start * self.width // 8 :], self.width, codes)
            yield start, codes


def restore(codes: Codes, senders: int, bits: int, clip: float) -> Tensor:
    """The sum of vectors from the sum of their codes: codes * 2 clip / T - senders * clip; (N,) -> (N,) float32."""
    top = (1 << bits) - 1
    exact = torch.from_numpy(codes.astype(np.int32)).double()
    return exact.mul_(2 * clip / top).sub_(senders * clip).float()


def restore_sum(codes: Codes, senders: int, ring: Ring) -> Tensor:
    """The same for what came out of secure aggregation; BadUpdate where so many senders cannot have sent it."""
    if not 1 <= senders <= ring.sites:
        raise BadUpdate(f"ring: {senders} senders, expected 1 to {ring.sites}")
    check_codes(codes, senders * ((1 << ring.bits) - 1))
    return restore(codes, senders, ring.bits, ring.clip)


def check_codes(codes: Codes, top: int, first: int = 0) -> None:
    """Raise BadUpdate for a code above `top`."""
    if len(codes) and int(codes.max()) > top:
        place = int(np.argmax(codes > top))
        raise BadUpdate(f"ring: code {first + place} is {int(codes[place])}, expected 0 to {top}")
