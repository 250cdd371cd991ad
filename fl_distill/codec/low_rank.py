"""Matrices as products of two thin ones.

Source: Vogels et al. 2019 (PowerSGD), arXiv 1905.13727; here each message starts afresh, so two iterations stand where
the paper has one a round with a warm start. Meant to go with error feedback.
"""

import math
from collections.abc import Iterator
from typing import final

import numpy as np
import torch
from torch import Tensor

from ..checks import require, whole
from ..errors import BadUpdate
from .coder import About, Bytes, Coder, Transform
from .counter import STARTS, words

_ITERATIONS = 2
_GONE = 1e-10  # of a column's norm: what is left of it lies in those before, to rounding


@final
class LowRank(Transform):
    """M ~ P Q^T for each tensor M viewed as (m, n), m its first dimension: P (m, rank), Q (n, rank), P^T P diagonal.

    Tensors of fewer than 2 dimensions, and those with rank (m + n) >= m n, go through whole. The inner coder is given
    P, Q of the first tensor, P, Q of the next (or that one whole), and so on, as one vector.
    """

    word = "lowrank"

    def __init__(self, inner: Coder, rank: int = 2) -> None:
        require((whole(rank), f"lowrank: the rank must be a whole number >= 1, not {rank}"))
        super().__init__(inner)
        self.rank = rank

    def encode(self, x: Tensor, about: About) -> bytes:
        """The inner bytes of all factors."""
        parts: list[Tensor] = [torch.empty(0)]
        start = 0
        for index, (count, sides) in enumerate(self._plan(about)):
            part = x[start : start + count]
            start += count
            if sides is None:
                parts.append(part)
            else:
                parts += _factors(part.reshape(sides), self.rank, about.seed, index)
        flat = torch.cat([part.reshape(-1) for part in parts])
        return self.inner.encode(flat, about.flat(len(flat)))

    def decode(self, data: Bytes, about: About) -> Tensor:
        """P Q^T."""
        flat = self.inner.decode(data, about.flat(self._total(about)))
        x = torch.empty(about.numel)
        start = taken = 0
        for count, sides in self._plan(about):
            into = x[start : start + count]
            start += count
            if sides is None:
                into.copy_(flat[taken : taken + count])
                taken += count
                continue
            (m, n), r = sides, self.rank
            p, q = flat[taken : taken + m * r].view(m, r), flat[taken + m * r : taken + (m + n) * r].view(n, r)
            taken += (m + n) * r
            torch.mm(p, q.T, out=into.view(m, n))
        if not torch.isfinite(x).all():
            raise BadUpdate("lowrank: a product of factors is not finite in float32")
        return x

    def lengths(self, about: About) -> tuple[int, int]:
        """As the inner coder says of that many numbers."""
        return self.inner.lengths(about.flat(self._total(about)))

    def _plan(self, about: About) -> Iterator[tuple[int, tuple[int, int] | None]]:
        """For each tensor how many numbers it has, and the sides of its matrix where it has one."""
        for shape in about.shapes:
            count = math.prod(shape)
            sides = (shape[0], count // shape[0]) if len(shape) >= 2 and count else None
            yield count, (sides if sides and self.rank * sum(sides) < count else None)

    def _total(self, about: About) -> int:
        return sum(self.rank * sum(sides) if sides else count for count, sides in self._plan(about))


def start(seed: int, index: int, rows: int, rank: int) -> Tensor:
    """(rows, rank) numbers w / 2^63 - 1 in [-1, 1), float64: w are the words of stream 2 + `index` (see `counter`)."""
    hashed = words(seed, STARTS + index, 0, rows * rank)
    # The upper 53 bits: what float64 holds.
    return torch.from_numpy((hashed >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1).view(rows, rank)


def _factors(matrix: Tensor, rank: int, seed: int, index: int) -> tuple[Tensor, Tensor]:
    """P and Q in float32; each pair of columns is scaled so that both have the same rms, which suits any grid behind.

    In float64, so that what is decided here about columns that vanish does not hang on rounding.
    """
    m = matrix.double()
    q = start(seed, index, m.shape[1], rank)
    for _ in range(_ITERATIONS):
        p = _orthonormal(m @ q)
        q = m.T @ p
    norms = torch.linalg.vector_norm(q, dim=0)
    scale = (norms * math.sqrt(m.shape[0] / m.shape[1])).sqrt()
    return (p * scale).float(), (q / scale.where(scale > 0, 1.0)).float()


def _orthonormal(p: Tensor) -> Tensor:
    """Gram-Schmidt from the first column, each one twice; what depends on earlier columns becomes 0."""
    p = p.clone()
    for column in range(p.shape[1]):
        v, before = p[:, column], p[:, :column]
        whole_norm = v.norm()
        for _ in range(2):
            v -= before @ (before.T @ v)
        left = v.norm()
        p[:, column] = v / left if left > _GONE * whole_norm else 0.0
    return p
