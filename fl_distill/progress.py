"""Where a run stands: what a checkpoint holds, and when it is over."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import ArrayRecord

from .config.schema import Experiment
from .tracking import TRAFFIC, Row
from .tracking.spent import PHASES

TOTALS = ("wall_s", *TRAFFIC)
NOTED = ("open", "best", "stale", "totals", "logged", "last", "failures")
"""The fields of `Progress` that are plain values."""


@dataclass
class Progress:
    """After a round: what a checkpoint holds."""

    round: int
    arrays: ArrayRecord
    open: Row | None = None
    """The row of `round`, while the scores of its model are not in yet."""
    best: Row | None = None
    best_arrays: ArrayRecord | None = None
    stale: int = 0
    """Closed rows since the best one."""
    totals: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TOTALS, 0))
    logged: int = 0
    """The last round whose row was written."""
    last: Row | None = None
    """The last row with scores."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Of the last row that was written, with scores or without."""

    def close(self, row: Row, arrays: ArrayRecord | None, min_delta: float) -> None:
        """Count a row that is complete; `arrays` are those of its round's model, where the server has one.

        A row is the best so far where its validation accuracy is more than `min_delta` above that of the one before.
        """
        for key in TOTALS:
            self.totals[key] += row[key]
        for key in [key for key in PHASES if key in row]:
            self.totals[key] = self.totals.get(key, 0.0) + row[key]
        self.logged, self.failures = row["round"], row["failures"]
        if self.last is None or _scored(row):
            self.last = row
        accuracy = row["validation_accuracy"]
        best = None if self.best is None else self.best["validation_accuracy"]
        if accuracy is not None and (best is None or accuracy > best + min_delta):
            self.best, self.stale, self.best_arrays = row, 0, arrays
        elif accuracy is not None:
            self.stale += 1

    def ended(self, e: Experiment) -> str | None:
        """Why the run is over before its last round; None where it is not."""
        reached = self.last["validation_accuracy"] if self.last else None
        if e.stop.target_accuracy is not None and reached is not None and reached >= e.stop.target_accuracy:
            return f"validation accuracy {reached:.4f} reached the target {e.stop.target_accuracy}"
        if e.stop.patience is not None and self.stale >= e.stop.patience:
            return f"no better validation accuracy in {self.stale} rounds"
        return None


def _scored(row: Row) -> bool:
    return any(row[key] is not None for key in ("server_accuracy", "test_accuracy", "local_accuracy"))
