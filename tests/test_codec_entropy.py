"""Global step, Zstandard, sparse, low-rank and class codecs: round trips, errors, sizes, refusal of all else."""

import json
import math
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fl_distill import codec_table
from fl_distill.checkpoint import Checkpoints, Saved
from fl_distill.codec import bits, low_rank, rate, sparse
from fl_distill.codec.chain import chain
from fl_distill.codec.classes import TopClasses
from fl_distill.codec.coder import About, Bytes, Coder, Grid
from fl_distill.codec.floats import Float16
from fl_distill.codec.low_rank import LowRank
from fl_distill.codec.sparse import Top
from fl_distill.codec.step import Step
from fl_distill.codec.zstd import Zstd
from fl_distill.errors import BadUpdate
from fl_distill.files import load_tensors, save_tensors

DATA = Path(__file__).parent / "data"
RECORDED = sorted(DATA.glob("deltas-*.safetensors"))
CHAINS = (
    "step0.5 zstd1",
    "step0.02",
    "step3 zstd19",
    "top0.01 float16",
    "top1 step0.5",
    "top0.3 step0.5 zstd1",
    "lowrank2 float16",
    "lowrank1 step0.1 zstd3",
    "lowrank1 top0.5 step1 zstd1",
)
EDEN = (1.0, math.pi / 2 - 1, 0.133, 0.0358, 0.00955)  # its error at 0, 1, 2, 3, 4 bits
HEAD = struct.Struct("<fIIB")


def coder(said: str) -> Coder:
    made = chain(said)
    assert made is not None
    return made.coder


def flat(x: Tensor) -> About:
    return About(((len(x),),))


def nmse(x: Tensor, decoded: Tensor) -> float:
    return float((x.double() - decoded.double()).square().sum() / x.double().square().sum())


def recorded(path: Path) -> tuple[Tensor, About]:
    tensors = [t.float() for t in load_tensors(path)[0].values()]
    return torch.cat([t.reshape(-1) for t in tensors]), About(tuple(tuple(t.shape) for t in tensors), seed=3)


def numbers(kind: str, n: int, seed: int = 0) -> Tensor:
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    kinds = {
        "normal": x,
        "zeros": 0 * x,
        "constant": torch.full((n,), 1 / 3),
        "heavy": x**9,
        "denormal": x * 1e-42,
        "tiny": x * 1e-25,
        "huge": (x * 3e17).clamp(-1e18, 1e18),
        "one": torch.eye(1, n)[0] * -1e18 if n else x,
        "integers": (3 * x).round(),
    }
    return kinds[kind].contiguous()


KINDS = ("normal", "zeros", "constant", "heavy", "denormal", "tiny", "huge", "one", "integers")
vectors = st.builds(
    numbers,
    st.sampled_from(KINDS),
    st.one_of(st.integers(0, 40), st.sampled_from([255, 1000, 65535, 65536, 65537, 131073])),
    st.integers(0, 9),
)


@st.composite
def shaped(draw: st.DrawFn) -> tuple[Tensor, About]:
    shapes = draw(st.lists(st.lists(st.integers(0, 7), max_size=4).map(tuple), max_size=4))
    about = About(tuple(shapes), seed=draw(st.integers(0, 2**64 - 1)))
    return numbers(draw(st.sampled_from(KINDS)), about.numel, draw(st.integers(0, 9))), about


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        kind, at = (
            draw(st.sampled_from(["replace", "drop", "insert", "cut", "head"])),
            draw(st.integers(0, len(changed))),
        )
        if kind == "replace" and at < len(changed):
            changed[at] = draw(st.sampled_from([0, 1, 8, 127, 128, 255, changed[at] ^ 1, changed[at] ^ 128]))
        elif kind == "head" and changed:
            changed[min(at, 24) % len(changed)] = draw(st.integers(0, 255))
        elif kind == "drop":
            del changed[at : at + draw(st.integers(1, 3))]
        elif kind == "insert":
            changed[at:at] = draw(st.binary(min_size=1, max_size=5))
        elif kind == "cut":
            del changed[at:]
    return bytes(changed)


