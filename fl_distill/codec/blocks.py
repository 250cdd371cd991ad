"""Grids with a scale for each block of the vector: a number is its scale times what its code stands for.

Wire form: one scale for each block, the last block maybe shorter, then the codes as `packing` lays them. A scale is a
bfloat16 (2 bytes), or a float32 (4 bytes) in `lloydmax` and `leastmax`, see `scales`. Bytes:
(2 or 4) * ceil(numel / block) + packed_length(numel, bits).
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..checks import require, whole
from ..errors import BadUpdate
from .buffers import filled, room
from .coder import About, Bytes, Grid, check_length
from .packing import TILE, Raw, pack_tile, packed_length, unpack_tile
from .scales import LARGEST, read_scales, rounded_down

RUN = 2 * TILE
"""Numbers that are computed at a time: as many as it takes until each call's own time no longer counts."""

Quantized = tuple[Tensor, float]
"""The scales of some blocks, (R,), and their squared error, or NaN where it is not known yet."""


class Blocks(Grid):
    """A grid of 2^bits codes and a scale a block; what a code stands for is a unit, |unit| <= `top`.

    `encode` never gives a code below `lowest`.
    """

    lowest: ClassVar[int] = 0
    form: ClassVar[torch.dtype] = torch.bfloat16
    """Of the scales; `quantize` gives none that it does not hold."""

    def __init__(self, bits: int, block: int, fewest: int, most: int, top: float) -> None:
        require(
            (whole(bits, fewest) and bits <= most, f"{self.word} has {fewest} to {most} bits, not {bits!r}"),
            (power(block, 16, TILE), f"{self.word} has blocks of a power of 2 from 16 to {TILE}, not {block!r}"),
        )
        self.bits, self.block, self.top = bits, block, top
        # Scales above it would make a number that float32 does not hold.
        self.limit = rounded_down(LARGEST / max(1.0, top), self.form)

    @abstractmethod
    def quantize(self, x: Tensor, about: About, first: int, scratch: Tensor, codes: Tensor) -> Quantized:
        """Blocks of numbers from number `first`, (R, B), into codes (R * B,) uint8."""

    @abstractmethod
    def units(self, codes: Raw, about: About, first: int, out: Tensor) -> None:
        """What the codes from number `first`, (R * B,), stand for, into (R, B) float32."""

    def encode(self, x: Tensor, about: About) -> bytes:
        """Scales, then codes."""
        return self.measured(x, about)[0]

    def measured(self, x: Tensor, about: About) -> tuple[bytes, float]:
        """As `encode`; the error is the sum of what `quantize` says."""
        lost: list[float] = []
        data = filled(self.lengths(about.flat(len(x)))[0], lambda out: lost.extend(self._fill(x, about, out)))
        return data, math.fsum(lost)

    def _fill(self, x: Tensor, about: About, out: Raw) -> Iterator[float]:
        """Fill in all bytes; the squared errors of their parts."""
        front = self._front(len(x))
        scales, packed = torch.from_numpy(out[:front]).view(self.form), out[front:]
        scratch, spare = torch.empty(min(len(x), RUN)), torch.empty(min(len(x), RUN), dtype=torch.uint8)
        for start in range(0, len(x), RUN):
            run = x[start : start + RUN]
            codes = torch.from_numpy(packed[start : start + len(run)]) if self.bits == 8 else spare[: len(run)]
            for low, high, width in self._parts(len(run)):
                rows, first = run[low:high].view(-1, width), start + low
                found, lost = self.quantize(rows, about, first, scratch[low:high].view(-1, width), codes[low:high])
                scales[first // self.block :][: len(rows)] = found
                yield lost
            for at in range(0, len(run), TILE) if self.bits < 8 else ():
                pack_tile(codes.numpy()[at : at + TILE], self.bits, packed[(start + at) * self.bits // 8 :])

    def decode(self, data: Bytes, about: About) -> Tensor:
        """Units times scales."""
        scales, packed = self._checked(data, about)
        out = room(about.numel)
        for first, units in self._units(packed, about):
            here = slice(first // self.block, first // self.block + len(units))
            torch.mul(units, scales[here], out=out[first : first + units.numel()].view(units.shape))
        return out

    def add(self, data: Bytes, about: About, into: Tensor, weight: float) -> None:
        """`into` += `weight` * scales * units, a run at a time."""
        scales, packed = self._checked(data, about)
        scales.mul_(weight)
        for first, units in self._units(packed, about):
            here = slice(first // self.block, first // self.block + len(units))
            into[first : first + units.numel()].view(units.shape).addcmul_(units, scales[here])

    def tiles(self, data: Bytes, about: About, most: float, start: int = 0) -> Iterator[tuple[int, Tensor]]:
        """Runs; a number may be as large as scale * top."""
        scales, packed = self._checked(data, about)
        if about.numel and float(scales.max()) * self.top > most:
            raise BadUpdate(f"{self.word} holds a number above {most:.6g}")
        for first, units in self._units(packed, about, start // RUN * RUN):
            here = slice(first // self.block, first // self.block + len(units))
            yield first, units.mul_(scales[here]).view(-1)

    def lengths(self, about: About) -> tuple[int, int]:
        """The scales and the packed codes."""
        length = self._front(about.numel) + packed_length(about.numel, self.bits)
        return length, length

    def _front(self, count: int) -> int:
        """Bytes of the scales."""
        return self.form.itemsize * -(-count // self.block)

    def _parts(self, count: int) -> Iterator[tuple[int, int, int]]:
        """(from, to, length of blocks) of a run's whole blocks, and of the shorter one behind them."""
        whole_blocks = count // self.block * self.block
        if whole_blocks:
            yield 0, whole_blocks, self.block
        if whole_blocks < count:
            yield whole_blocks, count, count - whole_blocks

    def _checked(self, data: Bytes, about: About) -> tuple[Tensor, Raw]:
        """The scales (count, 1) and the packed codes; whatever is wrong is found here, before a number is added."""
        check_length(data, self.lengths(about)[0], self.word)
        front = self._front(about.numel)
        scales = read_scales(data, front // self.form.itemsize, self.form, self.limit, self.word)
        packed = np.frombuffer(data, np.uint8)[front:]
        # Only the last tile has bits behind its codes.
        start = 0 if self.lowest else max(0, about.numel - 1) // TILE * TILE
        for first, codes in self._codes(packed, about.numel, start):
            if self.lowest and codes.min() < self.lowest:
                place = first + int(np.argmax(codes < self.lowest))
                raise BadUpdate(f"{self.word}: code {place} is below {self.lowest}")
        return scales[:, None], packed

    def _codes(self, packed: Raw, count: int, start: int = 0) -> Iterator[tuple[int, Raw]]:
        """The place of each run from number `start` and its codes, which the next one overwrites."""
        spare = np.empty(min(count, RUN), np.uint8)
        for first in range(start, count, RUN):
            length = min(RUN, count - first)
            codes = packed[first : first + length] if self.bits == 8 else spare[:length]
            for at in range(0, length, TILE) if self.bits < 8 else ():
                unpack_tile(packed[(first + at) * self.bits // 8 :], self.bits, codes[at : at + TILE])
            yield first, codes

    def _units(self, packed: Raw, about: About, begin: int = 0) -> Iterator[tuple[int, Tensor]]:
        """The place of each run of blocks and their units, (R, B), which the next one overwrites."""
        scratch = torch.empty(min(about.numel, RUN))
        for start, codes in self._codes(packed, about.numel, begin):
            for low, high, width in self._parts(len(codes)):
                out = scratch[low:high].view(-1, width)
                self.units(codes[low:high], about, start + low, out)
                yield start + low, out


def power(value: object, low: int, high: int) -> bool:
    """Whether `value` is a power of 2 from `low` to `high`."""
    return isinstance(value, int) and whole(value) and low <= value <= high and not value & (value - 1)
