"""How training rows are dealt to sites: iid, Dirichlet, a few classes each, or by natural owner."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt
import torch

from fl_distill.data import cache
from fl_distill.errors import DataError

Rows = npt.NDArray[np.int64]
Owners = tuple[str, ...] | None


class Partition(Protocol):
    """Deals rows to sites: for each site the indices of its rows, every row to one site, no site without."""

    def __call__(self, labels: Rows, owners: Owners, sites: int, seed: int) -> list[Rows]:
        """The deal; DataError says why it is impossible."""
        ...


@final
@dataclass(frozen=True)
class Iid:
    """Sites of equal size, drawn at random."""

    def __call__(self, labels: Rows, owners: Owners, sites: int, seed: int) -> list[Rows]:
        """Every site gets len(labels) / sites rows, give or take one."""
        _check_sites("partition=iid", labels, sites)

        def deal() -> list[Rows]:
            from flwr_datasets.partitioner import IidPartitioner

            order = np.random.default_rng(seed).permutation(len(labels))
            return [order[part] for part in _load(IidPartitioner(sites), labels, sites)]

        return _remembered(self, labels, sites, seed, deal)


@final
@dataclass(frozen=True)
class Dirichlet:
    """Each class is dealt to the sites by Dirichlet(alpha): the smaller alpha, the larger the skew."""

    alpha: float = 0.5
    min_examples: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.alpha, bool) or not (isinstance(self.alpha, int | float) and 0 < self.alpha < math.inf):
            raise ValueError(f"partition.alpha must be a finite number above 0, got {self.alpha!r}")
        if not isinstance(self.min_examples, int) or self.min_examples < 1:
            raise ValueError(f"partition.min_examples must be a whole number >= 1, got {self.min_examples!r}")

    def __call__(self, labels: Rows, owners: Owners, sites: int, seed: int) -> list[Rows]:
        """Draws again, a few times, until every site has `min_examples` rows."""
        setting = f"partition=dirichlet alpha={self.alpha:g}"
        _check_sites(setting, labels, sites, self.min_examples)

        def deal() -> list[Rows]:
            from flwr_datasets.partitioner import DirichletPartitioner

            partitioner = DirichletPartitioner(
                sites, "label", float(self.alpha), min_partition_size=self.min_examples, seed=seed
            )
            try:
                return _load(partitioner, labels, sites)
            except ValueError as cause:
                raise _too_many(setting, labels, sites, self.min_examples) from cause

        return _remembered(self, labels, sites, seed, deal)


@final
@dataclass(frozen=True)
class ClassesPerSite:
    """Each site sees only `classes` classes; the rows of a class are shared evenly by the sites that see it.

    With at least as many sites as classes the choice is random, but every class is seen. With fewer sites
    the classes are cut into groups of `classes` (the last may be smaller) and each site sees one group.
    """

    classes: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.classes, int) or self.classes < 1:
            raise ValueError(f"partition.classes must be a whole number >= 1, got {self.classes!r}")

    def __call__(self, labels: Rows, owners: Owners, sites: int, seed: int) -> list[Rows]:
        """DataError when the sites cannot cover all classes, or a class has too few rows to share."""
        _check_sites(f"partition=classes classes={self.classes}", labels, sites)
        present = np.unique(labels)
        if self.classes > len(present) or sites * self.classes < len(present):
            raise DataError(
                f"partition=classes classes={self.classes} cannot give {sites} sites that many of "
                f"{len(present)} classes and leave none out: set partition.classes between "
                f"{math.ceil(len(present) / sites)} and {len(present)}, or raise sites"
            )
        return _remembered(self, labels, sites, seed, lambda: self._deal(labels, present, sites, seed))

    def _deal(self, labels: Rows, present: Rows, sites: int, seed: int) -> list[Rows]:
        from flwr_datasets.partitioner import PathologicalPartitioner

        shuffled = np.random.default_rng(seed).permutation(len(present))
        renamed = shuffled[np.searchsorted(present, labels)]
        each, mode = self.classes, "first-deterministic"
        if sites < len(present):
            renamed, each, mode = renamed // self.classes, 1, "deterministic"
        try:
            return _load(PathologicalPartitioner(sites, "label", each, mode, seed=seed), renamed, sites)
        except ValueError as cause:
            raise DataError(
                f"partition=classes classes={self.classes} cannot give each of {sites} sites an example of "
                f"every class it sees ({len(labels)} examples, "
                f"{np.bincount(renamed).min()} in the rarest class): lower sites or partition.classes"
            ) from cause


@final
@dataclass(frozen=True)
class Natural:
    """Each natural owner is a site, in the order of their names; `sites` has no say."""

    def __call__(self, labels: Rows, owners: Owners, sites: int, seed: int) -> list[Rows]:
        """DataError when the dataset has no owners."""
        if owners is None:
            raise DataError(
                "partition=natural needs a dataset that names the site of each example (a folder of CSV "
                "files), this one does not: choose partition=iid, dirichlet or classes"
            )
        names = np.array(owners)
        return [np.flatnonzero(names == name) for name in sorted(set(owners))]


def _check_sites(setting: str, labels: Rows, sites: int, least: int = 1) -> None:
    if sites < 1:
        raise DataError(f"sites must be a whole number >= 1, got {sites}")
    if sites * least > len(labels):
        raise _too_many(setting, labels, sites, least)


def _too_many(setting: str, labels: Rows, sites: int, least: int) -> DataError:
    advice = "lower sites or raise alpha" if "alpha" in setting else "lower sites"
    return DataError(
        f"{setting} cannot give {sites} sites at least {least} example{'s' * (least > 1)} each "
        f"of {len(labels)}: {advice}"
    )


def _load(partitioner: Any, labels: Rows, sites: int) -> list[Rows]:
    """What a flwr-datasets partitioner makes of these labels, as row indices."""
    from datasets import Dataset

    partitioner.dataset = Dataset.from_dict({"label": labels, "row": np.arange(len(labels))})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns at each redraw; the DataError says it once
        parts = [partitioner.load_partition(index)[:]["row"] for index in range(sites)]
    return [np.asarray(part, dtype=np.int64) for part in parts]


def _remembered(
    partition: Partition, labels: Rows, sites: int, seed: int, deal: Callable[[], list[Rows]]
) -> list[Rows]:
    """The deal from the cache, so that only the first of many processes imports flwr-datasets (seconds)."""
    name = cache.key("partition", labels.tobytes(), repr(partition), sites, seed, version("flwr-datasets"))
    entry = cache.read(name)
    if entry is not None and {"rows", "sizes"} <= set(entry.tensors):
        kept = np.split(entry.tensors["rows"].numpy(), np.cumsum(entry.tensors["sizes"].numpy())[:-1])
        if len(kept) == sites and _whole(kept, len(labels)):
            return kept
    parts = deal()
    if not _whole(parts, len(labels)):
        raise _too_many(f"partition {partition}", labels, sites, 1)
    sizes = torch.tensor([len(part) for part in parts])
    cache.write(name, cache.Entry({"rows": torch.from_numpy(np.concatenate(parts)), "sizes": sizes}, {}))
    return parts


def _whole(parts: list[Rows], count: int) -> bool:
    """Whether every row is in exactly one part and no part is empty."""
    return all(map(len, parts)) and np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))
