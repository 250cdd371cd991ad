"""CSV files as columns of text, and text as numbers or categories."""

import csv
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from fl_distill.data.moments import Column
from fl_distill.errors import DataError


@final
@dataclass(frozen=True)
class Frame:
    """One CSV file: its cells column by column, stripped, and the line that each row ends on."""

    file: str
    cells: Mapping[str, tuple[str, ...]]
    lines: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.lines)

    def column(self, name: str) -> tuple[str, ...]:
        """The cells of a column; DataError when the file does not have it."""
        if name not in self.cells:
            raise DataError(
                f"{self.file}: expected a column '{name}', found {', '.join(self.cells)}; "
                "correct the names in the dataset's settings, or set dataset.header when the file has none"
            )
        return self.cells[name]

    def fault(self, name: str, row: int, expected: str, advice: str) -> DataError:
        """What to raise for the cell of column `name` in `row`."""
        found = self.cells[name][row]
        return DataError(
            f"{self.file}, line {self.lines[row]}, column '{name}': expected {expected}, found '{found}'; {advice}"
        )


def read_csv(file: Path, header: Sequence[str] | None, delimiter: str) -> Frame:
    """The file's cells; without `header` its first line names the columns."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True, strict=True)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as cause:
        raise DataError(f"{file}: expected a CSV file in UTF-8, but it cannot be read ({cause})") from cause
    names = list(header) if header is not None else [cell.strip() for cell in rows[0][1]] if rows else []
    body = rows if header is not None else rows[1:]
    if not body:
        raise DataError(f"{file}: expected rows of data, found none; add rows or remove the file")
    if len(set(names)) < len(names):
        raise DataError(f"{file}: expected distinct column names, found {', '.join(names)}; rename the doubles")
    for line, row in body:
        if len(row) != len(names):
            raise DataError(
                f"{file}, line {line}: expected {len(names)} cells ({', '.join(names)}), found {len(row)}; "
                "correct the line, dataset.header or dataset.delimiter"
            )
    columns = zip(*([cell.strip() for cell in row] for _, row in body), strict=True)
    return Frame(str(file), dict(zip(names, columns, strict=True)), tuple(line for line, _ in body))


def numbers(frame: Frame, name: str, missing: Collection[str], zero_missing: bool = False) -> Column:
    """A column as float64, NaN where a cell is one of `missing` (or 0, if `zero_missing`)."""
    cells = frame.column(name)
    values = np.empty(len(cells), dtype=np.float64)
    for row, cell in enumerate(cells):
        values[row] = math.nan if cell in missing else _number(frame, name, row)
    return np.where(values == 0.0, math.nan, values) if zero_missing else values


def _number(frame: Frame, name: str, row: int) -> float:
    try:
        value = float(frame.cells[name][row])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        advice = "add the text to dataset.missing, or the column to dataset.categorical"
        raise frame.fault(name, row, "a finite number", advice)
    return value


def category(cell: str) -> str:
    """A category's one spelling: '1.0' and '1' are the same."""
    try:
        value = float(cell)
    except ValueError:
        return cell
    return str(int(value)) if math.isfinite(value) and value.is_integer() else cell


def levels(frames: Sequence[Frame], name: str, missing: Collection[str]) -> tuple[str, ...]:
    """The categories that occur in a column of any file, numbers in order before words."""
    found = {category(cell) for frame in frames for cell in frame.column(name) if cell not in missing}
    return tuple(sorted(found, key=_order))


def _order(name: str) -> tuple[float, str]:
    try:
        return float(name), name
    except ValueError:
        return math.inf, name


def codes(frame: Frame, name: str, known: Sequence[str], missing: Collection[str]) -> Column:
    """A column as indices into the categories `known`, NaN where a cell is one of `missing`."""
    index = {level: float(code) for code, level in enumerate(known)}
    values = np.empty(len(frame), dtype=np.float64)
    for row, cell in enumerate(frame.column(name)):
        code = math.nan if cell in missing else index.get(category(cell))
        if code is None:
            advice = f"correct the cell, or add it to dataset.categorical.{name} or dataset.missing"
            raise frame.fault(name, row, f"one of {', '.join(known)}", advice)
        values[row] = code
    return values
