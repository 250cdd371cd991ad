"""Soft labels as bytes: the nearest row of the grid, exact round trips, sizes near entropy, refusal of all else."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fl_distill.codec import rans, simplex, soft_labels
from fl_distill.errors import BadUpdate


def grid(classes: int, bits: int) -> Tensor:
    """Every row of the grid."""
    total = 2**bits - 1
    rows = [row for row in itertools.product(range(total + 1), repeat=classes) if sum(row) == total]
    return torch.tensor(rows, dtype=torch.uint8)


def probabilities(rows: int, classes: int, seed: int = 0, spread: float = 2.0) -> Tensor:
    logits = torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))
    return (spread * logits).softmax(1)


def entropy_bytes(symbols: np.ndarray) -> float:
    counts = np.unique(symbols, return_counts=True)[1]
    return float((counts * np.log2(len(symbols) / counts)).sum() / 8)


def corrupted(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, or cut off, or added, or taken out."""
    at, kind = int(rng.integers(len(data))), rng.integers(6)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data + rng.bytes(int(rng.integers(1, 20)))
    if kind == 2:
        return data[:at] + data[at + 1 :]
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        # Most of what there is to get wrong is in front.
        place = int(rng.integers(min(len(data), 40 if kind == 3 else len(data))))
        changed[place] = int(rng.choice([0, 1, 127, 128, 255, changed[place] ^ 1, rng.integers(256)]))
    return bytes(changed)


# The grid


@pytest.mark.parametrize(("classes", "bits"), [(1, 1), (1, 8), (2, 1), (2, 4), (3, 2), (3, 4), (4, 3), (5, 2), (6, 1)])
def test_no_row_of_the_grid_is_nearer(classes: int, bits: int) -> None:
    p = torch.cat([probabilities(60, classes, seed, spread).double() for seed, spread in enumerate((0.1, 1, 3, 20))])
    every = simplex.restore(grid(classes, bits), bits).double()
    levels = simplex.quantize(p, bits)
    assert levels.dtype == torch.uint8
    assert (levels.long().sum(1) == 2**bits - 1).all()
    distance = (levels.double() / (2**bits - 1) - p).abs().sum(1)
    assert torch.allclose(distance, torch.cdist(p, every, p=1).min(1).values, atol=1e-6)


def test_one_bit_is_a_vote_for_the_first_largest_class() -> None:
    p = probabilities(500, 7)
    p[:100] = (p[:100] * 4).round() + 0.25
    assert torch.equal(simplex.quantize(p, 1), torch.nn.functional.one_hot(p.argmax(1), 7).byte())


def test_ties_go_to_the_first_classes_and_sums_do_not_matter() -> None:
    assert simplex.quantize(torch.full((1, 4), 0.25), 1).tolist() == [[1, 0, 0, 0]]
    assert simplex.quantize(torch.full((1, 5), 3.0), 3).tolist() == [[2, 2, 1, 1, 1]]
    assert simplex.quantize(torch.full((1, 999), 0.1), 8).tolist() == [[1] * 255 + [0] * 744]
    p = probabilities(50, 10)
    assert torch.equal(simplex.quantize(p * 1000, 5), simplex.quantize(p, 5))


@pytest.mark.parametrize("bits", range(1, 9))
def test_what_is_on_the_grid_stays(bits: int) -> None:
    for classes in (2, 10, 200):
        levels = simplex.quantize(probabilities(200, classes, bits), bits)
        assert torch.equal(simplex.quantize(simplex.restore(levels, bits), bits), levels)
    assert torch.equal(
        simplex.quantize(simplex.restore(grid(3, min(bits, 5)), min(bits, 5)), bits).sum(1).unique(),
        torch.tensor([2**bits - 1]),
    )


