"""Where decoded rows must lie: codecs round numbers one by one, and know nothing of what rows of them stand for.

The nearest point of a convex set is no farther from what was coded, which lies in the set, than what was decoded.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

SIMPLEX, BALL = "simplex", "ball"
"""Probabilities; numbers >= 0 of a length of at most 1."""


def within(tensors: Mapping[str, Tensor], rows: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors, with those that `rows` names moved row by row into their set, in their own dtype."""
    moved = {name: _SETS[kind](tensors[name].float()) for name, kind in rows.items() if name in tensors}
    return {**tensors, **{name: tensor.to(tensors[name].dtype) for name, tensor in moved.items()}}


def on_simplex(x: Tensor) -> Tensor:
    """argmin over p >= 0, sum p = 1, of ||p - x||: max(x - theta, 0) with the theta that makes the sum 1; (..., C).

    Source: Duchi et al. 2008, Efficient Projections onto the l1-Ball.
    """
    if not x.numel():
        return x
    falling = x.sort(-1, descending=True).values
    excess = (falling.cumsum(-1) - 1) / torch.arange(1, x.shape[-1] + 1)
    last = (falling > excess).sum(-1, keepdim=True) - 1
    return (x - excess.gather(-1, last)).clamp_(min=0)


def in_ball(x: Tensor) -> Tensor:
    """argmin over p >= 0, ||p|| <= 1, of ||p - x||; (..., C)."""
    positive = x.clamp(min=0)
    inside: Tensor = positive / torch.linalg.vector_norm(positive, dim=-1, keepdim=True).clamp(min=1)
    return inside


_SETS: Mapping[str, Callable[[Tensor], Tensor]] = {SIMPLEX: on_simplex, BALL: in_ball}
