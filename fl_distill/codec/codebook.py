"""Levels where a bell curve has its numbers: the code of the nearest one, with the largest number of a block as scale.

nf4: sixteen levels in [-1, 1], -1, 0 and 1 among them; scale s = max |x| of the block; code c of the level nearest to
x / s, a tie to the lower one; decoded s * level[c]. Wire form: see `blocks`.

Source: Dettmers et al. 2023 (QLoRA), arXiv 2305.14314, appendix E, where the levels are written down.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import final

import numpy as np
import torch
from torch import Tensor

from .blocks import Blocks
from .coder import About
from .packing import Raw
from .uniform import inverse, scale

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


@final
class NF(Blocks):
    """Sixteen levels of the normal distribution's quantiles, up to a block's largest number."""

    word = "nf"

    def __init__(self, bits: int = 4, block: int = 64) -> None:
        super().__init__(bits, block, 4, 4, 1)
        self.levels = torch.tensor(NF4)
        self.borders = borders(NF4)

    def quantize(self, x: Tensor, about: About, first: int, scratch: Tensor, codes: Tensor) -> Tensor:
        """s = max |x|."""
        scales = scale(x, 1, self.limit, scratch)
        torch.mul(x, inverse(scales), out=scratch)
        nearest(scratch, self.borders, codes)
        return scales

    def units(self, codes: Raw, about: About, first: int, out: Tensor) -> None:
        """level[c]."""
        look_up(codes, self.levels, out)


def borders(levels: Sequence[float]) -> list[np.float32]:
    """The middles between neighbours."""
    return [np.float32((low + high) / 2) for low, high in pairwise(levels)]


def nearest(x: Tensor, middles: Sequence[np.float32], codes: Tensor) -> None:
    """How many of `middles` are below each number: (R, B) -> (R * B,) uint8."""
    # Exact, and faster than a table: 15 comparisons of a tile take as long as one look-up, 3 a fifth of it.
    numbers, out = x.view(-1).numpy(), codes.numpy()
    above = np.empty(len(numbers), np.bool_)
    np.greater(numbers, middles[0], out=out.view(np.bool_))
    for middle in middles[1:]:
        np.greater(numbers, middle, out=above)
        np.add(out, above.view(np.uint8), out=out)


def look_up(codes: Raw, levels: Tensor, out: Tensor) -> None:
    """levels[codes], (R * B,) -> (R, B)."""
    places = torch.from_numpy(codes.astype(np.int32))
    torch.index_select(levels, 0, places, out=out.view(-1))
