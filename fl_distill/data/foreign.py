"""Examples of another dataset, brought to the form that this one stores."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fl_distill.data.columns import Columns
from fl_distill.data.types import Encoder, Source
from fl_distill.errors import DataError

WHITE = 255.0
CHUNK = 256
Pictures = npt.NDArray[np.uint8]


@runtime_checkable
class Scaled(Protocol):
    """An encoder of images that says which stored value is the brightest; of any other it is 255."""

    @property
    def scale(self) -> float:
        """The stored value that stands for 1."""
        ...


def adopt(guest: Source, home: Source, rows: Tensor, what: str = "public set") -> Tensor:
    """The training rows `rows` (n) of `guest` as `home` stores its own: what home's encoder can read.

    Images (n, C, H, W), uint8: grey from colour by luminance, colour from grey by repetition; stretched or
    shrunk to size by antialiased bilinear interpolation; values spread over home's scale. Tables
    (n, columns), float64: columns by name, categories by name. DataError when the two do not go together; `what`
    is what it calls the rows.
    """
    if guest.image != home.image:
        kinds = {True: "images", False: "a table"}
        advice = "images of any kind, such as crops" if home.image else "a table with the same columns"
        raise DataError(
            f"the {what}: expected {kinds[home.image]} like the dataset, found {kinds[guest.image]}; "
            f"choose {advice}, or no other source, so that a part of the dataset itself is held out"
        )
    x = guest.train.x[rows]
    if not home.image:
        return _table(x, guest.encoder, home, what)
    return _images(x, _scale(guest.encoder), tuple(home.train.x.shape[1:]), _scale(home.encoder), what)


def _scale(encoder: Encoder) -> float:
    return encoder.scale if isinstance(encoder, Scaled) else WHITE


def _images(x: Tensor, scale: float, shape: tuple[int, ...], wanted: float, what: str) -> Tensor:
    finer = max(scale, wanted)
    x = _rescale(x, finer / scale)
    return _rescale(x if tuple(x.shape[1:]) == shape else _redraw(x, shape, what), wanted / finer)


def _rescale(x: Tensor, factor: float) -> Tensor:
    """The nearest whole values, in the range of uint8."""
    return x if factor == 1 else (x.float() * factor).round_().clamp_(0, 255).to(torch.uint8)


def _redraw(x: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
    """Images (n, C, H, W) in another `shape` (C, H, W), in a few threads.

    Pillow rather than torch: torch's pixels depend on the processor, and sites compare their public sets.
    """
    if {x.shape[1], shape[0]} - {1, 3}:
        raise DataError(
            f"the {what}: expected images with 1 or 3 channels, or of shape {shape} like the dataset, "
            f"found {tuple(x.shape[1:])}; choose another source"
        )
    before = x.permute(0, 2, 3, 1).numpy()
    after = np.empty((len(x), *shape[1:], shape[0]), dtype=np.uint8)

    def fill(start: int) -> None:
        for index in range(start, min(start + CHUNK, len(x))):
            after[index] = _one(before[index], shape)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(fill, range(0, len(x), CHUNK)):
            pass
    return torch.from_numpy(after).permute(0, 3, 1, 2).contiguous()


def _one(pixels: Pictures, shape: tuple[int, ...]) -> Pictures:
    """One image (H, W, C) in another `shape` (C, H, W), returned as (H, W, C)."""
    from PIL import Image

    channels, height, width = shape
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    image = image.convert("L" if channels == 1 else "RGB")
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(height, width, channels)


def _table(x: Tensor, guest: Encoder, home: Source, what: str) -> Tensor:
    if isinstance(guest, Columns) and isinstance(home.encoder, Columns):
        return _columns(x, guest, home.encoder, what)
    wanted = tuple(home.train.x.shape[1:])
    if tuple(x.shape[1:]) != wanted:
        raise DataError(f"the {what}: expected rows of shape {wanted}, found {tuple(x.shape[1:])}")
    return x.to(home.train.x.dtype)


def _columns(x: Tensor, guest: Columns, home: Columns, what: str) -> Tensor:
    """Rows (n, columns) in the order of home's numbers and by the codes of home's categories."""
    found, expected = (f"{', '.join(c.numeric)} and {len(c.levels)} categorical" for c in (guest, home))
    if sorted(guest.numeric) != sorted(home.numeric) or len(guest.levels) != len(home.levels):
        raise DataError(
            f"the {what}: expected the dataset's columns, numeric {expected}, found numeric {found}; "
            f"name the same columns in the {what}'s settings"
        )
    numbers = x[:, [guest.numeric.index(name) for name in home.numeric]]
    first = len(guest.numeric)
    codes = [_codes(x[:, first + index], guest, home, index, what) for index in range(len(home.levels))]
    return torch.cat([numbers, *(code[:, None] for code in codes)], dim=1)


def _codes(codes: Tensor, guest: Columns, home: Columns, index: int, what: str) -> Tensor:
    """Codes (n) of one categorical column, from guest's list of levels to home's; NaN stays NaN."""
    theirs, ours = guest.levels[index], home.levels[index]
    if extra := [name for name in theirs if name not in ours]:
        raise DataError(
            f"the {what}: expected of categorical column {index + 1} one of {', '.join(ours)}, "
            f"found {', '.join(extra)}; choose the columns in the same order, or name these categories for the dataset"
        )
    table = torch.tensor([*map(ours.index, theirs), torch.nan], dtype=codes.dtype)
    return table[codes.nan_to_num(len(theirs)).long()]
