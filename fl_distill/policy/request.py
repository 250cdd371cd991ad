"""What a federation asks of a site: plain overrides, which the site composes with its own installed configuration."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ..config import composed
from ..errors import ConfigError
from .own import Own
from .rules import Refused

SHARED = (
    *("strategy", "combine", "experiment", "dataset", "partition", "model", "models", "sites", "rounds", "seed"),
    *("local", "per_site", "split", "public", "public_examples", "collect", "codec", "evaluate", "stop"),
    *("quantized_model", "checkpoint"),
)
"""Settings that a request may speak of; all others are the server's own, or the site's."""

FILES = ("path", "device")
"""Names of settings that are each participant's own, wherever they stand."""

_KEY = re.compile(r"[A-Za-z_][\w./@-]*")


def shared(override: str) -> bool:
    """Whether an override of the command line is for all participants; the others are for the server alone."""
    key = override.partition("=")[0]
    return key.partition(".")[0] in SHARED and key.rpartition(".")[2] not in FILES


def refusals(overrides: Sequence[str], own: Mapping[str, Any]) -> list[str]:
    """Why a site with these settings of its own takes no such request, a sentence for each override."""
    return [sentence for text in overrides if (sentence := _refusal(text, own))]


def _refusal(text: str, own: Mapping[str, Any]) -> str | None:
    key, equals, value = text.partition("=")
    if not equals or not _KEY.fullmatch(key) or not shared(text):
        return f"a request may not set {key[:60]!r}: it is the site's own, or nobody's business"
    if "_target_" in text or "${" in value or "@" in key:
        return f"a request may not choose code or read the environment: {key[:60]!r} does"
    if key in own and own[key] is not None and key != "model":
        return f"{key!r} is this site's own: leave it out of the request"
    return None


def compose_request(overrides: str, own: Own) -> dict[str, Any]:
    """The experiment as this site will run it; raises `Refused` for what it will not, `ConfigError` for nonsense."""
    try:
        asked = shlex.split(overrides)
    except ValueError as error:
        raise Refused(f"the request cannot be read: {error}") from error
    mine = own.overrides()
    if found := refusals(asked, mine):
        raise Refused("; ".join(found))
    asked = [text for text in asked if not (own.model and text.partition("=")[0] in ("model", "models"))]
    config, _ = composed([*asked, *(f"{key}={_written(value)}" for key, value in mine.items())])
    if own.part is None and config["models"] and not isinstance(config["models"], Mapping):
        raise Refused("the request deals architectures out in turn, which needs all sites: name this site's `model`")
    local = config["local"] | (config["per_site"] or {}).get(own.name, {})
    own.limits.admit(local, config["rounds"])
    return config


def checked(overrides: Sequence[str]) -> str:
    """The overrides for all sites as the one string that travels; raises `ConfigError` for what sites would refuse."""
    if found := refusals(overrides, {}):
        raise ConfigError(found)
    return shlex.join(overrides)


def _written(value: Any) -> str:
    """A value of YAML in Hydra's grammar: every text in quotes, so that it is a text whatever it holds."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\") if value.endswith("\\") else value
        return "'" + escaped.replace("'", "\\'") + "'"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_written, value)) + "]"
    return json.dumps(value)
