"""What sites of one architecture have in common, and what learning together gave them over learning alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import text
from .observer import Row, Summary

Groups = Mapping[str, Mapping[str, Any]]
"""By architecture, what `architectures` says of its sites."""

_COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("alone", "alone_accuracy", text.accuracy),
    ("federated", "test_accuracy", text.accuracy),
    ("gain", "gain", text.points),
    ("own data", "local_accuracy", text.accuracy),
    ("worst site", "worst", text.accuracy),
)

TWINS = (("alone_accuracy", "sites alone, test set", text.accuracy), ("gain", "gain, in points", text.points))
"""What a run says of learning alone, where it knows: key, words, and how the number reads."""


def of_run(summary: Summary) -> Groups:
    """The architectures of a run that ended; summaries of before they had any say it by their sites."""
    return summary.get("architectures") or architectures(summary.get("sites") or {})


def architectures(sites: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By architecture, in natural order of its first site: how many sites, and their accuracies.

    `test_accuracy`, `alone_accuracy`, `gain` and `local_accuracy` are plain means over the sites that report them,
    `worst` is the lowest test accuracy; None where no site reports.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for site in text.natural(sites):
        groups.setdefault(str(sites[site].get("model")), []).append(sites[site])
    return {model: _together(members) for model, members in groups.items()}


def gain(site: Mapping[str, Any]) -> float | None:
    """The accuracy of a site's model less that of its twin, which learned alone; None without both."""
    federated, alone = site.get("test_accuracy"), site.get("alone_accuracy")
    return None if federated is None or alone is None else float(federated - alone)


def comparable(groups: Groups) -> bool:
    """Whether there is something to set side by side: several architectures, or one and its twins."""
    return len(groups) > 1 or any(group.get("alone_accuracy") is not None for group in groups.values())


def comparison(groups: Groups) -> list[tuple[str, ...]]:
    """A table of the architectures, its first line the head, without the columns that nobody filled."""
    known = [c for c in _COLUMNS if any(group.get(c[1]) is not None for group in groups.values())]
    lines: list[tuple[str, ...]] = [("architecture", "sites", *(name for name, _, _ in known))]
    for model, group in groups.items():
        cells = (shown(group.get(key)) for _, key, shown in known)
        lines.append((text.clean(model), str(group.get("sites", "–")), *cells))
    return lines


def newest_sites(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """What was last measured at each site, in natural order of names."""
    newest: dict[str, dict[str, Any]] = {}
    for row in rows:
        for site, values in row["sites"].items():
            known = newest.setdefault(site, dict(values))
            known |= {key: value for key, value in values.items() if value is not None}
    return {site: newest[site] for site in text.natural(newest)}


def _together(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    reached = [site["test_accuracy"] for site in members if site.get("test_accuracy") is not None]
    return {
        "sites": len(members),
        "test_accuracy": text.mean(reached),
        "alone_accuracy": text.mean(site.get("alone_accuracy") for site in members),
        "gain": text.mean(map(gain, members)),
        "local_accuracy": text.mean(site.get("local_accuracy") for site in members),
        "worst": min(reached, default=None),
    }
