"""Sites that see only some of the classes."""

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from fl_distill.checks import require, whole
from fl_distill.data.deal import Owners, Rows, check_sites, load, remembered
from fl_distill.errors import DataError
from fl_distill.seeds import derive


@final
@dataclass(frozen=True)
class ClassesPerSite:
    """Each site sees only `classes` classes; the rows of a class are shared evenly by the sites that see it.

    With at least as many sites as classes the choice is random, but every class is seen. With fewer sites
    the classes are cut into groups of `classes` (the last may be smaller) and each site sees one group.

    spread: how many classes a site sees is drawn for each site from classes - spread … classes + spread, at
    least 1; the sites in turn take the classes seen least so far, so that every class is seen.
    examples_per_class: a site keeps at most so many rows of each of its classes, drawn at random; nobody
    gets the others. Both are after FedProto (Tan et al., arXiv 2105.00243): n classes of k examples a site.
    """

    classes: int = 2
    examples_per_class: int | None = None
    spread: int = 0

    def __post_init__(self) -> None:
        few, spread = self.examples_per_class, self.spread
        if not isinstance(self.classes, int) or self.classes < 1:
            raise ValueError(f"partition.classes must be a whole number >= 1, got {self.classes!r}")
        require(
            (few is None or whole(few), f"partition.examples_per_class must be a whole number >= 1, got {few!r}"),
            (whole(spread, 0), f"partition.spread must be a whole number >= 0, got {spread!r}"),
        )

    def __call__(self, labels: Rows, owners: Owners, sites: int, seed: int) -> list[Rows]:
        """DataError when the sites cannot cover all classes, or a class has too few rows to share."""
        check_sites(f"partition=classes classes={self.classes}", labels, sites)
        present = np.unique(labels)
        if self.classes > len(present) or sites * self.classes < len(present):
            raise DataError(
                f"partition=classes classes={self.classes} cannot give {sites} sites that many of "
                f"{len(present)} classes and leave none out: set partition.classes between "
                f"{math.ceil(len(present) / sites)} and {len(present)}, or raise sites"
            )
        if self.spread:
            parts = self._deal_unevenly(labels, present, sites, derive(seed, "spread"))
        else:
            even = ClassesPerSite(self.classes)
            parts = remembered(even, labels, sites, seed, lambda: self._deal(labels, present, sites, seed))
        if self.examples_per_class is None:
            return parts
        rng = np.random.default_rng(derive(seed, "examples"))
        return [_few(part, labels, self.examples_per_class, rng) for part in parts]

    def _deal(self, labels: Rows, present: Rows, sites: int, seed: int) -> list[Rows]:
        from flwr_datasets.partitioner import PathologicalPartitioner

        shuffled = np.random.default_rng(seed).permutation(len(present))
        renamed = shuffled[np.searchsorted(present, labels)]
        each, mode = self.classes, "first-deterministic"
        if sites < len(present):
            renamed, each, mode = renamed // self.classes, 1, "deterministic"
        try:
            return load(PathologicalPartitioner(sites, "label", each, mode, seed=seed), renamed, sites)
        except ValueError as cause:
            raise self._too_rare(np.bincount(renamed), sites) from cause

    def _deal_unevenly(self, labels: Rows, present: Rows, sites: int, seed: int) -> list[Rows]:
        rng = np.random.default_rng(seed)
        renamed = np.searchsorted(present, labels)
        seen = self._seen(len(present), sites, rng)
        if (np.bincount(renamed) < seen.sum(axis=0)).any():
            raise self._too_rare(np.bincount(renamed), sites)
        parts: list[list[Rows]] = [[] for _ in range(sites)]
        for label, viewers in enumerate(seen.T):
            rows = rng.permutation(np.flatnonzero(renamed == label))
            for site, share in zip(np.flatnonzero(viewers), np.array_split(rows, viewers.sum()), strict=True):
                parts[site].append(share)
        return [np.sort(np.concatenate(part)) for part in parts]

    def _seen(self, classes: int, sites: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
        """Which site (row) sees which class (column)."""
        low, high = max(1, self.classes - self.spread), min(self.classes + self.spread, classes)
        counts = rng.integers(low, high, size=sites, endpoint=True)
        while counts.sum() < classes:  # the draw leaves classes out: more for those with the fewest
            counts[counts.argmin()] += 1
        seen = np.zeros((sites, classes), dtype=np.bool_)
        for site, count in enumerate(counts):
            order = np.lexsort((rng.random(classes), seen.sum(axis=0)))
            seen[site, order[:count]] = True
        return seen

    def _too_rare(self, sizes: Rows, sites: int) -> DataError:
        return DataError(
            f"partition=classes classes={self.classes} cannot give each of {sites} sites an example of "
            f"every class it sees ({sizes.sum()} examples, "
            f"{sizes.min()} in the rarest class): lower sites or partition.classes"
        )


def _few(part: Rows, labels: Rows, most: int, rng: np.random.Generator) -> Rows:
    """At most `most` rows of each class in `part`, in ascending order."""
    groups = [part[labels[part] == label] for label in np.unique(labels[part])]
    return np.sort(np.concatenate([rng.permutation(rows)[:most] for rows in groups]))
