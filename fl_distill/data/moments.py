"""Means and deviations of columns, in a form that sites can add up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.float64]
FLAT = 1e-13
"""A variance below this part of the squared mean is what rounding leaves of a constant column."""


@final
@dataclass(frozen=True, eq=False)
class Moments:
    """For each column: how many values are present, their sum and their sum of squares."""

    count: Column
    total: Column
    squares: Column

    def mean(self) -> Column:
        """total / count; 0 where nothing is present."""
        return self.total / np.maximum(self.count, 1)

    def std(self) -> Column:
        """sqrt(squares / count - mean^2); 0 where nothing is present or nothing varies."""
        square = self.mean() ** 2
        variance = self.squares / np.maximum(self.count, 1) - square
        return np.sqrt(np.where(variance > FLAT * square, variance, 0.0))


def moments(x: Column) -> Moments:
    """The moments of the columns of `x` (N, F), where NaN is a missing value."""
    present = ~np.isnan(x)
    values = np.where(present, x, 0.0)
    return Moments(present.sum(axis=0).astype(np.float64), values.sum(axis=0), (values**2).sum(axis=0))


def pool_moments(parts: Sequence[Moments]) -> Moments:
    """The moments of all parts' rows together, from the parts' moments alone."""
    return Moments(
        np.sum([part.count for part in parts], axis=0),
        np.sum([part.total for part in parts], axis=0),
        np.sum([part.squares for part in parts], axis=0),
    )
