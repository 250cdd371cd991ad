"""Optimisers of local training.

They are written out here: making the first `torch.optim` object imports torch's compiler, about a second in every
process, and what it does around an update takes longer than the update of a small model.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .settings import Settings

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
"""Of Adam: what stays of the mean and of the squares in a step, and what keeps a quotient finite."""

Step = Callable[[Sequence[Tensor | None], float], None]
"""Applies one update, given a gradient (or None) for each parameter, at this part of the learning rate."""

_Update = Callable[[list[Tensor], list[Tensor], list[int], float], None]
"""Moves parameters by their gradients, given their places among all and the learning rate."""


def schedule(name: str, steps: int) -> Callable[[int], float]:
    """Step 0 … steps - 1 -> part of the learning rate: 1 (`constant`), or (1 + cos(pi step / steps)) / 2 (`cosine`)."""
    if name == "constant":
        return lambda step: 1.0
    return lambda step: (1 + math.cos(math.pi * step / steps)) / 2


def make(params: Sequence[Tensor], settings: Settings) -> Step:
    """The update rule that `settings` names, with fresh state, over `params` (changed in place)."""
    makers = {"sgd": _sgd, "adam": _adam, "adamw": _adamw}
    return makers[settings.optimizer](params, settings)


def _sgd(params: Sequence[Tensor], settings: Settings) -> Step:
    """v <- m v + (g + d p), v = 0 at first;  p <- p - lr v  (as torch.optim.SGD(fused=True), bit for bit)."""
    momentum = settings.momentum
    velocity = [torch.zeros_like(p) for p in params] if momentum else []

    def update(moved: list[Tensor], grads: list[Tensor], there: list[int], rate: float) -> None:
        torch._fused_sgd_(
            moved,
            grads,
            [velocity[at] for at in there] if momentum else [],
            weight_decay=settings.weight_decay,
            momentum=momentum,
            lr=rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
        )

    return _applied(params, update, settings.lr)


def _adam(params: Sequence[Tensor], settings: Settings) -> Step:
    return _moments(params, settings, torch._fused_adam_)


def _adamw(params: Sequence[Tensor], settings: Settings) -> Step:
    return _moments(params, settings, torch._fused_adamw_)


def _moments(params: Sequence[Tensor], settings: Settings, kernel: Callable[..., object]) -> Step:
    """m <- b1 m + (1 - b1) g;  s <- b2 s + (1 - b2) g^2;  p <- p - lr (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + eps).

    Decay d is added to the gradient (g + d p) by Adam, and taken off the parameter first (p <- p - lr d p) by AdamW. As
    torch.optim.Adam(fused=True) and AdamW(fused=True), bit for bit; t counts the gradients of a parameter.
    Source: Kingma & Ba 2015, arXiv 1412.6980; Loshchilov & Hutter 2019, arXiv 1711.05101.
    """
    means, squares = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]
    counts = [torch.zeros((), device=p.device) for p in params]

    def update(moved: list[Tensor], grads: list[Tensor], there: list[int], rate: float) -> None:
        mean, square, count = ([kept[at] for at in there] for kept in (means, squares, counts))
        torch._foreach_add_(count, 1)
        kernel(
            moved,
            grads,
            mean,
            square,
            [],
            count,
            lr=rate,
            beta1=BETA_1,
            beta2=BETA_2,
            weight_decay=settings.weight_decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )

    return _applied(params, update, settings.lr)


def _applied(params: Sequence[Tensor], update: _Update, lr: float) -> Step:
    """`update` for the parameters that have a gradient.

    Its kernel goes through a parameter and its gradient from the first number in memory to the last: both are to lie
    there in one order, and without gaps.
    """
    dense = [p.stride() == torch.empty_like(p, device="meta").stride() for p in params]

    @torch.no_grad()
    def step(grads: Sequence[Tensor | None], scale: float) -> None:
        there, given, moved = [], [], []
        for at, (param, grad, whole) in enumerate(zip(params, grads, dense, strict=True)):
            if grad is not None:
                there.append(at)
                moved.append(param if whole else param.contiguous())
                given.append(grad if grad.stride() == moved[-1].stride() else torch.empty_like(moved[-1]).copy_(grad))
        if there:
            update(moved, given, there, lr * scale)
        for at, new in zip(there, moved, strict=True):
            if not dense[at]:
                params[at].copy_(new)

    return step
