"""What is said of a round: one plain row, closed when its models were scored."""

import math
from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]


def open_row(number: int) -> Row:
    """A row without results, with the keys of the output contract."""
    return {
        "round": number,
        "wall_s": 0.0,
        "bytes_up": 0,
        "bytes_down": 0,
        "test_accuracy": None,
        "local_accuracy": None,
        "server_accuracy": None,
        "validation_accuracy": None,
        "server_loss": None,
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
        "local_accuracy": None,
        "bytes_up": 0,
        "bytes_down": 0,
    }
    return row["sites"].setdefault(name, blank)  # type: ignore[no-any-return]


def add_scores(row: Row, scores: Mapping[str, Mapping[str, Any]], shared: float | None) -> None:
    """Close a row with the scores that sites reported (by site name).

    `shared` is the accuracy on the shared test set where all sites hold the server's model; otherwise each site
    reports its own. Means over sites are plain; the validation accuracy, which only selects, counts examples.
    """
    for name, numbers in scores.items():
        entry = row["sites"][name]
        entry["local_accuracy"] = fraction(numbers.get("score-local-accuracy"))
        entry["test_accuracy"] = fraction(numbers.get("score-test-accuracy"))
    if shared is not None:
        for entry in row["sites"].values():
            entry["test_accuracy"] = shared
    row["sites"] = dict(sorted(row["sites"].items()))
    entries = row["sites"].values()
    row["test_accuracy"] = shared if shared is not None else mean(e["test_accuracy"] for e in entries)
    row["local_accuracy"] = mean(e["local_accuracy"] for e in entries)
    told = [
        (fraction(n.get("score-validation-accuracy")), finite(n.get("score-validation-examples")) or 0.0)
        for n in scores.values()
    ]
    held = [(accuracy, count) for accuracy, count in told if accuracy is not None and count > 0]
    if held:
        row["validation_accuracy"] = sum(a * count for a, count in held) / sum(count for _, count in held)


def mean(values: Any) -> float | None:
    """The plain mean of the numbers among `values`, or None."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def fraction(value: Any) -> float | None:
    """`value` where it can be an accuracy, else None: sites may send anything."""
    number = finite(value)
    return number if number is not None and 0 <= number <= 1 else None


def finite(value: Any) -> float | None:
    """`value` where it is a finite number, else None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
