"""Combine rules that a few broken or lying sites cannot carry away; `rules` says what a rule takes and gives."""

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..checks import number, require, whole
from .masks import mean_of_ranks, only, shared
from .rules import Mean


@final
@dataclass(frozen=True)
class Median:
    """The median over sites, coordinate by coordinate (the mean of the middle two where their number is even).

    With a mask it is over the sites that know the class.
    """

    of_probabilities: ClassVar[bool] = False

    def __call__(self, stack: Tensor, weights: Tensor, known: Tensor | None = None) -> Tensor:
        """(K, N, C), (K,), (K, C) -> (N, C); weights have no say."""
        known = shared(stack, known)
        if known is None:
            return stack.quantile(0.5, dim=0)
        holders = known.sum(0)
        return mean_of_ranks(stack, known, (holders - 1) // 2, holders // 2)


@final
@dataclass(frozen=True)
class TrimmedMean:
    """The mean over sites without the `trim` part of the largest and of the smallest, coordinate by coordinate.

    floor(trim * m) are cut at either end of m sites; with a mask, of the m_c sites that know class c.
    """

    of_probabilities: ClassVar[bool] = False

    trim: float = 0.1

    def __post_init__(self) -> None:
        require((number(self.trim, 0, 0.499), f"trim must be in [0, 0.5), not {self.trim}"))

    def __call__(self, stack: Tensor, weights: Tensor, known: Tensor | None = None) -> Tensor:
        """(K, N, C), (K,), (K, C) -> (N, C); weights have no say."""
        known = shared(stack, known)
        if known is None:
            cut = math.floor(self.trim * len(stack))
            return stack.sort(0).values[cut : len(stack) - cut].mean(0)
        holders = known.sum(0)
        cuts = (self.trim * holders.double()).floor().long()  # float32 would round 0.29 * 100 up to 29
        return mean_of_ranks(stack, known, cuts, holders - cuts - 1)


@final
@dataclass(frozen=True)
class DropWorst:
    """The weighted mean without the `count` sites farthest (in L2) from the coordinate median; one always stays.

    With a mask the distance is the root mean square over the classes that a site knows, so that knowing more does not
    make it farther. A class that only dropped sites know keeps their mean: nobody else has anything to say of it.
    """

    of_probabilities: ClassVar[bool] = False

    count: int = 1

    def __post_init__(self) -> None:
        require((whole(self.count, 0), f"count must be a whole number >= 0, not {self.count}"))

    def __call__(self, stack: Tensor, weights: Tensor, known: Tensor | None = None) -> Tensor:
        """(K, N, C), (K,), (K, C) -> (N, C)."""
        known = shared(stack, known)
        if known is None:
            away = (stack - Median()(stack, weights)).flatten(1).norm(dim=1)
            kept = away.argsort(stable=True)[: max(1, len(stack) - self.count)].sort().values
            return Mean()(stack[kept], weights[kept])
        say = known & self._kept(stack, weights, known)[:, None]
        return Mean()(stack, weights, torch.where(say.any(0), say, known))

    def _kept(self, stack: Tensor, weights: Tensor, known: Tensor) -> Tensor:
        """Which sites stay, (K,) bool; one that knows nothing neither stays nor counts as dropped."""
        classes = known.sum(1)
        gaps = only(stack - Median()(stack, weights, known), known)
        away = gaps.pow(2).mean(1).sum(1) / classes.clamp_min(1)
        nearest = away.where(classes > 0, torch.inf).argsort(stable=True)
        stay = max(1, int((classes > 0).sum()) - self.count)
        return torch.zeros_like(classes, dtype=torch.bool).index_fill(0, nearest[:stay], True)
