"""Who knows what: the mask `known` (K, C) of the combine rules, and sums over sites that respect it.

Entries outside the mask are replaced before anything is computed, so that no number there can have a say.
"""

import torch
from torch import Tensor


def shared(stack: Tensor, known: Tensor | None) -> Tensor | None:
    """`known` with every class that nobody knows taken as known to all; None where that leaves nothing masked.

    `stack` is (K, N, C), `known` a bool tensor (K, C). Raises ValueError when it is anything else.
    """
    if known is None:
        return None
    expected = (len(stack), stack.shape[-1])
    if known.dtype != torch.bool or tuple(known.shape) != expected:
        raise ValueError(f"known must be a bool tensor {expected}, not {known.dtype} {tuple(known.shape)}")
    known = known | ~known.any(0)
    return None if bool(known.all()) else known


def blend(stack: Tensor, weights: Tensor, known: Tensor) -> Tensor:
    """sum_k known_kc w_k s_knc / sum_k known_kc w_k: (K, N, C) -> (N, C); `weights` (K, N or 1, C or 1)."""
    say = weights * known[:, None]
    return (say * only(stack, known)).sum(0) / say.sum(0)


def only(stack: Tensor, known: Tensor, other: float = 0.0) -> Tensor:
    """`stack` with `other` at what a site does not know."""
    return torch.where(known[:, None], stack, other)


def spread(stack: Tensor, known: Tensor) -> Tensor:
    """The variance over the classes that a site knows: (K, N, C) -> (K, N, 1); 0 where it knows none."""
    count = known.sum(1).clamp_min(1)[:, None, None]
    centre = only(stack, known).sum(-1, keepdim=True) / count
    return only(stack - centre, known).pow(2).sum(-1, keepdim=True) / count


def mean_of_ranks(stack: Tensor, known: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """The mean of the sites that stand at ranks first_c .. last_c among those that know class c.

    `first` and `last` are (C,), from 0 and both included, below the number of sites that know c. (N, C).
    """
    rank = torch.arange(len(stack), device=stack.device)[:, None]
    kept = (first <= rank) & (rank <= last)
    ordered = only(stack, known, torch.inf).sort(0).values
    return only(ordered, kept).sum(0) / (last - first + 1)
