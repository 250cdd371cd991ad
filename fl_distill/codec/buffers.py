"""Bytes that are filled in place, once: fresh pages cost more than what is computed for them."""

import io
from collections.abc import Callable

import numpy as np

from .packing import Raw


def filled(length: int, fill: Callable[[Raw], None]) -> bytes:
    """`length` bytes, 0 where `fill` writes nothing."""
    file = io.BytesIO()
    if length:
        # Grows to its exact length in one step, which `getvalue` then gives away without a copy.
        file.seek(length - 1)
        file.write(b"\0")
        room = file.getbuffer()
        fill(np.frombuffer(room, np.uint8))
        del room
    return file.getvalue()
