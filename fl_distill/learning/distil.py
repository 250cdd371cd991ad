"""Distillation at the server: a model learns what others say of unlabelled examples."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..data.types import Split
from ..seeds import derive, generator, seed_torch
from .fit import Trained, fit
from .losses import Loss
from .scoring import predict
from .settings import Settings

CHECKS = 10
"""How often in `patience` steps the held-out examples are looked at."""


def distil(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    loss: Loss,
    settings: Settings,
    seed: int,
    *,
    held_out: float = 0.1,
    patience: int | None = None,
) -> Trained:
    """Minimise loss(model(x), target) over examples; `model` changes in place.

    With `patience`, training ends after so many steps without a lower loss on the `held_out` part of the examples,
    which is then not trained on, and the model takes back its best weights (early stopping as in FedDF, Lin et al.
    2020, arXiv 2006.07242, but against what was said, so that no labels are needed). `seed` orders all.
    """
    model.to(settings.device)
    seed_torch(derive(seed, "dropout"), settings.device)
    if patience is None or len(x) < 2:
        return fit(model, Split(x, target), settings, generator(seed, "order"), loss=loss)
    order = torch.randperm(len(x), generator=generator(seed, "held-out"))
    count = max(1, int(held_out * len(x)))
    watch = _Watch(model, x[order[:count]], target[order[:count]], loss, patience, settings.device)
    rest = Split(x[order[count:]], target[order[count:]])
    done = fit(model, rest, settings, generator(seed, "order"), loss=loss, stop=watch)
    watch.finish()
    return done


class _Watch:
    """Early stopping: remembers the weights with the lowest loss on held-out examples."""

    def __init__(self, model: nn.Module, x: Tensor, target: Tensor, loss: Loss, patience: int, device: str) -> None:
        self._model, self._x, self._target, self._loss = model, x, target, loss
        self._patience, self._device = patience, device
        self._every = max(1, patience // CHECKS)
        self._best, self._at = self._value(), 0
        self._weights = self._snapshot()

    def __call__(self, steps: int) -> bool:
        if steps % self._every:
            return False
        value = self._value()
        if value < self._best:
            self._best, self._at, self._weights = value, steps, self._snapshot()
        self._model.train()
        return steps - self._at >= self._patience

    def finish(self) -> None:
        """Take back the best weights, unless the last ones, not looked at yet, are better."""
        if not self._value() < self._best:
            self._model.load_state_dict(dict(self._weights))

    def _value(self) -> float:
        return float(self._loss(predict(self._model, self._x, device=self._device), self._target))

    def _snapshot(self) -> Mapping[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
