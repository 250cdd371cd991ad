"""Which settings an override may name, and how Hydra is told: maps of sites, short forms of codecs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from ..targets import nearest
from .values import written

OPEN_MAPS = ("per_site", "models", "collect.away", "codec.sites")
"""Settings that hold names of the user's own (sites), which no default can list."""

_WAY = re.compile(r"codec\.(up|down|sites\.[^.]+)(?=\.|$)")
"""Where a codec stands, whose short form is its name alone."""
_WHOLE_WAY: dict[str, Any] = {"codec": "none", "bytes_per_round": None}


def key_faults(parsed: Sequence[Override], base: DictConfig) -> list[str]:
    """A sentence for each override of a setting that does not exist."""
    settings = spelled_out(OmegaConf.to_container(base, resolve=False))
    known = {*_keys(settings)}
    visible = [name for name in known if not name.startswith("hydra")]
    return [
        f"{key}: no such setting{nearest(key, visible)}"
        for override in parsed
        for key in _named(override, settings)
        if key not in known and not key.startswith("hydra.") and not _inside_open_map(key)
    ]


def spelled_out(config: Any) -> Any:
    """The configuration with a map for each way of its codec, whatever form YAML says it in."""
    codec = config.get("codec")
    if not isinstance(codec, Mapping):
        return config
    ways = {name: _way(codec[name]) for name in ("up", "down") if name in codec}
    sites = codec.get("sites")
    own = {"sites": {name: _way(said) for name, said in sites.items()}} if isinstance(sites, Mapping) else {}
    return {**config, "codec": {**codec, **ways, **own}}


def lines(parsed: Sequence[Override], base: DictConfig) -> list[str]:
    """The overrides as Hydra wants them: names of the user's own are added, and what has a part changed is a map."""
    settings = spelled_out(OmegaConf.to_container(base, resolve=False))
    changed = sorted({found[0] for o in parsed if (found := _WAY.match(o.key_or_group)) and not _free(o)})
    # A list gives way to a map only by way of null.
    maps = [f"++{name}={said}" for name in changed for said in ("null", written(_at(settings, name) or _WHOLE_WAY))]
    return [*maps, *map(_line, parsed)]


def _named(override: Override, settings: Any) -> Iterator[str]:
    """The settings that an override is about: its own key, and those of a map that changes a map."""
    if _free(override):
        return
    key, value = override.key_or_group, override.value()
    yield key
    if isinstance(value, dict) and isinstance(_at(settings, key), Mapping):
        yield from _keys(value, f"{key}.")


def _line(override: Override) -> str:
    line, key, value = override.input_line or "", override.key_or_group, override.value()
    if _free(override):
        return line
    if _WAY.fullmatch(key) and not isinstance(value, dict):
        line = f"{key}.codec{line[len(key) :]}"
    # Hydra looks up what is inside a map; those keys were looked up here.
    return f"++{line}" if isinstance(value, dict) or _inside_open_map(key) else line


def _free(override: Override) -> bool:
    """Whether it says itself that it adds or takes away."""
    return not override.key_or_group or (override.input_line or "").startswith(("+", "~"))


def _inside_open_map(key: str) -> bool:
    return key.startswith(tuple(f"{name}." for name in OPEN_MAPS))


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")


def _at(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = settings.get(part) if isinstance(settings, Mapping) else None
    return settings


def _way(said: Any) -> dict[str, Any]:
    return {**_WHOLE_WAY, **(said if isinstance(said, Mapping) else {"codec": said})}
