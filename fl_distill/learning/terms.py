"""Terms that an algorithm adds to the local loss."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .fit import Term, trainable


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
