"""Random crops and flips of whole batches."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.functional import pad


def augment(x: Tensor, generator: torch.Generator, *, crop: int = 0, flip: bool = False) -> Tensor:
    """Each image of a batch shifted by up to `crop` pixels and mirrored with probability 1/2.

    Takes and returns (N, C, H, W). What a shift uncovers is 0: the mean colour of normalised images.
    Draws come from `generator` on its own device, so a seed gives the same batch on every device.
    """
    if x.ndim != 4:
        raise ValueError(f"augment expects images (N, C, H, W), got a tensor of shape {tuple(x.shape)}")
    if flip:
        coins = torch.rand(len(x), generator=generator, device=generator.device) < 0.5
        x = torch.where(coins.to(x.device)[:, None, None, None], x.flip(-1), x)
    return _shift(x, generator, crop) if crop else x


def _shift(x: Tensor, generator: torch.Generator, crop: int) -> Tensor:
    count, _, height, width = x.shape
    offsets = torch.randint(0, 2 * crop + 1, (2, count), generator=generator, device=generator.device)
    down, right = offsets.to(x.device)
    windows = pad(x, (crop, crop, crop, crop)).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(count, device=x.device), :, down, right]


@final
@dataclass(frozen=True)
class Augment:
    """What `augment` does to training batches of a dataset: `crop` pixels of padding, `flip` or not."""

    crop: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.crop, bool) or not isinstance(self.crop, int) or self.crop < 0:
            raise ValueError(f"augment.crop must be a whole number of pixels >= 0, got {self.crop!r}")
        if not isinstance(self.flip, bool):
            raise ValueError(f"augment.flip must be true or false, got {self.flip!r}")

    def __bool__(self) -> bool:
        return self.crop > 0 or self.flip

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The batch, augmented; the batch itself when there is nothing to do."""
        return augment(x, generator, crop=self.crop, flip=self.flip) if self else x


def as_augment(value: Augment | Mapping[str, Any] | None) -> Augment:
    """An `Augment` from what a config holds; ValueError for a setting it does not have."""
    if isinstance(value, Augment):
        return value
    settings = dict(value or {})
    known = [field.name for field in fields(Augment)]
    unknown = sorted(set(map(str, settings)) - set(known))
    if unknown:
        raise ValueError(f"augment has no setting {', '.join(unknown)}: expected {', '.join(known)}")
    return Augment(**settings)
