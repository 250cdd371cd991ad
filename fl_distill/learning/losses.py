"""Distances between what a model says (or shows) and what it is told: (logits (N, C), target (N, C)) -> scalar."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import number, positive, require

Loss = Callable[[Tensor, Tensor], Tensor]

UNKNOWN = -1
"""The label of an example without one."""


def soft_cross_entropy(logits: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """-T^2 mean_n sum_c t_c log softmax(logits / T)_c; `target` holds probabilities, softened by the same T."""
    if temperature == 1:  # the usual one: factors of 1 take a tenth of a small model's step
        return F.cross_entropy(logits, target)
    return temperature**2 * F.cross_entropy(logits / temperature, target)


def distillation(logits: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 mean_n KL(softmax(target / T) || softmax(logits / T)); `target` holds logits (Hinton et al. 2015).

    The mean is over examples, the sum over classes: torch's default would divide by the classes too.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, not {temperature}")
    if temperature == 1:
        return _divergence(logits, target)
    return temperature**2 * _divergence(logits / temperature, target / temperature)


def _divergence(logits: Tensor, target: Tensor) -> Tensor:
    student, teacher = F.log_softmax(logits, -1), F.log_softmax(target, -1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def mean_absolute(logits: Tensor, target: Tensor) -> Tensor:
    """mean |logits - target|, as in FedMD's own code."""
    return F.l1_loss(logits, target)


def mean_squared(logits: Tensor, target: Tensor) -> Tensor:
    """mean (logits - target)^2."""
    return F.mse_loss(logits, target)


def taught(alpha: float, temperature: float) -> Loss:
    """alpha CE(logits, y) + (1 - alpha) T^2 KL(softmax(teacher / T) || softmax(logits / T)), from `taught_target`.

    The soft mean is over all examples, the hard one over those with a label; without any it is 0.
    Source: Hinton et al. 2015, arXiv 1503.02531.
    """
    require(
        (number(alpha, 0, 1), f"alpha must be in [0, 1], not {alpha}"),
        (positive(temperature), f"temperature must be > 0, not {temperature}"),
    )

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        teacher, labels = target[:, :-1], target[:, -1].long()
        soft = (1 - alpha) * distillation(logits, teacher, temperature)
        if not bool((labels >= 0).any()):
            return soft
        return alpha * F.cross_entropy(logits, labels, ignore_index=UNKNOWN) + soft

    return loss


def taught_target(logits: Tensor, labels: Tensor) -> Tensor:
    """What `taught` learns from: the teacher's logits (N, C) and, as a last column, the labels (N,); -1 is unknown.

    Float32 or wider, which holds every label up to 2^24; (N, C + 1).
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    return torch.cat([logits.to(wide), labels[:, None].to(wide)], 1)


def attention_map(feature_map: Tensor, grid: int) -> Tensor:
    """Q / ||Q|| with Q = sum_c |A_c|^2 at each cell, brought to grid x grid: (N, C, h, w) -> (N, grid * grid).

    Where a model looks, comparable between widths and depths. A side longer than `grid` is average-pooled, a shorter
    one enlarged bilinearly; a map of zeros stays zeros.
    Source: Zagoruyko & Komodakis 2017, arXiv 1612.03928.
    """
    energy = feature_map.pow(2).sum(1, keepdim=True)
    height, width = (min(side, grid) for side in energy.shape[2:])
    pooled = F.adaptive_avg_pool2d(energy, (height, width))
    if min(height, width) < grid:
        pooled = F.interpolate(pooled, (grid, grid), mode="bilinear", align_corners=False)
    return F.normalize(pooled.flatten(1), dim=1)


def attention_distance(a: Tensor, b: Tensor) -> Tensor:
    """mean_n ||a_n - b_n||^2 between attention maps (N, cells): between 0 and 2, since no entry is negative."""
    return (a - b).pow(2).sum(1).mean()


def digest_loss(name: str, temperature: float) -> Loss:
    """The loss with this name: `kl` (with T), `mae` or `mse` between logits; `ce` (too) to probabilities."""
    losses: dict[str, Loss] = {
        "kl": partial(distillation, temperature=temperature),
        "mae": mean_absolute,
        "mse": mean_squared,
        "ce": partial(soft_cross_entropy, temperature=temperature),
    }
    if name not in losses:
        raise ValueError(f"loss is one of {', '.join(losses)}, not {name!r}")
    return losses[name]
