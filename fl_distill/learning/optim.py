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
    """v <- m v + (g + d p), first v = g;  p <- p - lr v  (as torch.optim.SGD, bit for bit)."""
    velocity: dict[int, Tensor] = {}
    lr, momentum, decay = settings.lr, settings.momentum, settings.weight_decay

    @torch.no_grad()
    def step(grads: Sequence[Tensor | None], scale: float) -> None:
        for at, (param, grad) in enumerate(zip(params, grads, strict=True)):
            if grad is None:
                continue
            update = grad.add(param, alpha=decay) if decay else grad
            if momentum:
                if at in velocity:
                    update = velocity[at].mul_(momentum).add_(update)
                else:
                    velocity[at] = update = update.clone()
            param.add_(update, alpha=-lr * scale)

    return step


def _adam(params: Sequence[Tensor], settings: Settings) -> Step:
    return _moments(params, settings, decoupled=False)


def _adamw(params: Sequence[Tensor], settings: Settings) -> Step:
    return _moments(params, settings, decoupled=True)


def _moments(params: Sequence[Tensor], settings: Settings, decoupled: bool) -> Step:
    """m <- b1 m + (1 - b1) g;  s <- b2 s + (1 - b2) g^2;  p <- p - lr (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + eps).

    Decay d is added to the gradient (g + d p), or, `decoupled`, taken off the parameter first (p <- p - lr d p). As
    torch.optim.Adam and AdamW, bit for bit; t counts the gradients of a parameter.
    Source: Kingma & Ba 2015, arXiv 1412.6980; Loshchilov & Hutter 2019, arXiv 1711.05101.
    """
    means, squares = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]
    counts = [0] * len(params)
    lr, decay = settings.lr, settings.weight_decay

    @torch.no_grad()
    def step(grads: Sequence[Tensor | None], scale: float) -> None:
        there = [at for at, grad in enumerate(grads) if grad is not None]
        if not there:
            return
        for at in there:
            counts[at] += 1
        moved, given = [params[at] for at in there], [grad for grad in grads if grad is not None]
        if decay and decoupled:
            torch._foreach_mul_(moved, 1 - lr * scale * decay)
        elif decay:
            given = list(torch._foreach_add(given, moved, alpha=decay))
        mean, square = [means[at] for at in there], [squares[at] for at in there]
        torch._foreach_lerp_(mean, given, 1 - BETA_1)
        torch._foreach_mul_(square, BETA_2)
        torch._foreach_addcmul_(square, given, given, 1 - BETA_2)
        roots = torch._foreach_sqrt(square)
        torch._foreach_div_(roots, [(1 - BETA_2 ** counts[at]) ** 0.5 for at in there])
        torch._foreach_add_(roots, EPSILON)
        torch._foreach_addcdiv_(moved, mean, roots, [-(lr * scale / (1 - BETA_1 ** counts[at])) for at in there])

    return step
