"""The experiment as typed values: what composed YAML becomes before anything runs."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..checks import number, positive, require, whole
from ..codec.ways import Codecs
from ..learning import Settings
from ..quantize import PRECISIONS
from ..stretches import stretches

Spec = Mapping[str, Any]
"""`{_target_: import.path, **arguments}`, as `fl_distill.targets.call` takes it."""


@dataclass(frozen=True)
class Split:
    """Parts of each site's examples that it never trains on."""

    validation: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        good = number(self.validation, 0) and number(self.test, 0) and self.validation + self.test < 1
        require((good, f"validation and test must be >= 0 and leave a part to train on, not {self}"))


@dataclass(frozen=True)
class Collect:
    """Whom a round asks, and how long it waits."""

    fraction: float = 1.0
    min_sites: int = 1
    min_results: int = 1
    timeout_s: float = 600.0
    grace_s: float | None = None
    stragglers: float = 0.0
    away: Mapping[str, str] = field(default_factory=dict)
    join_s: float = 30.0

    def __post_init__(self) -> None:
        away = self.away if isinstance(self.away, Mapping) else {}
        require(
            (isinstance(self.away, Mapping), f"away must be a map site -> rounds, not {self.away!r}"),
            (number(self.fraction, 1e-9, 1), f"fraction must be in (0, 1], not {self.fraction}"),
            (whole(self.min_sites), f"min_sites must be a whole number >= 1, not {self.min_sites}"),
            (whole(self.min_results), f"min_results must be a whole number >= 1, not {self.min_results}"),
            (positive(self.timeout_s), f"timeout_s must be > 0, not {self.timeout_s}"),
            (self.grace_s is None or number(self.grace_s, 0), f"grace_s must be >= 0 or null, not {self.grace_s}"),
            (number(self.join_s, 0), f"join_s must be >= 0, not {self.join_s}"),
            (number(self.stragglers, 0, 1), f"stragglers must be in [0, 1], not {self.stragglers}"),
            *((_stretches(v), f"away.{k} must be rounds like 3, 3-5, 3- or 1-4,9, not {v!r}") for k, v in away.items()),
        )


def _stretches(rounds: object) -> bool:
    try:
        return bool(stretches(str(rounds)))
    except ValueError:
        return False


@dataclass(frozen=True)
class Evaluate:
    """How often models are scored, and whether sites do it in a message of its own."""

    server_every: int = 1
    sites_every: int = 1
    separately: bool = False
    alone: bool = True

    def __post_init__(self) -> None:
        require(
            (whole(self.server_every), f"server_every must be a whole number >= 1, not {self.server_every}"),
            (isinstance(self.alone, bool), f"alone must be true or false, not {self.alone!r}"),
            (isinstance(self.separately, bool), f"separately must be true or false, not {self.separately!r}"),
            (whole(self.sites_every, 0), f"sites_every must be a whole number >= 0, not {self.sites_every}"),
        )


@dataclass(frozen=True)
class Stop:
    """When to end early, judged on validation data."""

    patience: int | None = None
    min_delta: float = 0.0
    target_accuracy: float | None = None

    def __post_init__(self) -> None:
        target = self.target_accuracy
        require(
            (self.patience is None or whole(self.patience), f"patience must be >= 1 or null, not {self.patience}"),
            (number(self.min_delta, 0), f"min_delta must be >= 0, not {self.min_delta}"),
            (target is None or number(target, 0, 1), f"target_accuracy must be in [0, 1] or null, not {target}"),
        )


@dataclass(frozen=True)
class Checkpoint:
    """How often the state is saved, and how many saved states stay."""

    every: int = 1
    keep: int = 3

    def __post_init__(self) -> None:
        require(
            (whole(self.every), f"every must be a whole number >= 1, not {self.every}"),
            (whole(self.keep), f"keep must be a whole number >= 1, not {self.keep}"),
        )


@dataclass(frozen=True)
class Track:
    """What a run leaves behind beside its core files."""

    console: bool = True
    plots: bool = True
    wandb: bool = False
    project: str = "fl-distill"
    group: str | None = None
    tags: Sequence[str] = ()
    observers: Sequence[str] = ()
    job_type: str | None = None

    def __post_init__(self) -> None:
        flags = {name: getattr(self, name) for name in ("console", "plots", "wandb")}
        texts = {name: getattr(self, name) for name in ("group", "job_type")}
        lists = {name: getattr(self, name) for name in ("tags", "observers")}
        require(
            *((isinstance(v, bool), f"{k} must be true or false, not {v!r}") for k, v in flags.items()),
            *((v is None or isinstance(v, str), f"{k} must be a text or null, not {v!r}") for k, v in texts.items()),
            *((_texts(v), f"{k} must be a list of texts, not {v!r}") for k, v in lists.items()),
            (isinstance(self.project, str), f"project must be a text, not {self.project!r}"),
        )


