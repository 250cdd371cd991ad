"""`rounds.jsonl` and `summary.json`: the record of a run that people script against."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

from ..errors import ConfigError
from .observer import SCORES, TRAFFIC, Row, Summary
from .text import natural

_TOTALS = ("wall_s", *TRAFFIC, *SCORES)
ROUND_KEYS = ("round", *_TOTALS, "agreement", "entropy", "warnings", "failures", "sites")
SITE_KEYS = ("model", "examples", "loss", "test_accuracy", "alone_accuracy", "local_accuracy", *TRAFFIC)
SUMMARY_KEYS = ("strategy", "rounds", "seed", "version", "status", *_TOTALS, "selected", "architectures", "sites")
_LAST = ("failures", "sites")
_to_json = json.JSONEncoder(allow_nan=False, separators=(", ", ": ")).encode


@final
class RoundLog:
    """Writes `folder/rounds.jsonl`, a synced line a round; every disk error reaches the caller."""

    def __init__(self, folder: Path | str) -> None:
        self.path = Path(folder) / "rounds.jsonl"

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a round. A line torn by an earlier crash or a full disk is cut off first."""
        missing = [key for key in ROUND_KEYS if key not in row]
        if missing:
            raise ValueError(f"a row of rounds.jsonl needs {ROUND_KEYS}; this one lacks {missing}")
        line = _line(row)
        if _torn(self.path):
            self._rewrite(_lines(self.path))
        with self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def truncate(self, after_round: int) -> None:
        """Keep only rounds up to `after_round`, byte for byte; the file is replaced at once or not at all."""
        if self.path.exists():
            self._rewrite(line for line in _lines(self.path) if json.loads(line)["round"] <= after_round)

    def _rewrite(self, lines: Iterator[bytes]) -> None:
        _replace(self.path, b"".join(line + b"\n" for line in lines))


def read(folder: Path | str) -> list[Row]:
    """The rounds of a run; an unfinished last line is left out. Raises ConfigError on damage further up."""
    path = Path(folder) / "rounds.jsonl"
    return [json.loads(line) for line in _lines(path)] if path.exists() else []


def write_json_atomic(path: Path | str, obj: Any) -> None:
    """Write strict JSON (NaN and infinities become null); `path` holds the old text or the new."""
    text = json.dumps(strict(obj), allow_nan=False, indent=2) + "\n"
    _replace(Path(path), text.encode())


def write_summary(folder: Path | str, summary: Summary) -> None:
    """Write `folder/summary.json`, keys in the order of the contract."""
    write_json_atomic(Path(folder) / "summary.json", _ordered_summary(summary))


def strict(value: Any) -> Any:
    """`value` in JSON's own types: foreign numbers unboxed, paths as text, NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        return strict(value.item())
    return value


def _line(row: Mapping[str, Any]) -> str:
    first = [key for key in ROUND_KEYS if key not in _LAST]
    try:
        text = _to_json(_ordered(dict(row), first))
    except (TypeError, ValueError):  # something that JSON does not know
        text = _to_json(_ordered(strict(row), first))
    return text + "\n"


def _ordered_summary(summary: Summary) -> dict[str, Any]:
    return _ordered(strict(summary), [key for key in SUMMARY_KEYS if key not in _LAST])


def _ordered(record: dict[str, Any], first: list[str]) -> dict[str, Any]:
    """Keys of the contract, then others by name, then the long maps with their sites in natural order."""
    others = sorted(key for key in record if key not in first and key not in _LAST)
    ordered = {key: record[key] for key in [*first, *others] if key in record}
    maps = {key: dict(record[key]) for key in _LAST if isinstance(record.get(key), Mapping)}
    if "sites" in maps:
        maps["sites"] = {site: _ordered_site(values) for site, values in maps["sites"].items()}
    return ordered | {key: {site: sites[site] for site in natural(sites)} for key, sites in maps.items()}


def _ordered_site(values: dict[str, Any]) -> dict[str, Any]:
    others = sorted(key for key in values if key not in SITE_KEYS)
    return {key: values[key] for key in [*SITE_KEYS, *others] if key in values}


def _torn(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _lines(path: Path) -> Iterator[bytes]:
    """The lines that hold a round. Only the last may be damaged: that is all a killed process leaves."""
    lines = path.read_bytes().split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, 1):
        if _is_row(line):
            yield line
        elif number < len(lines):
            raise ConfigError(
                f"{path}: expected a JSON object with a round in line {number}, found {line[:60]!r}; "
                "restore the file, or delete it and start the run again"
            )


def _is_row(line: bytes) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return isinstance(row, dict) and isinstance(row.get("round"), int)


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where folders can be opened at all."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
