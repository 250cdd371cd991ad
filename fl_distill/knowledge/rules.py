"""Rules that make one prediction of many: pure functions of a stack, each a small value that can be configured.

A rule takes `stack` (K, N, C), float32 or wider: what K sites say of N examples in C classes; and `weights` (K,),
positive. It returns (N, C). Rules that speak of probabilities expect rows that sum to 1.

`known` (K, C), bool, says which classes each site has seen; None says that all have seen all. What a site says of a
class that it never saw is left out, never counted as zero: every rule then works class by class on the sites that know
it. A class that nobody knows is taken as known to all.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, final

import torch
from torch import Tensor

from ..checks import positive, require
from .masks import blend, only, shared, spread


class Rule(Protocol):
    """How what sites say becomes one answer."""

    of_probabilities: ClassVar[bool]
    """Whether the rule makes sense of probabilities only."""

    def __call__(self, stack: Tensor, weights: Tensor, known: Tensor | None = None) -> Tensor:
        """(K, N, C), (K,), (K, C) -> (N, C)."""


@final
@dataclass(frozen=True)
class Mean:
    """sum_k w_k s_k / sum_k w_k; with a mask, class by class, both sums over the sites that know it.

    Masked, rows of probabilities need not sum to 1 any more.
    """

    of_probabilities: ClassVar[bool] = False

    def __call__(self, stack: Tensor, weights: Tensor, known: Tensor | None = None) -> Tensor:
        """(K, N, C), (K,), (K, C) -> (N, C)."""
        known = shared(stack, known)
        if known is not None:
            return blend(stack, weights[:, None, None], known)
        mean: Tensor = torch.tensordot(weights / weights.sum(), stack, 1)
        return mean


@final
@dataclass(frozen=True)
class Era:
    """Entropy reduction: softmax(p / T) with p the mean probabilities. T -> 0 is the vote for p's largest class.

    With a mask, p is the masked mean, made to sum to 1 again.
    Source: Itahara et al. 2021 (DS-FL), arXiv 2008.06180. Takes and gives probabilities.
    """

    of_probabilities: ClassVar[bool] = True

    temperature: float = 0.1

    def __post_init__(self) -> None:
        require((positive(self.temperature), f"temperature must be > 0, not {self.temperature}"))

    def __call__(self, stack: Tensor, weights: Tensor, known: Tensor | None = None) -> Tensor:
        """(K, N, C), (K,), (K, C) -> (N, C)."""
        return (_mean_probabilities(stack, weights, known) / self.temperature).softmax(-1)


@final
@dataclass(frozen=True)
class Power:
    """p_c^b / sum_c p_c^b with p the mean probabilities: b = 1 changes nothing, larger b sharpens.

    With a mask, p is the masked mean, made to sum to 1 again.
    """

    of_probabilities: ClassVar[bool] = True

    beta: float = 2.0

    def __post_init__(self) -> None:
        require((positive(self.beta), f"beta must be > 0, not {self.beta}"))

    def __call__(self, stack: Tensor, weights: Tensor, known: Tensor | None = None) -> Tensor:
        """(K, N, C), (K,), (K, C) -> (N, C)."""
        mean = _mean_probabilities(stack, weights, known)
        # In logarithms, so that a large power of a small number does not vanish from all classes alike.
        return (self.beta * mean.clamp_min(torch.finfo(stack.dtype).tiny).log()).softmax(-1)


@final
@dataclass(frozen=True)
class Vote:
    """The weighted share of sites whose largest class is c; the first class wins a tie within a site.

    With a mask a site votes for the largest class that it knows, the share of c is of those that know c, and the
    shares are made to sum to 1 again.
    """

    of_probabilities: ClassVar[bool] = True

    def __call__(self, stack: Tensor, weights: Tensor, known: Tensor | None = None) -> Tensor:
        """(K, N, C), (K,), (K, C) -> (N, C)."""
        known = shared(stack, known)
        heard = stack if known is None else only(stack, known, -torch.inf)
        ballots = torch.nn.functional.one_hot(heard.argmax(-1), stack.shape[-1])
        return _mean_probabilities(ballots.to(stack.dtype), weights, known)


@final
@dataclass(frozen=True)
class Confidence:
    """Each site counts, example by example, by the variance of what it says over the classes (that it knows).

    Where that leaves nobody, as in a class known only to sites that know no other, it is the mean.
    """

    of_probabilities: ClassVar[bool] = False

    def __call__(self, stack: Tensor, weights: Tensor, known: Tensor | None = None) -> Tensor:
        """(K, N, C), (K,), (K, C) -> (N, C)."""
        known = shared(stack, known)
        mean = Mean()(stack, weights, known)
        if known is not None:
            sure = spread(stack, known) * weights[:, None, None]
            return torch.where((sure * known[:, None]).sum(0) > 0, blend(stack, sure, known), mean)
        sure = stack.var(-1, correction=0, keepdim=True) * weights[:, None, None]
        total = sure.sum(0)
        return torch.where(total > 0, (sure * stack).sum(0) / total.clamp_min(1e-30), mean)


def _mean_probabilities(stack: Tensor, weights: Tensor, known: Tensor | None) -> Tensor:
    """The mean, whose rows still sum to 1 where classes were masked."""
    mean = Mean()(stack, weights, known)
    if shared(stack, known) is None:
        return mean
    return mean / mean.sum(-1, keepdim=True).clamp_min(torch.finfo(mean.dtype).tiny)
