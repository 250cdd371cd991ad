"""What observers of a run hear, as lines of a file, so that another process can hear it too."""

import fcntl
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, final

from .observer import Observer, Row, RunInfo, SiteInfo, Status, Summary

EVENTS = "events.jsonl"


@final
class Relay(Observer):
    """Writes what happens to `events.jsonl` in the run's folder, anew."""

    def __init__(self, folder: Path) -> None:
        part = folder / f".{EVENTS}.part"
        self._file = part.open("w", encoding="utf-8")
        fcntl.flock(self._file, fcntl.LOCK_EX)  # released when this process ends, however it does
        part.replace(folder / EVENTS)  # locked from the first moment that anybody can see it

    def started(self, run: RunInfo) -> None:
        """Note who takes part."""
        self._tell("started", {**asdict(replace(run, folder=Path())), "folder": str(run.folder)})

    def site_replied(self, round: int, site: str, fault: str | None) -> None:
        """Note the reply."""
        self._tell("site_replied", [round, site, fault])

    def round_done(self, row: Row) -> None:
        """Note the row."""
        self._tell("round_done", row)

    def finished(self, summary: Summary, status: Status) -> None:
        """Note the end."""
        self._tell("finished", [summary, status])

    def _tell(self, what: str, about: Any) -> None:
        self._file.write(json.dumps({what: about}) + "\n")
        self._file.flush()


def has_writer(events: Path) -> bool:
    """Whether the process that writes the file is still there."""
    if not events.exists():
        return False
    with events.open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def replay(line: str, observer: Observer) -> str:
    """Let an observer hear one line; returns what it was, such as `round_done`."""
    ((what, about),) = json.loads(line).items()
    if what == "started":
        observer.started(_run_info(about))
    elif what == "round_done":
        observer.round_done(about)
    elif what == "site_replied":
        observer.site_replied(*about)
    else:
        observer.finished(*about)
    return str(what)


def _run_info(about: Mapping[str, Any]) -> RunInfo:
    sites = {
        name: SiteInfo(**{**site, "label_counts": tuple(site["label_counts"])}) for name, site in about["sites"].items()
    }
    classes = tuple(about["classes"])
    return RunInfo(**{**about, "folder": Path(about["folder"]), "sites": sites, "classes": classes})
