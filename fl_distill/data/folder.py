"""Image files in one folder per class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch

from fl_distill.data import cache
from fl_distill.data.augment import Augment, as_augment
from fl_distill.data.checks import as_names, check_path
from fl_distill.data.decode import decode
from fl_distill.data.images import Decoded, Size, as_size, check_channels, no_images, remembered
from fl_distill.data.pixels import PerChannel, Pixels, per_channel
from fl_distill.data.types import Source, Split
from fl_distill.errors import DataError

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


@final
@dataclass(frozen=True)
class ImageFolder:
    """`path/train/<class>/*` with `path/test/<class>/*`, or `path/<class>/*` without a test split.

    All images are brought to `size` (one number or height and width) and to `channels` (1 or 3; null: as
    the first image). Without `classes` every folder is a class, and needs images; with them a class may lack
    its folder.
    """

    path: str
    size: Size = 32
    channels: int | None = None
    mean: PerChannel = 0.5
    std: PerChannel = 0.5
    classes: Sequence[str] | None = None
    augment: Augment | Mapping[str, Any] = field(default_factory=Augment)

    def __post_init__(self) -> None:
        check_path(self.path)
        if self.size is None:
            raise ValueError("size must be one whole number of pixels or [height, width], got null")
        if self.classes is not None:
            object.__setattr__(self, "classes", as_names(self.classes, "classes"))
        as_size(self.size)
        as_augment(self.augment)
        check_channels(self.channels)
        Pixels(per_channel(self.mean, "mean"), per_channel(self.std, "std"))

    def load(self) -> Source:
        """Every image, from the cache when the files have not changed since they were last decoded."""
        root = Path(self.path).expanduser()
        train = root / "train" if (root / "train").is_dir() else root
        classes = _class_names(train) if self.classes is None else tuple(self.classes)
        files = {"train": _files(train, classes, self.classes is not None)}
        if train != root and (root / "test").is_dir():
            files["test"] = _files(root / "test", classes, self.classes is not None)
        states = cache.fingerprint([file for split in files.values() for file, _ in split], root)
        name = cache.key("folder", root.resolve(), states, as_size(self.size), self.channels, self.classes)
        train_split, test_split, _ = remembered(name, lambda: self._decode(files, classes))
        encoder = Pixels(per_channel(self.mean, "mean"), per_channel(self.std, "std"))
        return Source(train_split, test_split, classes, encoder, augment=as_augment(self.augment))

    def form(self) -> Source:
        """No row, of the form that the settings declare; DataError for settings that are left to the files."""
        encoder = Pixels(per_channel(self.mean, "mean"), per_channel(self.std, "std"))
        return no_images(self.classes, self.size, self.channels, encoder, as_augment(self.augment))

    def _decode(self, files: Mapping[str, Sequence[tuple[Path, int]]], classes: tuple[str, ...]) -> Decoded:
        train = self._split(files["train"], self.channels)
        test = self._split(files["test"], train.x.shape[1]) if "test" in files else None
        return train, test, classes

    def _split(self, files: Sequence[tuple[Path, int]], channels: int | None) -> Split:
        paths = [path for path, _ in files]
        x = decode(
            len(paths),
            lambda index: paths[index].read_bytes(),
            lambda index: str(paths[index]),
            as_size(self.size),
            channels,
        )
        return Split(x, torch.tensor([label for _, label in files], dtype=torch.int64))


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with one folder per class, found none; set dataset.path")
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
    if not names:
        raise DataError(f"{folder}: expected one folder per class with images in it, found no folder")
    return names


def _files(folder: Path, classes: tuple[str, ...], declared: bool) -> list[tuple[Path, int]]:
    """Each image and its class; of `declared` classes some may have no images, but not all."""
    extra = sorted(set(_class_names(folder)) - set(classes))
    if extra and declared:
        raise DataError(
            f"{folder}: expected folders named like classes ({', '.join(classes)}), found {', '.join(extra)}; "
            "add it to dataset.classes, or remove it"
        )
    if extra:
        raise DataError(f"{folder}: class {', '.join(extra)} has no training images; add some or remove it")
    found = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((folder / name).rglob("*"))
        if file.suffix.lower() in ENDINGS and file.is_file()
    ]
    empty = [name for label, name in enumerate(classes) if not any(label == other for _, other in found)]
    if ((empty and not declared) or not found) and folder.name != "test":
        raise DataError(f"{folder / empty[0]}: expected images ({', '.join(sorted(ENDINGS))}), found none")
    return found
