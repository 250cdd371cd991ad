"""Where decoded rows must lie: codecs round numbers one by one, and know nothing of what rows of them stand for.

The nearest point of a convex set is no farther from what was coded, which lies in the set, than what was decoded.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..errors import BadUpdate

SIMPLEX, BALL = "simplex", "ball"
"""Probabilities; numbers >= 0 of a length of at most 1."""


FARTHEST = 1.0
"""Mean squared distance of rows from their set: as much as a code of nothing but zeros leaves, at most."""


def within(tensors: Mapping[str, Tensor], rows: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors, with those that `rows` names moved row by row into their set, in their own dtype.

    Raises `BadUpdate` where they are so far from it that no codec can have moved them there.
    """
    return {**tensors, **{name: _moved(name, tensors[name], rows[name]) for name in rows if name in tensors}}


def _moved(name: str, tensor: Tensor, kind: str) -> Tensor:
    if not (tensor.dtype.is_floating_point and tensor.numel()):  # packed otherwise, or nothing
        return tensor
    if tensor.dim() < 2 or not tensor.isfinite().all():
        raise BadUpdate(f"tensor {name!r} is {list(tensor.shape)}, expected rows of finite numbers")
    moved = _SETS[kind](tensor.float())
    if not (far := float((tensor.float() - moved).square().sum(-1).mean())) <= FARTHEST:
        raise BadUpdate(
            f"rows of {name!r} are {far**0.5:.3g} from the {kind} that they belong to: no codec loses as much"
        )
    return moved.to(tensor.dtype)


def on_simplex(x: Tensor) -> Tensor:
    """argmin over p >= 0, sum p = 1, of ||p - x||: max(x - theta, 0) with the theta that makes the sum 1; (..., C).

    Source: Duchi et al. 2008, Efficient Projections onto the l1-Ball.
    """
    x = x - x.amax(-1, keepdim=True)  # which changes nothing but the roundings of large numbers
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
