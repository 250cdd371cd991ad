"""Random crops of a few photographs."""

import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fl_distill.checks import require, whole
from fl_distill.data import cache
from fl_distill.data.augment import Augment, as_augment
from fl_distill.data.checks import as_names
from fl_distill.data.images import Decoded, Size, as_size, remembered
from fl_distill.data.pixels import Pixels
from fl_distill.data.types import Source, Split
from fl_distill.errors import DataError
from fl_distill.seeds import derive

BUNDLED = ("china.jpg", "flower.jpg")
CLASSES = ("unlabelled",)
Numbers = npt.NDArray[np.int64]


@final
@dataclass(frozen=True)
class Crops:
    """`count` crops of natural images: unlabelled examples for distillation where nobody has a public set.

    Each crop is cut from one of the images at a random place, is between `size` (one number or height and
    width, in pixels) and as large as the image allows, all factors of enlargement equally likely on a log
    scale, is mirrored or not, and then brought to `size`. The same `seed` gives the same crops. `paths` are
    image files; null takes the two photographs that come with scikit-learn.

    One image is enough to learn from (Asano et al., arXiv 1904.13132), and for federated distillation too
    (Soni et al., arXiv 2406.12658, who distill as FedDF does: Lin et al., arXiv 2006.07242).
    """

    paths: Sequence[str] | None = None
    count: int = 5000
    size: Size = 32
    seed: int = 0
    augment: Augment | Mapping[str, Any] = field(default_factory=Augment)

    def __post_init__(self) -> None:
        if self.paths is not None:
            object.__setattr__(self, "paths", as_names(self.paths, "paths"))
        require(
            (self.paths is None or len(self.paths) > 0, "dataset.paths must name image files, or be null; got []"),
            (whole(self.count), f"dataset.count must be a whole number >= 1, got {self.count!r}"),
            (whole(self.seed, 0), f"dataset.seed must be a whole number >= 0, got {self.seed!r}"),
            (self.size is not None, "size must be one whole number of pixels or [height, width], got null"),
        )
        as_size(self.size)
        as_augment(self.augment)

    def load(self) -> Source:
        """All crops, from the cache when the same were cut before; one class, no test split."""
        files = _bundled() if self.paths is None else [Path(path).expanduser() for path in self.paths]
        blobs = {file: _read(file) for file in files}
        name = cache.key("crops", *blobs.values(), self.count, as_size(self.size), self.seed, version("numpy"))
        train, test, classes = remembered(name, lambda: self._cut(blobs))
        return Source(train, test, classes, Pixels(mean=(0.5,), std=(0.5,)), augment=as_augment(self.augment))

    def _cut(self, blobs: Mapping[Path, bytes]) -> Decoded:
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        images = [_open(file, blob) for file, blob in blobs.items()]
        rng = np.random.default_rng(derive(self.seed, "crops"))
        which = rng.integers(len(images), size=self.count)
        sizes = np.array([image.size for image in images])[which]
        boxes = _boxes(sizes, (width, height), rng)
        mirrored = rng.random(self.count) < 0.5
        out = np.empty((self.count, height, width, 3), dtype=np.uint8)
        for index, (image, box, flip) in enumerate(zip(which, boxes.tolist(), mirrored, strict=True)):
            pixels = np.asarray(_resized(images[image], (width, height), box))
            out[index] = pixels[:, ::-1] if flip else pixels
        return Split(_channels_first(out), torch.zeros(self.count, dtype=torch.int64)), None, CLASSES


def _boxes(sizes: Numbers, wanted: tuple[int, int], rng: np.random.Generator) -> Numbers:
    """Left, top, right and bottom (n, 4), in whole pixels, of a box of the shape of `wanted` in each of `sizes` (n, 2).

    The side is wanted · f with log f uniform between 0 and the log of the largest factor that fits; an image
    smaller than `wanted` gives its largest box.
    """
    largest = (sizes / np.array(wanted)).min(axis=1)
    factors = np.minimum(1, largest) * np.maximum(1, largest) ** rng.random(len(sizes))
    sides = np.clip(np.rint(factors[:, None] * wanted), 1, sizes).astype(np.int64)
    corners = rng.integers(0, sizes - sides, endpoint=True)
    return np.concatenate([corners, corners + sides], axis=1)


def _resized(image: Any, size: tuple[int, int], box: list[int]) -> Any:
    from PIL import Image

    return image.resize(size, Image.Resampling.BILINEAR, box=box)


def _channels_first(pictures: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def _bundled() -> list[Path]:
    """The photographs inside the installed scikit-learn, which is not imported for it."""
    spec = importlib.util.find_spec("sklearn")
    folders = [Path(place) / "datasets" / "images" for place in (spec.submodule_search_locations or [] if spec else [])]
    for folder in folders:
        if all((folder / name).is_file() for name in BUNDLED):
            return [folder / name for name in BUNDLED]
    raise DataError(
        f"expected {' and '.join(BUNDLED)} in the installed scikit-learn, found none; "
        "set dataset.paths to images of your own"
    )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as cause:
        raise DataError(f"{file}: expected an image file, found none ({cause}); set dataset.paths") from cause


def _open(file: Path, blob: bytes) -> Any:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(blob)) as image:
            return image.convert("RGB")
    except Exception as cause:  # a broken file makes Pillow raise almost anything, SyntaxError included
        raise DataError(
            f"{file}: expected a complete image, but it cannot be decoded ({cause}); replace it or change dataset.paths"
        ) from cause