def check(made: Coder, x: Tensor, about: About) -> Tensor:
    """What is asked of every coder, whatever the numbers are."""
    before = x.clone()
    data = made.encode(x, about)
    assert isinstance(data, bytes)
    assert made.encode(x, about) == data
    least, most = made.lengths(about)
    assert least <= len(data) <= most
    decoded = made.decode(data, about)
    assert (decoded.dtype, decoded.shape) == (torch.float32, x.shape)
    assert torch.isfinite(decoded).all()
    assert torch.equal(decoded, made.decode(memoryview(bytearray(data)), about))
    scale = float(decoded.abs().max()) if len(x) else 0.0
    into = torch.full_like(x, scale)
    made.add(data, about, into, -0.25)
    torch.testing.assert_close(into, scale - 0.25 * decoded, rtol=1e-6, atol=1e-6 * scale + 1e-44)
    assert torch.equal(x, before)
    return decoded


# Every chain


@pytest.mark.parametrize("said", CHAINS)
@settings(max_examples=25)
@given(data=st.data())
def test_what_is_encoded_comes_back(said: str, data: st.DataObject) -> None:
    x, about = data.draw(st.one_of(shaped(), vectors.map(lambda x: (x, flat(x)))))
    check(coder(said), x, about)


@pytest.mark.parametrize("said", [*CHAINS, "classes2", "classes3x16"])
@settings(max_examples=40)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_still_numbers(said: str, data: st.DataObject) -> None:
    made = coder(said)
    if said.startswith("classes"):
        about = About(((5, 4), (0, 3), (2, 9)))
        x = torch.cat([torch.full((20,), 0.25), torch.full((18,), 1 / 9)])
    else:
        x, about = data.draw(shaped())
    bad = data.draw(damaged(made.encode(x, about)))
    into = torch.zeros(about.numel)
    try:
        decoded = made.decode(bad, about)
    except BadUpdate:
        with pytest.raises(BadUpdate):
            made.add(bad, about, into, 1.0)
        assert not into.any()
    else:
        assert decoded.shape == (about.numel,)
        assert torch.isfinite(decoded).all()


@pytest.mark.parametrize("said", ["step0", "step1000", "zstd", "top2 float16", "top0 float16", "step0.5 zstd20"])
def test_impossible_numbers_are_refused(said: str) -> None:
    with pytest.raises(ValueError, match="step|zstd|top|grid"):
        chain(said)


# The global step


@settings(max_examples=60)
@given(x=vectors, width=st.sampled_from([0.002, 0.1, 0.5, 2.0, 50.0]))
def test_step_errs_by_half_a_step_at_most(x: Tensor, width: float) -> None:
    made, about = Step(width), flat(x)
    step, _, _, shrink = HEAD.unpack_from(made.encode(x, about))
    decoded = check(made, x, about)
    exact = x.double().numpy()
    rms = math.sqrt((exact**2).mean()) if len(x) else 0.0
    assert step == pytest.approx(max(width * rms, 2.0**-126) if rms else 0.0, rel=0.0042)
    if not step:
        assert not decoded.any()
        return
    q = np.rint(exact / step)
    expected = np.sign(q) * (np.abs(q) - shrink / 510) * step
    error = np.abs(decoded.double().numpy() - exact)
    assert (error <= step * (0.5 + shrink / 510) + 2e-7 * np.abs(exact)).all()
    # float32 and float64 may round what lies half-way apart
    near = np.abs(np.abs(exact / step) % 1 - 0.5) > 1e-6 * (1 + np.abs(exact / step))
    assert np.abs(decoded.double().numpy() - expected)[near] == pytest.approx(
        0, abs=1e-6 * (step + np.abs(exact).max())
    )
    assert (error**2).sum() <= ((q * step - exact) ** 2).sum() * (1 + 1e-3) + 1e-6 * step**2 + 1e-12 * (exact**2).sum()


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_int8_on_recorded_updates(path: Path) -> None:
    x, about = recorded(path)
    data = coder("int8").encode(x, about)
    assert nmse(x, coder("int8").decode(data, about)) <= 7e-5
    assert len(data) <= 0.2585 * 4 * len(x)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
@pytest.mark.parametrize("width", [0.2, 0.5, 1.0])
def test_step_beats_eden_at_equal_bytes(path: Path, width: float) -> None:
    x, about = recorded(path)
    made = Zstd(Step(width))
    data = made.encode(x, about)
    eden = math.exp(np.interp(8 * len(data) / len(x), range(5), np.log(EDEN)))
    assert nmse(x, made.decode(data, about)) < 0.75 * eden


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_step_spends_little_on_recorded_updates(path: Path) -> None:
    x, about = recorded(path)
    made = Zstd(Step(0.5))
    data = made.encode(x, about)
    q = torch.round(x / HEAD.unpack_from(Step(0.5).encode(x, about))[0])
    part = q.unique(return_counts=True)[1] / len(q)
    entropy = -float((part * part.log2()).sum())
    assert 8 * len(data) / len(x) < 1.06 * entropy < 2.9
    assert nmse(x, made.decode(data, about)) < 0.0208


