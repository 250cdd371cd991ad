"""Attention and feature transfer: beside what a teacher says, a student learns where it looks and what it sees."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from ..models.stages import stage_maps
from .losses import attention_map

GRID = 4
"""Attention maps travel as GRID x GRID cells, whatever the size of a model's own maps."""
SHALLOW, DEEP, FEATURES = "attention-shallow", "attention-deep", "features"
KINDS: Mapping[str, tuple[str, ...]] = {"attention": (SHALLOW, DEEP), "features": (FEATURES,)}
"""What can be transferred -> its stages, in the order in which a student learns them."""


@final
class Attending(nn.Module):
    """Forward gives the attention map (N, GRID^2) of the model's largest (shallow) or smallest (deep) maps."""

    def __init__(self, model: nn.Module, deep: bool) -> None:
        super().__init__()
        self.model, self._at = model, -1 if deep else 0

    def forward(self, x: Tensor) -> Tensor:
        """(N, …) -> (N, GRID^2), rows of length 1."""
        return attention_map(stage_maps(self.model, x)[self._at], GRID)


@final
class Projecting(nn.Module):
    """Forward gives the model's features through a linear map to another model's width (N, width)."""

    def __init__(self, model: nn.Module, bridge: nn.Linear) -> None:
        super().__init__()
        self.model, self.bridge = model, bridge

    def forward(self, x: Tensor) -> Tensor:
        """(N, …) -> (N, width)."""
        seen: Tensor = self.bridge(self.model.features(x))  # type: ignore[operator]
        return seen


@torch.inference_mode()
def express(model: nn.Module, x: Tensor, kinds: str, device: str = "cpu", batch_size: int = 512) -> dict[str, Tensor]:
    """What the model has of `kinds` (names joined by "+", or ""): stage -> float16 (N, width); a model without maps
    in two dimensions has no attention to show.
    """
    model.eval()
    parts: dict[str, list[Tensor]] = {}
    wanted = kinds.split("+") if kinds else []
    for batch in torch.split(x, batch_size) if wanted else ():
        for name, tensor in _stages(model, batch.to(device), wanted).items():
            parts.setdefault(name, []).append(tensor.to("cpu", torch.float16))
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def _stages(model: nn.Module, x: Tensor, wanted: list[str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    maps = stage_maps(model, x) if "attention" in wanted else []
    if maps:
        found |= {SHALLOW: attention_map(maps[0], GRID), DEEP: attention_map(maps[-1], GRID)}
    if "features" in wanted:
        found[FEATURES] = model.features(x)  # type: ignore[operator]
    return found


def shows_maps(model: nn.Module, x: Tensor, device: str = "cpu") -> bool:
    """Whether the model has feature maps in two dimensions."""
    model.eval()
    with torch.inference_mode():
        return bool(stage_maps(model, x[:1].to(device)))
