"""How numbers, names and failures read, the same in the console, the report and the plots."""

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from .observer import Row

_UNITS = ("B", "kB", "MB", "GB", "TB")


def accuracy(value: float | None) -> str:
    """`0.934`, or a dash where nothing was measured."""
    return "–" if value is None else f"{value:.3f}"


def points(value: float | None) -> str:
    """A difference of accuracies in percentage points: `+12.3`."""
    return "–" if value is None else f"{round(100 * value, 1) + 0.0:+.1f}"  # adding zero turns -0.0 into 0.0


def loss(value: float | None) -> str:
    """Three significant digits, or a dash."""
    return "–" if value is None else f"{value:#.3g}"


def size(count: float | None) -> str:
    """Bytes in decimal units: `1.2 MB`."""
    if count is None:
        return "–"
    step = 0
    while count >= 999.5 and step < len(_UNITS) - 1:
        count, step = count / 1000, step + 1
    return f"{count:.0f} {_UNITS[step]}" if step == 0 or count >= 99.95 else f"{count:.1f} {_UNITS[step]}"


def knowledge(record: Mapping[str, Any], way: str) -> str:
    """`300 kB of tensors` where tensors are clearly less than all that was sent `way` (up or down), else nothing."""
    sent, tensors = record.get(f"bytes_{way}"), record.get(f"knowledge_{way}")
    return f"{size(tensors)} of tensors" if sent and tensors and tensors < 0.9 * sent else ""


def traffic(record: Mapping[str, Any], way: str) -> str:
    """`2.5 MB`, and how much of it is tensors where that tells something: `2.5 MB (300 kB of tensors)`."""
    told = knowledge(record, way)
    return size(record.get(f"bytes_{way}")) + (f" ({told})" if told else "")


def seconds(value: float | None) -> str:
    """`2.3 s`, `4 min 05 s` or `2 h 07 min`."""
    if value is None:
        return "–"
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def moment(value: float) -> str:
    """Seconds that may be few: `2.1 ms` below one second, then as `seconds` has it."""
    if value >= 0.9995:
        return seconds(value)
    return f"{1000 * value:.{0 if value >= 0.00995 else 1}f} ms"


def error(value: float | None) -> str:
    """Two significant digits of a normalised squared error, or a dash."""
    return "–" if value is None else f"{value:.2g}"


def natural(names: Iterable[str]) -> list[str]:
    """Names in the order people count: `site-2` before `site-10`."""
    return sorted(names, key=lambda name: ([_piece(part) for part in re.split(r"(\d+)", name)], name))


def _piece(part: str) -> tuple[int, int, str]:
    return (0, int(part), "") if part.isdecimal() else (1, 0, part)


def clean(text: object) -> str:
    """One printable line: control characters, which could steer a terminal, become spaces."""
    return " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are there, or None."""
    present = [value for value in values if value is not None]
    return fmean(present) if present else None


def mean_loss(row: Row) -> float | None:
    """The sites' losses of a round, averaged."""
    return mean(site.get("loss") for site in row["sites"].values())


def failures(reasons: Mapping[str, str], most: int = 6) -> list[str]:
    """One line per reason, with the sites that share it: `site-1, site-4: no reply within 60 s`."""
    sites: dict[str, list[str]] = {}
    for site in natural(reasons):
        sites.setdefault(clean(reasons[site]), []).append(clean(site))
    return [f"{_few(names, most)}: {reason}" for reason, names in sites.items()]


def warnings(rows: Iterable[Row]) -> dict[str, list[int]]:
    """Each warning once, in order of appearance, with the rounds that gave it."""
    rounds: dict[str, list[int]] = {}
    for row in rows:
        for told in row.get("warnings") or ():
            rounds.setdefault(clean(told), []).append(row["round"])
    return rounds


def _few(names: list[str], most: int) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells padded to their column's widest: the first column to the left, the others to the right."""
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))] if lines else []
    return [
        "  ".join(f"{cell:{'<' if at == 0 else '>'}{widths[at]}}" for at, cell in enumerate(line)).rstrip()
        for line in lines
    ]
