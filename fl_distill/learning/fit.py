"""Local training, in plain PyTorch."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.types import Split
from ..errors import FlDistillError
from ..quantize import forms, rounded_weights
from . import optim
from .layout import layout
from .losses import Loss
from .settings import Settings

Term = Callable[[nn.Module], Tensor]
"""A further term of the local loss, a scalar, such as FedProx's proximal term."""

Augment = Callable[[Tensor, torch.Generator], Tensor]


class Diverged(FlDistillError):
    """Training left the finite numbers."""


@dataclass(frozen=True)
class Trained:
    """What one call of `fit` did: `loss` is the mean over batches, terms included."""

    loss: float
    steps: int
    examples: int

    def checked(self, settings: Settings) -> "Trained":
        """Itself; raises `Diverged` where the loss is not finite."""
        if math.isfinite(self.loss):
            return self
        lower = f"lower lr={settings.lr}"
        raise Diverged(f"training diverged: the mean loss over {self.steps} steps is {self.loss}; {lower}")


def fit(
    model: nn.Module,
    data: Split,
    settings: Settings,
    generator: torch.Generator,
    *,
    loss: Loss = F.cross_entropy,
    terms: Sequence[Term] = (),
    augment: Augment | None = None,
    work: float = 1.0,
    precision: str = "full",
    stop: Callable[[int], bool] | None = None,
) -> Trained:
    """Minimise loss(model(x), y) + sum(terms) by mini-batches; `model` changes in place.

    `generator` orders the batches and drives `augment`; dropout inside the model draws from torch's global
    generator, which the caller seeds. `work` in (0, 1] does only that part of the planned steps; `stop`, called
    with the number of steps done, may end it earlier. With `settings.quantization_aware` gradients are those at the
    weights that would run at `precision`.
    Raises `Diverged` when the loss stops being finite.
    """
    params = trainable(model)
    step = optim.make(params, settings)
    planned = settings.planned_steps(len(data), work)
    least = 2 if _needs_pairs(model) else 1
    total, done = torch.zeros((), device=settings.device), 0
    rate = optim.schedule(settings.schedule, planned)
    chosen = forms(model, precision) if settings.quantization_aware else {}
    arrange = layout(model, data.x, settings.device)
    model.train()
    for batch in batches(len(data), settings.batch_size, planned, least, generator):
        x = data.x[batch]
        x = arrange(augment(x, generator) if augment else x).to(settings.device)
        with rounded_weights(model, chosen) if chosen else nullcontext():
            value = loss(model(x), data.y[batch].to(settings.device))
            for term in terms:
                value = value + term(model)
            grads: Sequence[Tensor | None] = torch.autograd.grad(value, params, allow_unused=True)
        if settings.clip_norm is not None:
            grads = _clipped(grads, settings.clip_norm)
        step(grads, rate(done))
        total += value.detach()
        done += 1
        if stop is not None and stop(done):
            break
    return Trained(float(total) / done, done, len(data)).checked(settings)


def full_gradient(model: nn.Module, data: Split, batch_size: int = 512, device: str = "cpu") -> dict[str, Tensor]:
    """Gradient of the mean cross-entropy over all of `data`, by parameter name, on the CPU."""
    arrange = layout(model, data.x, device)
    model.train()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in named.items()}
    for x, y in zip(torch.split(data.x, batch_size), torch.split(data.y, batch_size), strict=True):
        loss = F.cross_entropy(model(arrange(x).to(device)), y.to(device), reduction="sum") / len(data)
        grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        for into, grad in zip(total.values(), grads, strict=True):
            if grad is not None:
                into += grad
    return {name: grad.cpu() for name, grad in total.items()}


def trainable(model: nn.Module) -> list[Tensor]:
    """The parameters that training changes."""
    return [p for p in model.parameters() if p.requires_grad]


def batches(examples: int, size: int, steps: int, least: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of `steps` batches, a fresh permutation each pass, none smaller than `least`."""
    done = 0
    while True:
        for batch in torch.split(torch.randperm(examples, generator=generator), size):
            # BatchNorm cannot train on one example: the same one twice has the same mean and gradient.
            yield batch if len(batch) >= least else batch.repeat(least)
            done += 1
            if done == steps:
                return


def _needs_pairs(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def _clipped(grads: Sequence[Tensor | None], largest: float) -> tuple[Tensor | None, ...]:
    norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in grads if g is not None]))
    scale = (largest / (norm + 1e-6)).clamp(max=1.0)
    return tuple(None if g is None else g * scale for g in grads)