@pytest.mark.parametrize(
    "p", [[[0.5, -0.1]], [[0.0, 0.0]], [[math.nan, 1.0]], [[math.inf, 1.0]], [0.5, 0.5], [[]], [[1.0], [math.nan]]]
)
def test_what_is_no_probability_is_refused(p: list[object]) -> None:
    with pytest.raises(ValueError, match="p must be"):
        simplex.quantize(torch.tensor(p), 2)


@pytest.mark.parametrize("bits", [0, 9, 2.0, True])
def test_bits_are_from_one_to_eight(bits: int) -> None:
    with pytest.raises(ValueError, match="bits must be"):
        simplex.quantize(torch.ones(1, 2), bits)
    with pytest.raises(ValueError, match="bits must be"):
        soft_labels.unpack(torch.zeros(9, dtype=torch.uint8), 1, 2, bits)


# The entropy coder


@given(st.integers(1, 65536), st.integers(0, 3000), st.floats(0, 8), st.integers(0, 99))
def test_symbols_come_back(size: int, count: int, skew: float, seed: int) -> None:
    symbols = (np.random.default_rng(seed).random(count) ** (1 + skew**3) * size).astype(np.int64)
    data = rans.encode(symbols, size)
    assert np.array_equal(rans.decode(data, count, size), symbols)
    assert data == rans.encode(symbols, size)
    with pytest.raises(BadUpdate):
        rans.decode(data + b"\0", count, size)


SOURCES = {
    "ten alike": (np.ones(10), 60_000),
    "two, one rare": (np.array([0.99, 0.01]), 500_000),
    "two, one very rare": (np.array([0.9995, 0.0005]), 200_000),
    "bytes": (1 / np.arange(1, 257), 300_000),
    "few": (np.array([8, 4, 2, 1, 1]), 1000),
    "thousands, with gaps": (np.random.default_rng(0).random(9000) ** 40, 300_000),
}


@pytest.mark.parametrize("source", SOURCES)
def test_size_is_near_entropy(source: str) -> None:
    likely, count = SOURCES[source]
    symbols = np.random.default_rng(1).choice(len(likely), count, p=likely / likely.sum())
    data = rans.encode(symbols, len(likely))
    assert len(data) <= 1.015 * entropy_bytes(symbols) + 4 * len(np.unique(symbols)) + 12
    assert np.array_equal(rans.decode(data, count, len(likely)), symbols)


def test_a_lane_of_plain_integers_does_what_lanes_of_numpy_do() -> None:
    symbols = np.random.default_rng(2).choice(3, 500, p=[0.7, 0.2, 0.1])
    frequencies = np.array([700, 200, 124])
    states, words = rans._push_one(symbols, frequencies, 10, 1)
    again = rans._push(symbols, frequencies, 10, 1)
    assert np.array_equal(states, again[0])
    assert np.array_equal(words, again[1])
    factor, offset = np.repeat(frequencies, frequencies), np.concatenate([np.arange(n) for n in frequencies])
    for pop in (rans._pop, rans._pop_one):
        slots = np.zeros(500, np.int64)
        assert pop(slots, states.copy(), words, factor, offset) == len(words)
        assert np.array_equal(np.repeat([0, 1, 2], frequencies)[slots], symbols)


@pytest.mark.parametrize("count", [3, 400, 40_000])
def test_damaged_symbols_are_refused_or_are_symbols(count: int) -> None:
    rng = np.random.default_rng(count)
    good = rans.encode(rng.choice(20, count, p=np.r_[0.4, 0.3, np.full(18, 0.3 / 18)]), 20)
    for _ in range(3000 if count < 1000 else 100):
        try:
            symbols = rans.decode(corrupted(good, rng), count, 20)
        except BadUpdate:
            continue
        assert symbols.shape == (count,)
        assert 0 <= symbols.min() <= symbols.max() < 20


