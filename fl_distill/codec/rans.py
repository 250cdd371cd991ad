"""An entropy coder for whole numbers: rANS with a table of frequencies in front.

Source: Duda 2014, arXiv 1311.2540. With frequencies f_s that sum to 2^k, and c_s the sum of those before s, a symbol
takes the state from x to 2^k * (x // f_s) + c_s + x % f_s, which makes it longer by log2(2^k / f_s) bits; x % 2^k
tells the symbol again. A state stays in [2^24, 2^40): what is more leaves it as words of 16 bits. Symbol i belongs to
state i % lanes; numpy moves all lanes in one step, but where data are few one lane of plain integers is faster.

    data = k (1 byte) | table | lanes (a number) | their states (5 bytes each) | words (2 bytes each)

Where only one symbol occurs, k is 0 and data ends after the table. No symbols are no data.
"""

from typing import final

import numpy as np
from numpy.typing import NDArray

from ..checks import require
from ..errors import BadUpdate

Ints = NDArray[np.int64]

LARGEST_SIZE = 1 << 16
_SCALES = (0, 7, 9, 11, 12, 14, 16)  # fine tables are long, coarse ones waste bits
_LOW, _HIGH_BITS, _STATE_BYTES = 1 << 24, 40, 5
# A lane costs 4 bytes: at most 1 % of the data, unless more than 2^15 steps would be needed.
_BYTES_A_LANE, _FEWEST_LANES, _STEPS_BITS = 512, 20, 15


