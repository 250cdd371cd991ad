"""From a row of plain values in YAML to a Python object: `{_target_: import.path, **arguments}`."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .errors import ConfigError

TARGET = "_target_"


def call(spec: Mapping[str, Any], **extra: Any) -> Any:
    """Call what `spec` names with its own arguments and `extra`.

    Raises `ConfigError` when the path cannot be imported, when an argument does not exist (with the nearest
    names), or when the callee refuses a value with ValueError.
    """
    path = str(spec.get(TARGET, ""))
    function = locate(path)
    arguments = {str(key): value for key, value in spec.items() if key != TARGET}
    check_arguments(path, function, arguments, extra)
    try:
        return function(**arguments, **extra)
    except ValueError as error:
        raise ConfigError(f"{_short(path)}: {error}") from error


def locate(path: str) -> Callable[..., Any]:
    """The object at a dotted import path."""
    module, _, name = path.rpartition(".")
    if not module:
        raise ConfigError(f"{TARGET}: expected an import path such as 'my_package.MyNet', not {path!r}")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot import {path!r}: {error}") from error
    if not callable(found):
        raise ConfigError(f"{path!r} is a {type(found).__name__}, expected a class or a function")
    return found  # type: ignore[no-any-return]


def check_arguments(
    path: str, function: Callable[..., Any], arguments: Mapping[str, Any], extra: Mapping[str, Any]
) -> None:
    """Raise `ConfigError` that names every argument `function` does not take, or lacks."""
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = [p.name for p in named if p.name not in extra]
    faults = [
        f"{_short(path)} has no setting {key!r}{nearest(key, names)}"
        for key in arguments
        if key not in names and not open_ended
    ]
    faults += [
        f"{_short(path)} needs a value for {p.name!r}"
        for p in named
        if p.default is p.empty and p.name not in arguments and p.name not in extra
    ]
    if faults:
        raise ConfigError(faults)


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """A phrase with the known names most like `word`: `; did you mean 'a' or 'b'?`, else all when few."""
    known = sorted(set(known))
    if close := difflib.get_close_matches(word, known, n=count, cutoff=0.6):
        return "; did you mean " + " or ".join(map(repr, close)) + "?"
    return "; there are " + ", ".join(known) if 0 < len(known) <= 30 else ""


def _short(path: str) -> str:
    return path.rpartition(".")[2] or path
