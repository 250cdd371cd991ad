"""What is said of a round: one plain row, closed when its models were scored."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from .tracking import Row
from .tracking.groups import gain


def open_row(number: int) -> Row:
    """A row without results, with the keys of the output contract."""
    return {
        "round": number,
        "wall_s": 0.0,
        "bytes_up": 0,
        "bytes_down": 0,
        "knowledge_up": 0,
        "knowledge_down": 0,
        "test_accuracy": None,
        "alone_accuracy": None,
        "gain": None,
        "local_accuracy": None,
        "server_accuracy": None,
        "validation_accuracy": None,
        "server_loss": None,
        "server_models": {},
        "agreement": None,
        "entropy": None,
        "codec": {},
        "warnings": [],
        "failures": {},
        "sites": {},
    }


def site_entry(row: Row, name: str, model: str, examples: int) -> dict[str, Any]:
    """The row's part about one site, made when it is not there yet."""
    blank = {
        "model": model,
        "examples": examples,
        "loss": None,
        "test_accuracy": None,
        "alone_accuracy": None,
        "local_accuracy": None,
        "bytes_up": 0,
        "bytes_down": 0,
        "knowledge_up": 0,
        "knowledge_down": 0,
    }
    return row["sites"].setdefault(name, blank)  # type: ignore[no-any-return]


def add_scores(row: Row, scores: Mapping[str, Mapping[str, Any]], shared: Mapping[str, float] | None) -> None:
    """Close a row with the scores that sites reported (by site name).

    Where all sites hold models of the server, `shared` is what the server's model of each architecture reaches on
    the shared test set; otherwise each site reports its own. Means over sites are plain; the validation accuracy,
    which only selects, counts examples.
    """
    for name, numbers in scores.items():
        entry = row["sites"][name]
        for key in ("local_accuracy", "test_accuracy", "alone_accuracy"):
            entry[key] = fraction(numbers.get(f"score-{key.replace('_', '-')}"))
    if shared is not None:
        for entry in row["sites"].values():
            entry["test_accuracy"] = fraction(shared.get(entry["model"]))
    row["sites"] = dict(sorted(row["sites"].items()))
    entries = row["sites"].values()
    for key in ("test_accuracy", "local_accuracy", "alone_accuracy"):
        row[key] = mean(entry.get(key) for entry in entries)
    if shared is not None and not entries and len(shared) == 1:
        row["test_accuracy"] = mean(map(fraction, shared.values()))
    row["gain"] = mean(map(gain, entries))
    row["validation_accuracy"] = _validation(scores.values(), row["validation_accuracy"])


def _validation(scores: Iterable[Mapping[str, Any]], unknown: float | None) -> float | None:
    """The mean over validation examples, or `unknown` where no site has any."""
    told = [
        (fraction(n.get("score-validation-accuracy")), finite(n.get("score-validation-examples")) or 0.0)
        for n in scores
    ]
    held = [(accuracy, count) for accuracy, count in told if accuracy is not None and count > 0]
    return sum(a * count for a, count in held) / sum(count for _, count in held) if held else unknown


def mean(values: Any) -> float | None:
    """The plain mean of the numbers among `values`, or None; equal numbers have themselves as their mean."""
    known = [value for value in values if value is not None]
    if len(set(known)) == 1:
        return float(known[0])
    return math.fsum(known) / len(known) if known else None


def fraction(value: Any) -> float | None:
    """`value` where it can be an accuracy, else None: sites may send anything."""
    number = finite(value)
    return number if number is not None and 0 <= number <= 1 else None


def finite(value: Any) -> float | None:
    """`value` where it is a finite number, else None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
