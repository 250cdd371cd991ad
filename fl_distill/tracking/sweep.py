"""One table for all the jobs of a sweep."""

import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from . import text

_HEAD = ("job", "status", "server", "sites, own data", "sites, test set", "up", "down", "time")


def sweep_table(rows: Sequence[Mapping[str, Any]], stream: TextIO | None = None) -> str:
    """The jobs of a sweep as text to print on `stream` (standard output): ruled and coloured on a terminal.

    A row is a run's summary with `job`, the overrides that tell it from the others; a job that failed has at
    least `job` and `status`, and `reason`, which is told below the table.
    """
    lines = [_HEAD, *(_cells(row) for row in rows)]
    if any(row.get("gain") is not None for row in rows):
        gains = ["gain", *(text.points(row.get("gain")) for row in rows)]
        at = _HEAD.index("up")
        lines = [(*line[:at], points, *line[at:]) for line, points in zip(lines, gains, strict=True)]
    table = _ruled(lines) if (stream or sys.stdout).isatty() else "\n".join(text.columns(lines))
    return "\n".join([table, *_reasons(rows)])


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    scores = [text.accuracy(row.get(f"{name}_accuracy")) for name in ("server", "local", "test")]
    traffic = [text.size(row.get("bytes_up")), text.size(row.get("bytes_down"))]
    job, status = (text.clean(row.get(key) or "–") for key in ("job", "status"))
    return (job, status, *scores, *traffic, text.seconds(row.get("wall_s")))


def _reasons(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"{text.clean(row.get('job') or 'job')}: {text.clean(row['reason'])}"
        for row in rows
        if row.get("status") != "finished" and row.get("reason")
    ]


def _ruled(lines: Sequence[tuple[str, ...]]) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold cyan", border_style="dim")
    for at, head in enumerate(lines[0]):
        table.add_column(head, justify="right" if at > 1 else "left", overflow="fold")
    for line in lines[1:]:
        table.add_row(*(Text(cell, style="red" if cell == "failed" else "") for cell in line))
    out = io.StringIO()
    Console(file=out, force_terminal=True).print(table)
    return out.getvalue().rstrip("\n")
