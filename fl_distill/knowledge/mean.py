"""The weighted mean of what sites send, added up as it arrives."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from .several import Numbers, add_up


class WeightedMean:
    """sum_k w_k x_k / sum_k w_k over named tensors, holding one copy whatever the number of sites.

    Floating tensors are summed in float32 (float64 where they are float64) and come back in their own
    dtype; integer tensors are summed in float64 and rounded back to their own dtype.
    Source: McMahan et al. 2017, arXiv 1602.05629.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self.weight = 0.0
        self.count = 0

    def add(self, tensors: Mapping[str, Tensor], weight: float) -> None:
        """Add one site's tensors; raises ValueError for a weight that is not positive and finite."""
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"a weight must be a positive finite number, not {weight}")
        if not self.count:
            self._dtypes = {name: t.dtype for name, t in tensors.items()}
            self._sums = {name: torch.mul(t.to(_wide(t.dtype)), weight) for name, t in tensors.items()}
        elif self._sums:
            # One call for all of a model's tensors: for small ones calls are what takes the time.
            torch._foreach_add_(list(self._sums.values()), [tensors[name] for name in self._sums], alpha=weight)
        self.weight += weight
        self.count += 1

    @classmethod
    def of_all(
        cls,
        shapes: Mapping[str, tuple[int, ...]],
        vectors: Sequence[Mapping[str, Numbers]],
        others: Sequence[Mapping[str, Tensor]],
        weights: Sequence[float],
        largest: float,
    ) -> tuple["WeightedMean", list[int]]:
        """The mean of sites that are all there, several in a pass, with the bits that `add` gives.

        `shapes` are of all tensors; a site's float32 ones are its `vectors`. Beside it the places of sites among which
        a number is NaN or beyond `largest`; these are in the mean all the same. Raises ValueError as `add` does and
        where sizes differ, and RuntimeError unless `several.available()`.
        """
        mean = cls()
        for tensors, weight in zip(others, weights, strict=True):
            mean.add(tensors, weight)
        mean._dtypes = {name: mean._dtypes.get(name, torch.float32) for name in shapes}
        room = _room({name: shapes[name] for name in vectors[0]})
        mean._sums |= room
        sites = [[numbers[name] for name in room] for numbers in vectors]
        return mean, add_up([sums.numpy().reshape(-1) for sums in room.values()], sites, weights, largest)

    def result(self) -> dict[str, Tensor]:
        """The mean, made of the sums in place: afterwards nothing was added. Raises ValueError when nothing was."""
        if not self.count:
            raise ValueError("the mean of no sites does not exist")
        sums, dtypes, weight = self._sums, self._dtypes, self.weight
        self._sums, self._dtypes, self.weight, self.count = {}, {}, 0.0, 0
        return {name: _narrow(sums.pop(name).div_(weight), dtype) for name, dtype in dtypes.items()}


def _room(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Float32 tensors in one piece of memory, for which numpy asks for large pages where torch does not."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    parts = torch.from_numpy(np.empty(sum(sizes), np.float32)).split_with_sizes(sizes)
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _wide(dtype: torch.dtype) -> torch.dtype:
    if not dtype.is_floating_point:
        return torch.float64
    return torch.promote_types(dtype, torch.float32)


def _narrow(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if dtype.is_floating_point else tensor.round().to(dtype)
