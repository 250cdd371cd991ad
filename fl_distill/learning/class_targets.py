"""Pulls towards one target for each class, from the example's own label: FedProto's and FD's regularisers.

Both take targets (C, D) and `known` (C,), bool: which classes have one. Examples whose label has none, or that have no
label (-1), are left out of the mean; where that leaves no example the value is 0.
"""

import torch.nn.functional as F
from torch import Tensor


def prototype_loss(features: Tensor, labels: Tensor, prototypes: Tensor, known: Tensor, weight: float = 1.0) -> Tensor:
    """weight * mean over n and d of (f_nd - p_{y_n, d})^2: features (N, D), labels (N,), prototypes (C, D).

    The mean over d, not the sum, as the paper's code has it: its lambda (1 on MNIST, 0.1 on CIFAR) is meant for that.
    Source: Tan et al. 2022 (FedProto), arXiv 2105.00243.
    """
    rows = _rows(labels, known)
    gaps = features[rows] - prototypes[labels[rows]]
    return weight * gaps.pow(2).sum() / max(1, gaps.numel())


def class_target_loss(logits: Tensor, labels: Tensor, targets: Tensor, known: Tensor, weight: float = 1.0) -> Tensor:
    """-weight * mean_n sum_c t_{y_n, c} log softmax(logits_n)_c: logits (N, C), labels (N,), probabilities t (C, C).

    Row l of `targets` is what others say, on average, of their examples of label l; `weight` is the paper's gamma.
    Source: Jeong et al. 2018 (FD), arXiv 1811.11479.
    """
    rows = _rows(labels, known)
    total = F.cross_entropy(logits[rows], targets[labels[rows]], reduction="sum")
    return weight * total / max(1, len(rows))


def _rows(labels: Tensor, known: Tensor) -> Tensor:
    """The indices of examples whose label has a target."""
    return ((labels >= 0) & known[labels.clamp_min(0)]).nonzero().squeeze(1)
