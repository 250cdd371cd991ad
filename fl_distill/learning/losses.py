"""Distances between what a model says and what it is told: (logits (N, C), target (N, C)) -> scalar."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-mean_n sum_c t_c log softmax(logits)_c; `target` holds probabilities."""
    return F.cross_entropy(logits, target)


def distillation(logits: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 mean_n KL(softmax(target / T) || softmax(logits / T)); `target` holds logits (Hinton et al. 2015).

    The mean is over examples, the sum over classes: torch's default would divide by the classes too.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, not {temperature}")
    student = F.log_softmax(logits / temperature, -1)
    teacher = F.log_softmax(target / temperature, -1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def mean_absolute(logits: Tensor, target: Tensor) -> Tensor:
    """mean |logits - target|, as in FedMD's own code."""
    return F.l1_loss(logits, target)


def mean_squared(logits: Tensor, target: Tensor) -> Tensor:
    """mean (logits - target)^2."""
    return F.mse_loss(logits, target)


def digest_loss(name: str, temperature: float) -> Loss:
    """The loss with this name: `kl` (with a temperature), `mae` or `mse` between logits, `ce` to probabilities."""
    losses: dict[str, Loss] = {
        "kl": partial(distillation, temperature=temperature),
        "mae": mean_absolute,
        "mse": mean_squared,
        "ce": soft_cross_entropy,
    }
    if name not in losses:
        raise ValueError(f"loss is one of {', '.join(losses)}, not {name!r}")
    return losses[name]
