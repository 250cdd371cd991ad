"""Optimisers of local training.

SGD is written out here: making the first `torch.optim` object imports torch's compiler, about a second in
every worker process, and the update itself is three lines.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .settings import Settings

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
    return _from_torch(torch.optim.Adam(params, lr=settings.lr, weight_decay=settings.weight_decay), params)


def _adamw(params: Sequence[Tensor], settings: Settings) -> Step:
    return _from_torch(torch.optim.AdamW(params, lr=settings.lr, weight_decay=settings.weight_decay), params)


def _from_torch(optimizer: torch.optim.Optimizer, params: Sequence[Tensor]) -> Step:
    full = optimizer.param_groups[0]["lr"]

    def step(grads: Sequence[Tensor | None], scale: float) -> None:
        optimizer.param_groups[0]["lr"] = full * scale
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
