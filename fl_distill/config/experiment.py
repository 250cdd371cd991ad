"""Composed configuration -> typed experiment, with every fault found in one go."""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, TypeVar

from ..codec.ways import Codecs, misfits
from ..errors import ConfigError
from ..learning import Settings
from ..models import build as model_build
from ..targets import TARGET, call, nearest, resolve
from . import schema
from .compose import composed

T = TypeVar("T")


def experiment(overrides: Sequence[str], config_dir: str | None = None) -> schema.Experiment:
    """The experiment that these overrides describe; raises `ConfigError` that lists every fault."""
    config, _ = composed(overrides, config_dir)
    return typed(config)


def typed(config: Mapping[str, Any]) -> schema.Experiment:
    """A composed configuration as typed values; raises `ConfigError` that lists every fault."""
    faults: list[str] = []
    parts: dict[str, Any] = {
        name: _part(name, kind, config.get(name), faults)
        for name, kind in (
            ("local", Settings),
            ("split", schema.Split),
            ("collect", schema.Collect),
            ("evaluate", schema.Evaluate),
            ("stop", schema.Stop),
            ("checkpoint", schema.Checkpoint),
            ("track", schema.Track),
            ("runtime", schema.Runtime),
            ("codec", Codecs),
        )
    }
    faults += _component_faults(config, parts["codec"])
    faults += _site_faults(config) if isinstance(config["local"], Mapping) else []
    faults += _stop_faults(parts)
    try:
        whole = schema.Experiment(
            **{name: config[name] for name in ("strategy", "dataset", "partition", "sites", "rounds", "seed")},
            **{name: config[name] for name in ("public", "public_dataset", "public_examples", "log")},
            test_dataset=config.get("test_dataset"),
            quantized_model=config.get("quantized_model"),
            per_site=config.get("per_site") or {},
            models=_assigned(config),
            default_model=(config["names"]["model"], config["model"]),
            raw=config,
            **{name: part for name, part in parts.items() if part is not None},
        )
    except ValueError as error:
        faults += str(error).split("; ")
    if faults:
        raise ConfigError(faults)
    return whole


def _part(name: str, kind: Callable[..., T], values: Any, faults: list[str]) -> T | None:
    if not isinstance(values, Mapping):
        faults.append(f"{name} must hold settings, not {values!r}: set one of them, such as {name}.…=…")
        return None
    known = signature(kind).parameters
    if unknown := [f"{name}.{key}: no such setting{nearest(key, known)}" for key in values if key not in known]:
        faults += unknown
        return None
    try:
        return kind(**values)
    except ValueError as error:
        faults += [f"{name}: {sentence}" for sentence in str(error).split("; ")]
    except TypeError as error:
        faults.append(f"{name}: {error}")
    return None


def _component_faults(config: Mapping[str, Any], codecs: Codecs | None) -> list[str]:
    faults: list[str] = []
    strategy = None
    for name in ("strategy", "dataset", "partition"):
        if not isinstance(config[name], Mapping):
            faults.append(f"{name}={config[name]}: choose one of the group, such as {name}=…")
            continue
        try:
            built = call(config[name])
            if name == "strategy" and not hasattr(built, "has_server_model"):
                faults.append(f"strategy: {config[name]['_target_']} is no fl_distill.strategies.SiteStrategy")
            elif name == "strategy":
                strategy = built
        except ConfigError as error:
            faults += error.faults
    for spec in config["model_specs"].values():
        faults += model_build.faults(spec)
    observers = config["track"].get("observers") if isinstance(config["track"], Mapping) else None
    for path in observers if isinstance(observers, list) else []:
        try:
            resolve({TARGET: path})
        except ConfigError as error:
            faults += [f"track.observers: {fault}" for fault in error.faults]
    if strategy is not None and strategy.uses_public and config["public"] == 0 and not config["public_dataset"]:
        name = config["names"]["strategy"]
        faults.append(f"strategy={name} learns on public examples: set public > 0, or public_dataset")
    if config.get("quantized_model") and strategy is not None and not strategy.has_server_model:
        faults.append(
            f"quantized_model has no effect: with strategy={config['names']['strategy']} sites receive no model; "
            "use fedavg, fedprox, fedsgd or feddf, or `fl-distill export` after the run"
        )
    if strategy is not None and codecs is not None:
        faults += _idle_codecs(config["names"]["strategy"], strategy.idle_ways, codecs) + misfits(codecs, strategy.rows)
    faults += _elsewhere_faults(config)
    in_use = {str(name) for name in _names_in_use(config)}
    if len(in_use) > 1 and strategy is not None and not strategy.mixes:
        faults.append(
            f"strategy={config['names']['strategy']} averages weights, so every site needs the same model, not "
            f"{', '.join(sorted(in_use))}: use one model, or a strategy that mixes: local, fedmd, feddf and others"
        )
    return faults


