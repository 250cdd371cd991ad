"""From a row of plain values in YAML to a Python object: `{_target_: import.path, **arguments}`."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from .errors import ConfigError

TARGET = "_target_"

_SLIP, _AS_GOOD = 0.65, 0.1
"""The least likeness of a slip to what was meant, and how much less than the best suggestion another may have."""


def call(spec: Mapping[str, Any], **extra: Any) -> Any:
    """Call what `spec` names with its own arguments and `extra`; an argument that is a spec itself is called first.

    Raises `ConfigError` as `resolve` does, and when the callee refuses a value.
    """
    function, arguments = resolve(spec, extra=extra)
    arguments = {k: call(v) if isinstance(v, Mapping) and TARGET in v else v for k, v in arguments.items()}
    try:
        return function(**arguments, **extra)
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{_short(spec[TARGET])}: {error}") from error


def resolve(
    spec: Mapping[str, Any], positional: Sequence[str] = (), extra: Collection[str] = ()
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What `spec` names and the arguments it holds, for a caller that adds `positional` ones in front and `extra` ones.

    Raises `ConfigError` when the path cannot be imported, and for every argument that does not exist (with the
    nearest names) or is missing. The names of `positional` only describe: the callee may call them as it likes.
    """
    path = spec.get(TARGET)
    if not isinstance(path, str) or not all(path.rpartition(".")[::2]):
        raise ConfigError(f"{TARGET}: expected an import path such as 'my_package.MyNet', not {path!r}")
    function = _locate(path)
    arguments = {str(key): value for key, value in spec.items() if key != TARGET}
    if faults := _faults(path, function, arguments, positional, extra):
        raise ConfigError(faults)
    return function, arguments


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """A phrase with the known names most like `word`: `; did you mean 'a' or 'b'?`, else its neighbours when few."""
    known = sorted(set(known))
    if found := close(word, known, count):
        return "; did you mean " + " or ".join(map(repr, found)) + "?"
    parent = word.rpartition(".")[0]
    beside = [name for name in known if parent and name.rpartition(".")[0] == parent] or known
    return "; there are " + ", ".join(beside) if 0 < len(beside) <= 30 else ""


def close(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names that `word` may be a slip of, the likeliest first; none where all are far."""
    likeness = {name: _likeness(word.lower(), name.lower()) for name in known}
    least = max(_SLIP, max(likeness.values(), default=0.0) - _AS_GOOD)
    return sorted((name for name in likeness if likeness[name] >= least), key=lambda name: (-likeness[name], name))[
        :count
    ]


def _likeness(word: str, name: str) -> float:
    """0 to 1; what stands behind the last dot counts for itself, since long names of one group share the rest."""
    last = name.rpartition(".")[2]
    if word == last:
        return 1.0
    parts = (word, name), (word.rpartition(".")[2], last)
    return min(difflib.SequenceMatcher(None, *pair).ratio() for pair in parts)


def _locate(path: str) -> Callable[..., Any]:
    place, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(place)
    except Exception as error:  # a user's own module may fail in any way while it is imported
        raise ConfigError(f"cannot import {path!r}: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        public = [n for n in getattr(module, "__all__", dir(module)) if callable(getattr(module, n, None))]
        raise ConfigError(f"cannot import {path!r}: {place} has no function or class {name!r}{nearest(name, public)}")
    return found  # type: ignore[no-any-return]


def _faults(
    path: str,
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    positional: Sequence[str],
    extra: Collection[str],
) -> list[str]:
    """One sentence for each argument that `function` does not take, or lacks."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # implemented in C: nothing to check against
        return []
    taken = list(signature.parameters.values())
    slots = [p.name for p in taken if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(slots) < len(positional) and all(p.kind is not p.VAR_POSITIONAL for p in taken):
        return [f"{path} must take ({', '.join(positional)}, ...); its signature is {signature}"]
    filled = {*slots[: len(positional)], *extra}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in taken)
    settings = {p.name: p for p in taken if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    free = [name for name in settings if name not in filled]
    unknown = [key for key in arguments if key in filled or not (key in settings or open_ended)]
    lacking = [name for name in free if settings[name].default is inspect.Parameter.empty and name not in arguments]
    return [
        *(f"{_short(path)} has no setting {key!r}{nearest(key, free)}" for key in unknown),
        *(f"{_short(path)} needs a value for {name!r}" for name in lacking),
    ]


def _short(path: str) -> str:
    return path.rpartition(".")[2] or path
