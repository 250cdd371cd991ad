"""From stored table rows to what a model reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from fl_distill.data.moments import Column, Moments, moments, pool_moments
from fl_distill.data.types import Encode
from fl_distill.errors import DataError

STANDARDISE = ("site", "federated", "public", "none")
Scale = tuple[Column, Column]
"""For each column what is subtracted, and what the rest is divided by."""


@final
@dataclass(frozen=True)
class Columns:
    """Numbers standardised, categories one-hot, one flag for each column that has missing values.

    Stored rows are float64 (N, numeric + categorical): first the numbers, then indices into `levels`; NaN is
    a missing value. Encoded rows are float32 (N, numeric + sum of levels + flags). A missing number becomes
    0 (the mean, once standardised), a missing category a row of zeros. `flags` are the columns that have gaps
    in the dataset; with standardise=public those that have gaps in the public rows are flagged instead.
    """

    numeric: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    flags: tuple[int, ...]
    standardise: str

    def fit(self, x: Tensor, parts: Sequence[Tensor], public: Tensor) -> Encode:
        """Standardise by each site's own training rows, by those of all sites pooled, by the public rows, or not.

        A column that is missing or constant all over a site takes the pooled statistics there. With
        standardise=public nothing depends on the sites; DataError when no public row tells of a number.
        """
        flags = gaps(public) if self.standardise == "public" else self.flags
        if self.standardise in ("site", "federated"):
            scales = self._scales(x, parts)
        else:
            scales = [self._public(public) if self.standardise == "public" else self._unit()] * (len(parts) + 1)
        centre = torch.from_numpy(np.stack([mean for mean, _ in scales]))
        spread = torch.from_numpy(np.stack([std for _, std in scales]))
        return lambda x, who: self._encode(x, centre[who], spread[who], flags)

    def _scales(self, x: Tensor, parts: Sequence[Tensor]) -> list[Scale]:
        """One for each site, and a last one for rows of nobody, which ask for site -1."""
        numbers = self._numbers(x)
        each = [moments(numbers[part.numpy()]) for part in parts]
        pooled = pool_moments(each)
        own = each if self.standardise == "site" else [pooled] * len(each)
        return [_scale(part, pooled) for part in (*own, pooled)]

    def _public(self, public: Tensor) -> Scale:
        if not len(public):
            raise DataError(
                "standardise=public: expected public rows to scale the numbers by, found none; set public > 0 or "
                "public_dataset, or dataset.standardise to federated, site or none"
            )
        found = moments(self._numbers(public))
        empty = [name for name, count in zip(self.numeric, found.count, strict=True) if not count]
        if empty:
            raise DataError(
                f"standardise=public: expected values in column '{empty[0]}' of the public rows, found only missing "
                "cells; choose other public rows, or leave the column out of the dataset's settings"
            )
        return _scale(found, found)

    def _unit(self) -> Scale:
        return np.zeros(len(self.numeric)), np.ones(len(self.numeric))

    def _numbers(self, x: Tensor) -> Column:
        """The numbers row by row in memory, so that sums over rows round alike wherever `x` comes from."""
        return np.ascontiguousarray(x[:, : len(self.numeric)].numpy())

    def _encode(self, x: Tensor, centre: Tensor, spread: Tensor, flagged: tuple[int, ...]) -> Tensor:
        first = len(self.numeric)
        numbers = ((x[:, :first] - centre) / spread).nan_to_num(nan=0.0)
        hot = [
            x[:, first + index, None] == torch.arange(len(names), dtype=x.dtype)
            for index, names in enumerate(self.levels)
        ]
        flags = x[:, list(flagged)].isnan()
        return torch.cat([numbers.float(), *(part.float() for part in (*hot, flags))], dim=1)


def gaps(x: Tensor) -> tuple[int, ...]:
    """The columns of `x` (N, columns) in which a value is missing."""
    return tuple(x.isnan().any(dim=0).nonzero().flatten().tolist())


def _scale(own: Moments, pooled: Moments) -> Scale:
    """Mean and deviation of a site: pooled where the site cannot tell, 1 where nobody can."""
    mean = np.where(own.count > 0, own.mean(), pooled.mean())
    spread = np.where(own.std() > 0, own.std(), pooled.std())
    return mean, np.where(spread > 0, spread, 1.0)
