"""Whole numbers side by side, each in as few bits as the largest may need."""

import numpy as np
from numpy.typing import NDArray

from .coder import Bytes, check_length

Ints = NDArray[np.int64]


def size(count: int, width: int) -> int:
    """Bytes of `count` numbers of `width` bits."""
    return (count * width + 7) // 8


def pack(values: Ints, width: int) -> bytes:
    """Numbers below 2^width, width <= 32, lowest bit first; the last byte is filled with 0."""
    if not width:
        return b""
    table = np.unpackbits(values.astype("<u4").view(np.uint8).reshape(-1, 4), axis=1, count=width, bitorder="little")
    return np.packbits(table, bitorder="little").tobytes()


def unpack(data: Bytes, count: int, width: int, what: str) -> Ints:
    """The `count` numbers that `pack` was given; `BadUpdate` where there are more or fewer bytes of `what`."""
    check_length(data, size(count, width), what)
    if not count or not width:
        return np.zeros(count, np.int64)
    table = np.unpackbits(np.frombuffer(data, np.uint8), count=count * width, bitorder="little")
    whole = np.packbits(table.reshape(count, width), axis=1, bitorder="little")
    return np.pad(whole, ((0, 0), (0, 4 - whole.shape[1]))).view("<u4")[:, 0].astype(np.int64)
