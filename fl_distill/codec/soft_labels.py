"""Soft labels on a grid as few bytes: which rows changed since the round before, then those rows, entropy-coded.

Source: Sattler et al. 2021 (CFD), arXiv 2012.00632. Levels are rows of `simplex.quantize`.

    packed  = version (1 byte) | CRC32 of all levels (4) | which rows changed | rows
    which   = EVERY (1) | BITMAP (1), length, symbols below 2 | GAPS (1), length, how many rows lie between two
    rows    = the class of each as symbols, where bits = 1
            = grouped (1) | for each context of `simplex.split`: how many levels and, if any, length, symbols
    symbols = DIGITS (1), one long number in base `size` | ENTROPY (1), `rans`

Lengths and counts are `rans.numbers`. Of all these ways the shortest is taken.
"""

import zlib
from math import log2

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import require, whole
from ..errors import BadUpdate
from . import rans, simplex
from .rans import Ints, Reader
from .simplex import Levels

VERSION = 1
_EVERY, _BITMAP, _GAPS = range(3)
_DIGITS, _ENTROPY = range(2)
_WORD = 1 << 64


def pack(levels: Tensor, bits: int, base: Tensor | None = None) -> Tensor:
    """(N, C) uint8 with rows that sum to 2^bits - 1 -> (bytes,) uint8; with `base` (N, C), what differs from it.

    Of one bit at most N * log2(C) / 8 + 16 bytes.
    """
    rows = _checked("levels", levels, bits)
    bodies = [bytes([_EVERY]) + _write_rows(rows, bits)]
    if base is not None:
        before = _checked("base", base, bits)
        require((before.shape == rows.shape, f"base is {before.shape}, but levels are {rows.shape}"))
        changed = (rows != before).any(1)
        bodies.append(_write_changed(changed) + _write_rows(rows[changed], bits))
    head = bytes([VERSION]) + _check(rows)
    return torch.frombuffer(bytearray(head + min(bodies, key=len)), dtype=torch.uint8)


def unpack(packed: Tensor, rows: int, classes: int, bits: int, base: Tensor | None = None) -> Tensor:
    """The (rows, classes) levels that `pack` was given, along with the same base; `BadUpdate` if anything is off."""
    simplex.row_sum(bits)
    require((whole(rows, 0) and whole(classes), f"there cannot be {rows} rows of {classes} classes"))
    levels = np.zeros((rows, classes), np.uint8) if base is None else _checked("base", base, bits).copy()
    require((levels.shape == (rows, classes), f"base is {levels.shape}, but labels are {(rows, classes)}"))
    reader = Reader(_bytes(packed))
    (version,), check, (which,) = reader.take(1), reader.take(4), reader.take(1)
    if version != VERSION:
        raise BadUpdate(f"packed soft labels have version {version}, expected {VERSION}")
    if which > _GAPS or (which != _EVERY and base is None):
        raise BadUpdate(f"packed soft labels have rows of kind {which}, expected {_EVERY}, or less than 3 with a base")
    changed = np.ones(rows, bool) if which == _EVERY else _read_changed(reader, which, rows)
    levels[changed] = _read_rows(reader, int(changed.sum()), classes, bits)
    if reader.left:
        raise BadUpdate(f"packed soft labels go on for {reader.left} bytes after the last row")
    if _check(levels) != check:
        raise BadUpdate("packed soft labels are damaged, or are changes to other labels than those given as base")
    return torch.from_numpy(levels)


def _checked(name: str, levels: Tensor, bits: int) -> Levels:
    """As an array (N, C) in C order."""
    total = simplex.row_sum(bits)
    good = levels.dtype == torch.uint8 and levels.ndim == 2 and 0 < levels.shape[1] <= rans.LARGEST_SIZE
    require((good, f"{name} must be uint8 (N, C) with 0 < C <= {rans.LARGEST_SIZE}"))
    rows: Levels = np.ascontiguousarray(levels.detach().cpu().numpy())
    require((bool((rows.sum(1) == total).all()), f"rows of {name} must sum to {total}"))
    return rows


def _check(rows: Levels) -> bytes:
    return zlib.crc32(rows.tobytes()).to_bytes(4, "little")


def _bytes(packed: Tensor) -> bytes:
    if packed.dtype != torch.uint8 or packed.ndim != 1:
        raise BadUpdate(f"packed soft labels are {packed.dtype} {list(packed.shape)}, expected uint8 in one dimension")
    return packed.detach().cpu().numpy().tobytes()


def _chunk(data: bytes) -> bytes:
    return rans.numbers(np.array([len(data)])) + data


def _write_changed(changed: NDArray[np.bool_]) -> bytes:
    gaps = rans.numbers(np.diff(np.flatnonzero(changed), prepend=-1) - 1)
    bitmap = _code(changed.astype(np.int64), 2)
    return bytes([_GAPS]) + _chunk(gaps) if len(gaps) < len(bitmap) else bytes([_BITMAP]) + _chunk(bitmap)


