"""Numbers that belong to many others, such as a block's scale, in front of those others' codes.

As bfloat16, the upper half of a float32, where it is the block's largest number that asks for them: rounded up, so that
nothing is clipped, by less than 1/128, as much more as the error may be. As float32 where the decoded mean
depends on them. All little-endian.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import BadUpdate
from .coder import Bytes

LARGEST = float(np.finfo(np.float32).max)
TINY = float(np.finfo(np.float32).tiny)

_LOWER_HALF = 0xFFFF


def rounded_up(x: Tensor) -> Tensor:
    """The least bfloat16 that is not below each float32 x >= 0, in place; infinity above the largest."""
    # As whole numbers, those above 0 have the order that they have as numbers.
    x.view(torch.int32).add_(_LOWER_HALF).bitwise_and_(~_LOWER_HALF)
    return x


def rounded_down(x: float, form: torch.dtype) -> float:
    """The largest number of a form that is below x > 0."""
    below = torch.tensor([np.nextafter(np.float32(x), np.float32(0))])
    if form == torch.bfloat16:
        below.view(torch.int32).bitwise_and_(~_LOWER_HALF)
    return float(below)


def read_scales(data: Bytes, count: int, form: torch.dtype, limit: float, what: str) -> Tensor:
    """The numbers in front of `data` as float32, in memory of their own; BadUpdate unless 0 <= each <= `limit`."""
    scales: NDArray[np.float32]
    if form == torch.bfloat16:
        scales = (np.frombuffer(data, "<u2", count).astype(np.uint32) << 16).view(np.float32)
    else:
        scales = np.frombuffer(data, "<f4", count).astype(np.float32)
    good = (scales >= 0) & (scales <= np.float32(limit))
    if not good.all():
        place = int(np.argmin(good))
        raise BadUpdate(f"{what}: scale {place} is {scales[place]}, expected a number from 0 to {limit:.6g}")
    return torch.from_numpy(scales)