def test_symbols_are_refused_whatever_is_wrong_with_them() -> None:
    good = rans.encode(np.arange(30) % 3, 3)
    for place in range(len(good) - 6, len(good)):
        for bit in range(8):
            with pytest.raises(BadUpdate):
                rans.decode(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :], 30, 3)
    for said, bad, count in (
        ("not one of 3 symbols", b"\0\0\1\0\1", 5),
        ("not one of 3 symbols", b"\0\0\3\1", 5),
        ("not one of 3 symbols", b"\0\2", 5),
        ("at most 2^16", b"\x11\1", 5),
        ("31 lanes", good[:4] + b"\x1f" + good[5:], 30),
        ("0 lanes", good[:4] + b"\0" + good[5:], 30),
        ("half a word", good + b"\0", 30),
        ("end early", good, 300),
        ("damaged", good, 20),
        ("damaged", good + b"\0\0", 30),
        ("1 bytes after", b"\0\1\0", 30),
        ("bytes after", good, 0),
    ):
        with pytest.raises(BadUpdate, match=said.replace("^", ".")):
            rans.decode(bad, count, 3)
    for bad, size in ((b"\x39\x30", 10), (b"\5\0", 10), (b"\xff" * 12, 10), (b"\1" * 40, 10), (b"\1", 1)):
        with pytest.raises(BadUpdate, match="digits below"):
            soft_labels._from_digits(bad, 3, size)


@given(st.integers(1, 65536), st.integers(0, 900), st.integers(0, 99))
def test_digits_lose_less_than_a_byte(size: int, count: int, seed: int) -> None:
    symbols = np.random.default_rng(seed).integers(0, size, count)
    digits = soft_labels._to_digits(symbols, size)
    assert len(digits) <= count * math.log2(size) / 8 + 1
    assert np.array_equal(soft_labels._from_digits(digits, count, size), symbols)
    assert size ** len(soft_labels._powers(size)) <= 2**64


# Soft labels


@settings(max_examples=40)
@given(st.sampled_from([0, 1, 2, 7, 200]), st.integers(1, 200), st.integers(1, 8), st.floats(0, 1), st.integers(0, 99))
def test_levels_come_back_with_and_without_a_base(rows: int, classes: int, bits: int, same: float, seed: int) -> None:
    spread = 0.5 + seed % 7
    levels = simplex.quantize(probabilities(rows, classes, seed, spread), bits)
    other = simplex.quantize(probabilities(rows, classes, seed + 1, spread), bits)
    kept = torch.rand(rows, 1, generator=torch.Generator().manual_seed(seed)) < same
    for base in (None, torch.where(kept, levels, other), levels):
        packed = soft_labels.pack(levels, bits, base)
        assert (packed.dtype, packed.ndim) == (torch.uint8, 1)
        assert torch.equal(packed, soft_labels.pack(levels, bits, base))
        again = soft_labels.unpack(packed, rows, classes, bits, base)
        assert again.dtype == torch.uint8
        assert torch.equal(again, levels)


@pytest.mark.parametrize(("classes", "bits"), [(2, 6), (3, 4), (4, 3), (6, 2)])
def test_every_row_of_the_grid_comes_back(classes: int, bits: int) -> None:
    levels = grid(classes, bits)
    assert torch.equal(soft_labels.unpack(soft_labels.pack(levels, bits), *levels.shape, bits), levels)


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 100, 257])
@pytest.mark.parametrize("rows", [1, 50, 60_000])
def test_one_bit_costs_no_more_than_the_logarithm_of_the_classes(rows: int, classes: int) -> None:
    labels = torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(1))
    packed = soft_labels.pack(torch.nn.functional.one_hot(labels, classes).byte(), 1)
    assert len(packed) <= rows * math.log2(classes) / 8 + 16


def test_one_bit_of_uneven_classes_costs_their_entropy() -> None:
    labels = torch.from_numpy(np.random.default_rng(0).choice(10, 20_000, p=[0.7, *[0.3 / 9] * 9]))
    packed = soft_labels.pack(torch.nn.functional.one_hot(labels, 10).byte(), 1)
    assert len(packed) <= 1.015 * entropy_bytes(labels.numpy()) + 50


