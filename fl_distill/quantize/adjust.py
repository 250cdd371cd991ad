"""Bias correction: what rounding does to the mean of a layer's output is taken back."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def correct_biases(model: nn.Module, exact: Mapping[str, Tensor], x: Tensor) -> None:
    """b <- b - E[(W_q - W) x] at each linear and convolution layer, W = `exact[name]`, the mean over the batch `x`.

    One pass: each layer sees what the corrected layers before it say. A layer without a bias gives its shift to the
    BatchNorm that reads it: mu <- mu + E[(W_q - W) x]. Recurrent layers and `nn.MultiheadAttention` stay as they are.
    Source: Nagel et al. 2019, arXiv 1906.04721, section 4.2.
    """
    pending, training = _Pending(), model.training
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                hooks.enter_context(module.register_forward_pre_hook(pending.give))
            elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and f"{name}.weight" in exact:
                hook = _Correction(module.weight - exact[f"{name}.weight"], pending)
                hooks.enter_context(module.register_forward_hook(hook))
        model.eval()(x)
    model.train(training)


@final
class _Pending:
    """The shift of an output that no bias could take, until a BatchNorm reads that very tensor."""

    def __init__(self) -> None:
        self.output: Tensor | None = None
        self.shift = torch.zeros(())

    def give(self, norm: nn.Module, args: tuple[Any, ...]) -> None:
        if args and args[0] is self.output and isinstance(norm.running_mean, Tensor):
            norm.running_mean += self.shift
            self.output = None


@final
class _Correction:
    """The hook of one layer, which acts once: shared layers are corrected for their first use."""

    def __init__(self, error: Tensor, pending: _Pending) -> None:
        self._error: Tensor | None = error
        self._pending = pending

    def __call__(self, layer: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if self._error is None:
            return output
        shift, self._error = _shift(layer, self._error, args[0]), None
        if layer.bias is None:
            self._pending.output, self._pending.shift = output, shift
            return output
        layer.bias -= shift
        return output - (shift.view(-1, *[1] * (output.dim() - 2)) if isinstance(layer, _CONVOLUTIONS) else shift)


def _shift(layer: Any, error: Tensor, x: Tensor) -> Tensor:
    """E[error x] by output channel, (C): both layers are linear, so that the mean over the batch goes first."""
    if isinstance(layer, nn.Linear):
        return F.linear(x.flatten(0, -2).mean(0), error)
    seen: Tensor = layer._conv_forward(x.mean(0, keepdim=True), error, None)
    return seen.flatten(2).mean((0, 2))
