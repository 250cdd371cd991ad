"""The likeliest classes of each row of probabilities, for knowledge that travels instead of weights.

bytes  = for each tensor: classes | values
classes = k a row, likeliest first, at ceil(log2 C) bits each
values  = p / p of the likeliest, k - 1 a row, as uint8 in 1/255 or as float16
"""

from typing import final

import numpy as np
import torch
from torch import Tensor

from ..checks import require, whole
from ..errors import BadUpdate
from . import bits
from .coder import About, Bytes, Grid, check_length

_NEAR = 0.01  # how far from 1 a row may sum: float16 rows of a thousand classes are as near


@final
class TopClasses(Grid):
    """Keeps the k largest of each row (of equal ones the first classes), scaled to a sum of 1; the others become 0."""

    word = "classes"

    def __init__(self, k: int = 3, value_bits: int = 8) -> None:
        require(
            (whole(k), f"classes: how many are kept must be a whole number >= 1, not {k}"),
            (value_bits in (8, 16), f"classes: values have 8 or 16 bits, not {value_bits}"),
        )
        self.k = k
        self.value_bits = value_bits

    def encode(self, x: Tensor, about: About) -> bytes:
        """Tensor by tensor; ValueError where one holds no probabilities."""
        parts = torch.split(x, [rows * classes for rows, classes in _sides(about)]) if about.shapes else ()
        return b"".join(self._write(part.view(sides)) for part, sides in zip(parts, _sides(about), strict=True))

    def decode(self, data: Bytes, about: About) -> Tensor:
        """Rows that sum to 1."""
        view, parts = memoryview(data), [torch.empty(0)]
        check_length(view, self.lengths(about)[0], self.word)
        for sides in _sides(about):
            first, second = self._sizes(*sides)
            parts.append(self._read(view[:first], view[first : first + second], *sides).view(-1))
            view = view[first + second :]
        return torch.cat(parts)

    def lengths(self, about: About) -> tuple[int, int]:
        """The same for all numbers."""
        total = sum(sum(self._sizes(*sides)) for sides in _sides(about))
        return total, total

    def _sizes(self, rows: int, classes: int) -> tuple[int, int]:
        """Bytes of the classes, and of the values."""
        k = min(self.k, classes)
        return bits.size(rows * k, _width(classes)), rows * max(0, k - 1) * self.value_bits // 8

    def _write(self, p: Tensor) -> bytes:
        rows, classes = p.shape
        if not rows:
            return b""
        if not ((p >= 0).all() and ((p.double().sum(1) - 1).abs() <= _NEAR).all()):
            raise ValueError("classes: rows must be probabilities, >= 0 with a sum of 1; choose exchange=probabilities")
        order = p.argsort(dim=1, descending=True, stable=True)[:, : min(self.k, classes)]
        kept = p.gather(1, order)
        values = kept[:, 1:] / kept[:, :1]
        coded = (values * 255).round().to(torch.uint8) if self.value_bits == 8 else values.half().view(torch.int16)
        return bits.pack(order.reshape(-1).numpy(), _width(classes)) + coded.numpy().tobytes()

    def _read(self, indices: Bytes, values: Bytes, rows: int, classes: int) -> Tensor:
        k = min(self.k, classes)
        p = torch.zeros(rows, classes)
        if not rows or not k:
            return p
        order = bits.unpack(indices, rows * k, _width(classes), "the classes of rows").reshape(rows, k)
        ascending = np.sort(order, 1)
        if ascending[:, -1].max() >= classes or (np.diff(ascending, axis=1) == 0).any():
            raise BadUpdate(f"classes: a row names a class twice, or one that is not below {classes}")
        form = np.dtype(np.uint8 if self.value_bits == 8 else "<f2")
        least = np.frombuffer(values, form).reshape(rows, k - 1).astype(np.float32)
        if self.value_bits == 8:
            least /= 255
        if not ((least >= 0) & (least <= 1)).all():
            raise BadUpdate("classes: a value is not from 0 to 1")
        kept = torch.cat([torch.ones(rows, 1), torch.from_numpy(least)], 1)
        return p.scatter_(1, torch.from_numpy(order), kept / kept.sum(1, keepdim=True))


def _width(classes: int) -> int:
    return max(0, classes - 1).bit_length()


def _sides(about: About) -> list[tuple[int, int]]:
    """The shapes; ValueError for one that is not (rows, classes)."""
    for shape in about.shapes:
        if len(shape) != 2 or (shape[0] and not shape[1]):
            raise ValueError(
                f"classes: expected probabilities (rows, classes), not a tensor of shape {list(shape)}; "
                "this codec is for exchange=probabilities, not for weights"
            )
    return [(rows, classes) for rows, classes in about.shapes]
