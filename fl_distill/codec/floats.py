"""Shorter floating formats, number by number."""

from abc import ABC
from functools import partial
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from ..checks import require
from ..errors import BadUpdate
from .buffers import filled, room
from .coder import About, Bytes, Grid, check_length
from .packing import TILE, Raw


class _Float(Grid, ABC):
    dtype: ClassVar[torch.dtype]

    def __init__(self, bits: int = 16) -> None:
        require((bits == 16, f"{self.word} has 16 bits, not {bits}"))

    def encode(self, x: Tensor, about: About) -> bytes:
        """Two bytes a number, little-endian; what the format cannot hold becomes its largest number."""
        return filled(2 * len(x), partial(self._fill, x))

    def _fill(self, x: Tensor, out: Raw) -> None:
        limit, coded = torch.finfo(self.dtype).max, torch.from_numpy(out).view(self.dtype)
        scratch = torch.empty(min(len(x), TILE))
        for tile, part in zip(torch.split(x, TILE), torch.split(coded, TILE), strict=True):
            part.copy_(torch.clamp(tile, -limit, limit, out=scratch[: len(tile)]))

    def decode(self, data: Bytes, about: About) -> Tensor:
        """The numbers in float32; BadUpdate where one is not finite."""
        check_length(data, 2 * about.numel, self.word)
        if not about.numel:
            return torch.empty(0)
        return room(about.numel).copy_(self._checked(data))

    def add(self, data: Bytes, about: About, into: Tensor, weight: float) -> None:
        """`into` += `weight` * the numbers, a tile at a time."""
        check_length(data, 2 * about.numel, self.word)
        if not about.numel:
            return
        scratch = torch.empty(min(about.numel, TILE))
        for start, tile in enumerate(torch.split(self._checked(data), TILE)):
            into[start * TILE :][: len(tile)].add_(scratch[: len(tile)].copy_(tile), alpha=weight)

    def _checked(self, data: Bytes) -> Tensor:
        """The numbers as they lie in `data`; BadUpdate where one is not finite."""
        # As whole numbers, infinity and NaN above 0 are the largest with a sign, those below 0 the largest without.
        raw = np.frombuffer(data, np.uint16)
        infinite = int(torch.tensor(torch.inf, dtype=self.dtype).view(torch.int16))
        if raw.view(np.int16).max() >= infinite or raw.max() >= infinite + (1 << 15):
            raise BadUpdate(f"{self.word} holds NaN or infinity")
        return torch.from_numpy(raw.view(np.int16)).view(self.dtype)

    def lengths(self, about: About) -> tuple[int, int]:
        """Two bytes a number."""
        return 2 * about.numel, 2 * about.numel


@final
class Float16(_Float):
    """IEEE half precision: 11 significant bits, up to 65504."""

    word = "float"
    dtype = torch.float16


@final
class BFloat16(_Float):
    """The upper half of a float32: 8 significant bits, its whole range."""

    word = "bfloat"
    dtype = torch.bfloat16
