"""Sites that hardly know some of the classes."""

from dataclasses import dataclass
from typing import final

import numpy as np

from fl_distill.checks import require, whole
from fl_distill.data.deal import Owners, Rows, check_sites
from fl_distill.errors import DataError


@final
@dataclass(frozen=True)
class Scarce:
    """Each site gets `examples` rows: `keep` of each of its `labels` scarce classes, the rest of all others evenly.

    Which classes are scarce is drawn for each site. Rows that this leaves over are not used. With the defaults
    and 10 sites, the deal of MNIST in table 1 of Jeong et al., arXiv 1811.11479.
    """

    labels: int = 3
    keep: int = 5
    examples: int = 2000

    def __post_init__(self) -> None:
        require(
            (whole(self.labels, 0), f"partition.labels must be a whole number >= 0, got {self.labels!r}"),
            (whole(self.keep, 0), f"partition.keep must be a whole number >= 0, got {self.keep!r}"),
            (whole(self.examples), f"partition.examples must be a whole number >= 1, got {self.examples!r}"),
        )

    def __call__(self, labels: Rows, owners: Owners, sites: int, seed: int) -> list[Rows]:
        """DataError when the rows, all of them or those of one class, are too few, or no class is left plentiful."""
        check_sites(self._setting, labels, sites)
        present, sizes = np.unique(labels, return_counts=True)
        if self.labels >= len(present) or self.keep * len(present) > self.examples:
            raise DataError(
                f"{self._setting} cannot make {self.labels} of {len(present)} classes scarce: set partition.labels "
                f"below {len(present)}, and partition.examples to at least {self.keep * len(present)}, "
                f"{self.keep} for each class"
            )
        rng = np.random.default_rng(seed)
        wanted = np.stack([self._wanted(len(present), rng) for _ in range(sites)])
        if (short := wanted.sum(axis=0) - sizes).max() > 0:
            worst = short.argmax()
            raise DataError(
                f"{self._setting} needs {wanted[:, worst].sum()} examples of class {present[worst]} for {sites} sites, "
                f"there are {sizes[worst]}: lower partition.examples or sites"
            )
        cuts = np.cumsum(wanted, axis=0)
        piles = [
            np.split(rng.permutation(np.flatnonzero(labels == label)), cuts[:, index])
            for index, label in enumerate(present)
        ]
        return [np.sort(np.concatenate([pile[site] for pile in piles])) for site in range(sites)]

    @property
    def _setting(self) -> str:
        return f"partition=scarce labels={self.labels} keep={self.keep} examples={self.examples}"

    def _wanted(self, classes: int, rng: np.random.Generator) -> Rows:
        """How many examples of each class a site gets."""
        order = rng.permutation(classes)
        plenty = classes - self.labels
        share, extra = divmod(self.examples - self.labels * self.keep, plenty)
        amounts = np.repeat([self.keep, share + 1, share], [self.labels, extra, plenty - extra])
        wanted = np.empty(classes, dtype=np.int64)
        wanted[order] = amounts
        return wanted