def test_step_takes_off_what_rounding_puts_on() -> None:
    laplace = torch.distributions.Laplace(0.0, 1.0).sample((100_000,))
    made, about = Step(1.0), flat(laplace)
    step, _, _, shrink = HEAD.unpack_from(data := made.encode(laplace, about))
    # For exp(-|x|) the mean of a cell of width D lies 1/D - 1/(e^D - 1) into it, in units of D.
    assert shrink / 510 == pytest.approx(0.5 - (1 / step - 1 / math.expm1(step)), abs=0.01)
    plain = torch.round(laplace / step) * step
    assert nmse(laplace, made.decode(data, about)) < 0.97 * nmse(laplace, plain)


def test_step_says_which_field_is_wrong() -> None:
    x, made = numbers("heavy", 1001), Step(0.1)
    about, data = flat(x), Step(0.1).encode(x, flat(x))
    step, wide, long, shrink = HEAD.unpack_from(data)
    assert wide > long > 0
    body = data[HEAD.size :]
    faults = {
        "the step is nan": HEAD.pack(math.nan, wide, long, shrink) + body,
        "the step is inf": HEAD.pack(math.inf, wide, long, shrink) + body,
        "the step is -1": HEAD.pack(-1.0, wide, long, shrink) + body,
        "the step is 0, but": HEAD.pack(0.0, wide, long, shrink) + body,
        "not finite in float32": HEAD.pack(3e38, wide, long, shrink) + body,
        "expected": data + b"\0",
        "4294967295 wide": HEAD.pack(step, 2**32 - 1, long, shrink) + body,
        "say that a number is wide": HEAD.pack(step, wide + 4, long - 1, shrink) + body,
        "last nibble": data[: HEAD.size + 500] + bytes([body[500] | 16]) + body[501:],
        "say that they are long": HEAD.pack(step, wide, long + 1, shrink) + body + b"\0\1\0\0",
        "fits a shorter form": data[: HEAD.size + 501] + b"\3" + body[502:],
    }
    for sentence, bad in faults.items():
        with pytest.raises(BadUpdate, match=sentence):
            made.decode(bad, about)


# Zstandard


def test_zstd_shrinks_zeros_and_leaves_noise_alone() -> None:
    x, noise = torch.zeros(100_000), numbers("normal", 1000)
    assert len(coder("step0.5 zstd1").encode(x, flat(x))) < 60
    half = Zstd(Float16())
    assert len(half.encode(noise, flat(noise))) <= 2001
    assert half.encode(noise[:1], flat(noise[:1]))[0] == 0


def test_zstd_refuses_bombs_before_they_go_off() -> None:
    about, made = About(((1000,),)), coder("step0.5 zstd1")
    bombs = {
        "holds 1073741824 bytes": zstandard.compress(bytes(1 << 30), 1),
        "damaged|holds": zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 26)),
    }
    for sentence, bomb in bombs.items():
        tracemalloc.start()
        with pytest.raises(BadUpdate, match=sentence):
            made.decode(b"\1" + bomb, about)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 300_000
    good = made.encode(torch.zeros(1000), about)
    assert good[0] == 1
    for bad in (good + b"\0", good + good[1:], b"\2" + good[1:], b"", b"\1", b"\1\x50\x2a\x4d\x18\4\0\0\0abcd"):
        with pytest.raises(BadUpdate):
            made.decode(bad, about)


# The largest numbers


@settings(max_examples=60)
@given(x=vectors.filter(len), fraction=st.sampled_from([1e-9, 0.001, 0.01, 0.3, 0.9, 1.0]))
def test_top_keeps_the_largest(x: Tensor, fraction: float) -> None:
    k = math.ceil(fraction * len(x))
    at = sparse.largest(x, k)
    order = x.abs().argsort(descending=True, stable=True)[:k]
    assert torch.equal(torch.from_numpy(at), order.sort().values)
    decoded = check(Top(Step(0.01), fraction), x, flat(x))
    assert int(decoded.count_nonzero()) <= k


