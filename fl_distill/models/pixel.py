"""Convolutions of images so small that one pixel is all that comes out."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@final
class PixelConv2d(nn.Conv2d):
    """A convolution that is a linear layer where one pixel comes out, on the CPU: the same within rounding.

    Of a 3x3 kernel over the one pixel that a deep network leaves of a small image, eight weights meet nothing but
    padding; oneDNN multiplies by them all the same, forward and twice backward.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        padding = self.padding
        if isinstance(padding, str) or not self._gives_one_pixel(x, padding):
            return super().forward(x)
        (top, left), (height, width) = padding, self.kernel_size
        seen = x[:, :, : height - top, : width - left]
        met = self.weight[:, :, top : top + seen.shape[2], left : left + seen.shape[3]]
        return F.linear(seen.flatten(1), met.flatten(1), self.bias)[:, :, None, None]

    def _gives_one_pixel(self, x: Tensor, padding: tuple[int, ...]) -> bool:
        plain = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        if not plain or torch.compiler.is_compiling():
            return False
        if x.dim() != 4 or len(x) < 2 or not x.is_cpu:  # one example's convolution is quicker as it is
            return False
        each = zip(x.shape[2:], self.kernel_size, padding, self.stride, strict=True)
        return all(pad < kernel <= size + 2 * pad < kernel + stride for size, kernel, pad, stride in each)


def watch_for_pixels(model: nn.Module) -> nn.Module:
    """`model`, whose plain `nn.Conv2d` have become `PixelConv2d`: the same parameters under the same names."""
    for module in model.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = PixelConv2d
    return model
