"""A site at work: take what arrived, train, say what it learned. Each algorithm's site half is one method."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data.types import Site, Split
from .errors import BadUpdate
from .learning import (
    Score,
    Settings,
    Term,
    digest_loss,
    evaluate,
    fit,
    full_gradient,
    predict,
    proximal,
    trainable,
)
from .learning.fit import Augment
from .learning.losses import Loss
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
    values: Mapping[str, Any] = field(default_factory=dict)
    """All plain values of the message, for what one algorithm needs alone."""


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
    public: Split | None = None
    """The public set; None where the algorithm has no use for one."""

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

    def mutual(self, task: Task) -> Outcome:
        """FedMD: digest what all said of public examples, revisit the own data, say something of new examples.

        The weights that arrive are `consensus` (n, C) and the `round` whose public examples it speaks of; none do in
        the first round. A site that missed rounds digests the newest consensus like everybody else.
        """
        if self.public is None or not len(self.public):
            raise BadUpdate("there is no public set; set public > 0")
        store = SiteStore(self.store, self.site.name)
        own = store.load(before=task.round)
        self._load(own or self.initial)
        if own is None and task.values["pretrain-epochs"]:
            self._learn(task, "pretrain", self.public, {"epochs": task.values["pretrain-epochs"]})
        if "consensus" in task.weights and task.round > int(task.values["warmup"]):
            seen = self._public_rows(int(task.weights["round"]), task)
            agreed = Split(self.public.x[seen], task.weights["consensus"].float())
            digest = digest_loss(task.values["digest-loss"], task.values["digest-temperature"])
            self._learn(task, "digest", agreed, {"epochs": task.values["digest-epochs"]}, digest)
        metrics = self._train(task, [])
        store.save(task.round, self.model.state_dict(), task.needed_from)
        said = predict(self.model, self.public.x[self._public_rows(task.round, task)], device=self.settings.device)
        if task.values["exchange"] == "probabilities":
            said = said.softmax(-1)
        largest = torch.finfo(torch.float16).max
        logits = {"logits": said.clamp(-largest, largest).to(torch.float16)}
        return Outcome({**metrics, **(self._scores(own_model=True) if task.score else {})}, {"logits": logits})

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

    def _public_rows(self, number: int, task: Task) -> Tensor:
        """The public examples of a round: every site and round draws the same ones from the seed alone."""
        total = 0 if self.public is None else len(self.public)
        order = torch.randperm(total, generator=generator(self.seed, "public", number))
        return order[: int(task.values["public-examples"])]

    def _learn(
        self, task: Task, purpose: str, data: Split, change: Mapping[str, Any], loss: Loss = F.cross_entropy
    ) -> None:
        settings = replace(self.settings, steps=None, **change)
        torch.manual_seed(derive(self.seed, purpose, "dropout", self.site.name, task.round))
        fit(self.model, data, settings, generator(self.seed, purpose, self.site.name, task.round), loss=loss)

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