@pytest.mark.parametrize("bits", range(2, 9))
def test_many_bits_cost_less_than_the_entropy_of_levels_one_by_one(bits: int) -> None:
    levels = simplex.quantize(probabilities(10_000, 10), bits)
    assert len(soft_labels.pack(levels, bits)) < 0.99 * entropy_bytes(levels[:, :-1].numpy().reshape(-1))


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_what_did_not_change_costs_nearly_nothing(bits: int) -> None:
    base = simplex.quantize(probabilities(20_000, 10), bits)
    assert len(soft_labels.pack(base, bits, base)) <= 12
    levels = base.clone()
    levels[7000] = levels[7000].roll(1)
    assert len(soft_labels.pack(levels, bits, base)) <= 12 + 3 * bits
    levels[::2000] = levels[::2000].flip(1)
    assert len(soft_labels.pack(levels, bits, base)) <= 80 + 10 * bits
    levels = simplex.quantize(probabilities(20_000, 10, 1), bits)
    assert len(soft_labels.pack(levels, bits, base)) <= len(soft_labels.pack(levels, bits))


def test_strided_levels_are_read_in_their_logical_order() -> None:
    levels = simplex.quantize(probabilities(40, 6), 3)
    wide = torch.zeros(6, 80, dtype=torch.uint8)
    wide[:, ::2] = levels.t()
    assert torch.equal(soft_labels.pack(wide[:, ::2].t(), 3), soft_labels.pack(levels, 3))


def test_levels_fit_their_rows_exactly() -> None:
    parts = simplex.split(np.array([[2, 1, 0], [0, 0, 3]], np.uint8), 2, False)
    assert simplex.join(parts, 2, 3, 2, False).tolist() == [[2, 1, 0], [0, 0, 3]]
    for context in range(2):
        for bad in (np.r_[parts[context], 0], parts[context][1:], parts[context] + 4):
            with pytest.raises(BadUpdate, match="rows"):
                simplex.join([bad if key == context else part for key, part in enumerate(parts)], 2, 3, 2, False)


GOOD = simplex.quantize(probabilities(120, 6), 3)
BASE = torch.cat((GOOD[:60], simplex.quantize(probabilities(60, 6, 5), 3)))


