"""Grids and the rotation: errors known from theory, exact lengths, written-down bytes, refusal of all others."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fl_distill.codec import counter, lloydmax, packing, ring
from fl_distill.codec.blocks import RUN
from fl_distill.codec.chain import chain
from fl_distill.codec.codebook import NF4, borders, look_up, nearest, nearest_normal
from fl_distill.codec.coder import About, Coder
from fl_distill.codec.rotate import Hadamard, Rotate
from fl_distill.codec.scales import rounded_up
from fl_distill.errors import BadUpdate

LONG = packing.TILE + 4464  # more than a tile
LONGER = RUN + 4464  # more than is computed at a time

FIXED = [
    "uniform8x64",
    "uniform4x64",
    "uniform3x16",
    "uniform2",
    "stochastic8x64",
    "stochastic5x32",
    "dither8x64",
    "dither1x16",
    "nf4x64",
    *(f"lloydmax{bits}" for bits in (1, 2, 3, 4)),
    "leastmax2x16",
    "sign",
    "sign16",
    "ring8x16x0.1",
    "ring3x4",
    "ring16x1x1000.5",
    "rotate lloydmax4",
    "rotate64 uniform8x64",
    "rotate4096 ring8x16",
]


def coder(sentence: str) -> Coder:
    found = chain(sentence)
    assert found is not None
    return found.coder


def about(x: Tensor, seed: int = 0) -> About:
    return About(((len(x),),), seed)


def through(step: Coder, x: Tensor, seed: int = 0) -> Tensor:
    return step.decode(step.encode(x, about(x, seed)), about(x, seed))


def nmse(x: Tensor, back: Tensor) -> float:
    return float((back.double() - x.double()).square().sum() / x.double().square().sum())


def normal(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def up(x: Tensor) -> Tensor:
    """The least number of 8 significant bits that is not below each x > 0, in float64."""
    mantissa, exponent = torch.frexp(x.double())
    return torch.ldexp((mantissa * 256).ceil(), exponent - 8)


def fixed_numbers(count: int) -> Tensor:
    """Numbers of many sizes from integer arithmetic alone."""
    return torch.tensor([((i * 7919) % 2003 - 1001) * 2.0 ** (i % 5 - 10) for i in range(count)])


# Errors


SPREADS: dict[str, Callable[[Tensor], Tensor]] = {"normal": lambda x: x, "lognormal": torch.exp}
EDEN = {1: 0.570, 2: 0.133, 3: 0.0358, 4: 0.00955}


def mean_error(sentence: str, spread: str, seeds: int) -> float:
    step = coder(sentence)
    found = []
    for seed in range(seeds):
        x = SPREADS[spread](normal(2**19, seed))
        found.append(nmse(x, through(step, x, seed + 1)))
    return sum(found) / seeds


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("bits", EDEN)
def test_error_is_what_edens_authors_measured(bits: int, spread: str) -> None:
    assert mean_error(f"rotate lloydmax{bits}", spread, 3) == pytest.approx(EDEN[bits], rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("bits", EDEN)
def test_error_is_what_edens_authors_measured_over_twenty_seeds(bits: int, spread: str) -> None:
    assert mean_error(f"rotate lloydmax{bits}", spread, 20) == pytest.approx(EDEN[bits], rel=0.03)


@pytest.mark.parametrize("bits", EDEN)
def test_least_error_is_below_that_of_the_unbiased_scale(bits: int) -> None:
    unbiased, least = (mean_error(f"rotate {word}{bits}", "normal", 1) for word in ("lloydmax", "leastmax"))
    assert least == pytest.approx(unbiased / (1 + unbiased), rel=0.01)


@pytest.mark.parametrize(("sentence", "low", "high"), [("uniform8x64", 3e-5, 4e-5), ("nf4x64", 0.007, 0.01)])
def test_error_of_blocks(sentence: str, low: float, high: float) -> None:
    assert low < mean_error(sentence, "normal", 1) < high


@pytest.mark.parametrize("bits", lloydmax.POSITIVE)
def test_levels_are_the_means_between_their_borders(bits: int) -> None:
    levels = lloydmax.POSITIVE[bits]
    edges = [0.0, *((a + b) / 2 for a, b in pairwise(levels)), math.inf]
    for level, low, high in zip(levels, edges, edges[1:], strict=False):
        density = (math.exp(-low * low / 2) - math.exp(-high * high / 2)) / math.sqrt(2 * math.pi)
        mass = (math.erfc(low / math.sqrt(2)) - math.erfc(high / math.sqrt(2))) / 2
        assert level == pytest.approx(density / mass, abs=1e-10)


@pytest.mark.parametrize(
    "sentence", ["rotate lloydmax1", "rotate lloydmax2", "stochastic4x64", "stochastic2", "dither3x64", "ring4x2x10"]
)
def test_the_mean_of_a_thousand_decodings_is_the_vector(sentence: str) -> None:
    step, x, times = coder(sentence), normal(4096), 1000
    total, squares = torch.zeros(4096, dtype=torch.float64), 0.0
    for seed in range(times):
        error = through(step, x, seed).double() - x.double()
        total += error
        squares += float(error.square().sum())
    # A bias b would leave |b|^2 more energy in the mean than independent errors do; spread as for chi^2.
    expected = squares / times**2
    assert abs(float((total / times).square().sum()) / expected - 1) < 4 * math.sqrt(2 / 4096) * 1.5
    along = float(total @ x.double()) / times
    assert abs(along) <= 4 * math.sqrt(squares / times / 4096 / times) * float(x.norm()) + 1e-4 * float(x.norm()) ** 2


@pytest.mark.parametrize("sentence", ["uniform8x64", "nf4x64", "lloydmax4x64"])
def test_no_level_is_nearer(sentence: str) -> None:
    x, word = normal(4096).exp(), sentence.split("x64")[0].rstrip("48")
    back = through(coder(sentence), x).double().view(-1, 64)
    levels = {
        "uniform": torch.arange(-127, 128) / 127,
        "nf": torch.tensor(NF4),
        "lloydmax": torch.tensor([*(-v for v in lloydmax.POSITIVE[4]), *lloydmax.POSITIVE[4]]),
    }[word].double()
    blocks = x.double().view(-1, 64)
    scale = up(blocks.abs().amax(1) / 127) * 127 if word == "uniform" else up(blocks.abs().amax(1))
    scale = blocks.norm(dim=1) / 8 if word == "lloydmax" else scale
    nearest = levels[((blocks / scale[:, None])[..., None] - levels).abs().argmin(-1)]
    if word == "lloydmax":
        scale = blocks.square().sum(1) / (nearest * blocks).sum(1)
    assert torch.allclose(back.view(blocks.shape), nearest * scale[:, None], rtol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_half_as_many_comparisons_give_the_same_codes(bits: int) -> None:
    positive = lloydmax.POSITIVE[bits]
    middles = borders([*(-level for level in reversed(positive)), *positive])
    at = np.array([*middles, 0.0, -0.0, 1e-45, -1e-45, 1e30, -1e30], np.float32)
    x = torch.from_numpy(np.concatenate([at, np.nextafter(at, np.float32(9)), np.nextafter(at, np.float32(-9))]))
    x = torch.cat([x, normal(10_000)])[None]
    expected, found = torch.empty(2, x.numel(), dtype=torch.uint8)
    nearest(x, middles, expected)
    nearest_normal(x, middles, found, torch.empty_like(x))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("count", [1, 2, 4095, 4096, 4097, 10_000])
def test_codes_are_looked_up_in_pairs(count: int) -> None:
    levels, codes = torch.tensor(NF4), np.random.default_rng(count).integers(0, 16, count).astype(np.uint8)
    out = torch.empty(count)
    look_up(codes, levels, out)
    assert torch.equal(out, levels[torch.from_numpy(codes.astype(np.int64))])


@pytest.mark.parametrize("word", ["float16", "bfloat16"])
def test_every_half_is_read_or_refused(word: str) -> None:
    dtype = torch.float16 if word == "float16" else torch.bfloat16
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    meant = every.view(dtype).to(torch.float32)
    finite = torch.isfinite(meant)
    good, step = every[finite], coder(word)
    data, total = good.numpy().tobytes(), torch.ones(len(good))
    assert torch.equal(step.decode(data, about(good)), meant[finite])
    step.add(data, about(good), total, 0.5)
    assert torch.equal(total, 1 + 0.5 * meant[finite])
    for odd in every[~finite][::37]:
        with pytest.raises(BadUpdate, match="NaN or infinity"):
            step.add(torch.stack([good[0], odd, good[1]]).numpy().tobytes(), About(((3,),)), total, 1.0)


# The rotation


@pytest.mark.parametrize("block", [1, 2, 16, 64, 512, 4096])
def test_hadamard_is_the_dense_matrix(block: int) -> None:
    dense = np.array([[(-1) ** (i & j).bit_count() for j in range(min(block, 512))] for i in range(min(block, 512))])
    while len(dense) < block:
        dense = np.block([[dense, dense], [dense, -dense]])
    x = normal(3 * block)
    expected = x.double().view(3, block).numpy() @ dense / math.sqrt(block)
    found = Hadamard(3 * block, block).of(x)
    assert np.allclose(found.view(3, block).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 3, 63, 64, 4095, 4096, 4097, LONG])
def test_rotation_is_undone(count: int) -> None:
    x = normal(count, 3)
    step = Rotate(coder("float16"), 64)
    assert torch.allclose(through(step, x, 5), x, atol=5e-3)
    into = torch.ones(count)
    step.add(step.encode(x, about(x, 5)), about(x, 5), into, -2.0)
    assert torch.allclose(into, 1 - 2 * x, atol=1e-2)


def test_signs_follow_the_written_rule() -> None:
    mask = (1 << 64) - 1

    def mix(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    step, seed = 0x9E3779B97F4A7C15, (1 << 64) - 3
    for stream in (counter.SIGNS, counter.DITHERS):
        key = mix(seed + (stream + 1) * step & mask)
        words = [mix(key + (place + 1) * step & mask) for place in range(20)]
        assert counter.words(seed, stream, 0, 20).tolist() == words
        assert counter.words(seed, stream, 7, 5).tolist() == words[7:12]
        if stream == counter.SIGNS:
            bits = [word >> i & 1 for word in words for i in range(64)]
            assert counter.signs(seed, 64, 100).tolist() == [1 - 2 * bit for bit in bits[64:164]]
        else:
            raw = b"".join(word.to_bytes(8, "little") for word in words)
            assert counter.dithers(seed, 8, 30).tolist() == [(byte + 0.5) / 256 - 0.5 for byte in raw[8:38]]
    # splitmix64 with seed 0 starts so, in every implementation.
    assert mix(step) == 0xE220A8397B1DCDAF


# Round trips


SIZES = [0, 1, 2, 7, 15, 16, 17, 255, 257, 1000, 4097]
KINDS = ["normal", "zeros", "constant", "denormal", "huge", "sparse", "mixed"]


def example(kind: str, count: int) -> Tensor:
    x = normal(count, count)
    if kind in ("zeros", "constant"):
        return torch.full((count,), 0.0 if kind == "zeros" else -0.3)
    if kind == "sparse":
        return torch.where(x > 2, x, torch.zeros(()))
    if kind == "mixed":
        return x * 10.0 ** (torch.arange(count) % 50 - 32)
    return x * {"normal": 1.0, "denormal": 1e-41, "huge": 2e17}[kind]


@pytest.mark.parametrize("sentence", FIXED)
@settings(max_examples=40)
@given(kind=st.sampled_from(KINDS), count=st.sampled_from(SIZES) | st.integers(0, 600), seed=st.integers(0, 2**64 - 1))
def test_any_vector_has_its_length_and_a_finite_decoding(sentence: str, kind: str, count: int, seed: int) -> None:
    step, x = coder(sentence), example(kind, count)
    what = About(((count // 3,), (0, 4), (count - count // 3,)), seed)
    data = step.encode(x, what)
    assert step.lengths(what) == (len(data), len(data))
    assert step.encode(x.clone(), what) == data
    back = step.decode(data, what)
    assert back.shape == (count,)
    assert back.dtype == torch.float32
    assert torch.isfinite(back).all()
    into = torch.full((count,), 0.5)
    step.add(memoryview(data), what, into, 0.25)
    assert torch.allclose(into, 0.5 + 0.25 * back, rtol=1e-5, atol=1e-5)
    if kind == "zeros" and "ring" not in sentence:
        assert not back.any()
    if kind == "constant" and sentence[:3] in ("uni", "nf4", "sig"):
        assert torch.allclose(back, x, rtol=1e-5 if sentence.startswith("sign") else 2**-7)
    if kind == "denormal" and "ring" not in sentence:
        assert float(back.abs().sum()) <= 1e-35 * max(1, count)


@pytest.mark.parametrize("sentence", ["uniform8x64", "dither4x64", "nf4x64"])
def test_errors_of_blocks_are_below_half_a_step(sentence: str) -> None:
    for kind in KINDS:
        x = example(kind, 5000)
        back, block = through(coder(sentence), x, 9), int(sentence.split("x")[1])
        for part, found in zip(x.split(block), back.split(block), strict=True):
            parts = {"u": 127, "d": 7.5, "n": 1}[sentence[0]]
            step = float(up(part.abs().max() / parts)) * {"u": 1, "d": 1, "n": 0.31}[sentence[0]]
            assert float((part - found).abs().max()) <= max(0.501 * step, 2.0**-126)


MEASURED = ["lloydmax4", "leastmax2x16", "rotate lloydmax1", "rotate lloydmax4", "rotate64 leastmax3", "rotate sign"]


@pytest.mark.parametrize("sentence", [*MEASURED, "uniform8x64", "nf4x64", "float16", "step0.5 zstd1"])
@pytest.mark.parametrize(
    ("kind", "count"), [*((kind, 5000) for kind in KINDS), *(("normal", n) for n in (0, 1, 100, LONGER))]
)
def test_what_is_measured_on_the_way_is_the_error(sentence: str, kind: str, count: int) -> None:
    x, step = example(kind, count), coder(sentence)
    data, found = step.measured(x, about(x, 7))
    assert data == step.encode(x, about(x, 7))
    if count:
        assert math.isnan(found) == ("max" not in sentence)
    if not math.isnan(found):
        exact = float((x.double() - step.decode(data, about(x, 7)).double()).square().sum())
        assert found == pytest.approx(exact, rel=1e-3, abs=1e-11 * float(x.double().square().sum()) + 1e-76)


@pytest.mark.parametrize("sentence", ["float16", "step0.5 zstd1", "uniform8x64", "lloydmax3", "nf4x64", "sign16"])
@pytest.mark.parametrize("start", [0, 1, RUN - 1, RUN, RUN + 5])
def test_stretches_are_what_is_decoded(sentence: str, start: int) -> None:
    x, step = normal(RUN + 1000), coder(sentence)
    data, reached = step.encode(x, about(x)), start
    whole = step.decode(data, about(x))
    for first, part in step.tiles(data, about(x), 1e9, start):
        assert first <= reached
        assert torch.equal(part, whole[first : first + len(part)])
        reached = first + len(part)
    assert reached == len(x)
    with pytest.raises(BadUpdate, match="holds a number above 0.1"):
        next(step.tiles(data, about(x), 0.1))


def test_largest_numbers_stay_finite() -> None:
    x = torch.tensor([torch.finfo(torch.float32).max, -1e38, 1e20, 0.0] * 8)
    for sentence in ("uniform8x64", "uniform2", "dither1x16", "nf4x64", "lloydmax4", "leastmax1", "sign"):
        assert torch.isfinite(through(coder(sentence), x)).all(), sentence
    for bits in (2, 3, 4, 5, 6, 7, 8):  # clipped, never beyond the last code, which would stand for another sign
        for word in (f"uniform{bits}", f"stochastic{bits}", f"dither{bits}"):
            back = through(coder(word), x)
            assert torch.allclose(back[::4].double(), x[::4].double(), rtol=2.0 ** (1 - bits) + 0.02), word


@given(st.lists(st.floats(0, float(np.finfo(np.float32).max), width=32), min_size=1, max_size=50))
def test_scales_are_rounded_up(numbers: list[float]) -> None:
    x = torch.tensor(numbers)
    found = rounded_up(x.clone())
    assert torch.equal(found, found.bfloat16().float())
    assert (found >= x).all()
    below = (found.view(torch.int32) - (1 << 16)).clamp(min=0).view(torch.float32)
    assert ((below < x) | (x == 0)).all()


@pytest.mark.parametrize("sentence", ["uniform8x64", "uniform4x64", "nf4x64", "dither8x64"])
@pytest.mark.parametrize("size", [1e-36, 1e-20, 1.0, 1e30])
def test_errors_do_not_depend_on_the_size_of_all_numbers(sentence: str, size: float) -> None:
    x, step = normal(5000), coder(sentence)
    assert nmse(x * size, through(step, x * size)) == pytest.approx(nmse(x, through(step, x)), rel=0.03)


@pytest.mark.parametrize("sentence", FIXED)
def test_tiles_join(sentence: str) -> None:
    x, step = normal(LONGER), coder(sentence)
    back = through(step, x, 3)
    block = 4096  # a multiple of every block
    # What a block becomes does not depend on its tile, where nothing is drawn and no whole tensor is measured.
    if sentence.startswith(("uniform", "nf", "lloydmax", "sign16")):
        for at in (packing.TILE - block, packing.TILE, RUN - block, RUN):
            assert torch.equal(back[at : at + block], through(step, x[at : at + block]))
    assert nmse(x[-4000:], back[-4000:]) < nmse(x[: packing.TILE], back[: packing.TILE]) * 1.3 + 1e-9
    into = torch.zeros(LONGER)
    step.add(step.encode(x, about(x, 3)), about(x, 3), into, 1.0)
    assert torch.allclose(into, back, atol=1e-6)


def test_the_seed_decides_what_is_random() -> None:
    x = normal(500)
    for sentence in ("stochastic8x64", "dither4", "ring8x16", "rotate lloydmax4"):
        assert coder(sentence).encode(x, about(x, 1)) != coder(sentence).encode(x, about(x, 2))
    for sentence in ("uniform8x64", "nf4x64", "lloydmax4", "sign"):
        assert coder(sentence).encode(x, about(x, 1)) == coder(sentence).encode(x, about(x, 2))


def test_sign_has_a_mean_for_each_tensor() -> None:
    x = torch.tensor([1.0, -3.0, 0.0, 10.0, -10.0])
    back = coder("sign").decode(coder("sign").encode(x, (what := About(((2,), (0,), (1,), (2, 1))))), what)
    assert back.tolist() == [2.0, -2.0, 0.0, 10.0, -10.0]


# Packing


@given(bits=st.integers(1, 16), count=st.integers(0, 300) | st.sampled_from([LONG, packing.TILE - 1, packing.TILE + 1]))
@settings(max_examples=60)
def test_codes_come_back(bits: int, count: int) -> None:
    codes = np.random.default_rng(count).integers(0, 1 << bits, count).astype(np.uint8 if bits <= 8 else np.uint16)
    data = packing.pack(codes, bits)
    assert len(data) == packing.packed_length(count, bits)
    assert packing.packed_length(count, bits) <= count * bits / 8 + 5
    assert np.array_equal(packing.unpack(np.frombuffer(data, np.uint8), bits, count), codes)


def test_planes_lie_as_written() -> None:
    assert packing.pack(np.array([1, 2, 3, 4, 5], np.uint8), 4).hex() == "415203"
    assert packing.pack(np.array([1, 6, 3], np.uint8), 3).hex() == "3902"
    assert packing.pack(np.array([0xABC, 0x123], np.uint16), 12).hex() == "bc231a"


# Bytes that are written down

VECTORS: dict[str, str] = {
    "uniform8x64": "c13d7693a2bce886898f959b81807b6f4e7c76684801",
    "uniform3x16": "52407f400001c1c6773f3f0f",
    "stochastic4x16": "b43fdb3f87897b7c5f8979795a1a",
    "dither2x16": "d240ff40a95a5a5a1b",
    "nf4x64": "404176797a6c3e786858390a",
    "lloydmax1": "9a6afe400e0f07",
    "lloydmax3x16": "a5918440d343b940c3f1f1b6170e0f07",
    "leastmax2": "e2d68f40695a5a1b0b",
    "sign": "66a234400e0f07",
    "ring8x16x0.5": "00ffffffffffffffffff91750d00001e0000000000000000000000000000",
    "rotate lloydmax4": "b70e55401863b5574cc9d87918a783573bc9eaac",
}


@pytest.mark.parametrize("sentence", VECTORS)
def test_bytes_are_those_written_down(sentence: str) -> None:
    x = fixed_numbers(20)
    assert coder(sentence).encode(x, about(x, 12345)).hex() == VECTORS[sentence]


# Refusals


@pytest.mark.parametrize("sentence", FIXED)
@pytest.mark.parametrize("count", [0, 1, 20, 5000])
def test_other_lengths_are_refused(sentence: str, count: int) -> None:
    x = normal(count)
    data = coder(sentence).encode(x, about(x))
    for bad in (data + b"\0", data[:-1] if data else b"\1\1"):
        with pytest.raises(BadUpdate, match=r"has \d+ bytes, expected"):
            coder(sentence).decode(bad, about(x))


@pytest.mark.parametrize("sentence", [s for s in FIXED if "ring" not in s])
@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, -1e-30])
def test_bad_scales_are_refused_before_a_number_is_added(sentence: str, scale: float) -> None:
    x = normal(300)
    data = bytearray(coder(sentence).encode(x, about(x)))
    wide = sentence.startswith(("rotate l", "lloyd", "least", "sign"))
    data[: 4 if wide else 2] = np.array([scale], "<f4").tobytes()[0 if wide else 2 :]  # bfloat16: its upper half
    into = torch.zeros(300)
    with pytest.raises(BadUpdate, match="scale 0 is"):
        coder(sentence).add(data, about(x), into, 1.0)
    assert not into.any()


@pytest.mark.parametrize(
    ("sentence", "sentence_of_error"),
    [
        ("uniform8x64", f"uniform: code {LONG - 1} is below 1"),
        ("stochastic4", f"stochastic: code {LONG - 1} is below 1"),
        ("ring8x16", rf"ring: code {LONG - 1} is [34]\d{{3}}, expected 0 to 255"),
    ],
)
def test_codes_past_the_codebook_are_refused_before_a_number_is_added(sentence: str, sentence_of_error: str) -> None:
    step, x = coder(sentence), normal(LONG)
    data = bytearray(step.encode(x, about(x)))
    # Its last number's code is the last byte, or the upper half of it.
    data[-1] = {"u": 0, "s": data[-1] & 15, "r": data[-1] | 240}[sentence[0]]
    into = torch.zeros(LONG)
    with pytest.raises(BadUpdate, match=sentence_of_error):
        step.add(data, about(x), into, 1.0)
    assert not into.any()


def test_a_rotation_that_would_overflow_is_refused() -> None:
    x = normal(5000)
    data = bytearray(coder("rotate uniform8x64").encode(x, about(x)))
    data[:2] = np.array([1e36], "<f4").tobytes()[2:]
    into = torch.zeros(5000)
    with pytest.raises(BadUpdate, match="uniform holds a number above"):
        coder("rotate uniform8x64").add(data, about(x), into, 1.0)
    assert not into.any()


@pytest.mark.parametrize("place", [0, packing.TILE, RUN - 1, RUN])
def test_codes_past_the_codebook_are_found_in_every_run(place: int) -> None:
    x = normal(LONGER)
    data = bytearray(coder("uniform8x64").encode(x, about(x)))
    data[place - LONGER] = 0
    with pytest.raises(BadUpdate, match=f"code {place} is below 1"):
        coder("uniform8x64").decode(data, about(x))


@pytest.mark.parametrize("tiles", [1, 2])
@pytest.mark.parametrize("sentence", ["uniform4x64", "sign", "ring8x16", "lloydmax3"])
def test_bits_behind_the_codes_are_refused(sentence: str, tiles: int) -> None:
    x = normal(tiles * packing.TILE + 1)
    data = bytearray(coder(sentence).encode(x, about(x)))
    data[-1] |= 0x80
    into = torch.zeros(len(x))
    with pytest.raises(BadUpdate, match="behind 1 codes is not 0"):
        coder(sentence).add(data, about(x), into, 1.0)
    assert not into.any()


@pytest.mark.parametrize(
    "sentence",
    [
        "uniform1",
        "uniform9",
        "uniform8x100",
        "uniform8x0",
        "nf3",
        "lloydmax5",
        "sign3",
        "ring8x1000",
        "ring8x16x0.0",
        "rotate100 sign",
        "dither0",
    ],
)
def test_impossible_numbers_are_refused(sentence: str) -> None:
    with pytest.raises(ValueError, match="has|ring|sign"):
        chain(sentence)


# Sums


@given(senders=st.integers(1, 16), bits=st.sampled_from([1, 4, 8, 12]))
@settings(max_examples=20)
def test_a_sum_of_codes_is_a_sum_of_vectors(senders: int, bits: int) -> None:
    step = ring.Ring(bits, 16, 0.5)
    xs = [normal(100, seed) * 0.3 for seed in range(senders)]
    codes = [step.codes(step.encode(x, about(x, seed)), about(x)) for seed, x in enumerate(xs)]
    total = codes[0] * 0
    for one in codes:
        total += one
    assert int(total.max()) < 1 << step.width
    found = ring.restore_sum(total, senders, step)
    decoded = sum(through(step, x, seed).double() for seed, x in enumerate(xs))
    assert torch.allclose(found.double(), torch.as_tensor(decoded), atol=1e-4)
    clipped = sum(x.clamp(-0.5, 0.5).double() for x in xs)
    assert float((found.double() - clipped).abs().max()) <= senders / ((1 << bits) - 1) + 1e-5


def test_impossible_sums_are_refused() -> None:
    step = ring.Ring(8, 4)
    for codes, senders, fault in ((256, 1, "code 0 is 256"), (1021, 4, "expected 0 to 1020"), (0, 5, "5 senders")):
        with pytest.raises(BadUpdate, match=fault):
            ring.restore_sum(np.array([codes], np.uint16), senders, step)


def test_the_largest_rotation_goes_round_and_a_larger_one_is_refused() -> None:
    x = torch.randn(150_000, generator=torch.Generator().manual_seed(0))
    about = About(((len(x),),), 3)
    coded = chain("rotate131072 lloydmax4")
    assert coded is not None
    back = coded.coder.decode(coded.coder.encode(x, about), about)
    assert float((back - x).square().sum() / x.square().sum()) < 0.011
    with pytest.raises(ValueError, match="rotate has blocks of a power of 2 from 64 to 131072"):
        chain("rotate262144 lloydmax1")
