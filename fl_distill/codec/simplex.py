"""Probabilities on a grid, and the grid's rows as numbers that are as small as what came before them allows.

Source: Sattler et al. 2021 (CFD), arXiv 2012.00632.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import require, whole
from ..errors import BadUpdate

Ints = NDArray[np.int64]
Levels = NDArray[np.uint8]

_BIT_LENGTH = np.array([value.bit_length() for value in range(256)])


def row_sum(bits: int) -> int:
    """2^bits - 1: the sum of a row's levels."""
    require((whole(bits) and bits <= 8, f"bits must be a whole number from 1 to 8, not {bits!r}"))
    return (1 << bits) - 1


def quantize(p: Tensor, bits: int) -> Tensor:
    """The nearest rows of a grid: argmin over l of ||l / (2^b - 1) - p||_1, l whole, l >= 0, sum of a row 2^b - 1.

    Largest remainder: levels are rounded down, and what then lacks in the sum goes to the largest remainders, one each;
    the first class wins a tie. b = 1 is a vote for the largest class. (N, C), rows >= 0 of any sum -> (N, C) uint8.
    """
    total = row_sum(bits)
    require((p.ndim == 2 and p.shape[1] > 0, f"p must be (N, C) with C > 0, not {tuple(p.shape)}"))
    p = p.detach().double()
    mass = p.sum(1, keepdim=True)
    good = bool((p >= 0).all() & (mass > 0).all() & mass.isfinite().all())
    require((good, "rows of p must be finite and >= 0 with a sum above 0"))
    exact = p / mass * total
    levels = exact.floor()
    lacking = total - levels.sum(1, keepdim=True)
    order = (exact - levels).argsort(dim=1, descending=True, stable=True)
    first = torch.arange(p.shape[1], device=p.device) < lacking
    return levels.scatter_add(1, order, first.double()).to(torch.uint8)


def restore(levels: Tensor, bits: int) -> Tensor:
    """l / (2^b - 1): (N, C) uint8 -> (N, C) float32."""
    return levels.to(torch.float32) / row_sum(bits)


def sizes(classes: int, bits: int, grouped: bool) -> list[int]:
    """For each context of `split`, the number that its levels are below."""
    return [2 << k for k in range(bits)] * (1 + _group(classes - 1, grouped))


def split(rows: Levels, bits: int, grouped: bool) -> list[Ints]:
    """The levels of rows (N, C), class after class, apart by their context.

    The context is the bit length k of what a row has left, 2^b - 1 less the levels before, so that a level is below
    2^k; and, if `grouped`, the bit length of how many classes come behind. Left out is what follows from the rest:
    levels where nothing is left, and the last class.
    """
    classes = rows.shape[1]
    levels = rows[:, :-1].T.astype(np.int64)
    left = row_sum(bits) - np.cumsum(levels, 0) + levels
    groups = np.array([_group(classes - 1 - column, grouped) for column in range(classes - 1)], np.int64)
    context = (groups[:, None] * bits + _BIT_LENGTH[left] - 1)[left > 0]
    ends = np.cumsum(np.bincount(context, minlength=len(sizes(classes, bits, grouped))))
    return np.split(levels[left > 0][np.argsort(context, kind="stable")], ends[:-1])


def join(parts: list[Ints], count: int, classes: int, bits: int, grouped: bool) -> Levels:
    """The rows (count, classes) that `split` took apart; `BadUpdate` if there are none."""
    rows, left = np.zeros((count, classes), np.uint8), np.full(count, row_sum(bits))
    taken = [0] * len(parts)
    for column in range(classes - 1):
        lengths = _BIT_LENGTH[left]
        for k in np.flatnonzero(np.bincount(lengths, minlength=1)[1:]):
            key = _group(classes - 1 - column, grouped) * bits + k
            here = np.flatnonzero(lengths == k + 1)
            levels = parts[key][taken[key] : taken[key] + len(here)]
            if len(levels) < len(here) or (levels > left[here]).any():
                raise BadUpdate(f"levels of class {column} are fewer than rows, or make a row's sum too large")
            rows[here, column] = levels
            taken[key] += len(here)
        left -= rows[:, column]
    if taken != list(map(len, parts)):
        raise BadUpdate(f"{sum(map(len, parts))} levels are too many for {count} rows of {classes} classes")
    rows[:, -1] = left
    return rows


def _group(behind: int, grouped: bool) -> int:
    return behind.bit_length() - 1 if grouped and behind else 0
