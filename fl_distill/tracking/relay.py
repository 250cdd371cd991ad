"""What observers of a run hear, as lines of a file, so that another process can hear it too."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, final

from ..locks import locked
from .observer import Observer, Row, RunInfo, SiteInfo, Status, Summary

EVENTS = "events.jsonl"


@final
class Relay(Observer):
    """Writes what happens to `events.jsonl` in the run's folder, anew."""

    def __init__(self, folder: Path) -> None:
        self._file = locked(folder / EVENTS)

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

    def close(self) -> None:
        """Give up the file."""
        self._file.close()

    def _tell(self, what: str, about: Any) -> None:
        self._file.write(json.dumps({what: about}) + "\n")
        self._file.flush()


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
