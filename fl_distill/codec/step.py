"""One step for a whole message: coarse whole numbers, most of them 0, for an entropy coder to shorten.

Uniform quantization at high rate followed by an entropy coder is within 0.25 bits of what any code of single numbers
can do (Gish & Pierce 1968), and spends bits where the energy of a message is.

    bytes   = step (float32) | how many wide, how many long (uint32 each) | shrink (uint8, in 1/510 steps)
              | nibbles | wide (int8) | long (int32)
    nibbles = tile by tile of 65,536 numbers: byte i holds number i below number i + half, half = ceil(tile / 2)

All little-endian. A nibble -8 says that the number is the next of `wide`, a wide -128 that it is the next of `long`.
Numbers of a peaked distribution lie nearer to 0 than the middle of what rounds to the same code, by `shrink` on
average, which decoding takes off again: up to a quarter less squared error on recorded updates.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import number, require
from ..errors import BadUpdate
from .buffers import filled, room
from .coder import About, Bytes, Grid, check_length

_HEAD = struct.Struct("<fIIB")
_TILE = 1 << 16  # numbers whose scratch stays in the second-level cache
_RUN = 4 * _TILE  # what is computed at a time, until each call's own time no longer counts
_FLOAT, _LONG = torch.finfo(torch.float32), 2147483520  # the largest float32 that int32 holds
_SLACK = 0.985  # of the step, for its rounding to 8 bits and for sums in float32
_SHRINK = 1 / 510

Bools = NDArray[np.bool_]


@final
class Step(Grid):
    """q = round(x / D), x ~ sign(q) (|q| - s) D; D = width * rms(x), s = mean over q != 0 of |q| - |x| / D.

    The squared error is about D^2 / 12 a number, less where most numbers are small.
    """

    word = "step"

    def __init__(self, width: float = 0.5) -> None:
        require((number(width, 1e-3, 100), f"step: the width must be from 0.001 to 100 times the rms, not {width}"))
        self.width = float(width)

    def encode(self, x: Tensor, about: About) -> bytes:
        """Half a byte a number, and 1 or 5 more for one beyond 7 or 127 steps."""
        return filled(self.lengths(about.flat(len(x)))[1], partial(_fill, x, _rounded(self.width * _rms(x))))

    def decode(self, data: Bytes, about: About) -> Tensor:
        """sign(q) (|q| - s) D."""
        codes = self._read(data, about)
        x = room(about.numel)
        for start, levels in codes.tiles():
            torch.mul(levels, codes.step / 16, out=x[start : start + len(levels)])
        return x

    def add(self, data: Bytes, about: About, into: Tensor, weight: float) -> None:
        """`into` += `weight` sign(q) (|q| - s) D, tile by tile."""
        codes = self._read(data, about)
        for start, levels in codes.tiles():
            into[start : start + len(levels)].add_(levels, alpha=weight * codes.step / 16)

    def lengths(self, about: About) -> tuple[int, int]:
        """By Chebyshev's inequality at most n / (7.5 width)^2 numbers are wide, and n / (127.5 width)^2 are long."""
        n = about.numel
        wide, long = (min(n, int(n / (_SLACK * level * self.width) ** 2)) for level in (7.5, 127.5))
        least = _HEAD.size + (n + 1) // 2
        return least, least + wide + 4 * long

    def _read(self, data: Bytes, about: About) -> "_Codes":
        """The parts of the bytes, every one of them checked."""
        least, most = self.lengths(about)
        if not least <= len(data) <= most:
            raise BadUpdate(f"step has {len(data)} bytes, expected {least} to {most}")
        step, wide, long, shrink = _HEAD.unpack_from(data)
        check_length(data, least + wide + 4 * long, f"step with {wide} wide and {long} long numbers")
        if not (step == 0 or _FLOAT.smallest_normal <= step <= _FLOAT.max):
            raise BadUpdate(f"step: the step is {step}, expected a finite number that is not below 0")
        body = np.frombuffer(data, np.uint8, offset=_HEAD.size)
        nibbles, wides, longs = np.split(body, [(about.numel + 1) // 2, (about.numel + 1) // 2 + wide])
        codes = _Codes(about.numel, step, shrink * _SHRINK, nibbles, wides.view(np.int8), longs.view("<i4"))
        codes.check()
        return codes


@dataclass(frozen=True)
class _Codes:
    numel: int
    step: float
    shrink: float
    nibbles: NDArray[np.uint8]
    wide: NDArray[np.int8]
    long: NDArray[np.int32]

    def check(self) -> None:
        """Raise `BadUpdate` unless there are as many wide and long numbers as are asked for, none of them too small."""
        if self.step == 0 and (self.shrink or self.nibbles.any()):
            raise BadUpdate("step: the step is 0, but not all numbers are")
        if self.numel % 2 and self.nibbles[-1] >> 4:
            raise BadUpdate("step: the last nibble stands for no number, and is not 0")
        marked = sum(_marks(self.nibbles[at : at + _TILE]) for at in range(0, len(self.nibbles), _TILE))
        if marked != len(self.wide):
            raise BadUpdate(f"step: {marked} nibbles say that a number is wide, but {len(self.wide)} are")
        deep = int(np.count_nonzero(self.wide == -128))
        if deep != len(self.long):
            raise BadUpdate(f"step: {deep} wide numbers say that they are long, but {len(self.long)} are")
        if (np.abs(self.wide.astype(np.int16)) <= 7).any() or (np.abs(self.long.astype(np.int64)) <= 127).any():
            raise BadUpdate("step: a number that fits a shorter form is wide or long")
        largest = int(np.abs(self.long.astype(np.int64)).max(initial=128))
        if largest * self.step > _FLOAT.max:
            raise BadUpdate(f"step: {largest} steps of {self.step:g} are not finite in float32")

    def tiles(self) -> Iterator[tuple[int, Tensor]]:
        """(start, 16 sign(q) (|q| - s)) of tiles, all in the same memory.

        Sixteen-fold, since a nibble in the upper half of a byte needs no other treatment for its sign.
        """
        outside = self.wide.astype(np.float32)
        outside[self.wide == -128] = self.long
        outside *= 16
        levels, least, raw, taken = torch.empty(_TILE), torch.empty(_TILE), np.empty(_TILE, np.uint8), 0
        for start in range(0, self.numel, _TILE):
            count = min(_TILE, self.numel - start)
            half = (count + 1) // 2
            packed = self.nibbles[start // 2 : start // 2 + half]
            np.multiply(packed, np.uint8(16), out=raw[:half])  # a shift to the left takes eight times as long
            np.bitwise_and(packed[: count - half], 0xF0, out=raw[half:count])
            tile = levels[:count].copy_(torch.from_numpy(raw[:count].view(np.int8)))
            marked = raw[:count] == 0x80
            if found := int(np.count_nonzero(marked)):
                tile.numpy()[marked] = outside[taken : taken + found]
                taken += found
            if self.shrink:
                tile.sub_(torch.clamp(tile, -16 * self.shrink, 16 * self.shrink, out=least[:count]))
            yield start, tile


def _fill(x: Tensor, step: float, out: NDArray[np.uint8]) -> int:
    """Fill in head, nibbles, `wide` and `long`; how many bytes they are."""
    nibbles = _HEAD.size + (len(x) + 1) // 2
    outside = _quantize(x, step, out[_HEAD.size : nibbles]) if step else np.zeros(0, np.float32)
    far = np.abs(outside) > 127
    wide, long = np.where(far, np.float32(-128), outside).astype(np.int8), outside[far].astype("<i4")
    _HEAD.pack_into(out.data, 0, step, len(wide), len(long), _shrink(x, step) if step else 0)
    end: int = nibbles + wide.nbytes + long.nbytes
    out[nibbles:end] = np.concatenate((wide.view(np.uint8), long.view(np.uint8)))
    return end


def _quantize(x: Tensor, step: float, nibbles: NDArray[np.uint8]) -> NDArray[Any]:
    """Fill in the nibbles of round(x / step); those numbers that none holds, float32, in order."""
    outside: list[NDArray[np.float32]] = []
    levels = torch.empty(_RUN)
    codes, above = torch.empty(_RUN, dtype=torch.int8), np.empty(_RUN, np.bool_)
    for run in torch.split(x, _RUN):
        count, start = len(run), len(outside) * _RUN
        codes[:count].copy_(torch.mul(run, 1 / step, out=levels[:count]).round_().clamp_(-8, 8))
        raw = codes.numpy().view(np.uint8)[:count]
        raw &= 15  # which makes one nibble of 8 and -8
        few = run[torch.from_numpy(_places(np.equal(raw, 8, out=above[:count])))]
        outside.append(few.mul_(1 / step).round_().numpy())
        for tile in (raw,) if count == _RUN else np.split(raw, range(_TILE, count, _TILE)):
            _pack(tile.reshape(-1, min(len(tile), _TILE)), nibbles[start // 2 :])
            start += len(tile)
    return np.clip(np.concatenate(outside), -_LONG, _LONG) if outside else np.zeros(0, np.float32)


def _pack(tiles: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Numbers below 16, (tiles, count), into the front of `out`, which is 0."""
    half = (tiles.shape[1] + 1) // 2
    packed = out[: len(tiles) * half].reshape(-1, half)
    np.multiply(tiles[:, half:], np.uint8(16), out=packed[:, : tiles.shape[1] - half])
    packed |= tiles[:, :half]


def _places(marks: Bools) -> NDArray[np.int64]:
    """Where the few marks are: looking at eight at a time leaves few to look at."""
    if len(marks) % 8:
        return np.flatnonzero(marks)
    eights = np.flatnonzero(marks.view(np.uint64) != 0)
    places = (eights[:, None] * 8 + np.arange(8)).ravel()
    found: NDArray[np.int64] = places[marks[places]]
    return found


def _shrink(x: Tensor, step: float) -> int:
    """s in units of 1/510, from at most 65,536 numbers: in a long vector 16 side by side, at equal distances."""
    every = 16 * math.ceil(len(x) / _TILE)  # 16 are a line of the cache, read for one of them as for all
    few = (x if len(x) <= _TILE else x[: len(x) // every * every].view(-1, every)[:, :16]).abs() / step
    q = few.round()
    lost = torch.where(q > 0, q - few, 0.0).sum(dtype=torch.float64)
    mean = float(lost) / max(1, int(torch.count_nonzero(q)))
    return round(min(max(mean, 0.0), 0.5) / _SHRINK)


def _marks(packed: NDArray[np.uint8]) -> int:
    return int(np.count_nonzero(packed & 0x0F == 0x08) + np.count_nonzero(packed & 0xF0 == 0x80))


def _rms(x: Tensor) -> float:
    """sqrt(sum x^2 / n); in float64 where squares leave float32."""
    tiles = torch.split(x, 4 * _TILE)
    total = math.fsum(torch.dot(tile, tile).item() for tile in tiles)
    if not 1e-20 * len(x) < total < 1e37:
        total = math.fsum(tile.double().square().sum().item() for tile in tiles)
    return math.sqrt(total / max(1, len(x)))


def _rounded(step: float) -> float:
    """To 8 significant bits, so that a sum in another order, on another machine, gives the same; 0 stays 0."""
    least, largest = _FLOAT.smallest_normal, torch.finfo(torch.bfloat16).max
    return float(torch.tensor(min(max(step, least), largest), dtype=torch.bfloat16)) if step else 0.0
