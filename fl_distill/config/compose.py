"""From a command line of overrides to one resolved configuration, or to every fault in it at once."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .. import conf
from ..errors import ConfigError
from ..targets import TARGET, nearest
from .elsewhere import SETTINGS, elsewhere
from .keys import key_faults, lines, spelled_out

Config = dict[str, Any]
_BESIDE = "beside"
COMMANDS = ("export", "federation", "site")
"""Words that begin a command of another kind."""
_lock = threading.Lock()


@lru_cache(maxsize=32)
def _composed(overrides: tuple[str, ...], config_dir: str | None) -> tuple[Config, Config]:
    with _lock, _hydra(config_dir) as search:
        parsed = _parse(overrides)
        groups = options(_places(parsed, search))
        search += [_line(o) for o in parsed if o.key_or_group == "hydra.searchpath"]
        parsed = [o for o in parsed if o.key_or_group != "hydra.searchpath"]
        faults = _sweep_faults(parsed) + _group_faults(parsed, groups)
        if faults:
            faults += key_faults([o for o in parsed if o.key_or_group not in groups], _compose(search))
            raise ConfigError(faults)
        base = _compose(search + [_line(o) for o in parsed if o.key_or_group in groups])
        if faults := key_faults([o for o in parsed if o.key_or_group not in groups], base):
            raise ConfigError(faults)
        config = _compose(search + lines(parsed, base))
        names = _known_models(_model_names(config, faults), groups, faults)
        faults += _idle_faults(parsed, config)
        found = {name: elsewhere(name, config, groups["dataset"], faults) for name in SETTINGS}
        if faults:
            raise ConfigError(faults)
        return _plain(config, *_beside(names, found, search))


def composed(overrides: Sequence[str], config_dir: str | None = None) -> tuple[Config, Config]:
    """The experiment's configuration and Hydra's own part, resolved to plain values.

    Besides what YAML says, `model_specs` maps each model name in use to its settings.
    Raises `ConfigError` with every fault: unknown groups, options and keys with the nearest valid names, values
    that cannot be parsed.
    """
    return _composed(tuple(overrides), config_dir)


def options(places: Sequence[Path] = ()) -> dict[str, list[str]]:
    """The configuration groups and what can be chosen in each: this package's, and those in folders of the user's."""
    groups: dict[str, set[str]] = {}
    for place in (Path(conf.__path__[0]), *places):
        for path in place.glob("*/**/*.yaml"):
            group, *rest = path.relative_to(place).with_suffix("").parts
            groups.setdefault(group, set()).add("/".join(rest))
    return {group: sorted(choices) for group, choices in sorted(groups.items())}


def swept(overrides: Sequence[str]) -> list[list[str]]:
    """For each override the overrides that a sweep makes of it: `seed=0,1` -> [`seed=0`, `seed=1`]."""
    lines = []
    for override in _parse(overrides):
        line = _line(override)
        key = line.partition("=")[0]
        values = override.sweep_string_iterator() if override.is_sweep_override() else None
        lines.append([line] if values is None else [f"{key}={value}" for value in values])
    return lines


@contextmanager
def _hydra(config_dir: str | None) -> Iterator[list[str]]:
    """Hydra initialised on this package's configs; yields the override that adds the user's folder."""
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError(f"--config-dir {config_dir}: there is no such folder")
    before = GlobalHydra.instance().hydra  # whoever calls from inside a Hydra application gets it back
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("fl_distill.conf", version_base="1.3"):
            where = Path(config_dir).resolve().as_posix() if config_dir is not None else None
            yield [f"hydra.searchpath=[file://{where}]"] if where else []
    finally:
        GlobalHydra.instance().hydra = before


def _compose(overrides: Sequence[str]) -> DictConfig:
    try:
        return compose("config", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_first_line(error)) from error


def _parse(overrides: Sequence[str]) -> list[Override]:
    parser, parsed, faults = OverridesParser.create(), [], []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            unlike = "" if "=" in text else f"; it is no setting=value{nearest(text, COMMANDS)}"
            faults.append(f"cannot read {text!r}: {_first_line(error)}{unlike}")
    if faults:
        raise ConfigError(faults)
    return parsed


def _places(overrides: Sequence[Override], search: Sequence[str]) -> list[Path]:
    """The folders that the command line adds to Hydra's search path."""
    parser = OverridesParser.create()
    paths = [o for o in [*overrides, *map(parser.parse_override, search)] if o.key_or_group == "hydra.searchpath"]
    values = [o.value() for o in paths]
    return [Path(str(entry).removeprefix("file://")) for value in values if isinstance(value, list) for entry in value]


