"""Signs that sites which learn from each other make each other worse."""

from collections.abc import Mapping
from typing import Any

NARROW = 0.5
"""A consensus whose mean prediction has less than this part of the largest entropy names few of the classes."""
MARGIN = 0.02
"""Accuracy may lie this far under local training's before anything is said."""

_REMEDY = "more strategy.warmup, combine=drop_worst or median, or fewer strategy.digest_epochs prevent that"


def collapse(notes: Mapping[str, float]) -> list[str]:
    """A sentence when the consensus speaks of hardly more than a few classes."""
    spread = notes.get("spread")
    if spread is None or spread >= NARROW:
        return []
    return [f"the consensus is collapsing: it names few of the classes (its spread is below {NARROW:.0%}); {_REMEDY}"]


def worse_than_alone(row: Mapping[str, Any]) -> list[str]:
    """A sentence when sites are worse off than without any exchange."""
    if row["gain"] is None or row["gain"] >= -MARGIN:
        return []
    return [f"sites are worse than alone by more than {100 * MARGIN:g} points; {_REMEDY}"]
