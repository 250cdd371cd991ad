"""Means by class: what sites exchange when only one vector for each class travels.

For FD a vector is the mean of softmax outputs (Jeong et al. 2018, arXiv 1811.11479), for FedProto the mean of
features (Tan et al. 2022, arXiv 2105.00243). A class without examples has count 0, and its mean is never used,
whatever stands there.
"""

from typing import Literal

import torch
from torch import Tensor

Weigh = Literal["sites", "examples"]
"""Whether every site that holds a class counts alike, or by its examples of it."""


def class_means(values: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """m_c = mean of v_n over label c, and how many there are: (N, D), (N,) -> (C, D) float32, (C,) int64.

    The mean of a class without examples is 0.
    """
    counts = torch.bincount(labels, minlength=classes)
    if len(counts) != classes:
        raise ValueError(f"labels must be below {classes}, the number of classes, not {len(counts) - 1}")
    sums = values.new_zeros(classes, values.shape[1], dtype=torch.float64).index_add_(0, labels, values.double())
    return (sums / counts.clamp_min(1)[:, None]).float(), counts


def masked_mean(means: Tensor, counts: Tensor, weigh: Weigh = "sites") -> tuple[Tensor, Tensor]:
    """The mean over the sites that hold a class, and their number: (K, C, D), (K, C) -> (C, D), (C,) int64.

    examples: sum_k n_kc m_kc / sum_k n_kc; sites: the same with [n_kc > 0] for n_kc, as in FD and FedProto's own code.
    The mean of a class that no site holds is 0.
    """
    if weigh not in ("sites", "examples"):
        raise ValueError(f"weigh is sites or examples, not {weigh!r}")
    weights = (counts if weigh == "examples" else counts > 0).double()
    total = (weights[..., None] * _held(means, counts)).sum(0)
    mean = total / weights.sum(0).clamp_min(1)[:, None]
    return mean.to(means.dtype), (counts > 0).sum(0)


def leave_one_out(means: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """For every site the mean over the *other* sites that hold a class: (K, C, D), (K, C) -> (K, C, D), (K, C) bool.

    t_kc = sum_{j != k} [n_jc > 0] m_jc / sum_{j != k} [n_jc > 0]; known is False, and t 0, where no other site holds c.
    """
    holds = counts > 0
    others = holds.sum(0) - holds.long()
    targets = _others_sum(_held(means, counts)) / others.clamp_min(1)[..., None]
    return targets.to(means.dtype), others > 0


def _held(means: Tensor, counts: Tensor) -> Tensor:
    """The means in float64, 0 for a class that a site does not hold."""
    return torch.where((counts > 0)[..., None], means.double(), 0.0)


def _others_sum(own: Tensor) -> Tensor:
    """sum_{j != k} x_j for every k, added up from both ends: total - own would lose the others beside one huge site."""
    none = torch.zeros_like(own[:1])
    before = torch.cat([none, own[:-1].cumsum(0)])
    after = torch.cat([own[1:].flip(0).cumsum(0).flip(0), none])
    return before + after
