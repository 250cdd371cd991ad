"""The public and the test set from elsewhere: rows of another source, in the form of the dataset."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fl_distill.data.deal import Rows
from fl_distill.data.foreign import adopt
from fl_distill.data.types import Shared, Source, Split
from fl_distill.errors import DataError
from fl_distill.seeds import derive

SHOWN = 20


def adopted_public(guest: Source, home: Source, most: int | None, seed: int, *, labels: bool) -> Shared:
    """At most `most` training rows of `guest`, drawn evenly, as `home` stores its own.

    Without `labels` all labels are -1. DataError when the rows do not fit, or with `labels` the classes.
    """
    rows = torch.from_numpy(evenly(len(guest.train), most, seed))
    x = adopt(guest, home, rows, "public set")
    nobody = torch.full((len(x),), -1)
    y = _labels(guest.train.y[rows], guest, home, "public set") if labels else nobody
    return Shared(Split(x, y), nobody)


def adopted_test(guest: Source, home: Source) -> Shared:
    """The official test split of `guest`, else all its rows, as `home` stores its own.

    DataError when the rows do not fit, or the classes.
    """
    split = guest.train if guest.test is None else guest.test
    x = adopt(replace(guest, train=split), home, torch.arange(len(split)), "test set")
    return Shared(Split(x, _labels(split.y, guest, home, "test set")), torch.full((len(x),), -1))


def evenly(count: int, most: int | None, seed: int) -> Rows:
    """At most `most` of the rows 0 … count - 1, ascending: one drawn from each of `most` equal stretches."""
    if most is None or count <= most:
        return np.arange(count)
    edges = np.arange(most + 1) * count // most
    return np.random.default_rng(derive(seed, "data", "public", "examples")).integers(edges[:-1], edges[1:])


def _labels(y: Tensor, guest: Source, home: Source, what: str) -> Tensor:
    """Indices into guest's classes as indices into home's, by name."""
    strange = [name for name in guest.classes if name not in home.classes]
    if strange:
        raise DataError(
            f"the {what}: expected the dataset's classes, {_some(home.classes)}, found {_some(strange)}; choose "
            "one whose labels mean the same, or give its classes the same names in its settings"
        )
    return torch.tensor([home.classes.index(name) for name in guest.classes])[y]


def _some(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" …" if len(names) > SHOWN else "")
