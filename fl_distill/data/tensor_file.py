"""Tensors of the user's own, in a safetensors file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from fl_distill.checks import whole
from fl_distill.data.augment import Augment, as_augment
from fl_distill.data.checks import as_names, check_declared, check_path
from fl_distill.data.columns import STANDARDISE, Columns, gaps
from fl_distill.data.pixels import PerChannel, Pixels, per_channel
from fl_distill.data.types import Encoder, Source, Split
from fl_distill.errors import DataError

CLASSES = ("unlabelled",)
FORMS = "uint8 images (N, C, H, W) or a table of floats (N, columns)"


@final
@dataclass(frozen=True)
class TensorFile:
    """A safetensors file with `x`, uint8 images (N, C, H, W) or a table of floats (N, columns), and perhaps `y`.

    `y` (N), int64, holds classes, named by `classes`, else by their numbers; without it all rows are of one
    class. There is no test split. `mean` and `std` are for images; in tables NaN is a missing value, columns
    are called 0, 1, 2, … and `standardise` is by each site's statistics (site), by all sites' (federated), by the
    public rows' (public), or none. `shape` is that of a row, (C, H, W) or (columns,); null: whatever the file holds.
    """

    path: str
    classes: Sequence[str] | None = None
    mean: PerChannel = 0.5
    std: PerChannel = 0.5
    standardise: str = "federated"
    shape: Sequence[int] | None = None
    augment: Augment | Mapping[str, Any] = field(default_factory=Augment)

    def __post_init__(self) -> None:
        check_path(self.path)
        if self.classes is not None:
            object.__setattr__(self, "classes", as_names(self.classes, "classes"))
        if self.standardise not in STANDARDISE:
            raise ValueError(f"standardise must be one of {', '.join(STANDARDISE)}, got {self.standardise!r}")
        if self.shape is not None and not (len(self.shape) in (1, 3) and all(map(whole, self.shape))):
            raise ValueError(f"shape must be [channels, height, width] or [columns], got {self.shape!r}")
        as_augment(self.augment)
        Pixels(per_channel(self.mean, "mean"), per_channel(self.std, "std"))

    def load(self) -> Source:
        """The rows of the file, shared with other processes that read it."""
        file = Path(self.path).expanduser()
        held = _read(file)
        x = _checked(held["x"], file)
        if self.shape is not None and tuple(x.shape[1:]) != tuple(self.shape):
            raise DataError(
                f"{file}: expected rows of shape {tuple(self.shape)}, found {tuple(x.shape[1:])}; "
                "correct the file, or dataset.shape"
            )
        image = x.ndim == 4
        encoder = self._pixels(x, file) if image else self._columns(x)
        y, classes = self._labels(held.get("y"), len(x), file)
        augment = as_augment(self.augment)
        if augment and not image:
            raise DataError(f"{file}: holds a table, which has no images: dataset.augment must be off")
        return Source(Split(x, y), None, classes, encoder, image=image, augment=augment)

    def form(self) -> Source:
        """No row, of the form that the settings declare; DataError for settings that are left to the file."""
        check_declared(classes=self.classes, shape=self.shape)
        shape = tuple(self.shape or ())
        image = len(shape) == 3
        x = torch.empty((0, *shape), dtype=torch.uint8 if image else torch.float64)
        encoder = self._pixels(x, Path(self.path)) if image else self._columns(x)
        empty, augment = Split(x, torch.empty(0, dtype=torch.int64)), as_augment(self.augment)
        return Source(empty, None, tuple(self.classes or ()), encoder, image=image, augment=augment)

    def _labels(self, y: Tensor | None, count: int, file: Path) -> tuple[Tensor, tuple[str, ...]]:
        if y is None:
            return torch.zeros(count, dtype=torch.int64), CLASSES
        if y.dtype != torch.int64 or tuple(y.shape) != (count,):
            raise DataError(
                f"{file}: expected 'y' as int64 of shape ({count},), one class for each row of 'x', "
                f"found {_kind(y)}; write it again, or leave it out"
            )
        classes = self.classes or [str(number) for number in range(int(y.max()) + 1)]
        if y.min() < 0 or y.max() >= len(classes):
            wrong = int(y.min()) if y.min() < 0 else int(y.max())
            raise DataError(
                f"{file}: expected classes in 'y' from 0 to {max(len(classes) - 1, 0)}, found {wrong}; "
                "correct the file, or dataset.classes"
            )
        return y, tuple(classes)

    def _pixels(self, x: Tensor, file: Path) -> Encoder:
        encoder = Pixels(per_channel(self.mean, "mean"), per_channel(self.std, "std"))
        for name, numbers in (("mean", encoder.mean), ("std", encoder.std)):
            if len(numbers) not in (1, x.shape[1]):
                raise DataError(
                    f"{file}: expected one number in dataset.{name}, or one for each of {x.shape[1]} channels, "
                    f"found {len(numbers)}"
                )
        return encoder

    def _columns(self, x: Tensor) -> Encoder:
        return Columns(tuple(map(str, range(x.shape[1]))), (), gaps(x), self.standardise)


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors `x` and, where there is one, `y`, mapped from the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            names = sorted(opened.keys())
            held = {name: opened.get_tensor(name) for name in ("x", "y") if name in names}
    except (OSError, RuntimeError, SafetensorError) as cause:
        raise DataError(
            f"{file}: expected a safetensors file, but it cannot be read ({cause}); set dataset.path, "
            "or write the file again"
        ) from cause
    if "x" not in held:
        raise DataError(f"{file}: expected a tensor 'x' ({FORMS}), found {', '.join(names) or 'no tensor'}; rename it")
    return held


def _checked(x: Tensor, file: Path) -> Tensor:
    """`x` as it is stored: images as they are, tables as float64."""
    image = x.ndim == 4 and x.dtype == torch.uint8
    if not (image or (x.ndim == 2 and x.is_floating_point())) or 0 in x.shape:
        raise DataError(f"{file}: expected 'x' as {FORMS}, with at least one row, found {_kind(x)}; write it again")
    if image:
        return x
    table = x.double()
    if table.isinf().any():
        raise DataError(f"{file}: expected finite numbers in 'x', or NaN where a value is missing, found infinity")
    return table


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
