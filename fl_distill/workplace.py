"""What a process needs to serve an experiment, built once and kept: data, models, settings."""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config.experiment import typed
from .config.schema import Experiment
from .data.cache import state_of
from .data.federate import federate
from .data.participant import alone, form_of
from .data.types import Federation, Site
from .errors import ConfigError
from .learning import Settings, can_be_stacked, pays
from .models.build import build, faults
from .policy import Limits, Policy
from .roster import RESERVED
from .seeds import derive
from .strategies import SiteStrategy
from .targets import call, nearest

MANY = 16
"""Sites of an experiment from which on it is tried to train them together."""


def job_text(
    config: dict[str, Any],
    folder: Path,
    participant: str | None = None,
    index: int | None = None,
    policy: Mapping[str, Any] | None = None,
    limits: Mapping[str, Any] | None = None,
) -> str:
    """An experiment and its folder as one string: all that travels to worker processes.

    participant: the one site whose data is here, "" for a server without any; None where all sites' data is here.
    index: the site that this process is, whatever a message says. policy, limits: what that site lets leave, and the
    most that it does.
    """
    bounds = {"policy": policy, "limits": limits or {}}
    job = {"config": config, "folder": str(folder), "participant": participant, "index": index, **bounds}
    return json.dumps(job, sort_keys=True)


@lru_cache(maxsize=2)
def workplace(text: str) -> "Workplace":
    """The workplace of a job, the same object for every message of it."""
    job = json.loads(text)
    policy = Policy(**job["policy"]) if job["policy"] is not None else None
    index = 0 if job["participant"] else job["index"]
    place = Workplace(typed(job["config"]), Path(job["folder"]), job["participant"], index, policy)
    place.limits = Limits(**job["limits"])
    return place


