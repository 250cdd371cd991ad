"""A site's own file, `site.yaml`: what it is called, what it holds, what it lets leave."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ..checks import require, whole
from ..config.compose import options
from ..errors import ConfigError
from ..targets import nearest
from .rules import Limits, Policy

T = TypeVar("T")

CONNECTION = ("federation",)
"""What `fl-distill site start` reads of the same file."""


@dataclass(frozen=True)
class Own:
    """What a site decides for itself; relative paths are against the folder of its `site.yaml`.

    model: its architecture; null takes the request's. dataset: settings of the data set that are this site's own,
    such as its path. threads: of torch. public_dataset, test_dataset: files that all sites hold.
    keep_runs: how many runs' memories stay on disk.
    """

    name: str
    folder: Path
    model: str | None = None
    device: str = "cpu"
    threads: int = 1
    dataset: Mapping[str, Any] = field(default_factory=dict)
    public_dataset: str | None = None
    test_dataset: str | None = None
    limits: Limits = field(default_factory=Limits)
    policy: Policy = field(default_factory=Policy)
    keep_runs: int = 5
    part: int | None = None
    """Which site of a simulation this one plays, on data that all hold: to try a federation out."""

    def __post_init__(self) -> None:
        texts = ("model", "public_dataset", "test_dataset")
        require(
            (_text(self.name), f"name must be the site's name, not {self.name!r}"),
            (_text(self.device), f"device must be cpu, cuda, cuda:1 …, not {self.device!r}"),
            (isinstance(self.dataset, Mapping), f"dataset must hold settings such as path, not {self.dataset!r}"),
            *(
                (value is None or _text(value), f"{name} must be a text or null, not {value!r}")
                for name, value in ((name, getattr(self, name)) for name in texts)
            ),
            (whole(self.threads), f"threads must be a whole number >= 1, not {self.threads!r}"),
            (self.part is None or whole(self.part, 0), f"part must be >= 0 or null, not {self.part!r}"),
            (whole(self.keep_runs), f"keep_runs must be a whole number >= 1, not {self.keep_runs!r}"),
        )

    def overrides(self) -> dict[str, Any]:
        """The settings of an experiment that are this site's own."""
        own: dict[str, Any] = {f"dataset.{key}": value for key, value in self.dataset.items()}
        files = {"public_dataset": self.public_dataset, "test_dataset": self.test_dataset}
        own |= {name: value for name, value in files.items() if value is not None}
        own |= {"local.device": self.device, "runtime.threads": self.threads}
        return own | ({"models": None, "model": self.model} if self.model else {})


def read(path: Path) -> Own:
    """What a `site.yaml` says; raises `ConfigError` with every fault in it."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected settings such as `name: mercy`, found {type(found).__name__}")
    known = [*Own.__dataclass_fields__, *CONNECTION]
    faults = [f"{path}: {key}: no such setting{nearest(str(key), known)}" for key in found if key not in known]
    values = {key: value for key, value in found.items() if key in Own.__dataclass_fields__}
    if any("${" in str(value) for value in values.values()):
        faults.append(f"{path}: write values out: `${{` is not resolved here")
    for name, kind in (("limits", Limits), ("policy", Policy)):
        values[name] = _part(path, name, kind, values.get(name) or {}, faults)
    values["folder"] = _at(path, values.get("folder") or "state")
    for name in ("public_dataset", "test_dataset"):
        values[name] = _file(path, values.get(name))
    if isinstance(values.get("dataset"), Mapping) and isinstance(values["dataset"].get("path"), str):
        values["dataset"] = {**values["dataset"], "path": str(_at(path, values["dataset"]["path"]))}
    own = _part(path, "", Own, {"name": None, **{k: v for k, v in values.items() if v is not None}}, faults)
    if faults or own is None:
        raise ConfigError(faults)
    return own


def absent(own: Own) -> list[str]:
    """A sentence for each file that a site names and that is not there, and for a model that nobody knows."""
    named = {"dataset.path": own.dataset.get("path"), "public_dataset": own.public_dataset}
    named["test_dataset"] = own.test_dataset
    faults = [
        f"{setting}: there is no {path}: say where the file lies"
        for setting, path in named.items()
        if isinstance(path, str) and Path(path).suffix and not Path(path).exists()
    ]
    known = options()["model"]
    if own.model is not None and own.model not in known:
        faults.append(f"model: {own.model!r} is no model{nearest(own.model, known)}")
    return faults


def _part(path: Path, name: str, kind: Callable[..., T], values: Any, faults: list[str]) -> T | None:
    where = f"{path}: {name}" if name else str(path)
    if not isinstance(values, Mapping):
        faults.append(f"{where} must hold settings, not {values!r}")
        return None
    known = getattr(kind, "__dataclass_fields__", {})
    if strange := [f"{where}.{key}: no such setting{nearest(str(key), known)}" for key in values if key not in known]:
        faults += strange
        return None
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        faults += [f"{where}: {sentence}" for sentence in str(error).split("; ")]
    return None


def _at(path: Path, value: Any) -> Path:
    return path.parent.resolve() / Path(str(value)).expanduser()


def _file(path: Path, value: Any) -> Any:
    """A path where the value is one; the name of a data set stays."""
    return str(_at(path, value)) if isinstance(value, str) and Path(value).suffix else value


def _text(value: object) -> bool:
    return isinstance(value, str) and bool(value)
