"""A model whose weights are stored small and grow as it runs."""

from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .forms import forms
from .rounding import to_half, to_int8


@final
class Stored(nn.Module):
    """forward(x) = model(x) with weights q s (int8 codes q, scales s) or float16, which become float32 at each call.

    Only the small tensors are part of it; `model` itself lends its structure. Activations are float32.
    """

    def __init__(self, model: nn.Module, precision: str | None) -> None:
        super().__init__()
        chosen = forms(model, precision) if precision else {}
        self._model = (model,)  # in a tuple: its float32 weights are no part of this module
        self._kept: list[tuple[str, str | None]] = []
        for at, (name, tensor) in enumerate(model.state_dict().items()):
            form = chosen.get(name)
            if form == "int8":
                tensor, scale = to_int8(tensor)
                self.register_buffer(f"scale_{at}", scale)
            elif form == "half":
                tensor = to_half(tensor)
            self.register_buffer(f"tensor_{at}", tensor)
            self._kept.append((name, form))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(N, …) -> (N, classes)."""
        seen: Tensor = functional_call(self._model[0], self._grown(), (x,))
        return seen

    def _grown(self) -> dict[str, Tensor]:
        grown = {}
        for at, (name, form) in enumerate(self._kept):
            tensor: Tensor = getattr(self, f"tensor_{at}")
            if form == "int8":
                grown[name] = tensor * getattr(self, f"scale_{at}")  # int8 times float32 is float32
            else:
                grown[name] = tensor.to(torch.float32) if form else tensor
        return grown
