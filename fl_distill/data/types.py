"""What the data room hands out: splits, sources, sites and the federation of sites."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from fl_distill.data.augment import Augment

Encode = Callable[[Tensor, Tensor], Tensor]
"""Stored rows (N, …) and the site of each (N; -1: nobody's) to float32 rows that a model reads."""


class Encoder(Protocol):
    """How the stored rows of a source become what a model reads."""

    def fit(self, x: Tensor, parts: Sequence[Tensor], public: Tensor) -> Encode:
        """The encoding, fitted to `parts`: for each site, the indices into `x` of its training rows.

        `public` (P, …) are the stored rows of the public set, which every participant holds.
        """
        ...


@final
@dataclass(frozen=True, eq=False)
class Split:
    """Examples: `x` (N, …) and their class indices `y` (N), int64."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Tensor) -> "Split":
        """The examples at the indices `rows`, copied."""
        return Split(self.x[rows], self.y[rows])


@final
@dataclass(frozen=True, eq=False)
class Source:
    """A whole dataset as stored: images once as uint8 (N, C, H, W), tables as float64 (N, columns).

    `owners` names the natural site of each training row and `test_owners` of each test row, where there are
    natural sites. `test` is the official test split, None when the dataset has none.
    """

    train: Split
    test: Split | None
    classes: tuple[str, ...]
    encoder: Encoder
    owners: tuple[str, ...] | None = None
    test_owners: tuple[str, ...] | None = None
    image: bool = True
    augment: Augment = field(default_factory=Augment)


@runtime_checkable
class Declares(Protocol):
    """A dataset that knows the form of its rows from its settings alone."""

    def form(self) -> Source:
        """A source without rows; DataError for each setting that is left to the rows."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Site:
    """One participant's data, ready for a model."""

    name: str
    train: Split
    validation: Split
    test: Split


@final
@dataclass(frozen=True, eq=False)
class Parts:
    """A site's rows of the stored training data, by use."""

    train: Tensor
    validation: Tensor
    test: Tensor


@final
@dataclass(frozen=True, eq=False)
class Shared:
    """Stored rows that belong to no site, and the site whose statistics scale each row (-1: everyone's)."""

    rows: Split
    who: Tensor


@final
@dataclass(frozen=True, eq=False)
class Federation:
    """A dataset dealt to sites, with one shared test set and one public set that overlap no site's data.

    Rows stay in their stored form and become float32 when they are asked for: `site` builds anew at each
    call, `test` and `public` once.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    image: bool
    augment: Augment
    stored: Split = field(repr=False)
    parts: tuple[Parts, ...] = field(repr=False)
    shared_test: Shared = field(repr=False)
    shared_public: Shared = field(repr=False)
    encode: Encode = field(repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def site(self, index: int) -> Site:
        """The site at `index` (0 … len - 1), gathered now."""
        if not 0 <= index < len(self.names):
            raise IndexError(f"site index {index} is outside 0 … {len(self.names) - 1}")
        part = self.parts[index]

        def gather(rows: Tensor) -> Split:
            held = self.stored.take(rows)
            return Split(self.encode(held.x, torch.full_like(rows, index)), held.y)

        return Site(self.names[index], gather(part.train), gather(part.validation), gather(part.test))

    @cached_property
    def test(self) -> Split:
        """The shared test set."""
        return self._ready(self.shared_test)

    @cached_property
    def public(self) -> Split:
        """The public set; its labels are kept for those who may look."""
        return self._ready(self.shared_public)

    def label_counts(self, index: int) -> list[int]:
        """How many training examples of each class the site at `index` has."""
        labels = self.stored.y[self.parts[index].train]
        return [int(count) for count in torch.bincount(labels, minlength=len(self.classes))]

    def _ready(self, shared: Shared) -> Split:
        return Split(self.encode(shared.rows.x, shared.who), shared.rows.y)