def _idle_codecs(strategy: str, idle: Mapping[str, str], codecs: Codecs) -> list[str]:
    """A codec that was asked for where the strategy sends nothing that it could shorten."""
    asked = {"up": [("codec.up", codecs.up)], "down": [("codec.down", codecs.down)]}
    asked["up"] += [(f"codec.sites.{site}", own) for site, own in codecs.sites.items()]
    return [
        f"{setting} has no effect with strategy={strategy}: {why}; leave {setting} out"
        for direction, why in idle.items()
        for setting, way in asked[direction]
        if way.chain is not None
    ]


def _elsewhere_faults(config: Mapping[str, Any]) -> list[str]:
    """Faults of what comes from elsewhere, and of settings that need some of it."""
    faults: list[str] = []
    for name in ("public_dataset", "test_dataset"):
        if config.get(name):
            faults += _spec_faults(name, config[name])
    dataset = config["dataset"]
    scaled = isinstance(dataset, Mapping) and dataset.get("standardise") == "public"
    if scaled and config["public"] == 0 and not config["public_dataset"]:
        faults.append("dataset.standardise=public scales by the public rows: set public > 0, or public_dataset")
    return faults


def _spec_faults(name: str, spec: Mapping[str, Any]) -> list[str]:
    try:
        call(spec)
    except ConfigError as error:
        return [f"{name}: {fault}" for fault in error.faults]
    return []


def _site_faults(config: Mapping[str, Any]) -> list[str]:
    faults: list[str] = []
    if not isinstance(config.get("per_site") or {}, Mapping):
        return [f"per_site must be a map site -> settings, not {config['per_site']!r}"]
    for site, changed in (config.get("per_site") or {}).items():
        if not isinstance(changed, Mapping):
            faults.append(f"per_site.{site}: expected settings such as lr=0.01, not {changed!r}")
            continue
        known = config["local"]
        faults += [
            f"per_site.{site}.{key}: no such setting{nearest(key, known)}" for key in changed if key not in known
        ]
        _part(f"per_site.{site}", Settings, {k: v for k, v in {**known, **changed}.items() if k in known}, faults)
    return faults


def _stop_faults(parts: Mapping[str, Any]) -> list[str]:
    """A rule that judges by validation data needs some."""
    stop, split, scores = parts["stop"], parts["split"], parts["evaluate"]
    if stop is None or (stop.patience is None and stop.target_accuracy is None):
        return []
    if (split is not None and split.validation == 0) or (scores is not None and scores.sites_every == 0):
        return ["stop judges by validation data: it needs split.validation > 0 and evaluate.sites_every > 0"]
    return []


def _names_in_use(config: Mapping[str, Any]) -> list[str]:
    given = config["models"]
    if not given:
        return [config["names"]["model"]]
    return [*given.values(), config["names"]["model"]] if isinstance(given, Mapping) else list(given)


def _assigned(config: Mapping[str, Any]) -> Any:
    given, specs = config["models"], config["model_specs"]
    if isinstance(given, Mapping):
        return {site: (name, specs[name]) for site, name in given.items()}
    return [(name, specs[name]) for name in given or ()]