class Workplace:
    """Data, models and settings of one experiment in one process."""

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        participant: str | None = None,
        index: int | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.experiment, self.folder, self.index, self.policy = experiment, folder, index, policy
        self.limits = Limits()
        self._participant = participant
        self._sites: dict[int, Site] = {}
        self._models: dict[tuple[str, str], nn.Module] = {}
        self._initial: dict[str, dict[str, Tensor]] = {}
        self._checked = False
        self._files = ""
        torch.set_num_threads(experiment.runtime.threads)

    @cached_property
    def federation(self) -> Federation:
        """The data that is here: all sites', or one participant's own; the shared test set and the public set."""
        e, self._files = self.experiment, self._state_of_files()
        view = partial(
            federate if self._participant is None else alone,
            seed=e.seed,
            validation=e.split.validation,
            test=e.split.test,
            public=e.public,
            public_source=call(e.public_dataset).load() if e.public_dataset else None,
            public_examples=e.public_examples,
            public_labels=e.public_labels,
            test_source=call(e.test_dataset).load() if e.test_dataset else None,
        )
        dataset = call(e.dataset)
        if self._participant is None:
            return view(dataset.load(), call(e.partition), sites=e.sites)
        return view(form_of(dataset), (self._participant, dataset.load()) if self._participant else None)

    def renew(self) -> None:
        """Forget the data if a file of theirs has changed since they were read."""
        if "federation" in self.__dict__ and self._files != self._state_of_files():
            for name in ("federation", "public_fingerprint", "together"):
                self.__dict__.pop(name, None)
            for kept in (self._sites, self._models, self._initial):
                kept.clear()
            self._checked = False

    def _state_of_files(self) -> str:
        e = self.experiment
        if self.policy is None:  # a simulation, whose files nobody changes in the middle of it
            return ""
        found = [(spec or {}).get("path") for spec in (e.dataset, e.public_dataset, e.test_dataset)]
        return state_of([path for path in found if path])

    @cached_property
    def strategy(self) -> SiteStrategy:
        """The strategy, to ask it what it needs; the server's own instance is another."""
        return call(self.experiment.strategy)  # type: ignore[no-any-return]

    @property
    def uses_public(self) -> bool:
        """Whether the strategy lets sites learn on the public set."""
        return self.strategy.uses_public

    @cached_property
    def server_model(self) -> str:
        """Architecture of the server's own model, where the strategy names one."""
        return str(self.experiment.strategy.get("server_model") or "")

    @cached_property
    def public_fingerprint(self) -> str:
        """SHA-256 of the public examples, which says whether two participants hold the same; empty where unused."""
        if not self.uses_public:
            return ""
        public = self.federation.public
        digest = hashlib.sha256(repr(tuple(public.x.shape)).encode())
        for part in (public.x, *([public.y] if self.strategy.uses_labels else [])):
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def site(self, index: int) -> Site:
        """One site's data, gathered once."""
        if index not in self._sites:
            self._sites[index] = self.federation.site(index)
        return self._sites[index]

    def model_name(self, index: int) -> str:
        """Name of the model of the site with this index; the default one where no site's data is here."""
        names = self.federation.names
        return self.experiment.model(index, names[index])[0] if names else self.experiment.default_model[0]

    @property
    def strategy_name(self) -> str:
        """How the strategy was chosen."""
        return str(self.experiment.raw["names"]["strategy"])

    @property
    def sites(self) -> int:
        """How many sites take part."""
        return self.experiment.sites if self._participant is not None else len(self.federation.names)

    def model(self, name: str, device: str = "cpu") -> nn.Module:
        """The process's one instance of this model on a device; whoever uses it loads the weights first."""
        if (name, device) not in self._models:
            self._models[name, device] = self.fresh_model(name).to(device)
        return self._models[name, device]

    @cached_property
    def together(self) -> list[bool]:
        """Of each site, whether its training may be part of a stack (see `learning.together`).

        The configuration alone decides, so that a run's results depend neither on workers nor on the runtime.
        """
        known: dict[tuple[str, Settings], bool] = {}
        found = []
        for index, site in enumerate(self.federation.names):
            key = self.model_name(index), self.experiment.settings(site)
            if key not in known:
                known[key] = self._may_be_stacked(*key)
            found.append(known[key])
        return found

    def _may_be_stacked(self, name: str, settings: Settings) -> bool:
        model, wanted = self.model(name), settings.together
        if wanted is False or self.experiment.quantized_model is not None or not can_be_stacked(model, settings):
            return False
        return bool(wanted) or (self.sites >= MANY and pays(model, self.federation.input_shape, settings))

    def initial(self, name: str) -> dict[str, Tensor]:
        """The weights of an untrained model of this name; not to be changed."""
        if name not in self._initial:
            self._initial[name] = self.fresh_model(name).state_dict()
        return self._initial[name]

    def fresh_model(self, name: str, input_shape: tuple[int, ...] | None = None) -> nn.Module:
        """A model with the experiment's initial weights, the same in every process.

        Sites' models have the feature width that the strategy asks for; one with an `input_shape` of its own, which
        the server trains on something else than the data, is as its builder makes it.
        """
        spec, data = self.experiment.raw["model_specs"][name], self.federation
        seed, classes = derive(self.experiment.seed, "init"), len(data.classes)
        if input_shape is not None:
            return build(spec, input_shape, classes, seed)
        return build(spec, data.input_shape, classes, seed, feature_width=self.strategy.feature_width)

    def check(self) -> None:
        """Raise `ConfigError` for what only the data can tell: sites that do not exist, models that do not fit."""
        if self._checked:  # it builds every model in use: once a process is enough
            return
        data, e = self.federation, self.experiment
        mapped = e.models if isinstance(e.models, dict) else {}
        named = {*e.per_site, *mapped, *e.collect.away, *e.codec.sites}
        missing = sorted(named - set(data.names)) if self._participant is None else []
        found = [f"site {name!r} does not exist{nearest(name, data.names)}" for name in missing]
        found += [f"no site can have the name {name!r}: rename it" for name in data.names if name in RESERVED]
        width, specs, classes = self.strategy.feature_width, e.raw["model_specs"], len(data.classes)
        for name in {self.model_name(i) for i in range(len(data.names) or 1)}:
            found += faults(specs[name], data.input_shape, classes, width)
        if self.server_model:
            found += faults(specs[self.server_model], data.input_shape if width is None else (width,), classes)
        if self.strategy.uses_labels and bool((data.public.y < 0).any()):
            found.append(f"strategy={self.strategy_name} learns from public labels, which this public set lacks")
        if self.uses_public and not len(data.public):
            found.append("the public set is empty: raise public, or set public_dataset")
        if found:
            raise ConfigError(found)
        self._checked = True
