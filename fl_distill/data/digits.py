"""The bundled 8x8 digits."""

import gzip
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch

from fl_distill.data.augment import Augment, as_augment
from fl_distill.data.pixels import Pixels
from fl_distill.data.types import Source, Split

Pairs = tuple[npt.NDArray[Any], npt.NDArray[Any]]


@final
@dataclass(frozen=True)
class Digits:
    """scikit-learn's 1,797 handwritten digits, 1x8x8, values 0 … 16; no official test split."""

    augment: Augment | Mapping[str, Any] = field(default_factory=Augment)

    def __post_init__(self) -> None:
        as_augment(self.augment)

    def load(self) -> Source:
        """All digits with their labels."""
        images, labels = _bundled() or _imported()
        x = torch.from_numpy(images.reshape(-1, 1, 8, 8).astype(np.uint8))
        return Source(
            train=Split(x, torch.from_numpy(labels.astype(np.int64))),
            test=None,
            classes=tuple("0123456789"),
            encoder=Pixels(mean=(0.3053,), std=(0.3761,), scale=16.0),
            augment=as_augment(self.augment),
        )


def _bundled() -> Pairs | None:
    """The file inside the installed scikit-learn: importing the library takes far longer than this."""
    spec = importlib.util.find_spec("sklearn")
    for place in (spec.submodule_search_locations or []) if spec else []:
        file = Path(place) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with gzip.open(file, "rt") as lines:
                table = np.loadtxt(lines, delimiter=",", dtype=np.float64)
            return table[:, :64], table[:, 64]
    return None


def _imported() -> Pairs:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.data, bunch.target