def _read_changed(reader: Reader, which: int, rows: int) -> NDArray[np.bool_]:
    data = reader.take(reader.number())
    if which == _BITMAP:
        return _decode(data, rows, 2).astype(bool)
    changed, gaps, row = np.zeros(rows, bool), Reader(data), -1
    while gaps.left:
        row += 1 + gaps.number()
        if row >= rows:
            raise BadUpdate(f"packed soft labels change row {row} of {rows}")
        changed[row] = True
    return changed


def _write_rows(rows: Levels, bits: int) -> bytes:
    if bits == 1 or not len(rows):
        return _code(rows.argmax(1), rows.shape[1])
    return min((_write_contexts(rows, bits, grouped) for grouped in (False, True)), key=len)


def _write_contexts(rows: Levels, bits: int, grouped: bool) -> bytes:
    written = [bytes([grouped])]
    sizes = simplex.sizes(rows.shape[1], bits, grouped)
    for part, size in zip(simplex.split(rows, bits, grouped), sizes, strict=True):
        written.append(rans.numbers(np.array([len(part)])))
        written.append(_chunk(_code(part, size)) if len(part) else b"")
    return b"".join(written)


def _read_rows(reader: Reader, count: int, classes: int, bits: int) -> Levels:
    if bits == 1 or not count:
        rows = np.zeros((count, classes), np.uint8)
        rows[np.arange(count), _decode(reader.take(reader.left), count, classes)] = 1
        return rows
    (grouped,) = reader.take(1)
    if grouped > 1:
        raise BadUpdate(f"packed soft labels have contexts of kind {grouped}, expected 0 or 1")
    parts, most = [], count * (classes - 1)
    for size in simplex.sizes(classes, bits, bool(grouped)):
        if (length := reader.number()) > most:
            raise BadUpdate(f"packed soft labels hold {length} levels where {most} are left to come")
        parts.append(_decode(reader.take(reader.number()), length, size) if length else np.zeros(0, np.int64))
        most -= length
    return simplex.join(parts, count, classes, bits, bool(grouped))


def _code(symbols: Ints, size: int) -> bytes:
    """Whole numbers below `size` as digits or entropy-coded, whichever is shorter."""
    return min(bytes([_DIGITS]) + _to_digits(symbols, size), bytes([_ENTROPY]) + rans.encode(symbols, size), key=len)


def _decode(data: bytes, count: int, size: int) -> Ints:
    if data[:1] == bytes([_ENTROPY]):
        return rans.decode(data[1:], count, size)
    if data[:1] != bytes([_DIGITS]):
        raise BadUpdate("packed soft labels hold symbols that are neither digits nor entropy-coded")
    return _from_digits(data[1:], count, size)


def _powers(size: int) -> NDArray[np.uint64]:
    """1, size, size^2 ...: the places of as many digits as 64 bits hold."""
    return np.array([size**place for place in range(int(64 / log2(max(2, size))))], np.uint64)


def _to_digits(symbols: Ints, size: int) -> bytes:
    """One number that takes up digit after digit, from the last; past 96 bits its low word of 64 is put aside.

    With 32 bits or more left then, it loses less than a byte in all. First its top as 5 to 12 bytes, which the length
    of data tells (less where there are no words), then the words, the latest first.
    """
    powers = _powers(size)
    groups = np.pad(symbols, (0, -len(symbols) % len(powers))).astype(np.uint64).reshape(-1, len(powers))
    number, words = 0, []
    for value in reversed((groups * powers).sum(1).tolist()):
        number = number * size ** len(powers) + value
        if number >= _WORD << 32:
            number, word = divmod(number, _WORD)
            words.append(word)
    top = number.to_bytes((number.bit_length() + 7) // 8, "little")
    return top + np.array(words[::-1], "<u8").tobytes()


def _from_digits(data: bytes, count: int, size: int) -> Ints:
    powers, values = _powers(size), []
    base, top = size ** len(powers), data[: (len(data) + 3) % 8 + 5]
    number, words = int.from_bytes(top, "little"), np.frombuffer(data[len(top) :], "<u8").tolist()[::-1]
    for _ in range(0, count, len(powers)):
        if number < base << 32 and words:  # only what had a word put aside is so small
            number = number * _WORD + words.pop()
        number, value = divmod(number, base)
        values.append(value)
    symbols = (np.array(values, np.uint64)[:, None] // powers % np.uint64(size)).reshape(-1)
    if number or words or symbols[count:].any() or top[-1:] == b"\0":
        raise BadUpdate(f"packed soft labels hold other than {count} digits below {size}")
    return symbols[:count].astype(np.int64)
