"""Where the time of a round goes, as the server sees it.

The sites' part lasts from the first message until the last reply. Of it, `compute_s` is what a worker worked on
average, `idle_s` what it waited at the end until the others had finished as well, and `transport_s` the rest: messages
on their way, and the server's work on replies while others are still to come. Where a grid does not know what its
nodes do, all of it is `sites_s`. `evaluation_s` is scoring the models, `aggregation_s` what remains of the round:
preparing messages, combining the last replies, writing down what happened.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar, final, runtime_checkable

from flwr.serverapp import Grid

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """What `workers` did: seconds of work, all together, and when the last answer came of each that had any."""

    workers: int
    seconds: float
    ends: tuple[float, ...]
    """By `time.monotonic`."""


@runtime_checkable
class Works(Protocol):
    """A grid that knows what its workers do; Flower's own do not."""

    def worked(self) -> Work:
        """What was done since the last call."""


@final
class Tally:
    """Counts what workers do."""

    def __init__(self, workers: int) -> None:
        self._workers, self._seconds = workers, 0.0
        self._ends: dict[int, float] = {}

    def add(self, worker: int, seconds: float) -> None:
        """An answer has come now, after so many seconds of work."""
        self._seconds += seconds
        self._ends[worker] = time.monotonic()

    def take(self) -> Work:
        """What was counted since the last call."""
        work = Work(self._workers, self._seconds, tuple(self._ends.values()))
        self._seconds, self._ends = 0.0, {}
        return work


@final
class Exchange:
    """The sites' part of a round: created when it begins."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        if isinstance(grid, Works):
            grid.worked()  # of rounds before
        self._began = self._ended = time.monotonic()

    def until(self, arriving: Iterable[T]) -> Iterator[T]:
        """Hand on what arrives; the last of it ends this part."""
        self._began = self._ended = time.monotonic()
        for one in arriving:
            self._ended = time.monotonic()
            yield one
            del one

    def phases(self, began: float, scoring: float) -> dict[str, float]:
        """What a round took until now that began, and began to score its models, at these times (`time.monotonic`)."""
        now, span = time.monotonic(), self._ended - self._began
        known = self._grid.worked() if isinstance(self._grid, Works) else None
        sites = {"sites_s": span} if known is None else _parts(known, self._began, self._ended)
        return {
            "wall_s": now - began,
            **sites,
            "aggregation_s": scoring - began - span,
            "evaluation_s": now - scoring,
        }


def _parts(work: Work, began: float, ended: float) -> dict[str, float]:
    span = ended - began
    compute = min(work.seconds / work.workers, span)
    without = (work.workers - len(work.ends)) * span
    idle = min((sum(max(ended - end, 0.0) for end in work.ends) + without) / work.workers, span - compute)
    return {"compute_s": compute, "transport_s": span - compute - idle, "idle_s": idle}
