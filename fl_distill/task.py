"""What the server asks of a site in one round, and what the site answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Scalars = dict[str, int | float]
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Task:
    """What the server asks of a site in one round."""

    round: int
    weights: Tensors = field(default_factory=dict)
    """The tensors that arrived."""
    mu: float = 0.0
    """Strength of FedProx's proximal term."""
    work: float = 1.0
    """Part of its steps that this site gets done."""
    score: bool = True
    """Whether to score the site's model on held-out data."""
    weigh_by_validation: bool = False
    alone: bool = False
    """Whether to train the model's twin too, which never hears of others."""
    needed_from: int = 0
    """The server can resume no earlier than after this round."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """All plain values of the message, for what one algorithm needs alone."""


@dataclass(frozen=True)
class Outcome:
    """What a site answers: numbers, and named groups of tensors."""

    metrics: Scalars
    tensors: Mapping[str, Tensors] = field(default_factory=dict)
    bare: bool = False
    """Whether the tensors are for this package's own strategies alone."""