def test_top_is_what_torch_takes() -> None:
    x = numbers("normal", 300_000, 5)
    at = set(sparse.largest(x, 3000).tolist())
    assert at == set(x.abs().topk(3000).indices.tolist())
    decoded = coder("top0.01 float16").decode(coder("top0.01 float16").encode(x, flat(x)), flat(x))
    kept = torch.from_numpy(sparse.largest(x, 3000))
    assert torch.equal(decoded[kept], x[kept].half().float())


def test_positions_take_few_bits() -> None:
    n = 200_000
    least, most = coder("top0.01 float16").lengths(About(((n,),)))
    assert least == most
    assert 8 * least / 2000 - 16 < 8.6


def test_top_refuses_positions_that_cannot_be() -> None:
    x = numbers("normal", 64)
    made, about = Top(Float16(), 0.1), flat(x)
    data = made.encode(x, about)
    low, high = sparse._sizes(7, 64)
    assert len(data) == low + high + 14
    same = bits.pack(np.zeros(7, np.int64), 3)
    marks = np.packbits([1] * 7 + [0] * (8 * high - 7), bitorder="little").tobytes()
    with pytest.raises(BadUpdate, match="ascend"):
        made.decode(same + marks + data[low + high :], about)
    with pytest.raises(BadUpdate, match="marks 6 positions, expected 7"):
        made.decode(same + bytes([63]) + bytes(high - 1) + data[low + high :], about)
    beyond = np.packbits([1] * 6 + [0] * (8 * high - 7) + [1], bitorder="little").tobytes()
    with pytest.raises(BadUpdate, match="below 64"):
        made.decode(bits.pack(np.arange(7), 3) + beyond + data[low + high :], about)


@given(
    values=st.integers(0, 32).flatmap(
        lambda width: st.tuples(st.just(width), st.lists(st.integers(0, 2**width - 1), max_size=30))
    )
)
def test_bits_come_back(values: tuple[int, list[int]]) -> None:
    width, given_ = values
    packed = bits.pack(np.array(given_, np.int64), width)
    assert len(packed) == bits.size(len(given_), width)
    assert bits.unpack(packed, len(given_), width, "it").tolist() == given_


# Low rank


class Exact(Grid):
    """Float32 as it is."""

    def encode(self, x: Tensor, about: About) -> bytes:
        return x.numpy().tobytes()

    def decode(self, data: Bytes, about: About) -> Tensor:
        return torch.from_numpy(np.frombuffer(bytearray(data), np.float32).copy()) if len(data) else torch.empty(0)

    def lengths(self, about: About) -> tuple[int, int]:
        return 4 * about.numel, 4 * about.numel


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e17])
@pytest.mark.parametrize(("true", "rank"), [(1, 1), (1, 3), (2, 2), (3, 3)])
def test_low_rank_is_exact_where_the_rank_is(true: int, rank: int, scale: float) -> None:
    g = torch.Generator().manual_seed(true)
    matrix = torch.randn(20, true, generator=g) @ torch.randn(true, 30, generator=g)
    x = torch.cat([scale * matrix.reshape(-1), torch.ones(7)])
    about = About(((20, 3, 10), (7,)), seed=11)
    made = LowRank(Exact(), rank)
    decoded = made.decode(data := made.encode(x, about), about)
    assert len(data) == 4 * (rank * 50 + 7)
    assert nmse(x[:600], decoded[:600]) < 1e-12
    assert torch.equal(decoded[600:], x[600:])


def test_low_rank_is_near_the_best_there_is() -> None:
    g = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, 40, generator=g, dtype=torch.float64))[0] for n in (60, 40))
    matrix = (left * 0.7 ** torch.arange(40)) @ right.T
    x = matrix.float().reshape(-1)
    best = float((0.49 ** torch.arange(40.0))[3:].sum() / (0.49 ** torch.arange(40.0)).sum())
    made, errors = LowRank(Exact(), 3), []
    for seed in range(20):
        about = About(((60, 40),), seed)
        errors.append(nmse(x, made.decode(made.encode(x, about), about)))
    assert best < min(errors)
    assert sum(errors) / 20 < 1.25 * best


def test_the_start_is_as_written_down() -> None:
    word, step = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & word
        z = (z ^ z >> 27) * 0x94D049BB133111EB & word
        return z ^ z >> 31

    assert mix(step) == 0xE220A8397B1DCDAF  # the reference implementation's first number for the seed 0
    seed, index = 2**64 - 3, 5
    key = mix(seed + (2 + index + 1) * step & word)
    expected = [(mix(key + (i + 1) * step & word) >> 11) / 2**52 - 1 for i in range(12)]
    assert low_rank.start(seed, index, 6, 2).reshape(-1).tolist() == expected


