"""A site as every algorithm sees it: its data, its model, its memory. What an algorithm asks of it is in `halves/`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data.types import Site, Split
from .errors import BadUpdate
from .learning import Lesson, Score, Settings, Term, Trained, evaluate, fit, fit_together, proximal, trainable
from .learning.fit import Augment
from .learning.losses import Loss
from .meeting import together
from .quantize import quantize_
from .seeds import derive, generator, seed_torch
from .store import SiteStore
from .task import Outcome, Scalars, Task, Tensors

CALIBRATION = 256
"""Examples of its own, evenly drawn, on which a site corrects the biases of a rounded model, at most."""


@dataclass(frozen=True)
class Client:
    """One site, at the moment of serving a task."""

    site: Site
    model: nn.Module
    settings: Settings
    seed: int
    folder: Path
    """Where sites keep what they remember."""
    initial: Tensors = field(default_factory=dict)
    """The weights of an untrained model."""
    classes: int = 0
    shared_test: Split | None = None
    augment: Augment | None = None
    public_set: Split | None = None
    """None where the algorithm has no use for one."""
    least: int = 1
    """The fewest examples that may stand behind a score, or behind a class's mean, which leaves."""
    most_epochs: float | None = None
    """The most passes over anything in one round; None for no limit."""
    together: bool = False
    """Whether this site's model trains with those of other sites, as one stack."""
    precision: str | None = None
    """At which what arrives is run (see `fl_distill.quantize`); None: as it arrived."""

    # ------------------------------------------------------------ memory

    def memory(self, part: str = "") -> SiteStore:
        """The site's own files: of its model, or of another `part` of what it remembers."""
        return SiteStore(self.folder, f"{self.site.name}/{part}" if part else self.site.name)

    def recall(self, task: Task, part: str = "") -> bool:
        """Load the model of the newest round before this one, else the untrained one; whether there was any."""
        own = self.memory(part).load(before=task.round)
        self.load(own or self.initial)
        return own is not None

    def keep(self, task: Task, part: str = "") -> None:
        """Remember the model as that of this round."""
        self.memory(part).save(task.round, self.model.state_dict(), task.needed_from)

    def load(self, weights: Tensors) -> None:
        """Take over weights; raises `BadUpdate` where they are not this model's."""
        state = self.model.state_dict()
        if state.keys() != weights.keys():
            raise BadUpdate(f"the weights that arrived name {len(weights)} tensors, this model has {len(state)}")
        with torch.no_grad():
            for name, tensor in state.items():
                if tensor.shape != weights[name].shape:
                    raise BadUpdate(f"{name!r} arrived as {list(weights[name].shape)}, here {list(tensor.shape)}")
                tensor.copy_(weights[name])

    def receive(self, weights: Tensors) -> None:
        """Take over weights that arrived, in the form that this site runs, calibrated on its own examples."""
        self.load(weights)
        if self.precision is not None:
            x = self.site.train.x
            quantize_(self.model, self.precision, x[:: -(-len(x) // CALIBRATION) or 1].to(self.settings.device))

    # ------------------------------------------------------------ training

    def train(
        self,
        task: Task,
        *,
        data: Split | None = None,
        model: nn.Module | None = None,
        loss: Loss = F.cross_entropy,
        terms: Sequence[Term] = (),
    ) -> Scalars:
        """One round of local training on the site's own examples (or `data`, the same examples with other targets).

        With `task.mu` FedProx's proximal term is added. Other sites may train at the same time: what was read of the
        process's one model before is not there any more, only this site's new weights.
        """
        plain = model is None and data is None and loss is F.cross_entropy and not terms
        if self.together and plain:
            state = self.model.state_dict()
            done, learned = self._train_together(task, {name: tensor.clone() for name, tensor in state.items()})
            for name, tensor in state.items():
                tensor.copy_(learned[name])
        else:
            done = self._train_alone(task, data or self.site.train, model or self.model, loss, terms)
        return self._metrics(task, done)

    def improved(self, task: Task, *, loaded: bool) -> tuple[Scalars, Tensors]:
        """What `train` says of a round that begins at the weights that arrived, and the new weights.

        `loaded`: whether the model holds what arrived already. A site in a stack does without its model: to load one
        and to read it again takes a small site longer than its step. Raises `BadUpdate` where the weights are not this
        model's, and `Diverged`.
        """
        if not self.together or self.precision is not None or not self._fits(task.weights):
            if not loaded:
                self.receive(task.weights)
            return self.train(task), self.model.state_dict()
        done, learned = self._train_together(task, {name: task.weights[name] for name in self.initial})
        if task.weigh_by_validation:
            self.load(learned)
        return self._metrics(task, done), learned

    def _metrics(self, task: Task, done: Trained) -> Scalars:
        metrics: Scalars = {"num-examples": done.examples, "train-loss": done.loss, "steps": done.steps}
        if task.weigh_by_validation and self._many(self.site.validation):
            metrics["trained-validation-accuracy"] = self.score(self.site.validation).accuracy
        return {**metrics, "work": task.work}

    def _train_alone(self, task: Task, data: Split, model: nn.Module, loss: Loss, terms: Sequence[Term]) -> Trained:
        # Dropout draws from torch's global generator: give it this site's and round's stream.
        seed_torch(derive(self.seed, "dropout", self.site.name, task.round), self.settings.device)
        return fit(
            model,
            data,
            self.settings.in_round(task.round),
            self.stream("fit", task),
            loss=loss,
            terms=[*terms, *([proximal(task.mu, trainable(model))] if task.mu else [])],
            augment=self.augment,
            work=task.work,
            precision=self.precision or "full",
        )

    def _fits(self, weights: Tensors) -> bool:
        """Whether these are of the model's very form."""
        return weights.keys() == self.initial.keys() and all(
            weights[name].shape == tensor.shape and weights[name].dtype == tensor.dtype
            for name, tensor in self.initial.items()
        )

    def _train_together(self, task: Task, weights: dict[str, Tensor]) -> tuple[Trained, Tensors]:
        settings = self.settings.in_round(task.round)
        lesson = Lesson(weights, self.site.train, self.stream("fit", task), task.work, self.augment)
        train = partial(fit_together, self.model, settings=settings, mu=task.mu)
        done = together((id(self.model), settings, task.mu), lesson, train)
        return done.checked(settings), lesson.weights

    def study(
        self, task: Task, purpose: str, data: Split, epochs: float, loss: Loss, model: nn.Module | None = None
    ) -> Trained:
        """Learn from examples that are not the site's own, for `epochs` passes."""
        if self.most_epochs is not None and epochs > self.most_epochs:
            raise BadUpdate(f"{purpose} asks for {epochs} epochs, this site does at most {self.most_epochs} at a time")
        settings = replace(self.settings.in_round(task.round), steps=None, epochs=epochs)
        seed_torch(derive(self.seed, purpose, "dropout", self.site.name, task.round), settings.device)
        order = self.stream(purpose, task)
        return fit(model or self.model, data, settings, order, loss=loss, precision=self.precision or "full")

    def stream(self, purpose: str, task: Task) -> torch.Generator:
        """Random numbers of this site and round for one purpose."""
        return generator(self.seed, purpose, self.site.name, task.round)

    # ------------------------------------------------------------ scores

    def scores(self, own_model: bool = False, model: nn.Module | None = None) -> Scalars:
        """Accuracies on the site's held-out data, and on the shared test set where the model is the site's own."""
        scores: Scalars = {}
        if self._many(self.site.validation):
            validation = self.score(self.site.validation, model)
            scores |= {
                "score-validation-accuracy": validation.accuracy,
                "score-validation-loss": validation.loss,
                "score-validation-examples": validation.examples,
            }
        if self._many(self.site.test):
            test = self.score(self.site.test, model)
            scores |= {"score-local-accuracy": test.accuracy, "score-local-examples": test.examples}
        if own_model and self.shared_test is not None:
            scores["score-test-accuracy"] = self.score(self.shared_test, model).accuracy
        return scores

    def _many(self, part: Split) -> bool:
        """Whether enough examples stand behind a score for it to leave; without a policy always."""
        return self.least == 1 or len(part) >= self.least

    def score(self, part: Split, model: nn.Module | None = None) -> Score:
        """Loss and accuracy of the model on a part of the data."""
        return evaluate(model or self.model, part, device=self.settings.device)

    def twin_scores(self, task: Task) -> Scalars:
        """Train the twin, which shares the model's start, data and budget but hears of nobody; then score it.

        The twin of a run is the model of the same run with `strategy=local`, bit for bit. `model` holds the twin's
        weights afterwards, so this comes last.
        """
        if not task.alone:
            return {}
        self.recall(task, "alone")
        self.train(replace(task, weigh_by_validation=False, mu=0.0))
        self.keep(task, "alone")
        if not task.score or self.shared_test is None:
            return {}
        return {"score-alone-accuracy": self.score(self.shared_test).accuracy}

    def answer(
        self, task: Task, metrics: Scalars, tensors: Mapping[str, Tensors], model: nn.Module | None = None
    ) -> Outcome:
        """What a site with a model of its own says at the end of a round: its scores ride along.

        `tensors` must be no views of the model, whose weights change.
        """
        scores = self.scores(own_model=True, model=model) if task.score else {}
        return Outcome({**metrics, **scores, **self.twin_scores(task)}, tensors, bare=True)
