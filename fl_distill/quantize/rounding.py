"""One tensor with fewer bits, and back."""

import torch
from torch import Tensor

LARGEST = 127
"""Codes are -127 … 127: -128 has no counterpart, so that a symmetric grid leaves it out."""
HALF = torch.finfo(torch.float16).max


def scale_of(weight: Tensor) -> Tensor:
    """s_c = max |w_c| / 127 over each output channel c (dimension 0), of shape (C, 1, …); 1 where a channel is zero."""
    largest = weight.detach().abs().flatten(1).amax(1) / LARGEST
    return torch.where(largest == 0, 1.0, largest).view(-1, *[1] * (weight.dim() - 1))


def to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes q = round(w / s_c) as int8 and the scales s: |w - q s| <= s / 2 (Krishnamoorthi 2018, arXiv 1806.08342).

    ValueError where a weight is not finite: there is no code for it.
    """
    if not torch.isfinite(weight).all():
        raise ValueError("weights that are not finite have no int8 form: this model diverged")
    scale = scale_of(weight)
    return _codes(weight, scale).to(torch.int8), scale


def to_half(tensor: Tensor) -> Tensor:
    """As float16; what lies beyond its range becomes its largest number rather than infinity."""
    return tensor.clamp(-HALF, HALF).half()


def rounded(tensor: Tensor, form: str) -> Tensor:
    """The value that `tensor` has after being stored as `int8` or `half`, in its own dtype; NaN stays NaN."""
    if form == "half":
        return to_half(tensor).to(tensor.dtype)
    scale = scale_of(tensor)
    return _codes(tensor, scale) * scale


def _codes(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight / scale).round().clamp(-LARGEST, LARGEST)