def _texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


@dataclass(frozen=True)
class Runtime:
    """Where sites run: Flower's simulation on Ray, this machine's processes, or nodes of a SuperLink."""

    kind: str = "simulation"
    workers: int = 2
    threads: int = 1
    cpus_per_site: float = 1.0
    gpus_per_site: float = 0.0
    address: str | None = None
    connection: str | None = None
    parts: bool = False

    def __post_init__(self) -> None:
        require(
            (isinstance(self.parts, bool), f"parts must be true or false, not {self.parts!r}"),
            (
                self.connection is None or isinstance(self.connection, str),
                f"connection must be a federation's folder, or a name, not {self.connection!r}",
            ),
            (self.kind in KINDS, f"kind is one of {', '.join(KINDS)}, not {self.kind!r}"),
            (whole(self.workers, 0), f"workers must be a whole number >= 0, not {self.workers}"),
            (whole(self.threads), f"threads must be a whole number >= 1, not {self.threads}"),
            (positive(self.cpus_per_site), f"cpus_per_site must be > 0, not {self.cpus_per_site}"),
            (number(self.gpus_per_site, 0), f"gpus_per_site must be >= 0, not {self.gpus_per_site}"),
        )

    @property
    def cores(self) -> int:
        """Cores that are the server's while its sites wait: those of its workers, where they are on this machine."""
        if self.kind == "simulation":
            return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.threads * (max(1, self.workers) if self.kind == "local" else 1)


KINDS = ("simulation", "local", "superlink")


@dataclass(frozen=True)
class Experiment:
    """One federated experiment; `raw` is the resolved configuration it was read from."""

    strategy: Spec
    dataset: Spec
    partition: Spec
    models: Sequence[tuple[str, Spec]] | Mapping[str, tuple[str, Spec]]
    """(name, spec) dealt round robin, or by site."""
    default_model: tuple[str, Spec]
    sites: int = 10
    rounds: int = 20
    seed: int = 0
    public: float = 0.1
    public_dataset: Spec | None = None
    public_examples: int | None = None
    test_dataset: Spec | None = None
    local: Settings = field(default_factory=Settings)
    per_site: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    split: Split = field(default_factory=Split)
    collect: Collect = field(default_factory=Collect)
    evaluate: Evaluate = field(default_factory=Evaluate)
    stop: Stop = field(default_factory=Stop)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    track: Track = field(default_factory=Track)
    runtime: Runtime = field(default_factory=Runtime)
    codec: Codecs = field(default_factory=Codecs)
    log: str = "info"
    quantized_model: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(
            (whole(self.sites), f"sites must be a whole number >= 1, not {self.sites}"),
            (whole(self.rounds), f"rounds must be a whole number >= 1, not {self.rounds}"),
            (whole(self.seed, 0), f"seed must be a whole number >= 0, not {self.seed}"),
            (self.public_examples is None or whole(self.public_examples), "public_examples must be >= 1 or null"),
            (number(self.public, 0, 0.9), f"public must be in [0, 0.9], not {self.public}"),
            (
                self.quantized_model in (None, *PRECISIONS),
                f"quantized_model is one of {', '.join(PRECISIONS)}, or null, not {self.quantized_model!r}",
            ),
            (self.log in LOGS, f"log is one of {', '.join(LOGS)}, not {self.log!r}"),
        )

    @property
    def public_labels(self) -> bool:
        """Whether the public set from elsewhere keeps its labels: it is read with the dataset's own settings."""
        return self.public_dataset is not None and {**self.public_dataset, "path": ""} == {**self.dataset, "path": ""}

    def settings(self, site: str) -> Settings:
        """The local settings of a site: `local`, changed by `per_site`."""
        changed = self.per_site.get(site)
        return Settings(**{**vars(self.local), **changed}) if changed else self.local

    def model(self, index: int, site: str) -> tuple[str, Spec]:
        """Name and spec of the model of the site with this index."""
        if isinstance(self.models, Mapping):
            return self.models.get(site, self.default_model)
        return self.models[index % len(self.models)] if self.models else self.default_model


LOGS = ("quiet", "info", "debug")
