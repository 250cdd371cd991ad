"""What a federation asks of a site: plain overrides, which the site composes with its own installed configuration."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..config.compose import composed
from ..config.experiment import typed
from ..config.values import plain_value, written
from ..errors import ConfigError
from ..targets import TARGET
from .own import Own
from .rules import Refused

SHARED = (
    *("strategy", "combine", "experiment", "dataset", "partition", "model", "models", "sites", "rounds", "seed"),
    *("local", "per_site", "split", "public", "public_examples", "collect", "codec", "evaluate", "stop"),
    *("quantized_model", "checkpoint"),
)
"""Settings that a request may speak of; all others are the server's own, or the site's."""

OF_DATASET = ("dataset.standardise",)
"""The settings of a data set that a request may speak of: what a row is, and where it lies, each site says itself."""

EACH_ONES = ("path", "paths", "device", "weights", "root", "file", "folder", "hub")
"""Names of settings that are each participant's own, wherever they stand."""

INSTALLED = "fl_distill."
"""Whatever is built for a request is part of this package."""

_KEY = re.compile(r"[A-Za-z_][\w./-]*")


def shared(override: str) -> bool:
    """Whether an override of the command line is for all participants; the others are for the server alone."""
    key = override.partition("=")[0]
    top, _, inner = key.partition(".")
    if top == "dataset" and inner and key not in OF_DATASET:
        return False
    return top in SHARED and key.rpartition(".")[2] not in EACH_ONES


def refusals(overrides: Sequence[str], own: Mapping[str, Any]) -> list[str]:
    """Why a site with these settings of its own takes no such request, a sentence for each override."""
    return [sentence for text in overrides if (sentence := _refusal(text, own))]


def _refusal(text: str, own: Mapping[str, Any]) -> str | None:
    key, equals, _ = text.partition("=")
    if not equals or not _KEY.fullmatch(key) or not shared(text):
        return f"a request may not set {key[:60]!r}: it is the site's own, or nobody's business"
    try:
        words = list(_words(plain_value(text)))
    except ConfigError:
        return f"the request cannot be read at {key[:60]!r}"
    if any("$" in word for word in words) or any(word.startswith("_") for word in [*words, *key.split(".")]):
        return f"a request may not choose code or read the environment: {key[:60]!r} does"
    if found := [word for word in words if word in EACH_ONES]:
        return f"a request may not set {found[0]!r} in {key[:60]!r}: it is each site's own"
    if own.get(key) is not None and key != "model":
        return f"{key!r} is this site's own: leave it out of the request"
    return None


def _words(value: Any) -> Iterator[str]:
    """Every text in a value, keys of maps included."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from (*_words(key), *_words(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _words(item)
    elif isinstance(value, str):
        yield value


def compose_request(overrides: str, own: Own) -> dict[str, Any]:
    """The experiment as this site will run it; raises `Refused` for what it will not, `ConfigError` for nonsense."""
    try:
        asked = shlex.split(overrides)
    except ValueError as error:
        raise Refused(f"the request cannot be read: {error}") from error
    mine = own.overrides()
    if found := refusals(asked, mine):
        raise Refused("; ".join(found))
    asked = [text for text in asked if not (own.model and re.match(r"models?[.=]", text))]
    config, _ = composed([*asked, *(f"{key}={written(value)}" for key, value in mine.items())])
    known = set(_targets(own.dataset))
    if any(not target.startswith(INSTALLED) and target not in known for target in _targets(config)):
        raise Refused("a request may not choose code: what it names is no part of fl-distill")
    typed(config)
    if own.part is None and config["models"] and not isinstance(config["models"], Mapping):
        raise Refused("the request deals architectures out in turn, which needs all sites: name this site's `model`")
    if own.part is None:  # whose settings a part has, its data say: whoever reads them asks for the limits again
        own.limits.admit(config["local"] | (config["per_site"] or {}).get(own.name, {}), config["rounds"])
    return config


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        yield from (str(value) for key, value in node.items() if key == TARGET)
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)


def checked(overrides: Sequence[str]) -> str:
    """The overrides for all sites as the one string that travels; raises `ConfigError` for what sites would refuse."""
    if found := refusals(overrides, {}):
        raise ConfigError(found)
    return shlex.join(overrides)
