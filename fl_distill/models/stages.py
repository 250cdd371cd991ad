"""What a model of images computes on its way: one feature map for each resolution that it passes through."""

from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn


def stage_maps(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The last map (N, C, h, w) at each resolution h x w > 1, largest first, from one forward pass over `x`.

    Part of the autograd graph unless the caller switched that off. A model without maps, such as a perceptron, gives
    an empty list. Only what a submodule returns is seen.
    """
    last: dict[tuple[int, ...], Tensor] = {}

    def keep(_module: nn.Module, _args: tuple[Any, ...], output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2:].numel() > 1:
            last[tuple(output.shape[2:])] = output

    with ExitStack() as hooks:
        for module in model.modules():
            hooks.enter_context(module.register_forward_hook(keep))
        model(x)
    return sorted(last.values(), key=lambda seen: -seen.shape[2:].numel())
