"""Terms that an algorithm adds to the local loss."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..checks import number, require, whole
from .fit import Term, trainable
from .layout import layout
from .losses import Loss


def proximal(mu: float, reference: Sequence[Tensor]) -> Term:
    """(mu / 2) * sum over trainable parameters of ||p - p_ref||^2 (FedProx, arXiv 1812.06127).

    `reference` holds the parameters of the model that arrived, in the order of `trainable(model)`.
    Buffers such as BatchNorm's running statistics are no part of it.
    """
    if not mu >= 0:
        raise ValueError(f"mu must be >= 0, not {mu}")
    anchor = [tensor.detach().clone() for tensor in reference]

    def term(model: nn.Module) -> Tensor:
        gaps = [(p - a).pow(2).sum() for p, a in zip(trainable(model), anchor, strict=True)]
        return mu / 2 * torch.stack(gaps).sum()

    return term


def on_public(
    x: Tensor, target: Tensor, loss: Loss, batch_size: int, generator: torch.Generator, weight: float = 1.0
) -> Term:
    """weight * loss(model(x_B), target_B) on the next mini-batch B of public examples, whatever the own batch is.

    `x` (N, …) and `target` (N, …) stay where they are; batches move to the model. `generator` orders the examples
    anew each pass. With weight = 1 - alpha and `distillation` it is the soft half of a teacher's lesson.
    """
    require(
        (len(x) == len(target) > 0, f"examples and targets must be as many and not none: {len(x)} and {len(target)}"),
        (whole(batch_size), f"batch_size must be a whole number >= 1, not {batch_size}"),
        (number(weight, 0), f"weight must be >= 0, not {weight}"),
    )
    batches = _batches_for_ever(len(x), batch_size, generator)

    def term(model: nn.Module) -> Tensor:
        device = trainable(model)[0].device
        batch, arrange = next(batches), layout(model, x, device.type)
        return weight * loss(model(arrange(x[batch]).to(device)), target[batch].to(device))

    return term


def _batches_for_ever(examples: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        for batch in torch.split(torch.randperm(examples, generator=generator), size):
            # BatchNorm cannot train on one example: the same one twice has the same mean and gradient.
            yield batch if len(batch) > 1 else batch.repeat(2)
