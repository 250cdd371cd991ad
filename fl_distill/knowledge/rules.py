"""Rules that make one prediction of many: pure functions of a stack, each a small value that can be configured.

A rule takes `stack` (K, N, C), float32 or wider: what K sites say of N examples in C classes; and `weights` (K,),
positive. It returns (N, C). Rules that speak of probabilities expect rows that sum to 1.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, final

import torch
from torch import Tensor

from ..checks import number, positive, require, whole


class Rule(Protocol):
    """How what sites say becomes one answer."""

    of_probabilities: ClassVar[bool]
    """Whether the rule makes sense of probabilities only."""

    def __call__(self, stack: Tensor, weights: Tensor) -> Tensor:
        """(K, N, C), (K,) -> (N, C)."""


@final
@dataclass(frozen=True)
class Mean:
    """sum_k w_k s_k / sum_k w_k."""

    of_probabilities: ClassVar[bool] = False

    def __call__(self, stack: Tensor, weights: Tensor) -> Tensor:
        """(K, N, C), (K,) -> (N, C)."""
        mean: Tensor = torch.tensordot(weights / weights.sum(), stack, 1)
        return mean


@final
@dataclass(frozen=True)
class Era:
    """Entropy reduction: softmax(p / T) with p the mean probabilities. T -> 0 is the vote for p's largest class.

    Source: Itahara et al. 2021 (DS-FL), arXiv 2008.06180. Takes and gives probabilities.
    """

    of_probabilities: ClassVar[bool] = True

    temperature: float = 0.1

    def __post_init__(self) -> None:
        require((positive(self.temperature), f"temperature must be > 0, not {self.temperature}"))

    def __call__(self, stack: Tensor, weights: Tensor) -> Tensor:
        """(K, N, C), (K,) -> (N, C)."""
        return (Mean()(stack, weights) / self.temperature).softmax(-1)


@final
@dataclass(frozen=True)
class Power:
    """p_c^b / sum_c p_c^b with p the mean probabilities: b = 1 changes nothing, larger b sharpens."""

    of_probabilities: ClassVar[bool] = True

    beta: float = 2.0

    def __post_init__(self) -> None:
        require((positive(self.beta), f"beta must be > 0, not {self.beta}"))

    def __call__(self, stack: Tensor, weights: Tensor) -> Tensor:
        """(K, N, C), (K,) -> (N, C)."""
        # In logarithms, so that a large power of a small number does not vanish from all classes alike.
        return (self.beta * Mean()(stack, weights).clamp_min(torch.finfo(stack.dtype).tiny).log()).softmax(-1)


@final
@dataclass(frozen=True)
class Vote:
    """The weighted share of sites whose largest class is c; the first class wins a tie within a site."""

    of_probabilities: ClassVar[bool] = True

    def __call__(self, stack: Tensor, weights: Tensor) -> Tensor:
        """(K, N, C), (K,) -> (N, C)."""
        ballots = torch.nn.functional.one_hot(stack.argmax(-1), stack.shape[-1])
        return Mean()(ballots.to(stack.dtype), weights)


@final
@dataclass(frozen=True)
class Median:
    """The median over sites, coordinate by coordinate (the mean of the middle two where K is even)."""

    of_probabilities: ClassVar[bool] = False

    def __call__(self, stack: Tensor, weights: Tensor) -> Tensor:
        """(K, N, C), (K,) -> (N, C); weights have no say."""
        return stack.quantile(0.5, dim=0)


@final
@dataclass(frozen=True)
class TrimmedMean:
    """The mean over sites without the `trim` part of the largest and of the smallest, coordinate by coordinate."""

    of_probabilities: ClassVar[bool] = False

    trim: float = 0.1

    def __post_init__(self) -> None:
        require((number(self.trim, 0, 0.499), f"trim must be in [0, 0.5), not {self.trim}"))

    def __call__(self, stack: Tensor, weights: Tensor) -> Tensor:
        """(K, N, C), (K,) -> (N, C); weights have no say."""
        cut = math.floor(self.trim * len(stack))
        return stack.sort(0).values[cut : len(stack) - cut].mean(0)


@final
@dataclass(frozen=True)
class DropWorst:
    """The weighted mean without the `count` sites farthest (in L2) from the coordinate median; one always stays."""

    of_probabilities: ClassVar[bool] = False

    count: int = 1

    def __post_init__(self) -> None:
        require((whole(self.count, 0), f"count must be a whole number >= 0, not {self.count}"))

    def __call__(self, stack: Tensor, weights: Tensor) -> Tensor:
        """(K, N, C), (K,) -> (N, C)."""
        away = (stack - Median()(stack, weights)).flatten(1).norm(dim=1)
        kept = away.argsort(stable=True)[: max(1, len(stack) - self.count)].sort().values
        return Mean()(stack[kept], weights[kept])


@final
@dataclass(frozen=True)
class Confidence:
    """Each site counts, example by example, by the variance of what it says over the classes."""

    of_probabilities: ClassVar[bool] = False

    def __call__(self, stack: Tensor, weights: Tensor) -> Tensor:
        """(K, N, C), (K,) -> (N, C)."""
        sure = stack.var(-1, correction=0, keepdim=True) * weights[:, None, None]
        total = sure.sum(0)
        return torch.where(total > 0, (sure * stack).sum(0) / total.clamp_min(1e-30), Mean()(stack, weights))
