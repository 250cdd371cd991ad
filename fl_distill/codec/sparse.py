"""The largest numbers alone: where they are, then what they are.

Positions p_0 < p_1 < ... < n travel as Elias and Fano have it (Elias 1974; Fano 1971): of each the lowest
l = floor(log2(n / k)) bits as they are, and a bitmap in which bit (p_i >> l) + i is set, so that the gaps between bits
are those between positions. That is l + 2 bits a number at most, whatever they are, so the receiver knows every length
beforehand.

    bytes = low bits | bitmap | the inner coder's bytes for the k numbers, in order of position
"""

import math
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import number, require
from ..errors import BadUpdate
from . import bits
from .bits import Ints
from .coder import About, Bytes, Coder, Transform, check_length

_SAMPLE = 1 << 16
_TILE = 1 << 16


@final
class Top(Transform):
    """Keeps the k = ceil(fraction n) numbers of largest |x|, of equal ones the first; the others become 0.

    Source: Aji & Heafield 2017, arXiv 1704.05021; meant to go with error feedback (Stich et al. 2018, 1809.07599).
    """

    word = "top"

    def __init__(self, inner: Coder, fraction: float = 0.01) -> None:
        require((number(fraction, 1e-9, 1), f"top: the fraction must be above 0 and at most 1, not {fraction}"))
        super().__init__(inner)
        self.fraction = float(fraction)

    def encode(self, x: Tensor, about: About) -> bytes:
        """Positions in order, then the numbers there."""
        at = largest(x, self._count(about.numel))
        kept = x[torch.from_numpy(at)]
        return _write(at, about.numel) + self.inner.encode(kept, about.flat(len(at)))

    def decode(self, data: Bytes, about: About) -> Tensor:
        """The numbers in their places, 0 elsewhere."""
        at, kept = self._read(data, about)
        x = torch.zeros(about.numel)
        x[at] = kept
        return x

    def add(self, data: Bytes, about: About, into: Tensor, weight: float) -> None:
        """Touches only the places of the numbers."""
        at, kept = self._read(data, about)
        into.index_add_(0, at, kept, alpha=weight)

    def lengths(self, about: About) -> tuple[int, int]:
        """The positions' fixed length and what the inner coder says."""
        k = self._count(about.numel)
        least, most = self.inner.lengths(about.flat(k))
        places = sum(_sizes(k, about.numel))
        return places + least, places + most

    def _count(self, numel: int) -> int:
        return min(numel, math.ceil(self.fraction * numel))

    def _read(self, data: Bytes, about: About) -> tuple[Tensor, Tensor]:
        k, view = self._count(about.numel), memoryview(data)
        places = sum(_sizes(k, about.numel))
        at = torch.from_numpy(_read(view[:places], k, about.numel))
        return at, self.inner.decode(view[places:], about.flat(k))


def largest(x: Tensor, k: int) -> Ints:
    """The positions, ascending, of the k numbers with the largest |x|; of equal ones the first."""
    if not k:
        return np.zeros(0, np.int64)
    at, size = _above(x, _guess(x, k))
    if len(at) < k:
        at, size = _above(x, 0.0)
    last = np.partition(size, len(size) - k)[len(size) - k]
    ties = np.flatnonzero(size == last)
    keep = size > last
    keep[ties[: k - int(np.count_nonzero(keep))]] = True
    kept: Ints = at[keep]
    return kept


def _guess(x: Tensor, k: int) -> float:
    """A bound that a few more than k numbers reach, from a sample at equal distances; 0 where that would be all."""
    sample = x[:: max(1, len(x) // _SAMPLE)].abs()
    part = k / len(x) * len(sample)
    rank = math.ceil(1.05 * part + 4 * math.sqrt(part) + 4)
    return float(sample.kthvalue(len(sample) - rank + 1).values) if rank < len(sample) else 0.0


def _above(x: Tensor, bound: float) -> tuple[Ints, NDArray[Any]]:
    """Where |x| >= bound, and |x| there."""
    size, at, found = torch.empty(_TILE), [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    least = np.float32(bound)
    for start in range(0, len(x), _TILE):
        tile = x[start : start + _TILE]
        here = torch.abs(tile, out=size[: len(tile)]).numpy()
        places = np.flatnonzero(here >= least)
        found.append(here[places])
        at.append(places + start)
    return np.concatenate(at), np.concatenate(found)


def _low(k: int, numel: int) -> int:
    """l, the bits of a position that travel as they are."""
    return (numel // k).bit_length() - 1 if k else 0


def _sizes(k: int, numel: int) -> tuple[int, int]:
    """Bytes of the low bits, and of the bitmap."""
    return bits.size(k, _low(k, numel)), bits.size(_bitmap(k, numel), 1)


def _bitmap(k: int, numel: int) -> int:
    return k + ((numel - 1) >> _low(k, numel)) if k else 0


def _write(at: Ints, numel: int) -> bytes:
    k = len(at)
    low = _low(k, numel)
    marks = np.zeros(_bitmap(k, numel), np.uint8)
    marks[(at >> low) + np.arange(k)] = 1
    return bits.pack(at & ((1 << low) - 1), low) + np.packbits(marks, bitorder="little").tobytes()


def _read(data: Bytes, k: int, numel: int) -> Ints:
    """The positions; `BadUpdate` unless they are k, ascending, and below `numel`."""
    first, second = _sizes(k, numel)
    check_length(data, first + second, "the positions of top")
    low = _low(k, numel)
    marks = np.flatnonzero(np.unpackbits(np.frombuffer(data, np.uint8, offset=first), bitorder="little"))
    if len(marks) != k:
        raise BadUpdate(f"top: the bitmap marks {len(marks)} positions, expected {k}")
    at = (marks - np.arange(k) << low) + bits.unpack(data[:first], k, low, "the low bits of top")
    if k and (at[-1] >= numel or (np.diff(at) <= 0).any()):
        raise BadUpdate(f"top: positions must ascend and stay below {numel}")
    return at
