"""One bit a number: its sign, and the mean size of a tensor's or a block's numbers.

`sign`: a scale for each tensor of the vector; `sign256`: one for each 256 numbers, whatever they belong to. Scale
s = mean |x|; code 1 for x >= 0 and 0 below; decoded s or -s. Biased: meant for use with a residual.

Wire form: one float32 for each tensor (0 for one without numbers) or block, then the codes as `packing` lays them,
one bit each, all little-endian. Bytes: 4 * scales + ceil(numel / 8).

Sources: Karimireddy et al. 2019 (EF-SignSGD), arXiv 1901.09847; Bernstein et al. 2018, arXiv 1802.04434.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import require
from .blocks import power
from .buffers import filled, room
from .coder import About, Bytes, Grid, check_length
from .packing import TILE, Raw, pack_tile, packed_length, unpack_tile
from .scales import LARGEST, read_scales

Ends = NDArray[np.int64]


@final
class Sign(Grid):
    """The sign of a number and the mean size of its tensor, or of its block."""

    word = "sign"

    def __init__(self, block: int = 0) -> None:
        good = power(block, 16, TILE) or (type(block) is int and block == 0)
        require((good, f"sign has blocks of a power of 2 from 16 to {TILE}, or 0 for tensors, not {block!r}"))
        self.block = block

    def encode(self, x: Tensor, about: About) -> bytes:
        """Scales, then signs."""
        return filled(self.lengths(about)[0], partial(self._fill, x, about))

    def decode(self, data: Bytes, about: About) -> Tensor:
        """s or -s."""
        out = room(about.numel)
        for first, values in self._values(data, about, 1.0):
            out[first : first + len(values)] = values
        return out

    def add(self, data: Bytes, about: About, into: Tensor, weight: float) -> None:
        """`into` += `weight` * s or -s, a tile at a time."""
        for first, values in self._values(data, about, weight):
            into[first : first + len(values)].add_(values)

    def lengths(self, about: About) -> tuple[int, int]:
        """4 bytes a tensor or block and a bit a number."""
        length = 4 * len(self._ends(about)) + packed_length(about.numel, 1)
        return length, length

    def _ends(self, about: About) -> Ends:
        """Behind which number each scale ends."""
        if self.block:
            count = -(-about.numel // self.block)
            return np.minimum(np.arange(1, count + 1, dtype=np.int64) * self.block, about.numel)
        return np.cumsum(np.array([math.prod(shape) for shape in about.shapes], np.int64))

    def _fill(self, x: Tensor, about: About, out: Raw) -> None:
        ends, numbers = self._ends(about), x.numpy()
        sums, packed = np.zeros(len(ends)), out[4 * len(ends) :]
        size, codes = np.empty(min(len(x), TILE), np.float32), np.empty(min(len(x), TILE), np.bool_)
        for start in range(0, len(x), TILE):
            tile = numbers[start : start + TILE]
            here = slice(0, len(tile))
            pack_tile(np.greater_equal(tile, 0, out=codes[here]).view(np.uint8), 1, packed[start // 8 :])
            which, lengths = stretches(ends, start, start + len(tile))
            # In float64, so that a sum of large numbers stays finite and its order does not matter.
            starts = np.cumsum(lengths) - lengths
            sums[which] += np.add.reduceat(np.abs(tile, out=size[here]), starts, dtype=np.float64)
        counts = np.diff(ends, prepend=0)
        out[: 4 * len(ends)].view("<f4")[:] = sums / np.maximum(counts, 1)

    def _values(self, data: Bytes, about: About, weight: float) -> Iterator[tuple[int, Tensor]]:
        """The place of each tile and its decoded numbers times `weight`."""
        check_length(data, self.lengths(about)[0], self.word)
        ends, count = self._ends(about), about.numel
        scales = read_scales(data, len(ends), torch.float32, LARGEST, self.word).mul_(weight).numpy()
        packed = np.frombuffer(data, np.uint8)[4 * len(ends) :]
        codes, values = np.empty(min(count, TILE), np.uint8), torch.empty(min(count, TILE))
        last = max(0, count - 1) // TILE * TILE
        # Only the last tile has bits behind its codes; they are checked before a number is added.
        unpack_tile(packed[last // 8 :], 1, codes[: count - last])
        for start in range(0, count, TILE):
            here = slice(0, min(TILE, count - start))
            unpack_tile(packed[start // 8 :], 1, codes[here])
            which, lengths = stretches(ends, start, start + here.stop)
            sign = np.subtract(np.multiply(codes[here], np.uint8(2)), np.uint8(1)).view(np.int8)
            out = values[here].copy_(torch.from_numpy(sign))
            yield start, out.mul_(torch.from_numpy(np.repeat(scales[which], lengths)))


def stretches(ends: Ends, start: int, stop: int) -> tuple[Ends, Ends]:
    """Which stretches, that end at `ends`, have numbers from `start` to `stop`, and how many each."""
    first, last = np.searchsorted(ends, start, "right"), np.searchsorted(ends, stop, "left")
    inside = np.minimum(ends[first : last + 1], stop)
    lengths = np.diff(inside, prepend=start)
    which = np.flatnonzero(lengths)
    return which + first, lengths[which]
