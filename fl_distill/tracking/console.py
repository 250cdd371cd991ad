"""The run on standard output: a live table on a terminal, otherwise one plain line a round."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TextIO, final

from . import text
from .coded import codings
from .groups import TWINS, architectures, comparable, comparison, of_run
from .observer import Observer, Row, RunInfo, Status, Summary
from .spent import spent


class View(ABC):
    """How the console shows what happens; failures and endings are worded by `ConsoleObserver`."""

    @abstractmethod
    def say(self, line: str, *, bad: bool = False) -> None:
        """Show a line of text, set off where it is bad news."""

    @abstractmethod
    def warn(self, line: str) -> None:
        """Show what the user should know though nothing failed."""

    @abstractmethod
    def progress(self, round: int, replied: int, refused: int, asked: int) -> None:
        """Show how far a round is."""

    @abstractmethod
    def row(self, row: Row) -> None:
        """Show a finished round."""

    @abstractmethod
    def table(self, lines: list[tuple[str, ...]]) -> None:
        """Show a small table whose first line is its head."""

    @abstractmethod
    def close(self) -> None:
        """Leave the screen as it is."""


@final
class PlainView(View):
    """One line a round, for pipes, files and dumb terminals."""

    def __init__(self, stream: TextIO, rounds: int) -> None:
        self._stream = stream
        self._width = len(str(rounds))
        self._rounds = rounds

    def say(self, line: str, *, bad: bool = False) -> None:
        """Print the line, indented where it belongs to the row above."""
        print(f"  {line}" if bad else line, file=self._stream, flush=True)

    def warn(self, line: str) -> None:
        """Print it indented."""
        self.say(f"warning: {line}", bad=True)

    def progress(self, round: int, replied: int, refused: int, asked: int) -> None:
        """Nothing: a file has no use for it."""

    def row(self, row: Row) -> None:
        """`round  3/20  server 0.912  local 0.934 …`."""
        failed = len(row["failures"])
        cells = [f"round {row['round']:>{self._width}}/{self._rounds}"]
        cells += [f"{name} {text.accuracy(row[f'{name}_accuracy'])}" for name in ("server", "local", "test")]
        if row.get("alone_accuracy") is not None:
            cells += [f"alone {text.accuracy(row['alone_accuracy'])}", f"gain {text.points(row.get('gain'))}"]
        cells += [f"loss {text.loss(text.mean_loss(row))}"]
        cells += [f"up {text.size(row['bytes_up'])}", f"down {text.size(row['bytes_down'])}"]
        cells += [text.seconds(row["wall_s"])] + [f"{failed} failed"] * bool(failed)
        self.say("  ".join(cells))

    def table(self, lines: list[tuple[str, ...]]) -> None:
        """Columns padded to their widest cell."""
        for line in text.columns(lines):
            self.say(line)

    def close(self) -> None:
        """Nothing is held."""


@final
class ConsoleObserver(Observer):
    """Shows a run on `stream` (standard output); silent with `log="quiet"`, plain with `log="debug"`."""

    def __init__(self, stream: TextIO | None = None, log: str = "info") -> None:
        self._stream = stream or sys.stdout
        self._log = log
        self._view: View | None = None
        self._run: RunInfo | None = None
        self._round = 0
        self._replies: dict[str, str | None] = {}
        self._warned: set[str] = set()

    def started(self, run: RunInfo) -> None:
        """Say what runs, where, and whether it continues."""
        if self._log == "quiet":
            return
        self._run, self._view = run, self._choose(run)
        models = ", ".join(f"{count['sites']} × {model}" for model, count in architectures(_plain(run)).items())
        self._view.say(f"{text.clean(run.name)}: {len(run.sites)} sites ({models}), results in {run.folder}")
        if run.resumed_from is not None:
            self._view.say(f"continuing after round {run.resumed_from}")

    def site_replied(self, round: int, site: str, fault: str | None) -> None:
        """Count the replies of the newest round; a later fault of a site replaces its reply."""
        if self._view is None or self._run is None:
            return
        if round != self._round:
            self._round, self._replies = round, {}
        self._replies[site] = fault
        refused = sum(1 for reason in self._replies.values() if reason is not None)
        asked = max(_asked(self._run), len(self._replies))
        self._view.progress(round, len(self._replies), refused, asked)

    def round_done(self, row: Row) -> None:
        """Show the row, and below it who failed and why, and what it warns of for the first time."""
        if self._view is not None:
            self._view.row(row)
            for line in text.failures(row["failures"]):
                self._view.say(line, bad=True)
            for line in text.warnings([row]):
                if line not in self._warned:
                    self._view.warn(line)
                    self._warned.add(line)

    def finished(self, summary: Summary, status: Status) -> None:
        """Show the result."""
        if self._view is None or self._run is None:
            return
        self._view.close()
        why = f" ({text.clean(summary['reason'])})" if status == "finished" and summary.get("reason") else ""
        self._view.say(f"{status}{why} {_after(summary)}")
        if parts := spent(summary):
            self._view.say(f"where rounds spent their time: {parts}")
        for line in text.failures(summary.get("left_out") or {}):
            self._view.warn(f"left out in the end: {line}")
        self._view.table(_results(summary))
        groups = of_run(summary)
        if comparable(groups):
            self._view.table(comparison(groups))
        if coded := codings(self._run.config, summary):
            self._view.table(coded)
        if status != "finished":
            self._view.say(f"continue with: fl-distill resume={self._run.folder}")
        self.close()

    def close(self) -> None:
        """Give the terminal back."""
        if self._view is not None:
            self._view.close()
            self._view = None

    def _choose(self, run: RunInfo) -> View:
        rounds = int(run.config.get("rounds", 0))
        if self._log == "debug" or not self._stream.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
            return PlainView(self._stream, rounds)
        from .live import LiveView

        return LiveView(self._stream, rounds)


def _plain(run: RunInfo) -> dict[str, dict[str, Any]]:
    return {name: {"model": site.model} for name, site in run.sites.items()}


def _asked(run: RunInfo) -> int:
    collect = run.config.get("collect")
    fraction = collect.get("fraction", 1.0) if isinstance(collect, Mapping) else 1.0
    return max(1, round(float(fraction) * len(run.sites)))


def _after(summary: Summary) -> str:
    spent = f"after {summary.get('rounds')} rounds and {text.seconds(summary.get('wall_s'))}"
    return f"{spent}; {text.traffic(summary, 'up')} up, {text.traffic(summary, 'down')} down"


def _results(summary: Summary) -> list[tuple[str, ...]]:
    """The last round and the one that validation data chose, side by side."""
    chosen = summary.get("selected") or {}
    lines: list[tuple[str, ...]] = [("accuracy", "last round", f"selected (round {chosen.get('round', '–')})")]
    for name, label in (("server", "server"), ("test", "sites, test set"), ("local", "sites, own data")):
        key = f"{name}_accuracy"
        lines.append((label, text.accuracy(summary.get(key)), text.accuracy(chosen.get(key))))
    for key, label, shown in TWINS:
        if summary.get(key) is not None:
            lines.append((label, shown(summary[key]), shown(chosen.get(key))))
    return lines
