"""Shorter floating formats, number by number."""

from abc import ABC
from typing import ClassVar, final

import torch
from torch import Tensor

from ..checks import require
from ..errors import BadUpdate
from .coder import About, Bytes, Grid, check_length


class _Float(Grid, ABC):
    dtype: ClassVar[torch.dtype]

    def __init__(self, bits: int = 16) -> None:
        require((bits == 16, f"{self.word} has 16 bits, not {bits}"))

    def encode(self, x: Tensor, about: About) -> bytes:
        """Two bytes a number, little-endian; what the format cannot hold becomes its largest number."""
        limit = torch.finfo(self.dtype).max
        return x.clamp(-limit, limit).to(self.dtype).view(torch.int16).numpy().tobytes()

    def decode(self, data: Bytes, about: About) -> Tensor:
        """The numbers in float32; BadUpdate where one is not finite."""
        check_length(data, 2 * about.numel, self.word)
        if not about.numel:
            return torch.empty(0)
        x = torch.frombuffer(data, dtype=self.dtype).to(torch.float32)
        if not torch.isfinite(x).all():
            raise BadUpdate(f"{self.word} holds NaN or infinity")
        return x

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
