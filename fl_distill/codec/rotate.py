"""A random rotation in blocks: it spreads a vector's energy evenly, so that a grid of few levels fits all of it.

Each block of d numbers becomes H (s * x) / sqrt(d): s are random signs, stream 0 of `counter`, sign i for number i
of the vector; H is Sylvester's Hadamard matrix, H[i, j] = (-1)^(how many bits i and j share). The vector is padded with
zeros to whole blocks; where it is shorter than one, to the next power of 2, which is then the block.

Wire form: that of the step behind, for the padded vector.

Sources: Ailon and Chazelle 2009 (fast Johnson-Lindenstrauss transform); Suresh et al. 2017, arXiv 1611.00429.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from ..checks import require
from .blocks import power
from .buffers import room
from .coder import About, Bytes, Coder, Transform
from .counter import signs
from .scales import LARGEST

# A product with 16 columns and passes over the rest take half the time of two products with 64.
_PRODUCT = 16
_TILE = 1 << 17  # numbers whose passes stay in the second-level cache


@final
class Rotate(Transform):
    """H (s * x) / sqrt(block), block after block; orthonormal, so that errors keep their size."""

    word = "rotate"

    def __init__(self, inner: Coder, block: int = 4096) -> None:
        require((power(block, 64, _TILE), f"rotate has blocks of a power of 2 from 64 to {_TILE}, not {block!r}"))
        super().__init__(inner)
        self.block = block

    def encode(self, x: Tensor, about: About) -> bytes:
        """The inner code of the rotated vector."""
        return self.measured(x, about)[0]

    def measured(self, x: Tensor, about: About) -> tuple[bytes, float]:
        """As `encode`; the error is that of the rotated vector, less what of it turns back into padding."""
        count, block = self._padded(len(x))
        data, lost = self.inner.measured(self._rotated(x, about), about.flat(count))
        if count == len(x) or math.isnan(lost):
            return data, lost
        *_, (first, y) = self.inner.tiles(data, about.flat(count), LARGEST / block, count - block)
        padding = Hadamard(block, block).of(y[count - block - first :])[len(x) - count :]
        return data, max(0.0, lost - float(padding.double().square().sum()))

    def _rotated(self, x: Tensor, about: About) -> Tensor:
        count, block = self._padded(len(x))
        rotated = room(count)
        turn = Hadamard(min(count, _TILE), block)
        for start in range(0, len(x), _TILE):
            tile = x[start : start + _TILE]
            out = rotated[start : start + _TILE]
            turn = turn if len(out) == len(turn.given) else Hadamard(len(out), block)
            torch.mul(tile, signs(about.seed, start, len(tile)), out=turn.given[: len(tile)])
            turn.given[len(tile) :] = 0
            turn.into(out)
        return rotated

    def decode(self, data: Bytes, about: About) -> Tensor:
        """s * (H y) / sqrt(block), without the padding."""
        out = room(about.numel)
        for start, s, back in self._turned_back(data, about):
            torch.mul(back, s, out=out[start : start + len(s)])
        return out

    def add(self, data: Bytes, about: About, into: Tensor, weight: float) -> None:
        """`into` += `weight` * s * (H y) / sqrt(block), a tile at a time."""
        for start, s, back in self._turned_back(data, about):
            into[start : start + len(s)].addcmul_(back, s, value=weight)

    def _turned_back(self, data: Bytes, about: About) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Tile by tile its place, its signs, and (H y) / sqrt(block), which the next one overwrites."""
        count, block = self._padded(about.numel)
        turn = Hadamard(min(count, _TILE), block)
        # A larger number could overflow when it is turned back.
        for first, run in self.inner.tiles(data, about.flat(count), LARGEST / block):
            for start, y in zip(range(first, count, _TILE), torch.split(run, _TILE), strict=False):
                turn = turn if len(y) == len(turn.given) else Hadamard(len(y), block)
                length = min(len(y), about.numel - start)
                yield start, signs(about.seed, start, length), turn.of(y)[:length]

    def lengths(self, about: About) -> tuple[int, int]:
        """Those of the inner code, for the padded vector."""
        return self.inner.lengths(about.flat(self._padded(about.numel)[0]))

    def _padded(self, count: int) -> tuple[int, int]:
        """(numbers with the padding, the block)."""
        block = min(self.block, 1 << max(0, count - 1).bit_length())
        return -(-count // block) * block, block


class Hadamard:
    """H x / sqrt(block) of each block of tiles of `count` numbers, whole blocks; (N,) -> (N,).

    Its memory, and the views of it that each pass needs, are made once: making them takes as long as a small pass.
    """

    def __init__(self, count: int, block: int) -> None:
        width = min(_PRODUCT, block)
        self._matrix = _matrix(width, block)
        self.given = torch.empty(count)
        """Where `into` takes its tile from."""
        memory = (self.given, torch.empty(count))
        self._passes = []
        self._product = memory[1]
        while width < block:
            self._passes.append((_halves(memory[1], width), _halves(memory[0], width)))
            memory, width = memory[::-1], 2 * width
        self._width, self._result = width // 2, memory[1]

    def into(self, out: Tensor) -> None:
        """Of `given`, which is overwritten, into `out`."""
        self._turn(self.given, _halves(out, self._width) if self._passes else None)
        if not self._passes:
            out.copy_(self._result)

    def of(self, x: Tensor) -> Tensor:
        """Of `x`, in memory that the next call overwrites."""
        self._turn(x, None)
        return self._result

    def _turn(self, x: Tensor, last: tuple[Tensor, Tensor] | None) -> None:
        width = len(self._matrix)
        torch.mm(x.view(-1, width), self._matrix, out=self._product.view(-1, width))
        for (a, b), own in self._passes:
            plus, minus = last if last is not None and own is self._passes[-1][1] else own
            torch.add(a, b, out=plus)
            torch.sub(a, b, out=minus)


def _halves(x: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Of each 2 * `width` numbers the first half, and the second."""
    pairs = x.view(-1, 2, width)
    return pairs[:, 0], pairs[:, 1]


@lru_cache(maxsize=64)
def _matrix(width: int, block: int) -> Tensor:
    """Sylvester's matrix over sqrt(block): (width, width)."""
    matrix = torch.ones(1, 1)
    while len(matrix) < width:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(block)