def _line(override: Override) -> str:
    return override.input_line or ""


def _group_faults(parsed: Sequence[Override], groups: Mapping[str, list[str]]) -> list[str]:
    faults = []
    for override in parsed:
        group, chosen = override.key_or_group, override.value()
        if group not in groups or override.is_sweep_override() or (chosen is None and group == "experiment"):
            continue
        if not isinstance(chosen, str) or chosen not in groups[group]:
            faults.append(f"{group}={chosen}: no such choice{nearest(str(chosen), groups[group])}")
    return faults


def _sweep_faults(parsed: Sequence[Override]) -> list[str]:
    several = [_line(override) for override in parsed if override.is_sweep_override()]
    return [f"{line}: several values make a sweep: add -m, or brackets for a list" for line in several]


def _model_names(config: DictConfig, faults: list[str]) -> list[str]:
    models = config.models
    server = config.strategy.get("server_model") if isinstance(config.strategy, DictConfig) else None
    extra = [*([server] if server else []), *config.model.get("mix", ())]
    if own := [key for key in config.model if "mix" in config.model and key != "mix"]:
        faults.append(f"model.{own[0]}: a mix has no settings of its own: choose one model, or name them in models=[…]")
    if models is None:
        return sorted(set(extra))
    names = list(models.values()) if isinstance(models, DictConfig) else models
    names = list(names) if isinstance(names, list | ListConfig) else []
    if not names or not all(isinstance(name, str) for name in names):
        faults.append(f"models must be a list of model names or a map site -> model name, not {models}")
        return []
    return sorted({*map(str, names), *extra})


def _known_models(names: Sequence[str], groups: Mapping[str, list[str]], faults: list[str]) -> list[str]:
    faults += [
        f"models: {name!r} is no model{nearest(name, groups['model'])}" for name in names if name not in groups["model"]
    ]
    return [name for name in names if name in groups["model"]]


def _idle_faults(parsed: Sequence[Override], config: DictConfig) -> list[str]:
    """What was asked for and would have no effect."""
    faults, strategy = [], config.strategy
    asked = {override.key_or_group for override in parsed}
    if "combine" in asked and isinstance(strategy, DictConfig) and "combine" not in strategy:
        name = str(strategy.get(TARGET)).rpartition(".")[2]
        faults.append(f"combine has no effect: {name} combines in a way of its own")
    if isinstance(config.models, DictConfig) and config.model.get("mix"):
        faults.append("models names some of the sites: choose one model for the others, such as model=cnn")
    return faults


def _beside(names: Sequence[str], found: Config, search: Sequence[str]) -> tuple[Config, Config]:
    """The settings of models and of other data sets that are in use beside the chosen ones, in one composition."""
    lines = [f"+model@{_BESIDE}.model_{at}={name}" for at, name in enumerate(names)]
    named = {setting: chosen for setting, chosen in found.items() if isinstance(chosen, str)}
    lines += [f"+dataset@{_BESIDE}.{setting}={chosen}" for setting, chosen in named.items()]
    whole = _compose([*search, *lines]) if lines else DictConfig({})
    OmegaConf.set_struct(whole, False)

    def alone(group: str, key: str) -> Any:
        """As if it had been chosen: it may refer to itself."""
        whole[group] = whole[_BESIDE][key]
        return OmegaConf.to_container(whole[group], resolve=True)

    try:
        specs = {name: alone("model", f"model_{at}") for at, name in enumerate(names)}
        return specs, {**found, **{setting: alone("dataset", setting) for setting in named}}
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error)) from error


def _plain(config: DictConfig, specs: Config, found: Config) -> tuple[Config, Config]:
    hydra = config.hydra
    OmegaConf.set_readonly(hydra, False)
    try:
        run = {"run_dir": str(hydra.run.dir), "sweep_dir": str(hydra.sweep.dir)}
        plain = OmegaConf.to_container(
            OmegaConf.masked_copy(config, [str(k) for k in config if k != "hydra"]), resolve=True
        )
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error)) from error
    result: Config = dict(spelled_out(plain))
    groups = ("strategy", "dataset", "partition", "experiment", "model")
    result["names"] = names = {group: hydra.runtime.choices.get(group) for group in groups}
    if mix := result["model"].get("mix") if isinstance(result["model"], dict) else None:
        result |= {"models": result["models"] or mix, "model": specs.get(mix[0], {})}
        names["model"] = mix[0]
    result["model_specs"] = {names["model"]: result["model"], **specs}
    return result | found, run


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
