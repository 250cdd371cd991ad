"""Optimisers of local training.

They are torch's own kernels without `torch.optim`: making its first object imports torch's compiler, about a second in
every process, and what it does around an update takes longer than the update of a small model.
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
    velocity = _zeros(params) if momentum else []

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
    means, squares = _zeros(params), _zeros(params)
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
    """`update` for the parameters that have a gradient, those of one kind at a time.

    Its kernel goes through a parameter, its gradient and its state from the first number in memory to the last: all
    lie there in one order, and without gaps.
    """
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for at, param in enumerate(params):
        kinds.setdefault((param.device, param.dtype), []).append(at)
    plain = [not param.is_complex() and _dense(param) is param for param in params]

    @torch.no_grad()
    def step(grads: Sequence[Tensor | None], scale: float) -> None:
        for alike in kinds.values():
            there, moved, given = [], [], []
            for at in alike:
                if (grad := grads[at]) is not None:
                    there.append(at)
                    moved.append(params[at] if plain[at] else _dense(_real(params[at])))
                    given.append(_as_lies(grad, moved[-1]))
            if there:
                update(moved, given, there, lr * scale)
            for at, new in zip(there, moved, strict=True):
                if not plain[at]:
                    _real(params[at]).copy_(new)

    return step


def _zeros(params: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(_dense(_real(p.detach()))) for p in params]


def _real(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _dense(tensor: Tensor) -> Tensor:
    """Itself, or a copy without gaps."""
    return tensor if tensor.stride() == torch.empty_like(tensor, device="meta").stride() else tensor.contiguous()


def _as_lies(grad: Tensor, param: Tensor) -> Tensor:
    """`grad` in the order in memory of `param`; of a sparse one all of it."""
    if grad.layout != torch.strided:
        grad = grad.to_dense()
    if grad.is_complex():
        grad = _real(grad.resolve_conj())
    return grad if grad.stride() == param.stride() else torch.empty_like(param).copy_(grad)