# Classes


@settings(max_examples=50)
@given(
    sides=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 300)), max_size=3),
    k=st.integers(1, 5),
    value_bits=st.sampled_from([8, 16]),
    spread=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_classes_keep_the_likeliest(sides: list[tuple[int, int]], k: int, value_bits: int, spread: float) -> None:
    g = torch.Generator().manual_seed(k)
    rows = [(spread * torch.randn(*shape, generator=g)).softmax(1) for shape in sides]
    x, about = torch.cat([torch.empty(0), *(p.reshape(-1) for p in rows)]), About(tuple(sides))
    made = TopClasses(k, value_bits)
    decoded = check(made, x, about)
    assert made.lengths(about)[0] == sum(
        math.ceil(n * min(k, c) * math.ceil(math.log2(c)) / 8) + n * (min(k, c) - 1) * value_bits // 8 for n, c in sides
    )
    for p, found in zip(rows, torch.split(decoded, [n * c for n, c in sides]) if sides else (), strict=True):
        found = found.view(p.shape).double()
        keep = p.argsort(dim=1, descending=True, stable=True)[:, :k]
        expected = torch.zeros_like(found).scatter(1, keep, p.double().gather(1, keep))
        torch.testing.assert_close(found.sum(1), torch.ones(len(p)).double())
        torch.testing.assert_close(found, expected / expected.sum(1, keepdim=True), atol=4e-3, rtol=0)


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        (torch.tensor([0.5, 0.6]), (1, 2)),
        (torch.tensor([-0.5, 1.5]), (1, 2)),
        (torch.tensor([math.nan, 1.0]), (1, 2)),
        (torch.tensor([0.5, 0.5]), (2,)),
        (torch.tensor([]), (3, 0)),
    ],
)
def test_classes_take_nothing_but_probabilities(x: Tensor, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="exchange=probabilities"):
        TopClasses(1).encode(x, About((shape,)))


def test_classes_are_below_their_number_and_each_once() -> None:
    about, made = About(((1, 5),)), TopClasses(2)
    assert made.decode(bits.pack(np.array([4, 0]), 3) + b"\xff", about).tolist() == [0.5, 0, 0, 0, 0.5]
    for pair in ([5, 0], [2, 2]):
        with pytest.raises(BadUpdate, match="twice, or one that is not below 5"):
            made.decode(bits.pack(np.array(pair), 3) + b"\xff", about)
    with pytest.raises(BadUpdate, match="not from 0 to 1"):
        TopClasses(2, 16).decode(bits.pack(np.array([4, 0]), 3) + np.float16(1.5).tobytes(), about)


# Budgets


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
@pytest.mark.parametrize("bits_each", [0.4, 1.0, 2.0, 5.0, 9.0])
def test_a_budget_is_kept_and_used(path: Path, bits_each: float) -> None:
    x, about = recorded(path)
    budget = int(bits_each * len(x) / 8)
    said = rate.fitted("step", x, len(x), budget)
    assert said == rate.fitted("step", x, len(x), budget)
    spent = len(coder(said).encode(x, about))
    assert 0.85 * budget <= spent <= budget * 1.001


