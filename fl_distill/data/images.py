"""Image sets from parquet files or the hub, decoded once."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from fl_distill.data import cache
from fl_distill.data.augment import Augment, as_augment
from fl_distill.data.checks import as_names, check_declared, check_path
from fl_distill.data.decode import decode
from fl_distill.data.hub import read_hub
from fl_distill.data.parquet import Rows, read_parquet
from fl_distill.data.pixels import PerChannel, Pixels, per_channel
from fl_distill.data.types import Source, Split
from fl_distill.errors import DataError

Size = int | Sequence[int]
Classes = tuple[str, ...]


@final
@dataclass(frozen=True)
class ImageTable:
    """A Hugging Face image set: a folder of `train*.parquet` and `test*.parquet`, else the hub's `hub`.

    Columns are found by name and type unless `image_column` and `label_column` name them; class names come
    from `classes`, else from the files, else they are numbers. `size` (one number or height and width)
    brings all images to one size, `channels` makes them grey (1) or coloured (3).
    """

    path: str | None = None
    hub: str | None = None
    name: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    classes: Sequence[str] | None = None
    mean: PerChannel = 0.5
    std: PerChannel = 0.5
    size: Size | None = None
    channels: int | None = None
    augment: Augment | Mapping[str, Any] = field(default_factory=Augment)

    def __post_init__(self) -> None:
        if not self.path and not self.hub:
            raise ValueError(f"dataset {self._title}: expected a path or a hub name, got neither")
        if self.path is not None:
            check_path(self.path)
        if self.classes is not None:
            object.__setattr__(self, "classes", as_names(self.classes, "classes"))
        as_augment(self.augment)
        as_size(self.size)
        check_channels(self.channels)
        Pixels(per_channel(self.mean, "mean"), per_channel(self.std, "std"))

    def load(self) -> Source:
        """Every image, from the cache when the files have not changed since they were last decoded."""
        folder = Path(self.path).expanduser() if self.path else None
        if folder is not None and folder.is_dir():
            train, test, classes = self._local(folder)
        elif self.hub is None:
            raise DataError(
                f"{self._title}: expected a folder of parquet files at {folder}, found none; "
                "set dataset.path, or FL_DISTILL_DATA to the folder that holds your datasets"
            )
        else:
            missing = f"{self._title}: there is no folder {folder}" if folder else f"{self._title}: no path is set"
            train, test, classes = self._decode(read_hub(self.hub, self.image_column, self.label_column, missing))
        encoder = Pixels(per_channel(self.mean, "mean"), per_channel(self.std, "std"))
        return Source(train, test, classes, encoder, augment=as_augment(self.augment))

    def form(self) -> Source:
        """No row, of the form that the settings declare; DataError for settings that are left to the files."""
        encoder = Pixels(per_channel(self.mean, "mean"), per_channel(self.std, "std"))
        return no_images(self.classes, self.size, self.channels, encoder, as_augment(self.augment))

    @property
    def _title(self) -> str:
        return self.name or self.hub or str(self.path)

    def _local(self, folder: Path) -> "Decoded":
        files = {split: sorted(folder.rglob(f"{split}*.parquet")) for split in ("train", "test")}
        if not files["train"]:
            raise DataError(f"{folder}: expected train*.parquet, found none; set dataset.path to their folder")
        settings = (self.image_column, self.label_column, as_size(self.size), self.channels, self.classes)
        states = cache.fingerprint([*files["train"], *files["test"]], folder)

        def make() -> Decoded:
            return self._decode(
                {
                    split: read_parquet(paths, self.image_column, self.label_column)
                    for split, paths in files.items()
                    if paths
                }
            )

        return remembered(cache.key("images", folder.resolve(), states, settings), make)

    def _decode(self, splits: Mapping[str, Rows]) -> "Decoded":
        classes = self._classes(splits)
        train = self._split(splits["train"], classes, None)
        if "test" not in splits:
            return train, None, classes
        return train, self._split(splits["test"], classes, train.x), classes

    def _classes(self, splits: Mapping[str, Rows]) -> Classes:
        if self.classes is not None:
            return tuple(self.classes)
        named = splits["train"].classes
        highest = max((max(rows.labels, default=0) for rows in splits.values()), default=0)
        return named or tuple(str(number) for number in range(highest + 1))

    def _split(self, rows: Rows, classes: Classes, like: Tensor | None) -> Split:
        """The decoded split; `like` gives the shape that an earlier split has set."""
        for index, label in enumerate(rows.labels):
            if not 0 <= label < len(classes):
                raise DataError(
                    f"{rows.place(index)}: expected a label from 0 to {len(classes) - 1}, found {label}; "
                    "correct the file, or dataset.classes"
                )
        size, channels = as_size(self.size), self.channels
        x = decode(len(rows.labels), rows.blobs.__getitem__, rows.place, size, channels or _channels(like))
        if like is not None and x.shape[1:] != like.shape[1:]:
            raise DataError(
                f"{rows.place(0)}: expected images of {tuple(like.shape[1:])} as in the training split, "
                f"found {tuple(x.shape[1:])}; set dataset.size"
            )
        return Split(x, torch.tensor(rows.labels, dtype=torch.int64))


Decoded = tuple[Split, Split | None, Classes]


def _channels(like: Tensor | None) -> int | None:
    return None if like is None else like.shape[1]


def as_size(size: Size | None) -> tuple[int, int] | None:
    """(height, width) from one number or two; ValueError when it is neither."""
    if size is None:
        return None
    numbers = (size, size) if isinstance(size, int) else tuple(size)
    if len(numbers) != 2 or any(not isinstance(number, int) or number < 1 for number in numbers):
        raise ValueError(f"size must be one whole number of pixels or [height, width], got {size!r}")
    return numbers[0], numbers[1]


def check_channels(channels: int | None) -> None:
    """ValueError unless images can have so many channels."""
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 (grey), 3 (colour) or null (as the files), got {channels!r}")


def no_images(
    classes: Sequence[str] | None, size: Size | None, channels: int | None, encoder: Pixels, augment: Augment
) -> Source:
    """A source without images; DataError unless classes, size and channels are declared."""
    check_declared(classes=classes, size=size, channels=channels)
    x = torch.empty((0, channels or 0, *(as_size(size) or ())), dtype=torch.uint8)
    empty = Split(x, torch.empty(0, dtype=torch.int64))
    return Source(empty, None, tuple(classes or ()), encoder, augment=augment)


def remembered(name: str, make: Callable[[], Decoded]) -> Decoded:
    """What `make` decodes, or what it decoded the last time."""
    name = f"{name}-pillow{version('pillow')}"  # another decoder may give other pixels
    entry = cache.read(name)
    if entry is not None and {"train.x", "train.y"} <= set(entry.tensors) and "classes" in entry.words:
        held = entry.tensors
        test = Split(held["test.x"], held["test.y"]) if "test.x" in held else None
        return Split(held["train.x"], held["train.y"]), test, tuple(json.loads(entry.words["classes"]))
    train, test, classes = make()
    tensors = {"train.x": train.x, "train.y": train.y}
    if test is not None:
        tensors |= {"test.x": test.x, "test.y": test.y}
    cache.write(name, cache.Entry(tensors, {"classes": json.dumps(classes)}))
    return train, test, classes
