"""A model of the server's own, which learns what sites say of public examples."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

from torch import Tensor, nn

from ..checks import number, positive, require, whole
from ..data.types import Split
from ..learning import Diverged, Settings, attention_distance, digest_loss, fit, predict, taught, taught_target
from ..learning.distil import distil
from ..learning.transfer import DEEP, SHALLOW, Attending, express, shows_maps
from ..seeds import derive, generator, seed_torch
from .combiner import Facts


@dataclass(frozen=True)
class Student:
    """How the server trains its model: each round on the answers of that round, with fresh optimiser state.

    `temperature` softens both sides of the loss. `restart` begins each round at the initial weights (a common start).
    `pretrain_epochs` and `hard` (the weight of true labels in hard * CE + (1 - hard) * T^2 KL) use the public labels.
    """

    model: str
    """Architecture; empty: that of the first site."""
    settings: Settings
    temperature: float = 1.0
    restart: bool = False
    hard: float = 0.0
    pretrain_epochs: float = 0.0
    patience: int | None = None

    def __post_init__(self) -> None:
        require(
            (positive(self.temperature), f"temperature must be > 0, not {self.temperature}"),
            (number(self.hard, 0, 1), f"hard must be in [0, 1], not {self.hard}"),
            (self.patience is None or whole(self.patience), f"patience must be >= 1 or null, not {self.patience}"),
            (number(self.pretrain_epochs, 0), f"pretrain_epochs must be >= 0, not {self.pretrain_epochs}"),
        )

    @property
    def uses_labels(self) -> bool:
        """Whether the public set must have labels."""
        return self.hard > 0 or self.pretrain_epochs > 0


@final
class ServerModel:
    """The student's weights and its lessons."""

    def __init__(self, plan: Student) -> None:
        self._plan = plan
        self._facts = Facts()
        self._model: nn.Module | None = None

    @property
    def uses_labels(self) -> bool:
        """Whether the public set must have labels."""
        return self._plan.uses_labels

    def meet(self, facts: Facts) -> None:
        """Know the public set and how to build the model."""
        if self._plan.uses_labels and facts.public is not None and bool((facts.public.y < 0).any()):
            raise ValueError("the server learns from public labels, which this public set does not have")
        self._facts = facts

    @property
    def architecture(self) -> str:
        """The name of the model's architecture."""
        return self._plan.model or self._facts.default

    @property
    def _public(self) -> Split:
        if self._facts.public is None:
            raise ValueError("the server has no public set: give it Facts(public=...) with `meet` before the start")
        return self._facts.public

    @property
    def model(self) -> nn.Module:
        """The model, built and, where the plan says so, pretrained on public labels at first use."""
        if self._model is None:
            self._model = self._facts.model(self.architecture, None)
            if self._plan.pretrain_epochs:
                plan = replace(self._plan.settings, epochs=self._plan.pretrain_epochs, steps=None)
                seed_torch(derive(self._facts.seed, "server", "pretrain"), plan.device)
                self._model.to(plan.device)
                fit(self._model, self._public, plan, generator(self._facts.seed, "server", "pretrain-order"))
        return self._model

    def learn(
        self, rows: Tensor, answer: Tensor, probabilities: bool, number: int, extras: Mapping[str, Tensor]
    ) -> None:
        """One round's lesson: the answer (n, C), logits or probabilities, to the public examples `rows`."""
        before = self.state()
        try:
            self._learn(rows, answer, probabilities, number, extras)
        except Diverged:
            self.restore(before)
            raise

    def _learn(
        self, rows: Tensor, answer: Tensor, probabilities: bool, number: int, extras: Mapping[str, Tensor]
    ) -> None:
        plan, x, seed = self._plan, self._public.x[rows], derive(self._facts.seed, "server", number)
        if plan.restart:
            self._model = None
        model = self.model
        for name in (SHALLOW, DEEP):
            if name in extras and shows_maps(model.to(plan.settings.device), x, plan.settings.device):
                view = Attending(model, deep=name == DEEP)
                distil(view, x, extras[name], attention_distance, plan.settings, derive(seed, name))
        loss = digest_loss("ce" if probabilities else "kl", plan.temperature)
        target = answer.float()
        if plan.hard:
            logits = plan.temperature * target.clamp_min(1e-8).log() if probabilities else target
            loss, target = taught(plan.hard, plan.temperature), taught_target(logits, self._public.y[rows])
        distil(model, x, target, loss, plan.settings, seed, patience=plan.patience)

    def say(self, rows: Tensor, transfer: str) -> dict[str, Tensor]:
        """The model's logits on public examples, and what of its inner layers sites shall learn."""
        x, device = self._public.x[rows], self._plan.settings.device
        model = self.model.to(device)
        return {"consensus": predict(model, x, device=device), **express(model, x, transfer, device)}

    def state(self) -> dict[str, Tensor]:
        """The weights."""
        return {} if self._model is None else {k: v.clone() for k, v in self._model.state_dict().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights back."""
        self._model = self._facts.model(self.architecture, None) if state else None
        if self._model is not None:
            self._model.load_state_dict(dict(state))
