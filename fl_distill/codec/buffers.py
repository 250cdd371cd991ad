"""Bytes that are filled in place, once: fresh pages cost more than what is computed for them."""

import io
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .packing import Raw


def room(count: int) -> Tensor:
    """Memory for `count` float32 numbers."""
    # NumPy asks for huge pages and torch does not: a fifth of the time for what is written once.
    return torch.from_numpy(np.empty(count, np.float32))


def filled(most: int, fill: Callable[[Raw], int | None]) -> bytes:
    """`most` bytes, 0 where `fill` writes nothing; only the first of them where it says how many."""
    file = io.BytesIO()
    if most:
        # Grows to its length in one step, which `getvalue` then gives away without a copy.
        file.seek(most - 1)
        file.write(b"\0")
        with file.getbuffer() as view:
            length = fill(np.frombuffer(view, np.uint8))
        file.truncate(most if length is None else length)
    return file.getvalue()
