"""A random rotation in blocks: it spreads a vector's energy evenly, so that a grid of few levels fits all of it.

Each block of d numbers becomes H (s * x) / sqrt(d): s are random signs, stream 0 of `counter`, sign i for number i
of the vector; H is Sylvester's Hadamard matrix, H[i, j] = (-1)^(how many bits i and j share). The vector is padded with
zeros to whole blocks; where it is shorter than one, to the next power of 2, which is then the block.

Wire form: that of the step behind, for the padded vector.

Sources: Ailon and Chazelle 2009 (fast Johnson-Lindenstrauss transform); Suresh et al. 2017, arXiv 1611.00429.
"""

import math
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from ..checks import require
from ..errors import BadUpdate
from .blocks import LARGEST, power
from .buffers import room
from .coder import About, Bytes, Coder, Transform
from .counter import signs
from .packing import TILE

# A product with 16 columns and passes over the rest take half the time of two products with 64.
_PRODUCT = 16


@final
class Rotate(Transform):
    """H (s * x) / sqrt(block), block after block; orthonormal, so that errors keep their size."""

    word = "rotate"

    def __init__(self, inner: Coder, block: int = 4096) -> None:
        require((power(block, 64, TILE), f"rotate has blocks of a power of 2 from 64 to {TILE}, not {block!r}"))
        super().__init__(inner)
        self.block = block

    def encode(self, x: Tensor, about: About) -> bytes:
        """The inner code of the rotated vector."""
        count, block = self._padded(len(x))
        rotated = room(count)
        first, second = torch.empty(min(count, TILE)), torch.empty(min(count, TILE))
        for start in range(0, len(x), TILE):
            tile = x[start : start + TILE]
            here = first[: min(TILE, count - start)]
            torch.mul(tile, signs(about.seed, start, len(tile)), out=here[: len(tile)])
            here[len(tile) :] = 0
            rotated[start : start + len(here)] = hadamard(here, second[: len(here)], block)
        return self.inner.encode(rotated, about.flat(count))

    def decode(self, data: Bytes, about: About) -> Tensor:
        """s * (H y) / sqrt(block), without the padding."""
        out = room(about.numel).zero_()
        self.add(data, about, out, 1.0)
        return out

    def add(self, data: Bytes, about: About, into: Tensor, weight: float) -> None:
        """`into` += `weight` * s * (H y) / sqrt(block), a tile at a time."""
        count, block = self._padded(about.numel)
        y = self.inner.decode(data, about.flat(count))
        if count and max(-float(y.min()), float(y.max())) > LARGEST / block:
            raise BadUpdate(f"rotate holds a number above {LARGEST / block:.6g}, which would overflow when turned back")
        scratch = torch.empty(min(count, TILE))
        for start in range(0, about.numel, TILE):
            tile = into[start : start + TILE]
            here = y[start : start + TILE]
            back = hadamard(here, scratch[: len(here)], block)[: len(tile)]
            tile.addcmul_(back, signs(about.seed, start, len(tile)), value=weight)

    def lengths(self, about: About) -> tuple[int, int]:
        """Those of the inner code, for the padded vector."""
        return self.inner.lengths(about.flat(self._padded(about.numel)[0]))

    def _padded(self, count: int) -> tuple[int, int]:
        """(numbers with the padding, the block)."""
        block = min(self.block, 1 << max(0, count - 1).bit_length())
        return -(-count // block) * block, block


def hadamard(x: Tensor, scratch: Tensor, block: int) -> Tensor:
    """H x / sqrt(block) of each block, in `x` or `scratch`, both overwritten; (N,) -> (N,), N whole blocks."""
    width = min(_PRODUCT, block)
    matrix = _matrix(width, block)
    torch.mm(x.view(-1, width), matrix, out=scratch.view(-1, width))
    x, scratch = scratch, x
    while width < block:
        pairs, out = x.view(-1, 2, width), scratch.view(-1, 2, width)
        torch.add(pairs[:, 0], pairs[:, 1], out=out[:, 0])
        torch.sub(pairs[:, 0], pairs[:, 1], out=out[:, 1])
        x, scratch, width = scratch, x, 2 * width
    return x


@lru_cache(maxsize=64)
def _matrix(width: int, block: int) -> Tensor:
    """Sylvester's matrix over sqrt(block): (width, width)."""
    matrix = torch.ones(1, 1)
    while len(matrix) < width:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(block)
