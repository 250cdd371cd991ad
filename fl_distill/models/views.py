"""A classifier seen another way: features beside its scores, or classes by the nearest prototype."""

from typing import final

import torch
from torch import Tensor, nn


@final
class WithFeatures(nn.Module):
    """forward(x) = [scores | features], (N, C + D), in one pass; trains the classifier itself."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """(N, …) -> (N, C + D)."""
        features: Tensor = self.model.features(x)  # type: ignore[operator]
        return torch.cat([self.model.head(features), features], 1)  # type: ignore[operator]


@final
class ByPrototype(nn.Module):
    """forward(x)_c = -||features(x) - prototype_c||^2, (N, C): the largest score is that of the nearest prototype.

    A class without a prototype scores as the lowest of numbers. Source: Tan et al. 2022, arXiv 2105.00243.
    """

    def __init__(self, model: nn.Module, prototypes: Tensor, known: Tensor) -> None:
        super().__init__()
        self.model, self._prototypes, self._known = model, prototypes, known

    def forward(self, x: Tensor) -> Tensor:
        """(N, …) -> (N, C)."""
        features: Tensor = self.model.features(x)  # type: ignore[operator]
        gaps = (features[:, None] - self._prototypes.to(x.device)).pow(2).sum(-1)
        return (-gaps).masked_fill(~self._known.to(x.device), -1e9)
