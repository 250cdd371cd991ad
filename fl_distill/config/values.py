"""Values of overrides: what one says before anything is composed of it, and how a plain value is written as one."""

import re
from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from ..errors import ConfigError


def plain_value(override: str) -> Any:
    """What an override says, as lists, maps and scalars, quotes and escapes taken off; interpolations stay texts.

    Raises `ConfigError` where it cannot be read.
    """
    try:
        parsed: Override = OverridesParser.create().parse_override(override)
        return _plain(parsed.value())
    except (HydraException, ValueError) as error:
        raise ConfigError(f"cannot read {override!r}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, int | float | bool):
        return value
    return str(getattr(value, "text", value))  # a quoted text, or what Hydra has a class of its own for


def written(value: Any) -> str:
    """A plain value in Hydra's grammar: every text in quotes, so that it is a text whatever it holds."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(written, value)) + "]"
    if isinstance(value, str):
        # In quotes a backslash is itself, except before a quote.
        return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), value) + "'"
    return "null" if value is None else str(value)
