"""Codes of 1 to 16 bits as bytes, in planes, so that packing is a few operations on whole vectors.

A vector of codes is cut into tiles of 262144, the last one shorter, which follow one another. In a tile, a code's bits
are cut, from the lowest up, into pieces of 8 as long as there are 8, then 4, 2, 1 as its width asks: 3 = 2 + 1, 4 = 4,
12 = 8 + 4. Each piece has its plane, and the planes follow one another. The plane of pieces of w bits from m codes has
k = ceil(m w / 8) bytes, and code number i k + j lies in byte j, bits i w to i w + w - 1: for 4 bits, low half and high
half. Bits of codes that are not there are 0.
"""

import numpy as np
from numpy.typing import NDArray

from ..errors import BadUpdate

Codes = NDArray[np.uint8] | NDArray[np.uint16]
Raw = NDArray[np.uint8]

TILE = 1 << 18


def packed_length(count: int, bits: int) -> int:
    """Sum over planes of ceil(count * w / 8) bytes, w the planes' widths; tiles change nothing in it."""
    return sum(-(-count * width // 8) for width, _ in _planes(bits))


def pack(codes: Codes, bits: int) -> bytes:
    """Codes < 2^bits as `packed_length` bytes."""
    out = np.empty(packed_length(len(codes), bits), np.uint8)
    for first in range(0, len(codes), TILE):
        pack_tile(codes[first : first + TILE], bits, out[first * bits // 8 :])
    return out.tobytes()


def unpack(data: Raw, bits: int, count: int) -> Codes:
    """The codes of `packed_length` bytes, uint16 above 8 bits; BadUpdate where bits behind the codes are not 0."""
    codes = spare(count, bits)
    for first in range(0, count, TILE):
        unpack_tile(data[first * bits // 8 :], bits, codes[first : first + TILE])
    return codes


def pack_tile(codes: Codes, bits: int, out: Raw) -> None:
    """One tile's codes, at most 262144, into the front of `out`."""
    count, at = len(codes), 0
    for width, shift in _planes(bits):
        length = -(-count * width // 8)
        plane = out[at : at + length]
        piece = codes if width == bits else codes >> codes.dtype.type(shift) & codes.dtype.type((1 << width) - 1)
        plane[:] = piece[:length]
        for place in range(1, 8 // width):
            part = piece[place * length : (place + 1) * length].astype(np.uint8, copy=False)
            # NumPy takes eight times as long to shift bytes to the left as to multiply them.
            plane[: len(part)] |= np.multiply(part, np.uint8(1 << place * width))
        at += length


def unpack_tile(data: Raw, bits: int, codes: Codes) -> None:
    """As many of a tile's codes as fit in `codes`, from the front of `data`; BadUpdate where bits behind are not 0."""
    count, at = len(codes), 0
    for width, shift in _planes(bits):
        length = -(-count * width // 8)
        plane, mask = data[at : at + length], np.uint8((1 << width) - 1)
        for place in range(8 // width):
            part = codes[place * length : (place + 1) * length]
            piece = np.right_shift(plane, np.uint8(place * width))
            if width < 8:
                piece &= mask
            if piece[len(part) :].any():
                raise BadUpdate(f"the plane of {width} bits behind {count} codes is not 0")
            if shift:
                part |= np.multiply(piece[: len(part)], codes.dtype.type(1 << shift), dtype=codes.dtype)
            else:
                part[:] = piece[: len(part)]
        at += length


def spare(count: int, bits: int) -> Codes:
    """Memory for `count` codes."""
    return np.empty(count, np.uint8) if bits <= 8 else np.empty(count, np.uint16)


def _planes(bits: int) -> list[tuple[int, int]]:
    """(width, lowest bit) of each plane."""
    widths = [8] * (bits // 8) + [width for width in (4, 2, 1) if bits & width]
    return [(width, sum(widths[:place])) for place, width in enumerate(widths)]
