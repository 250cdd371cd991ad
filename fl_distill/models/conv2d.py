"""Convolutions that are quicker where one pixel is left, and the same in any company where models are many."""

from typing import final

import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor
from torch.nn import functional as F

GROUP, FEWEST = 8, 4
"""Channels that come out of a convolution of a stack of models: a multiple; and go into it: at least."""


@final
class Conv2d(nn.Conv2d):
    """`nn.Conv2d`, the same within rounding.

    On the CPU a linear layer where one pixel comes out: of a 3x3 kernel over the one pixel that a deep network leaves
    of a small image, eight weights meet nothing but padding, and oneDNN multiplies by them all the same, forward and
    twice backward. In a stack of models (`torch.func.vmap`) channels of zeros join those that are too few, since the
    last bits of what becomes of these depend on the number of models. Exports have the plain convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        padding = self.padding
        if is_batchedtensor(x):
            return self._in_a_stack(x)
        if isinstance(padding, str) or not self._gives_one_pixel(x, padding):
            return super().forward(x)
        (top, left), (height, width) = padding, self.kernel_size
        seen = x[:, :, : height - top, : width - left]
        met = self.weight[:, :, top : top + seen.shape[2], left : left + seen.shape[3]]
        return F.linear(seen.flatten(1), met.flatten(1), self.bias)[:, :, None, None]

    def _in_a_stack(self, x: Tensor) -> Tensor:
        more_in, more_out = max(FEWEST - self.in_channels, 0), -self.out_channels % GROUP
        if self.groups > 1 or not (more_in or more_out):
            return super().forward(x)
        weight = F.pad(self.weight, (0, 0, 0, 0, 0, more_in, 0, more_out))
        bias = None if self.bias is None else F.pad(self.bias, (0, more_out))
        out: Tensor = self._conv_forward(F.pad(x, (0, 0, 0, 0, 0, more_in)), weight, bias)
        return out.narrow(-3, 0, self.out_channels)

    def _gives_one_pixel(self, x: Tensor, padding: tuple[int, ...]) -> bool:
        plain = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        if not plain or torch.compiler.is_compiling():
            return False
        if x.dim() != 4 or len(x) < 2 or not x.is_cpu:  # one example's convolution is quicker as it is
            return False
        each = zip(x.shape[2:], self.kernel_size, padding, self.stride, strict=True)
        return all(pad < kernel <= size + 2 * pad < kernel + stride for size, kernel, pad, stride in each)


def own_convolutions(model: nn.Module) -> nn.Module:
    """`model`, whose plain `nn.Conv2d` have become `Conv2d`: the same parameters under the same names.

    `torch.fx` and `torch.jit.script` do not read these; a builder's own model, as it is without this, they do.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = Conv2d
    return model
