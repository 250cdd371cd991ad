"""CSV tables: one file, or one file per site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from fl_distill.data.augment import Augment, as_augment
from fl_distill.data.cells import Frame, category, codes, levels, numbers, read_csv
from fl_distill.data.checks import as_names, check_declared, check_path
from fl_distill.data.columns import STANDARDISE, Columns, gaps
from fl_distill.data.moments import Column
from fl_distill.data.types import Source, Split
from fl_distill.errors import DataError

Names = tuple[str, ...]


@final
@dataclass(frozen=True)
class Table:
    """A classification table in CSV: `path` is a file, or a folder or list of files, one for each site.

    numeric: names of columns with numbers; null takes every column that has no other duty.
    categorical: names of columns with categories, or a map name -> the categories allowed (null: any).
    header: column names, for files without a first line of names.
    threshold: class 1 where target > threshold, else 0; or labels: a map target value -> class name; else
    every value of the target is a class. classes: names of the classes, in the order of their values.
    missing: cells that mean "not known"; zero_missing: numeric columns where 0 means it too.
    standardise: numbers by each site's own statistics (site), by all sites' together (federated), by those of
    the public rows, which everybody holds (public), or none.
    """

    path: str | Sequence[str]
    target: str
    numeric: Sequence[str] | None = None
    categorical: Sequence[str] | Mapping[str, Sequence[Any] | None] | None = ()
    header: Sequence[str] | None = None
    threshold: float | None = None
    labels: Mapping[Any, str] | None = None
    classes: Sequence[str] | None = None
    missing: Sequence[str] = ("?", "")
    zero_missing: Sequence[str] = ()
    standardise: str = "federated"
    delimiter: str = ","
    augment: Augment | Mapping[str, Any] = field(default_factory=Augment)

    def __post_init__(self) -> None:
        for path in [self.path] if isinstance(self.path, str) else as_names(self.path, "path") or [""]:
            check_path(path)
        for name in ("numeric", "categorical", "header", "classes", "missing", "zero_missing"):
            if getattr(self, name) is not None:
                as_names(getattr(self, name), name)
        if self.standardise not in STANDARDISE:
            raise ValueError(f"standardise must be one of {', '.join(STANDARDISE)}, got {self.standardise!r}")
        if self.threshold is not None and self.labels is not None:
            raise ValueError("set either threshold or labels for the target, not both")
        if self.threshold is not None and self.classes is not None and len(self.classes) != 2:
            raise ValueError(f"a threshold makes 2 classes, got {len(self.classes)} names in classes")
        if len(self.delimiter) != 1:
            raise ValueError(f"delimiter must be one character, got {self.delimiter!r}")
        if as_augment(self.augment):
            raise ValueError("a table has no images: augment must be off (crop 0, flip false)")
        self._check_columns()

    def _check_columns(self) -> None:
        used = [self.target, *(self.numeric or ()), *(self.categorical or ())]
        twice = sorted({name for name in used if used.count(name) > 1})
        if twice:
            raise ValueError(f"each column has one duty, but {', '.join(twice)} is named twice")
        if self.numeric is not None and not self.numeric and not self.categorical:
            raise ValueError("a table needs columns to learn from: name some under numeric or categorical")
        wanted = [*used, *self.zero_missing] if self.header is not None else []
        unknown = [name for name in wanted if name not in (self.header or ())]
        if unknown:
            raise ValueError(f"header does not name {', '.join(unknown)}, which other settings use")

    def load(self) -> Source:
        """Every row; rows of a folder or list of files are owned by the sites named like the files."""
        files = self._files()
        header = None if self.header is None else tuple(self.header)
        frames = [read_csv(file, header, self.delimiter) for file in files]
        numeric = self._numeric(frames[0])
        known = {name: self._levels(frames, name) for name in self.categorical or ()}
        x = self._features(frames, numeric, known)
        y, classes = self._target(frames)
        encoder = Columns(numeric, tuple(known.values()), gaps(torch.from_numpy(x)), self.standardise)
        owners = tuple(file.stem for file, frame in zip(files, frames, strict=True) for _ in range(len(frame)))
        return Source(
            train=Split(torch.from_numpy(x), torch.from_numpy(y)),
            test=None,
            classes=classes,
            encoder=encoder,
            owners=owners if self._per_site() else None,
            image=False,
        )

    def form(self) -> Source:
        """No row, of the form that the settings declare; DataError for settings that are left to the files."""
        named = self.categorical or ()
        known = dict(named) if isinstance(named, Mapping) else dict.fromkeys(named)
        classes, kind = self._declared_classes, "labels (or dataset.threshold)"
        check_declared(**{"numeric": self.numeric, kind: classes}, **{f"categorical.{k}": v for k, v in known.items()})
        numeric = tuple(self.numeric or ())
        encoder = Columns(numeric, tuple(_declared(values or ()) for values in known.values()), (), self.standardise)
        x = torch.empty((0, len(numeric) + len(known)), dtype=torch.float64)
        return Source(Split(x, torch.empty(0, dtype=torch.int64)), None, classes or (), encoder, image=False)

    @property
    def _declared_classes(self) -> Names | None:
        """The classes that do not depend on the values found; None where they do."""
        if self.threshold is not None:
            return tuple(self.classes or ("0", "1"))
        return None if self.labels is None else tuple(dict.fromkeys(str(name) for name in self.labels.values()))

    def _per_site(self) -> bool:
        return not isinstance(self.path, str) or Path(self.path).expanduser().is_dir()

    def _files(self) -> list[Path]:
        given = [self.path] if isinstance(self.path, str) else list(self.path)
        paths = [Path(path).expanduser() for path in given]
        gone = [str(path) for path in paths if not path.exists()]
        if gone:
            raise DataError(
                f"{', '.join(gone)}: expected a CSV file or a folder of them, found nothing there; "
                "set dataset.path, or FL_DISTILL_DATA to the folder that holds your datasets"
            )
        files = [file for path in paths for file in (sorted(path.glob("*.csv")) if path.is_dir() else [path])]
        if not files:
            raise DataError(f"{', '.join(given)}: expected *.csv files, found none; set dataset.path")
        stems = [file.stem for file in files]
        if len(set(stems)) < len(stems):
            raise DataError(f"expected one file name for each site, found {', '.join(stems)}; rename the doubles")
        return files

    def _numeric(self, frame: Frame) -> Names:
        if self.numeric is not None:
            return tuple(self.numeric)
        return tuple(name for name in frame.cells if name != self.target and name not in (self.categorical or ()))

    def _levels(self, frames: Sequence[Frame], name: str) -> Names:
        declared = self.categorical.get(name) if isinstance(self.categorical, Mapping) else None
        if declared is not None:
            return _declared(declared)
        return levels(frames, name, self._missing)

    @property
    def _missing(self) -> frozenset[str]:
        return frozenset(self.missing)

    def _features(self, frames: Sequence[Frame], numeric: Names, known: Mapping[str, Names]) -> Column:
        columns = {
            name: [numbers(frame, name, self._missing, name in self.zero_missing) for frame in frames]
            for name in numeric
        } | {name: [codes(frame, name, known[name], self._missing) for frame in frames] for name in known}
        joined = {name: np.concatenate(parts) for name, parts in columns.items()}
        empty = [name for name, values in joined.items() if np.isnan(values).all()]
        if empty and self.standardise != "public":  # then the public rows must tell, and one site need not
            raise DataError(
                f"{', '.join(frame.file for frame in frames)}: expected values in column '{empty[0]}', "
                "found only missing cells in every row of every file; "
                "leave the column out of the dataset's settings"
            )
        return np.stack(list(joined.values()), axis=1)

    def _target(self, frames: Sequence[Frame]) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Names]:
        for frame in frames:
            for row, cell in enumerate(frame.column(self.target)):
                if cell in self._missing:
                    raise frame.fault(self.target, row, "a target", "remove the row or fill the cell")
        if self.threshold is not None:
            over = np.concatenate([numbers(frame, self.target, ()) for frame in frames]) > self.threshold
            return over.astype(np.int64), tuple(self.classes or ("0", "1"))
        values, names = self._values(frames)
        indices = np.concatenate([codes(frame, self.target, values, ()) for frame in frames]).astype(np.int64)
        order = np.array([list(dict.fromkeys(names)).index(name) for name in names])
        return order[indices], tuple(dict.fromkeys(names))

    def _values(self, frames: Sequence[Frame]) -> tuple[Names, Names]:
        """The target's values and, for each, the name of its class."""
        if self.labels is not None:
            values = tuple(category(str(value)) for value in self.labels)
            return values, tuple(str(name) for name in self.labels.values())
        found = levels(frames, self.target, ())
        names = tuple(str(name) for name in self.classes or found)
        if len(names) != len(found):
            raise DataError(
                f"{frames[0].file}: expected {len(names)} classes ({', '.join(names)}) in column "
                f"'{self.target}', found {len(found)} values ({', '.join(found[:20])}); "
                "correct dataset.classes or set dataset.labels"
            )
        return found, names


def _declared(values: Sequence[Any]) -> Names:
    return tuple(category(str(value)) for value in values)