def test_a_sample_is_enough_to_fit_a_budget() -> None:
    # Wider layers of the same numbers, none of them twice.
    x = torch.cat([recorded(path)[0] for path in RECORDED]).repeat_interleave(5)
    x *= 1 + 0.3 * numbers("normal", len(x))
    budget = rate.parse_size("150kB")
    seen = rate.sample(x)
    assert 40_000 <= len(seen) <= rate.SAMPLE
    spent = [len(coder(rate.fitted("step", seen, len(x), budget)).encode(x, flat(x)))]
    # Long layers compress better than few numbers of each tell; what the first try came to puts the second right.
    spent.append(len(coder(rate.fitted("step", seen, len(x), budget * budget // spent[0])).encode(x, flat(x))))
    assert 0.85 * budget < spent[0] < 1.02 * budget
    assert spent[1] == pytest.approx(budget, rel=0.03)


class Stairs(Exact):
    """A grid of 1 to 4 bits, for budgets."""

    word = "stairs"

    def __init__(self, count: int = 4) -> None:
        if count > 4:
            raise ValueError("stairs has at most 4 bits")
        self.count = count

    def lengths(self, about: About) -> tuple[int, int]:
        return self.count * about.numel // 8, self.count * about.numel // 8


def test_most_bits_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "WITH_BITS", ("stairs",))
    x = torch.zeros(0)
    assert rate.fitted("delta stairs1", x, 800, 100_000) == "delta stairs4"
    assert rate.fitted("delta stairs4", x, 800, 399) == "delta stairs3"
    with pytest.raises(ValueError, match="'delta stairs1' needs 100 bytes, more than the budget of 99"):
        rate.fitted("delta stairs4", x, 800, 99)


def test_nothing_fits_into_too_little() -> None:
    x = numbers("normal", 1000)
    with pytest.raises(ValueError, match="needs 120 bytes, more than the budget of 80"):
        rate.fitted("top0.5 float16", x, 100, 80)  # 50 numbers and where they are
    with pytest.raises(ValueError, match="'delta step100 zstd1' needs .* budget of 10"):
        rate.fitted("step", x, 1000, 10)
    with pytest.raises(ValueError, match="whole number of bytes"):
        rate.fitted("step", x, 1000, 0)


@pytest.mark.parametrize(
    ("text", "count"),
    [("200kB", 200_000), ("1.5MB", 1_500_000), ("2 GB", 2 * 10**9), ("64KiB", 65536), ("1MiB", 1 << 20), (12, 12)],
)
def test_sizes_read_as_they_are_written(text: str | int, count: int) -> None:
    assert rate.parse_size(text) == count


@pytest.mark.parametrize("text", ["", "kB", "-1", "0", "1e3", "12 bits", "0.2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 200kB"):
        rate.parse_size(text)


# The table


def test_codecs_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert codec_table.run([str(RECORDED[0]), "fp16", "none", "step", "classes3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:5]] == [
        ["fp16", "16.00"],
        ["none", "32.00"],
        ["step", lines[4].split()[1]],
    ]
    assert lines[5].startswith("classes3 (classes: expected probabilities")


def test_codecs_on_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep = Checkpoints(tmp_path / "checkpoints", 3)
    for number in (1, 2):
        keep.save(Saved(number, {"w": number * torch.ones(30, 4), "count": torch.tensor(number)}))
    assert codec_table.run([f"run={tmp_path}", "step"]) == 0
    assert capsys.readouterr().out.startswith("120 numbers in 1 tensors")
    save_tensors(tmp_path / "models" / "server.safetensors", {"w": torch.zeros(2)})
    save_tensors(tmp_path / "models" / "site-0.safetensors", {"w": torch.ones(2)})
    keep.drop_after(0)
    assert codec_table.run([f"run={tmp_path}", "fp16"]) == 0
    assert capsys.readouterr().out.startswith("2 numbers in 1 tensors")


def test_a_ring_is_compared_with_a_clip_that_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tensors(tmp_path / "x.safetensors", {"w": 2.995e-4 * torch.linspace(-1, 0.5, 1000).reshape(20, 50)})
    assert codec_table.run([str(tmp_path / "x.safetensors"), "ring", "ring8x16x0.5"]) == 0
    fitted, own = (line.split() for line in capsys.readouterr().out.splitlines()[2:4])
    assert fitted[:2] == ["delta", "ring8x16x0.000300"]
    assert float(fitted[3]) < 1e-3
    assert own[0] == "ring8x16x0.5"
    assert float(own[2]) > 1


def test_edges_that_a_codec_keeps_count_as_float16(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tensors(tmp_path / "x.safetensors", {name: torch.randn(40, 50) for name in "abcd"})
    assert codec_table.run([str(tmp_path / "x.safetensors"), "uniform8x256", "keep uniform8x256"]) == 0
    whole, kept = (line.split() for line in capsys.readouterr().out.splitlines()[2:4])
    assert float(kept[2]) == pytest.approx((float(whole[1]) + 16) / 2, abs=0.02)
    assert float(kept[3]) < 0.7 * float(whole[2])


def test_a_run_without_weights_has_no_changes_to_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"strategy": {"_target_": "fl_distill.strategies.FedMD"}, "names": {"strategy": "fedmd"}}
    (tmp_path / "job.json").write_text(json.dumps({"config": config}))
    assert codec_table.run([f"run={tmp_path}"]) == 2
    assert "strategy=fedmd exchanges no weights" in capsys.readouterr().err


def test_the_table_says_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert codec_table.run([f"run={tmp_path}"]) == 2
    assert "checkpoint.keep=2" in capsys.readouterr().err
    assert codec_table.run([str(RECORDED[0]), "stpe"]) == 2
    assert "did you mean" in capsys.readouterr().err
