"""Levels where a bell curve has its numbers: the code of the nearest one, with the largest number of a block as scale.

nf4: sixteen levels in [-1, 1], -1, 0 and 1 among them; scale s = max |x| of the block, rounded up as in `uniform`; code
c of the level nearest to x / s, a tie to the lower one; decoded s * level[c]. Wire form: see `blocks`.

Source: Dettmers et al. 2023 (QLoRA), arXiv 2305.14314, appendix E, where the levels are written down.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import final

import numpy as np
import torch
from torch import Tensor

from .blocks import Blocks, Quantized
from .coder import About
from .packing import Raw
from .uniform import scaled

NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)

_PAIRED = 4096  # codes from which on a table of pairs is worth its reading


@final
class NF(Blocks):
    """Sixteen levels of the normal distribution's quantiles, up to a block's largest number."""

    word = "nf"

    def __init__(self, bits: int = 4, block: int = 64) -> None:
        super().__init__(bits, block, 4, 4, 1)
        self.levels = torch.tensor(NF4)
        self.borders = borders(NF4)

    def quantize(self, x: Tensor, about: About, first: int, scratch: Tensor, codes: Tensor) -> Quantized:
        """s = max |x|."""
        scales = scaled(x, 1, self.limit, scratch)
        nearest(scratch, self.borders, codes)
        return scales, math.nan

    def units(self, codes: Raw, about: About, first: int, out: Tensor) -> None:
        """level[c]."""
        look_up(codes, self.levels, out)


def borders(levels: Sequence[float]) -> list[np.float32]:
    """The middles between neighbours."""
    return [np.float32((low + high) / 2) for low, high in pairwise(levels)]


def nearest(x: Tensor, middles: Sequence[np.float32], codes: Tensor) -> None:
    """How many of `middles` are below each number: (R, B) -> (R * B,) uint8."""
    # Exact, and as fast as a table of thousands of entries: 15 comparisons of a tile take as long as one look-up.
    numbers, out = x.view(-1).numpy(), codes.numpy()
    above = np.empty(len(numbers), np.bool_)
    np.greater(numbers, middles[0], out=out.view(np.bool_))
    for middle in middles[1:]:
        np.greater(numbers, middle, out=above)
        np.add(out, above.view(np.uint8), out=out)


def nearest_normal(x: Tensor, middles: Sequence[np.float32], codes: Tensor, scratch: Tensor) -> None:
    """`nearest` for middles that lie symmetric around one that is 0: half as many comparisons.

    `scratch` is as large as `x`, and overwritten.
    """
    numbers, out, z = x.view(-1).numpy(), codes.numpy(), scratch.view(-1).numpy().view(np.uint32)
    bits, half = numbers.view(np.uint32), len(middles) // 2
    # 2 |x| + (x < 0) as whole numbers: what is above 2 m is above m, or below -m, or -m itself, whose code is lower.
    signs = np.right_shift(bits, np.uint32(31))
    np.add(bits, bits, out=z)
    np.bitwise_or(z, signs, out=z)
    above = np.greater(numbers, 0)
    np.multiply(above.view(np.uint8), np.uint8(2 * half + 1), out=out)
    np.bitwise_xor(out, np.uint8(half), out=out)  # half + 1 above 0, half below
    beyond, one = np.empty(len(numbers), np.uint8), above
    np.greater(z, 2 * middles[half + 1].view(np.uint32), out=beyond.view(np.bool_))
    for middle in middles[half + 2 :]:
        np.greater(z, 2 * middle.view(np.uint32), out=one)
        np.add(beyond, one.view(np.uint8), out=beyond)
    np.bitwise_xor(out, beyond, out=out)


def look_up(codes: Raw, levels: Tensor, out: Tensor) -> None:
    """levels[codes], (R * B,) -> (R, B)."""
    flat = out.view(-1)
    if len(codes) % 2 or len(codes) < _PAIRED:
        torch.index_select(levels, 0, torch.from_numpy(codes.astype(np.int32)), out=flat)
    else:  # two at a time: what takes long is each access
        places = torch.from_numpy(codes.view(np.uint16).astype(np.int32))
        torch.index_select(_pairs(tuple(levels.tolist())), 0, places, out=flat.view(torch.int64))


@lru_cache(maxsize=16)
def _pairs(levels: tuple[float, ...]) -> Tensor:
    """Place of two codes, as a little-endian number of 16 bits -> their two levels, as a number of 64 bits."""
    both = torch.zeros(len(levels), 256, 2)
    both[:, : len(levels), 0], both[:, : len(levels), 1] = torch.tensor(levels), torch.tensor(levels)[:, None]
    return both.view(torch.int64).flatten()
