"""A site at work: take what arrived, train, say what it learned. Each algorithm's site half is one method."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from .data.types import Site, Split
from .errors import BadUpdate
from .learning import Score, Settings, Term, evaluate, fit, full_gradient, proximal, trainable
from .learning.fit import Augment
from .seeds import derive, generator
from .store import SiteStore

Scalars = dict[str, int | float]


@dataclass(frozen=True)
class Task:
    """What the server asks of a site in one round."""

    round: int
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    mu: float = 0.0
    """Strength of FedProx's proximal term."""
    work: float = 1.0
    """Part of its steps that this site gets done."""
    score: bool = True
    """Whether to score the site's model on held-out data."""
    weigh_by_validation: bool = False
    needed_from: int = 0
    """The server can resume no earlier than after this round."""


@dataclass(frozen=True)
class Outcome:
    """What a site answers: named groups of tensors, and numbers."""

    metrics: Scalars
    tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Client:
    """One site, at the moment of serving a task."""

    site: Site
    model: nn.Module
    settings: Settings
    seed: int
    store: Path
    initial: Mapping[str, Tensor] = field(default_factory=dict)
    """The weights of an untrained model."""
    shared_test: Split | None = None
    augment: Augment | None = None

    def averaged(self, task: Task) -> Outcome:
        """FedAvg, FedProx: train the weights that arrived and return them."""
        self._load(task.weights)
        scores = self._scores() if task.score else {}
        terms = [proximal(task.mu, trainable(self.model))] if task.mu else []
        metrics = self._train(task, terms)
        if task.weigh_by_validation:
            metrics["trained-validation-accuracy"] = self._score(self.site.validation).accuracy
        return Outcome({**metrics, **scores}, {"arrays": self.model.state_dict()})

    def gradient(self, task: Task) -> Outcome:
        """FedSGD: the gradient over all training examples, and the buffers that computing it moved."""
        self._load(task.weights)
        scores = self._scores() if task.score else {}
        loss = self._score(self.site.train).loss
        gradients = full_gradient(self.model, self.site.train, device=self.settings.device)
        buffers = {k: v for k, v in self.model.state_dict().items() if k not in gradients}
        metrics: Scalars = {"num-examples": len(self.site.train), "train-loss": loss, "steps": 1, "work": 1.0}
        if task.weigh_by_validation:
            metrics["trained-validation-accuracy"] = self._score(self.site.validation).accuracy
        return Outcome({**metrics, **scores}, {"gradients": gradients, "buffers": buffers})

    def alone(self, task: Task) -> Outcome:
        """Local training: go on with the site's own model; nothing but scores leaves."""
        store = SiteStore(self.store, self.site.name)
        self._load(store.load(before=task.round) or self.initial)
        metrics = self._train(task, [])
        store.save(task.round, self.model.state_dict(), task.needed_from)
        return Outcome({**metrics, **(self._scores(own_model=True) if task.score else {})})

    def scored(self, task: Task) -> Outcome:
        """Score the weights that arrived, or the site's own model when none did."""
        own = None if task.weights else SiteStore(self.store, self.site.name).load(before=task.round + 1)
        self._load(task.weights or own or self.initial)
        return Outcome({"num-examples": len(self.site.test), **self._scores(own_model=not task.weights)})

    def _train(self, task: Task, terms: list[Term]) -> Scalars:
        # Dropout draws from torch's global generator: give it this site's and round's stream.
        torch.manual_seed(derive(self.seed, "dropout", self.site.name, task.round))
        order = generator(self.seed, "fit", self.site.name, task.round)
        done = fit(self.model, self.site.train, self.settings, order, terms=terms, augment=self.augment, work=task.work)
        return {"num-examples": done.examples, "train-loss": done.loss, "steps": done.steps, "work": task.work}

    def _scores(self, own_model: bool = False) -> Scalars:
        validation, test = self._score(self.site.validation), self._score(self.site.test)
        scores: Scalars = {
            "score-validation-accuracy": validation.accuracy,
            "score-validation-loss": validation.loss,
            "score-validation-examples": validation.examples,
            "score-local-accuracy": test.accuracy,
            "score-local-examples": test.examples,
        }
        if own_model and self.shared_test is not None:
            scores["score-test-accuracy"] = self._score(self.shared_test).accuracy
        return scores

    def _score(self, part: Split) -> Score:
        return evaluate(self.model, part, device=self.settings.device)

    def _load(self, weights: Mapping[str, Tensor]) -> None:
        state = self.model.state_dict()
        if state.keys() != weights.keys():
            raise BadUpdate(f"the weights that arrived name {len(weights)} tensors, this model has {len(state)}")
        with torch.no_grad():
            for name, tensor in state.items():
                if tensor.shape != weights[name].shape:
                    raise BadUpdate(f"{name!r} arrived as {list(weights[name].shape)}, here {list(tensor.shape)}")
                tensor.copy_(weights[name])
