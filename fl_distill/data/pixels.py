"""From stored pixels to normalised images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fl_distill.data.types import Encode

PerChannel = float | Sequence[float]


def per_channel(value: PerChannel, name: str) -> tuple[float, ...]:
    """One number for all channels or one for each, as a tuple; ValueError when it is neither."""
    numbers = (value,) if isinstance(value, int | float) else tuple(value)
    if len(numbers) not in (1, 3) or any(not isinstance(number, int | float) for number in numbers):
        raise ValueError(f"{name} must be one number, or one for each channel (1 or 3), got {value!r}")
    return tuple(float(number) for number in numbers)


@final
@dataclass(frozen=True)
class Pixels:
    """(x / scale - mean) / std, channel by channel; `mean` and `std` hold 1 number or one a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0

    def __post_init__(self) -> None:
        if any(number <= 0 for number in self.std):
            raise ValueError(f"std must be above 0 in every channel, got {list(self.std)}")

    def fit(self, x: Tensor, parts: Sequence[Tensor], public: Tensor) -> Encode:
        """The same encoding for every site: pixels need no statistics of theirs."""
        return self._encode

    def _encode(self, x: Tensor, who: Tensor) -> Tensor:
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        std = torch.tensor(self.std).view(-1, 1, 1)
        return x.to(torch.float32).div_(self.scale).sub_(mean).div_(std)
