"""Checks of values that arrive from a config, shared by the datasets."""

from collections.abc import Mapping, Sequence
from typing import Any

from fl_distill.errors import DataError


def as_names(value: Any, setting: str) -> tuple[str, ...]:
    """A list of names as a tuple of text; ValueError for anything else (a bare word included)."""
    if isinstance(value, str) or not isinstance(value, Sequence | Mapping):
        raise ValueError(f"dataset.{setting} must be a list of names such as [a, b], got {value!r}")
    return tuple(str(name) for name in value)


def check_path(value: Any) -> None:
    """ValueError unless `value` is the text of a path."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"dataset.path must be the path of a file or folder, got {value!r}")


def check_declared(**settings: Any) -> None:
    """DataError with every setting that is null: it would be read from the rows, which differ from site to site."""
    if missing := [name for name, value in settings.items() if value is None]:
        raise DataError(
            f"the form of the data must not depend on what one site happens to hold: set "
            f"{', '.join(f'dataset.{name}' for name in missing)}"
        )
