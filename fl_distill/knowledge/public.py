"""Which public examples a round speaks of: drawn from a seed, so that none of them travels."""

from functools import lru_cache

import torch
from torch import Tensor

from ..seeds import generator

FIXED = 0
"""The round number that stands for the same examples in every round."""


@lru_cache(maxsize=4)  # all sites of a process ask for those of this round and of the one before
def public_rows(total: int, count: int, seed: int, number: int) -> Tensor:
    """`count` of `total` rows (all where there are fewer), in an order that depends on seed and round alone.

    Not to be changed.
    """
    return torch.randperm(total, generator=generator(seed, "public", number))[:count]
