"""Take public and test rows out of CSV files, one a site, as for a deployment where each site keeps its own file.

    python scripts/share_tables.py SOURCE TARGET --public 0.2 --test 0.2 --seed 0

reads SOURCE/*.csv, which must begin with the same line of names, and writes TARGET/sites/*.csv, TARGET/public.csv and
TARGET/test.csv: each row of each file once, in the order and with the text that it had. Each site gives the same part
of its rows, drawn from the seed and the site's name, rounded down.
"""

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from fl_distill.seeds import derive


def share(source: Path, target: Path, public: float, test: float, seed: int) -> None:
    """Write `target`, which must not exist or be empty; ValueError says what is wrong."""
    if not (public >= 0 and test >= 0 and public + test < 1):
        raise ValueError(f"public and test must be >= 0 and leave rows to the sites, not {public:g} and {test:g}")
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{target}: expected no such folder, or an empty one, found files; choose another")
    tables = {file.name: list(records(file)) for file in sorted(source.glob("*.csv"))}
    if not tables:
        raise ValueError(f"{source}: expected *.csv, one file a site, found none")
    (first, (names, *_)), *_ = tables.items()
    if others := [name for name, (found, *_) in tables.items() if found != names]:
        raise ValueError(f"{', '.join(others)}: expected the first line of {first}, {names!r}, found another")
    parts = {name: _split(rows, public, test, derive(seed, "share", name)) for name, (_, *rows) in tables.items()}
    for place, which in (("public.csv", 0), ("test.csv", 1)):
        _write(target / place, names, [row for part in parts.values() for row in part[which]])
    for name, part in parts.items():
        _write(target / "sites" / name, names, part[2])


def records(file: Path) -> Iterator[str]:
    """The records of a CSV file with their text, but for the ends of lines; a quoted cell may hold several lines."""
    record = ""
    for line in io.StringIO(file.read_bytes().decode("utf-8-sig"), newline=""):
        record += line
        if record.count('"') % 2 == 0:
            if record.strip():
                yield record.rstrip("\r\n")
            record = ""
    if record.strip():
        raise ValueError(f"{file}: expected a closing quotation mark, found the end of the file")


def _split(rows: Sequence[str], public: float, test: float, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Public rows, test rows and the rest, each in the order of `rows`."""
    order = np.random.default_rng(seed).permutation(len(rows))
    first, second = int(len(rows) * public), int(len(rows) * test)
    cut = np.split(order, [first, first + second])
    shared, tested, rest = ([rows[row] for row in sorted(part)] for part in cut)
    return shared, tested, rest


def _write(file: Path, names: str, rows: Sequence[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes("".join(f"{record}\n" for record in (names, *rows)).encode())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--public", type=float, default=0.2)
    parser.add_argument("--test", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    try:
        share(asked.source, asked.target, asked.public, asked.test, asked.seed)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