@final
class Reader:
    """Bytes read from front to back; whoever reads past the end gets a `BadUpdate`."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._at

    def take(self, length: int) -> bytes:
        """The next bytes."""
        if length > self.left:
            raise BadUpdate(f"coded data end early: {length} more bytes expected, {self.left} left")
        self._at += length
        return self._data[self._at - length : self._at]

    def number(self) -> int:
        """The next number that `numbers` wrote."""
        value = 0
        for place in range(0, 35, 7):
            (byte,) = self.take(1)
            value |= (byte & 127) << place
            if byte < 128:
                return value
        raise BadUpdate("coded data hold a number of more than 35 bits")


def numbers(values: Ints) -> bytes:
    """Numbers from 0 to 2^35 - 1, 7 bits a byte, low bits first; the top bit of a byte says that more follow."""
    places = np.arange(0, 35, 7)
    digits = values[:, None] >> places
    needed = (places == 0) | (digits > 0)
    return bytes((digits & 127 | (digits > 127) << 7)[needed].astype(np.uint8))


def encode(symbols: Ints, size: int) -> bytes:
    """Whole numbers (n,) from 0 to size - 1 as bytes: about n times their entropy, the table, and 5 bytes or 1 %."""
    require((1 <= size <= LARGEST_SIZE, f"size must be from 1 to {LARGEST_SIZE}, not {size}"))
    if not len(symbols):
        return b""
    require((bool(symbols.min() >= 0 and symbols.max() < size), f"symbols must be from 0 to {size - 1}"))
    counts = np.bincount(symbols, minlength=size)
    used = np.flatnonzero(counts)
    plans = [_plan(used, counts[used], scale) for scale in _SCALES if len(used) <= 1 << scale <= 64 * len(symbols)]
    expected, scale, frequencies, table = min(plans, key=lambda plan: plan[0])
    if not scale:
        return b"\0" + table
    lanes = max(int(expected) // _BYTES_A_LANE, len(symbols) >> _STEPS_BITS)
    index = np.zeros(size, np.int64)
    index[used] = np.arange(len(used))
    states, words = (_push if lanes >= _FEWEST_LANES else _push_one)(index[symbols], frequencies, scale, lanes)
    raw = states.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :_STATE_BYTES].tobytes()
    return bytes([scale]) + table + numbers(np.array([len(states)])) + raw + words.astype("<u2").tobytes()


def decode(data: bytes, count: int, size: int) -> Ints:
    """The `count` symbols that `encode` wrote; memory is bounded by a multiple of `count` and `data`, and 4 MB."""
    reader, slots = Reader(data), np.zeros(count, np.int64)
    (scale,) = reader.take(1) if count else (0,)
    if scale > _SCALES[-1]:
        raise BadUpdate(f"coded data have 2^{scale} slots, expected at most 2^{_SCALES[-1]}")
    used, frequencies = _read_table(reader, scale, size) if count else (slots, slots)
    if scale:
        states, words = _read_lanes(reader, count)
        pop = _pop if len(states) > 1 else _pop_one
        factor = np.repeat(frequencies, frequencies)
        offset = np.arange(1 << scale) - np.repeat(np.cumsum(frequencies) - frequencies, frequencies)
        if pop(slots, states, words, factor, offset) < len(words) or (states != _LOW).any():
            raise BadUpdate("coded data are damaged: they do not end where the last symbol does")
    if reader.left:
        raise BadUpdate(f"coded data go on for {reader.left} bytes after the last symbol")
    return np.repeat(used, frequencies)[slots]


def _plan(used: Ints, counts: Ints, scale: int) -> tuple[float, int, Ints, bytes]:
    """What a table of sum 2^scale comes to: (expected bytes in all, scale, frequencies, table).

    A table is numbers in the order of symbols: a frequency, or 0 and how many do not occur. The full sum ends it.
    """
    frequencies = _frequencies(counts, scale)
    gaps = np.diff(used, prepend=-1) - 1
    entries = np.stack((np.zeros_like(gaps), gaps, frequencies), 1)
    table = numbers(entries[np.stack((gaps > 0, gaps > 0, gaps >= 0), 1)])
    bits = float((counts * (scale - np.log2(frequencies))).sum())
    return len(table) + bits / 8, scale, frequencies, table


def _frequencies(counts: Ints, scale: int) -> Ints:
    """In proportion to counts by largest remainder, with the sum 2^scale, but at least 1."""
    rare = np.zeros(len(counts), bool)
    while True:
        common = np.where(rare, 0, counts)
        share = common * float((1 << scale) - rare.sum()) / common.sum()
        if not (below := ~rare & (share < 1)).any():
            break
        rare |= below
    frequencies: Ints = share.astype(np.int64) + rare
    missing = (1 << scale) - int(frequencies.sum())
    frequencies[np.argsort(np.floor(share) - share, kind="stable")[:missing]] += 1
    return frequencies


def _read_table(reader: Reader, scale: int, size: int) -> tuple[Ints, Ints]:
    """(symbols that occur, their frequencies)."""
    symbol, left = 0, 1 << scale
    used, frequencies = [], []
    while left:
        if not (frequency := reader.number()):
            symbol += reader.number()
            frequency = reader.number()
        if symbol >= size or not 0 < frequency <= left:
            raise BadUpdate(f"a table of frequencies is not one of {size} symbols with the sum {1 << scale}")
        used.append(symbol)
        frequencies.append(frequency)
        symbol, left = symbol + 1, left - frequency
    return np.array(used), np.array(frequencies)


def _read_lanes(reader: Reader, count: int) -> tuple[Ints, Ints]:
    """(states, words)."""
    lanes = reader.number()
    if lanes != 1 and not max(1, count >> _STEPS_BITS) <= lanes <= count:
        raise BadUpdate(f"coded data hold {count} symbols in {lanes} lanes")
    states = np.frombuffer(reader.take(lanes * _STATE_BYTES), np.uint8).reshape(-1, _STATE_BYTES).astype(np.int64)
    states = (states << np.arange(0, _HIGH_BITS, 8)).sum(1)
    if reader.left % 2:
        raise BadUpdate("coded data end with half a word")
    return states, np.frombuffer(reader.take(reader.left), "<u2").astype(np.int64)


def _push(symbols: Ints, frequencies: Ints, scale: int, lanes: int) -> tuple[Ints, Ints]:
    """(states, words in the order of reading); from the last symbol to the first, since a state gives the last back."""
    starts = np.cumsum(frequencies) - frequencies
    states, words = np.full(lanes, _LOW), []
    for first in reversed(range(0, len(symbols), lanes)):
        step = symbols[first : first + lanes]
        state, frequency = states[: len(step)], frequencies[step]
        full = state >= frequency << (_HIGH_BITS - scale)
        words.append(state[full] & 0xFFFF)
        state >>= full * 16
        state += state // frequency * ((1 << scale) - frequency) + starts[step]
    return states, np.concatenate(words[::-1])


def _push_one(symbols: Ints, frequencies: Ints, scale: int, _: int) -> tuple[Ints, Ints]:
    """`_push` in one lane."""
    starts, often = (np.cumsum(frequencies) - frequencies).tolist(), frequencies.tolist()
    state, words = _LOW, []
    for symbol in reversed(symbols.tolist()):
        frequency = often[symbol]
        if state >= frequency << (_HIGH_BITS - scale):
            words.append(state & 0xFFFF)
            state >>= 16
        state += state // frequency * ((1 << scale) - frequency) + starts[symbol]
    return np.array([state]), np.array(words[::-1], np.int64)


def _pop(slots: Ints, states: Ints, words: Ints, factor: Ints, offset: Ints) -> int:
    """Fill in a slot for each symbol, the f_s from c_s on being those of s; change the states, and count the words."""
    scale, at = len(factor).bit_length() - 1, 0
    for first in range(0, len(slots), len(states)):
        state = states[: len(slots) - first]
        slot = state & (len(factor) - 1)
        slots[first : first + len(state)] = slot
        state[:] = factor[slot] * (state >> scale) + offset[slot]
        empty = np.flatnonzero(state < _LOW)
        if at + len(empty) > len(words):
            raise BadUpdate("coded data end early: there are too few words")
        state[empty] = state[empty] << 16 | words[at : at + len(empty)]
        at += len(empty)
    return at


def _pop_one(slots: Ints, states: Ints, words: Ints, factor: Ints, offset: Ints) -> int:
    """`_pop` in one lane."""
    scale, mask, factors, offsets = len(factor).bit_length() - 1, len(factor) - 1, factor.tolist(), offset.tolist()
    state, coming = int(states[0]), words[::-1].tolist()
    for place in range(len(slots)):
        slots[place] = slot = state & mask
        state = factors[slot] * (state >> scale) + offsets[slot]
        if state < _LOW:
            if not coming:
                raise BadUpdate("coded data end early: there are too few words")
            state = state << 16 | coming.pop()
    states[0] = state
    return len(words) - len(coming)
