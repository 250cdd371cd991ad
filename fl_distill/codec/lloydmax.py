"""The levels with the least error for normal numbers, and a scale a block for a right mean or for the least error.

For a block x of d numbers: y = x sqrt(d) / ||x||; c the level nearest to each y, a tie to the lower one; decoded S c.

`lloydmax`: S = ||x||^2 / <c, x>, so that after a random rotation the decoded vector is right on average (EDEN).
`leastmax`: S = <c, x> / ||c||^2, which makes the error of this one vector least.

A block of zeros has S = 0. Levels lie symmetric around 0; code 0 is the lowest. Wire form: see `blocks`.

Sources: Vargaftik et al. 2022 (EDEN), arXiv 2108.08842; Lloyd 1982; Max 1960.
"""

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from .blocks import Blocks, Quantized
from .codebook import borders, look_up, nearest, nearest_normal
from .coder import About
from .packing import Raw

# Levels above 0 of the quantizer with least squared error for N(0, 1): each is the mean between its borders.
POSITIVE = {
    1: (0.797884560803,),
    2: (0.452780034636, 1.510417608499),
    3: (0.245094178944, 0.756005281206, 1.343909278505, 2.151945704537),
    4: (
        0.128395029851,
        0.388048299490,
        0.656759118532,
        0.942340456487,
        1.256231197347,
        1.618046386022,
        2.069017226531,
        2.732589570995,
    ),
}

# Between these norms squares and quotients stay in the range of float32; other blocks go through float64.
_LOW, _HIGH = 1e-15, 1e15


class _Normal(Blocks, ABC):
    """Levels for y = x sqrt(d) / ||x||."""

    form = torch.float32  # for S a little too large would be wrong on average

    def __init__(self, bits: int = 4, block: int = 4096) -> None:
        positive = POSITIVE.get(bits, (1.0,))
        super().__init__(bits, block, 1, 4, positive[-1])
        levels = [-level for level in reversed(positive)] + list(positive)
        self.levels, self.borders = torch.tensor(levels), borders(levels)

    @abstractmethod
    def factor(self, cy: Tensor, cc: Tensor, d: int) -> Tensor:
        """S for blocks y of norm sqrt(d), from <c, y> and <c, c>: (R,), (R,) -> (R,)."""

    def quantize(self, x: Tensor, about: About, first: int, scratch: Tensor, codes: Tensor) -> Quantized:
        """S of x is S of y times ||x|| / sqrt(d); the error is ||x - S c||^2."""
        size, y, d = normalised(x, scratch), scratch, x.shape[1]
        c, product = torch.empty_like(y), torch.empty_like(y)
        if self.bits > 2:
            nearest_normal(y, self.borders, codes, c)
        else:
            nearest(y, self.borders, codes)
        look_up(codes.numpy(), self.levels, c)
        cy, cc = torch.mul(y, c, out=product).sum(1), torch.mul(c, c, out=product).sum(1)
        factor = self.factor(cy, cc, d).double().mul_(size).nan_to_num_(0).clamp_(max=self.limit).float()
        gone = torch.linalg.vector_norm(y.sub_(c.mul_((factor / size).nan_to_num_(0).float()[:, None])), dim=1)
        return factor, float(gone.double().mul_(size).square_().sum())

    def units(self, codes: Raw, about: About, first: int, out: Tensor) -> None:
        """The levels."""
        look_up(codes, self.levels, out)


@final
class LloydMax(_Normal):
    """S = ||x||^2 / <c, x>: after a rotation, right on average."""

    word = "lloydmax"

    def factor(self, cy: Tensor, cc: Tensor, d: int) -> Tensor:
        """d / <c, y>."""
        return d / cy


@final
class LeastMax(_Normal):
    """S = <c, x> / ||c||^2: the least error that these codes allow."""

    word = "leastmax"

    def factor(self, cy: Tensor, cc: Tensor, d: int) -> Tensor:
        """<c, y> / <c, c>."""
        return cy / cc


def normalised(x: Tensor, out: Tensor) -> Tensor:
    """x sqrt(d) / ||x|| into `out`, zeros for zeros; ||x|| / sqrt(d): (R, d), (R, d) -> (R,) float64."""
    root = math.sqrt(x.shape[1])
    norm = torch.linalg.vector_norm(x, dim=1)
    odd = ~((norm > _LOW) & (norm < _HIGH))
    size: Tensor = norm.double() / root
    torch.mul(x, (1 / size).float()[:, None], out=out)
    if odd.any():
        exact = x[odd].double()
        size[odd] = torch.linalg.vector_norm(exact, dim=1) / root
        out[odd] = (exact / size[odd][:, None].clamp(min=1e-300)).float()
    return size
