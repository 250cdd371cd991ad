"""How training rows are dealt to sites, for `_target_` in `conf/partition/*.yaml`."""

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from fl_distill.data.classes import ClassesPerSite
from fl_distill.data.deal import Owners, Partition, Rows, check_sites, load, remembered, too_many
from fl_distill.data.scarce import Scarce
from fl_distill.errors import DataError

__all__ = ["ClassesPerSite", "Dirichlet", "Iid", "Natural", "Owners", "Partition", "Rows", "Scarce"]


@final
@dataclass(frozen=True)
class Iid:
    """Sites of equal size, drawn at random."""

    def __call__(self, labels: Rows, owners: Owners, sites: int, seed: int) -> list[Rows]:
        """Every site gets len(labels) / sites rows, give or take one."""
        check_sites("partition=iid", labels, sites)

        def deal() -> list[Rows]:
            from flwr_datasets.partitioner import IidPartitioner

            order = np.random.default_rng(seed).permutation(len(labels))
            return [order[part] for part in load(IidPartitioner(sites), labels, sites)]

        return remembered(self, labels, sites, seed, deal)


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
        check_sites(setting, labels, sites, self.min_examples)

        def deal() -> list[Rows]:
            from flwr_datasets.partitioner import DirichletPartitioner

            partitioner = DirichletPartitioner(
                sites, "label", float(self.alpha), min_partition_size=self.min_examples, seed=seed
            )
            try:
                return load(partitioner, labels, sites)
            except ValueError as cause:
                raise too_many(setting, labels, sites, self.min_examples) from cause

        return remembered(self, labels, sites, seed, deal)


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
