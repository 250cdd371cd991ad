"""Which public examples a round speaks of: drawn from a seed, so that none of them travels."""

import torch
from torch import Tensor

from ..seeds import generator

FIXED = 0
"""The round number that stands for the same examples in every round."""


def public_rows(total: int, count: int, seed: int, number: int) -> Tensor:
    """`count` of `total` rows (all where there are fewer), in an order that depends on seed and round alone."""
    return torch.randperm(total, generator=generator(seed, "public", number))[:count]
