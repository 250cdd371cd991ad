"""The observer interface: what a run tells the outside, and a fan-out that no observer can break."""

import sys
import traceback
from abc import ABC
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO, final

TRAFFIC = ("bytes_up", "bytes_down", "knowledge_up", "knowledge_down")
"""What is counted of the messages of a round and of each of its sites; knowledge is the tensors among the bytes."""

SCORES = ("test_accuracy", "alone_accuracy", "gain", "local_accuracy", "server_accuracy")
"""What a round reached, and the whole run."""

Row = dict[str, Any]
"""One round, with the keys of `rounds.jsonl`."""

Summary = dict[str, Any]
"""The whole run, with the keys of `summary.json`."""

Status = Literal["finished", "stopped", "interrupted", "failed"]
"""How a run ended: as planned, for want of results, by the user, or by an error."""


@dataclass(frozen=True)
class SiteInfo:
    """What is known of a site before the first round; `label_counts[c]` counts its examples of class c."""

    model: str
    examples: int
    label_counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run before its first round.

    `config` is resolved and plain. `resumed_from` is the last complete round of a run that continues, and
    `tracker_ids` are the ids that `Observer.state` had given when that round was saved.
    """

    folder: Path
    config: Mapping[str, Any]
    name: str
    sites: Mapping[str, SiteInfo]
    classes: tuple[str, ...] = ()
    resumed_from: int | None = None
    tracker_ids: Mapping[str, str] = field(default_factory=dict)


class Observer(ABC):  # noqa: B024  (nothing is compulsory: override what you want to hear of)
    """Watches a run from the server's process. Every method does nothing until it is overridden."""

    def started(self, run: RunInfo) -> None:  # noqa: B027
        """The run is about to send its first message."""

    def site_replied(self, round: int, site: str, fault: str | None) -> None:  # noqa: B027
        """A site's reply arrived and was accepted, or refused for the reason in `fault`. Keep it cheap."""

    def round_done(self, row: Row) -> None:  # noqa: B027
        """A round is complete; `row` is its line of `rounds.jsonl` and must not be changed."""

    def finished(self, summary: Summary, status: Status) -> None:  # noqa: B027
        """The run ended; the summary and the models are already in the run's folder."""

    def close(self) -> None:  # noqa: B027
        """Let go of everything; called once, whatever happened before."""

    def state(self) -> dict[str, str]:
        """Ids to keep in checkpoints, given back as `RunInfo.tracker_ids` when the run continues."""
        return {}


@final
class Observers(Observer):
    """Many observers as one: one that raises is reported on `stream` (stderr), closed and left out."""

    def __init__(self, observers: Iterable[Observer], stream: TextIO | None = None) -> None:
        self._live = list(observers)
        self._stream = stream
        self._ids: dict[str, str] = {}

    def started(self, run: RunInfo) -> None:
        """Tell all; ids of an earlier part of the run are kept even when their observer is not here now."""
        self._ids.update(run.tracker_ids)
        self._tell(lambda observer: observer.started(run))

    def site_replied(self, round: int, site: str, fault: str | None) -> None:
        """Tell all."""
        self._tell(lambda observer: observer.site_replied(round, site, fault))

    def round_done(self, row: Row) -> None:
        """Tell all."""
        self._tell(lambda observer: observer.round_done(row))

    def finished(self, summary: Summary, status: Status) -> None:
        """Tell all."""
        self._tell(lambda observer: observer.finished(summary, status))

    def close(self) -> None:
        """Close all that are left; a second call does nothing."""
        self._tell(lambda observer: observer.close())
        self._live.clear()

    def state(self) -> dict[str, str]:
        """The ids of all observers, those of dropped ones included."""
        self._tell(lambda observer: self._ids.update(observer.state()))
        return dict(self._ids)

    def _tell(self, call: Callable[[Observer], None]) -> None:
        for observer in list(self._live):
            try:
                call(observer)
            except Exception as error:
                self._drop(observer, error)

    def _drop(self, observer: Observer, error: Exception) -> None:
        self._live.remove(observer)
        stream = self._stream or sys.stderr
        name, where = type(observer).__name__, traceback.extract_tb(error.__traceback__)[-1]
        print(
            f"The observer {name} failed and is left out from here on; the run is not affected. "
            f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})",
            file=stream,
            flush=True,
        )
        try:
            observer.close()
        except Exception as second:  # it is out already, and one report is enough
            del second
