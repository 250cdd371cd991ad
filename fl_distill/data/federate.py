"""One dataset, dealt to sites, with a shared test set and a public set that no site holds."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from fl_distill.checks import whole
from fl_distill.data.partitions import Owners, Partition, Rows
from fl_distill.data.shared import adopted_public, adopted_test, evenly
from fl_distill.data.types import Federation, Parts, Shared, Source, Split
from fl_distill.errors import DataError
from fl_distill.seeds import derive

HELD_OUT = 0.2
"""The part of a dataset without an official test split that becomes the shared test set."""


def federate(
    source: Source,
    partition: Partition,
    *,
    sites: int,
    seed: int,
    validation: float,
    test: float,
    public: float,
    public_source: Source | None = None,
    public_examples: int | None = None,
    public_labels: bool = False,
    test_source: Source | None = None,
) -> Federation:
    """Deal `source` to sites: shared test set, then public set, then the sites' parts; no row twice.

    `public` is a part of what the test set leaves; `validation` and `test` are parts of each site's rows,
    rounded down, so every site keeps a row to train on. Same seed, same federation.

    With a `public_source` its training rows are the public set, brought to the form of `source`; all its labels
    are -1, because its classes are others, unless `public_labels` says that they are the same. `public` has no say
    then, and the sites keep all rows. `public_examples` is the most rows that the public set may have, drawn evenly
    over it. With a `test_source` its test split, else all its rows, are the test set, brought to the form of
    `source` too, and no row is held out for that; its classes must be the dataset's. Whether sources share
    examples is not checked.
    """
    check(public_examples, validation=validation, test=test, public=public)
    labels, owners = source.train.y.numpy(), source.owners
    pool: Rows = np.arange(len(labels))
    held = pool[:0]
    if source.test is None and test_source is None:
        held, pool = _hold_out(pool, labels, owners, HELD_OUT, derive(seed, "data", "test"))
    open_rows = pool[:0]
    if public_source is None:
        open_rows, _ = _hold_out(pool, labels, owners, public, derive(seed, "data", "public"))
        open_rows = open_rows[evenly(len(open_rows), public_examples, seed)]
        pool = np.setdiff1d(pool, open_rows)
    left = None if owners is None else tuple(owners[row] for row in pool)
    dealt = [pool[part] for part in partition(labels[pool], left, sites, derive(seed, "data", "partition"))]
    natural = _natural(dealt, owners)
    names = natural or _numbered(len(dealt))
    streams: Sequence[str | int] = natural or range(len(dealt))
    parts = tuple(divide(rows, validation, test, seed, stream) for rows, stream in zip(dealt, streams, strict=True))
    shared = _shared(source.train, held, owners, names)
    if test_source is not None:
        shared = adopted_test(test_source, source)
    elif source.test is not None:
        shared = Shared(source.test, _who(source.test_owners, len(source.test), names))
    shared_public = _shared(source.train, open_rows, owners, names)
    if public_source is not None:
        shared_public = adopted_public(public_source, source, public_examples, seed, labels=public_labels)
    encode = source.encoder.fit(source.train.x, [part.train for part in parts], shared_public.rows.x)
    first = encode(source.train.x[:1], torch.tensor([-1]))
    return Federation(
        names=names,
        classes=source.classes,
        input_shape=tuple(first.shape[1:]),
        image=source.image,
        augment=source.augment,
        stored=source.train,
        parts=parts,
        shared_test=shared,
        shared_public=shared_public,
        encode=encode,
    )


def check(public_examples: int | None, **fractions: float) -> None:
    """DataError with every number that cannot be."""
    faults = [
        f"{name} must be a fraction from 0 up to, not including, 1, got {value!r}"
        for name, value in fractions.items()
        if not 0 <= value < 1
    ]
    both = fractions["validation"] + fractions["test"]
    if not faults and both >= 1:
        faults.append(f"validation and test together must leave something to train on, got {both:g} of 1")
    if not (public_examples is None or whole(public_examples)):
        faults.append(f"public_examples must be a whole number >= 1, or null for all, got {public_examples!r}")
    if faults:
        raise DataError(faults)


def _hold_out(pool: Rows, labels: Rows, owners: Owners, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """`pool` in two: a stratified sample of `fraction` of it, and the rest; both in ascending order.

    Rows in random order are sorted by owner and class, and every (1 / fraction)-th is taken, so each group is
    represented to within one row. Every owner keeps at least one row in the rest.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(pool)
    owner = _codes(owners, len(labels))[order]
    kept = np.unique(owner, return_index=True)[1]
    order, owner = np.delete(order, kept), np.delete(owner, kept)
    order = order[np.lexsort((labels[order], owner))]
    steps = np.floor(np.arange(len(order) + 1) * fraction + rng.random())
    taken = np.sort(order[np.diff(steps) > 0])
    return taken, np.setdiff1d(pool, taken)


def _codes(owners: Owners, count: int) -> npt.NDArray[np.int64]:
    if owners is None:
        return np.zeros(count, dtype=np.int64)
    return np.unique(np.array(owners), return_inverse=True)[1].astype(np.int64)


def _natural(dealt: Sequence[Rows], owners: Owners) -> tuple[str, ...]:
    """The owners' names where each site holds one owner's rows and no owner has two sites, else none."""
    if owners is not None:
        held = [{owners[row] for row in rows} for rows in dealt]
        names = [next(iter(group)) for group in held if len(group) == 1]
        if len(names) == len(set(names)) == len(dealt):
            return tuple(names)
    return ()


def _numbered(count: int) -> tuple[str, ...]:
    width = len(str(count - 1))
    return tuple(f"site-{index:0{width}d}" for index in range(count))


def divide(rows: Rows, validation: float, test: float, seed: int, site: str | int) -> Parts:
    """A site's rows in random order: first validation, then test, the rest to train on.

    The order depends on `seed` and `site`: a name of the site's own, which it has wherever it is, else its number.
    """
    order = torch.from_numpy(np.random.default_rng(derive(seed, "data", "site", site)).permutation(rows))
    checked, tested = int(len(rows) * validation), int(len(rows) * test)
    return Parts(train=order[checked + tested :], validation=order[:checked], test=order[checked : checked + tested])


def _shared(stored: Split, rows: Rows, owners: Owners, names: Sequence[str]) -> Shared:
    left = None if owners is None else tuple(owners[row] for row in rows)
    return Shared(stored.take(torch.from_numpy(rows)), _who(left, len(rows), names))


def _who(owners: Owners, count: int, names: Sequence[str]) -> torch.Tensor:
    """For each row the site of its owner's name, -1 where there is none."""
    index = {name: number for number, name in enumerate(names)}
    return torch.tensor([index.get(owner, -1) for owner in owners or [""] * count], dtype=torch.int64)