@pytest.mark.parametrize(("bits", "classes", "spread"), [(1, 10, 2.0), (2, 3, 0.5), (4, 10, 2.0), (8, 5, 4.0)])
@pytest.mark.parametrize("changes", [None, 3, 150])
@pytest.mark.parametrize("checked", [True, False])
def test_damaged_labels_are_refused_or_are_labels(
    bits: int, classes: int, spread: float, changes: int | None, checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = simplex.quantize(probabilities(300, classes, 0, spread), bits)
    base = None if changes is None else levels.clone()
    if base is not None:
        base[:changes] = simplex.quantize(probabilities(300, classes, 1, spread), bits)[:changes]
    good = bytes(soft_labels.pack(levels, bits, base).tolist())
    if not checked:  # a sender can compute a checksum too
        monkeypatch.setattr(soft_labels, "_check", lambda _: good[1:5])
    rng = np.random.default_rng(bits)
    for _ in range(250):
        packed = torch.frombuffer(bytearray(corrupted(good, rng) or b"\0"), dtype=torch.uint8)
        try:
            again = soft_labels.unpack(packed, 300, classes, bits, base)
        except BadUpdate:
            continue
        assert again.shape == levels.shape
        assert (again.long().sum(1) == 2**bits - 1).all()
        assert not checked or torch.equal(again, levels)


def test_faults_are_named() -> None:
    packed = soft_labels.pack(GOOD, 3)
    delta = soft_labels.pack(GOOD, 3, BASE)
    assert len(delta) < len(packed)
    newer = packed.clone()
    newer[0] = 2
    for said, bad, rows, base in (
        ("float32", packed.float(), 120, None),
        ("one dimension", packed[None], 120, None),
        ("end early", packed[:3], 120, None),
        ("version 2", newer, 120, None),
        ("rows of kind 3", torch.tensor([1, 0, 0, 0, 0, 3]).byte(), 120, BASE),
        ("contexts of kind 2", torch.tensor([1, 0, 0, 0, 0, 0, 2]).byte(), 120, None),
        ("change row 128", torch.tensor([1, 0, 0, 0, 0, 2, 2, 128, 1]).byte(), 120, BASE),
        ("neither digits", torch.tensor([1, 0, 0, 0, 0, 1, 1, 2]).byte(), 120, BASE),
        ("after the last row", torch.cat((packed, packed[:1])), 120, None),
        ("levels where", packed, 100, None),
        ("a row's sum", packed, 121, None),
        ("with a base", delta, 120, None),
        ("other labels", delta, 120, BASE.flip(1)),
    ):
        with pytest.raises(BadUpdate, match=said):
            soft_labels.unpack(bad, rows, 6, 3, base)


def test_misuse_is_named() -> None:
    for said, levels, base in (
        ("levels must be uint8", GOOD.int(), None),
        ("levels must be uint8", GOOD[0], None),
        ("rows of levels must sum to 7", GOOD // 2, None),
        ("rows of base must sum to 7", GOOD, BASE // 2),
        ("base is", GOOD, BASE[1:]),
    ):
        with pytest.raises(ValueError, match=said):
            soft_labels.pack(levels, 3, base)
    with pytest.raises(ValueError, match="base is"):
        soft_labels.unpack(soft_labels.pack(GOOD, 3), 120, 6, 3, BASE[1:])


@pytest.mark.parametrize(
    "body",
    [
        b"\0\0" + b"\xff\xff\xff\xff\x7f" * 9,  # a context of 2^35 levels
        b"\0\0\x05\xff\xff\xff\xff\x7f\1\x10\1",  # a chunk of 2^35 bytes
        b"\0\0\x05\x0a\1\x07\x80\1\xff\xff\xff\xff\x7f\0\0",  # 2^35 lanes
        b"\0\0\x05\x0a\1\x10\0\xff\xff\xff\xff\x7f\1\0\0",  # a table with a gap of 2^35
        b"\1\xff\xff\xff\xff\x7f",
        b"\2\x05\xff\xff\xff\xff\x7f",
    ],
)
def test_nothing_is_allocated_for_a_promise(body: bytes) -> None:
    packed = torch.frombuffer(bytearray(b"\1crc_" + body), dtype=torch.uint8)
    tracemalloc.start()
    try:
        with pytest.raises(BadUpdate):
            soft_labels.unpack(packed, 120, 6, 3, BASE)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_packed_labels_of_version_1_stay_readable() -> None:
    votes = torch.nn.functional.one_hot((torch.arange(200) % 10 == 0).long(), 5).byte()
    count = torch.arange(90)
    levels = torch.stack((7 - (count % 3 == 0).long() - count % 7 // 3, count % 3 == 0, count % 7 // 3), 1).byte()
    base = levels.clone()
    base[count % 4 == 1] = torch.tensor([0, 0, 7], dtype=torch.uint8)
    for hexed, wanted, before, bits in (
        ("010f87bee4000107730d01fc1eadd437ad1f700170925f43df7f", votes, None, 1),
        (
            "014f6b5f5e00002706004992244912190800155111155111015a2001070004061e372501ce6937f70cdcec79684bc2683ae5bebbecbc21eb68ac57",
            levels,
            None,
            3,
        ),
        ("014f6b5f5e010d00222222222222222222222202000a02004a0603004405170a00b76bfb7d7bdba7df1b", levels, base, 3),
        ("014f6b5f5e02010100000001020007", levels, torch.cat((base[:3], levels[3:])), 3),
    ):
        packed = torch.frombuffer(bytearray.fromhex(hexed), dtype=torch.uint8)
        assert torch.equal(soft_labels.unpack(packed, *wanted.shape, bits, before), wanted)
