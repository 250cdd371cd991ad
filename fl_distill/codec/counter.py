"""Random bits that anyone can compute: a hash of a seed, a stream and a place, all modulo 2^64.

    mix(z):  z ^= z >> 30;  z *= 0xBF58476D1CE4E5B9;  z ^= z >> 27;  z *= 0x94D049BB133111EB;  z ^= z >> 31
    key            = mix(seed + (stream + 1) * 0x9E3779B97F4A7C15)
    word(place)    = mix(key  + (place  + 1) * 0x9E3779B97F4A7C15)        place = 0, 1, 2, ...

That is splitmix64, started at `key`. Words are read as little-endian bytes, and a byte's lowest bit comes first.
Stream 0 holds the signs of rotations, one bit a number (1 is minus). Stream 1 holds dithers, one byte r a number:
d = (r + 1/2) / 256 - 1/2, and r counts from 0 to 255. Stream 2 + i holds the start of the i-th matrix of `lowrank`,
one word a number.

Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"; constants of Vigna's splitmix64.c.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIGNS, DITHERS, STARTS = 0, 1, 2

_STEP = 0x9E3779B97F4A7C15
_LIMIT = 1 << 64
# Of each byte its eight signs, one a byte.
_OF_BYTE = 1 - 2 * np.unpackbits(np.arange(256, dtype=np.uint8), bitorder="little").view(np.int8)
_OF_BYTE = _OF_BYTE.view(np.uint64)


def words(seed: int, stream: int, first: int, count: int) -> NDArray[np.uint64]:
    """word(first), ..., word(first + count - 1), little-endian."""
    key = int(_mix(np.array([(seed + (stream + 1) * _STEP) % _LIMIT], np.uint64))[0])
    z = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    z *= np.uint64(_STEP)
    z += np.uint64(key)
    return _mix(z).astype("<u8", copy=False)


def signs(seed: int, first: int, count: int) -> Tensor:
    """1 or -1 for the numbers from `first`, a multiple of 64: (count,) int8."""
    raw = words(seed, SIGNS, first // 64, -(-count // 64)).view(np.uint8)
    return torch.from_numpy(_OF_BYTE.take(raw).view(np.int8)[:count])


def dithers(seed: int, first: int, count: int) -> Tensor:
    """(byte + 1/2) / 256 - 1/2 for the numbers from `first`, a multiple of 8: (count,) float32, mean 0 exactly."""
    raw = words(seed, DITHERS, first // 8, -(-count // 8)).view(np.uint8)[:count]
    np.bitwise_xor(raw, np.uint8(128), out=raw)
    return torch.from_numpy(raw.view(np.int8)).to(torch.float32).add_(0.5).mul_(1 / 256)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    half = np.empty_like(z)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        z ^= np.right_shift(z, np.uint64(shift), out=half)
        z *= np.uint64(factor)
    return z
