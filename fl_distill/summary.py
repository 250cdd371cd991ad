"""What a run says of itself at its end."""

from collections.abc import Mapping

from . import __version__
from .config.schema import Experiment
from .progress import Progress
from .roster import Roster
from .rows import finite
from .tracking import SCORES, Summary
from .tracking.groups import architectures


def summarise(
    e: Experiment,
    progress: Progress,
    roster: Roster,
    status: str,
    reason: str,
    *,
    sites: int,
    layers: Mapping[str, tuple[int, float]],
) -> Summary:
    """What `summary.json` holds: what was run, how it ended, what was reached and moved, who was missing.

    `sites` is how many were expected, `layers` what coding made of each tensor: bytes and normalised squared error.
    """
    last, best = progress.last or {}, progress.best or progress.last or {}
    return {
        "strategy": e.raw["names"]["strategy"],
        "dataset": e.raw["names"]["dataset"],
        "rounds": progress.logged,
        "seed": e.seed,
        "version": __version__,
        "status": status,
        "reason": reason,
        **progress.totals,
        **{key: finite(last.get(key)) for key in SCORES},
        "selected": {key: best.get(key) for key in ("round", "validation_accuracy", *SCORES)},
        "left_out": _left_out(progress.failures, roster, sites),
        "architectures": architectures(last.get("sites", {})),
        "codec": {**last.get("codec", {}), "layers": layers} if e.codec.any else {},
        "sites": last.get("sites", {}),
    }


def _left_out(failures: Mapping[str, str], roster: Roster, sites: int) -> dict[str, str]:
    """Who had no part in the last round, and why."""
    missing = sites - len(roster.members) - len(roster.refused)
    absent = {f"{missing} of {sites} sites": "not there"} if missing > 0 else {}
    return {**failures, **roster.refused, **absent}
