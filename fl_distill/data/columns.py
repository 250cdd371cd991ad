"""From stored table rows to what a model reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from fl_distill.data.moments import Column, Moments, moments, pool_moments
from fl_distill.data.types import Encode

STANDARDISE = ("site", "federated", "none")


@final
@dataclass(frozen=True)
class Columns:
    """Numbers standardised, categories one-hot, one flag for each column that has missing values.

    Stored rows are float64 (N, numeric + categorical): first the numbers, then indices into `levels`; NaN is
    a missing value. Encoded rows are float32 (N, numeric + sum of levels + flags). A missing number becomes
    0 (the mean, once standardised), a missing category a row of zeros.
    """

    numeric: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    flags: tuple[int, ...]
    standardise: str

    def fit(self, x: Tensor, parts: Sequence[Tensor]) -> Encode:
        """Standardise by each site's own training rows, by those of all sites pooled, or not at all.

        A column that is missing or constant all over a site takes the pooled statistics there.
        """
        numbers = x[:, : len(self.numeric)].numpy()
        each = [moments(numbers[part.numpy()]) for part in parts]
        pooled = pool_moments(each)
        everywhere = len(each) + 1  # the last one is for rows of nobody, which ask for site -1
        pairs = {
            "site": [_scale(own, pooled) for own in (*each, pooled)],
            "federated": [_scale(pooled, pooled)] * everywhere,
            "none": [(np.zeros(len(self.numeric)), np.ones(len(self.numeric)))] * everywhere,
        }[self.standardise]
        centre = torch.from_numpy(np.stack([mean for mean, _ in pairs]))
        spread = torch.from_numpy(np.stack([std for _, std in pairs]))
        return lambda x, who: self._encode(x, centre[who], spread[who])

    def _encode(self, x: Tensor, centre: Tensor, spread: Tensor) -> Tensor:
        first = len(self.numeric)
        numbers = ((x[:, :first] - centre) / spread).nan_to_num(nan=0.0)
        hot = [
            x[:, first + index, None] == torch.arange(len(names), dtype=x.dtype)
            for index, names in enumerate(self.levels)
        ]
        flags = x[:, list(self.flags)].isnan()
        return torch.cat([numbers.float(), *(part.float() for part in (*hot, flags))], dim=1)


def _scale(own: Moments, pooled: Moments) -> tuple[Column, Column]:
    """Mean and deviation of a site: pooled where the site cannot tell, 1 where nobody can."""
    mean = np.where(own.count > 0, own.mean(), pooled.mean())
    spread = np.where(own.std() > 0, own.std(), pooled.std())
    return mean, np.where(spread > 0, spread, 1.0)
