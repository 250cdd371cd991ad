"""Encoded images to one uint8 tensor, in a few threads."""

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fl_distill.errors import DataError

CHUNK = 256
Shape = tuple[int, int, int]


def decode(
    count: int,
    read: Callable[[int], bytes],
    name: Callable[[int], str],
    size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> Tensor:
    """Images 0 … count - 1 as uint8 (N, C, H, W); `read` gives the bytes of one and `name` what to call it.

    Without `size` all images must be as large as the first; without `channels` (1 or 3) it is as grey or
    coloured as the first. DataError names an image that cannot be read.
    """
    if count == 0:
        return torch.empty((0, channels or 1, *(size or (1, 1))), dtype=torch.uint8)
    shape = _shape(read, name, size, channels)
    out = np.empty((count, *shape), dtype=np.uint8)

    def fill(start: int) -> None:
        for index in range(start, min(start + CHUNK, count)):
            out[index] = _one(read, name, index, shape, resize=size is not None)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(fill, range(0, count, CHUNK)):
            pass
    return torch.from_numpy(out)


def _shape(
    read: Callable[[int], bytes],
    name: Callable[[int], str],
    size: tuple[int, int] | None,
    channels: int | None,
) -> Shape:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(read(0))) as image:
            grey = image.mode in ("1", "L", "LA", "I", "I;16", "F")
            width, height = image.size
    except Exception as cause:
        raise _unreadable(name(0), cause) from cause
    return (channels or (1 if grey else 3), *(size or (height, width)))


def _one(
    read: Callable[[int], bytes], name: Callable[[int], str], index: int, shape: Shape, *, resize: bool
) -> npt.NDArray[np.uint8]:
    from PIL import Image

    channels, height, width = shape
    try:
        image: Image.Image = Image.open(io.BytesIO(read(index)))
        wanted = "L" if channels == 1 else "RGB"
        image = image if image.mode == wanted else image.convert(wanted)
        if resize and image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    except Exception as cause:  # a broken file makes Pillow raise almost anything, SyntaxError included
        raise _unreadable(name(index), cause) from cause
    if pixels.shape[:2] != (height, width):
        found = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise DataError(
            f"{name(index)}: expected {width}x{height} pixels like the first image, found {found}; "
            "set dataset.size to bring all images to one size"
        )
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _unreadable(name: str, cause: Exception) -> DataError:
    return DataError(f"{name}: expected a complete image, but it cannot be decoded ({cause}); replace or remove it")
