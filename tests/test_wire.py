"""The wire form: what is packed comes back, and whatever else arrives is refused before it costs anything."""

import random
import resource
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fl_distill.codec.chain import chain
from fl_distill.codec.frame import VERSION, Head
from fl_distill.codec.layout import TINY, layout, schema_of_tensors
from fl_distill.codec.presets import PRESETS
from fl_distill.codec.wire import Packed, is_packed, pack, unpack
from fl_distill.errors import BadUpdate
from fl_distill.files import load_tensors

CORPUS = Path(__file__).parent / "data" / "wire"
HEAD = Head(round=7, base=0, seed=99)
WEIGHTS = {name: chain(name) for name in PRESETS}
OTHERS = (
    "classes3",
    "dither8x64",
    "stochastic8x64",
    "rotate leastmax2",
    "lowrank2 step0.1 zstd1",
    "top0.05 step0.5 zstd1",
    "ring8x16x0.1",
)
"""Codecs that are no presets, which mutations start from too."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "conv.weight": torch.randn(8, 3, 3, 3, generator=generator) * 0.2,
        "conv.bias": torch.randn(8, generator=generator),
        "norm.running_var": torch.rand(70, generator=generator),
        "norm.num_batches_tracked": torch.tensor(12),
        "mask": torch.rand(100, generator=generator) > 0.5,
        "half.weight": torch.randn(20, 10, generator=generator).half(),
        "double.weight": torch.randn(90, generator=generator).double(),
        "brain.weight": torch.randn(66, generator=generator).bfloat16(),
        "empty": torch.empty(0, 5),
        "head.weight": torch.randn(10, 33, generator=generator),
    }


def coded(name: str, change: bool = False) -> tuple[Packed, dict[str, Tensor], dict[str, Tensor] | None]:
    tensors = model()
    base = {k: t + 0.01 * torch.ones_like(t) if t.is_floating_point() else t for k, t in tensors.items()}
    by = WEIGHTS[name]
    assert by is not None
    against = base if change else None
    return pack(tensors, by, Head(7, 5 if change else 0, 0, 99), against), tensors, against


def read(data: bytes, base: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    def held(head: Head) -> dict[str, Tensor]:
        if base is None or head.base != 5:
            raise BadUpdate("not held")
        return base

    return unpack(data, held, limit=10_000)[1]


@pytest.mark.parametrize("change", [False, True])
@pytest.mark.parametrize("name", PRESETS)
def test_what_is_packed_comes_back(name: str, change: bool) -> None:
    packed, tensors, base = coded(name, change)
    back = read(packed.data, base)
    assert list(back) == list(tensors)
    for key, tensor in tensors.items():
        assert back[key].dtype == tensor.dtype
        assert back[key].shape == tensor.shape
        assert torch.equal(back[key], packed.tensors[key])
        if not tensor.is_floating_point() or tensor.numel() < TINY:
            assert torch.equal(back[key], tensor)
    assert sum(length for length, _ in packed.layers.values()) <= len(packed.data)
    again, _, _ = coded(name, change)
    assert again.data == packed.data


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_lost_is_what_was_put_in_minus_what_came_out(name: str) -> None:
    packed, tensors, base = coded(name, change=True)
    assert base is not None
    by = WEIGHTS[name]
    assert by is not None
    plan = layout(schema_of_tensors(tensors), by.keep)
    names = plan.names(2)
    put_in = torch.cat([(tensors[n].double() - base[n].double()).flatten() for n in names])
    came_out = torch.cat([(packed.tensors[n].double() - base[n].double()).flatten() for n in names])
    assert torch.allclose(packed.lost.double(), put_in - came_out, atol=2e-2)  # bfloat16 and float16 round once more
    assert packed.nmse == pytest.approx(float(packed.lost.norm() ** 2 / put_in.norm() ** 2), rel=1e-2)


def test_a_residual_is_added_to_what_is_coded() -> None:
    by = chain("uniform4x64")
    assert by is not None
    x = {"w": torch.linspace(-1, 1, 1000)}
    total, left = torch.zeros(1000), None
    for number in range(50):
        packed = pack(x, by, Head(number), residual=left)
        total, left = total + packed.tensors["w"], packed.lost
    assert left is not None
    assert torch.allclose(total + left, 50 * x["w"], atol=1e-3)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_by_name(number: float) -> None:
    by = chain("int8")
    assert by is not None
    bad = {"fine": torch.ones(100), "layer.weight": torch.tensor([1.0, number] * 50)}
    with pytest.raises(BadUpdate, match="layer.weight"):
        pack(bad, by, HEAD)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 40), max_size=3), st.sampled_from(sorted(PRESETS)), st.integers(0, 2**63 - 1))
def test_any_shape_travels(shape: list[int], name: str, seed: int) -> None:
    by = WEIGHTS[name]
    assert by is not None
    numel = int(np.prod(shape)) if shape else 1
    tensor = torch.from_numpy(np.random.default_rng(seed).normal(size=numel).astype(np.float32)).reshape(shape)
    packed = pack({"t": tensor}, by, Head(seed=seed))
    assert torch.equal(unpack(packed.data, limit=10**6)[1]["t"], packed.tensors["t"])


def test_a_message_needs_the_model_that_it_changes() -> None:
    packed, _, base = coded("int8", change=True)
    with pytest.raises(BadUpdate, match="nothing here"):
        unpack(packed.data)
    other = {**base, "head.weight": torch.zeros(3, 3)} if base else {}
    with pytest.raises(BadUpdate, match="schema"):
        read(packed.data, other)


def test_the_one_array_cannot_be_taken_for_numbers() -> None:
    record = coded("int8")[0].record()
    assert is_packed(record)
    record["packed"].stype = record["packed"].stype.replace(f"/{VERSION}:", "/1:")
    assert is_packed(record), "a message of another version is a message, which `unpack` then refuses by name"
    with pytest.raises(TypeError, match="Unsupported serialization type"):
        record["packed"].numpy()


@pytest.mark.parametrize(
    ("at", "value", "field"),
    [
        (0, b"XXXX", "magic"),
        (4, b"\x09", "version"),
        (5, b"\x07", "flags"),
        (8, b"\0\0\0\0", "schema"),
        (52, struct.pack("<Q", 2**31), "says"),
    ],
)
def test_a_damaged_head_is_refused_by_field(at: int, value: bytes, field: str) -> None:
    data = bytearray(coded("int8")[0].data)
    data[at : at + len(value)] = value
    with pytest.raises(BadUpdate, match=field):
        read(sealed(bytes(data[:-4])))


def test_a_flipped_bit_is_seen() -> None:
    data = bytearray(coded("int8")[0].data)
    data[len(data) // 2] ^= 1
    with pytest.raises(BadUpdate, match="checksum"):
        read(bytes(data))


def test_a_giant_is_refused_before_memory_is_asked_for() -> None:
    by = chain("top0.000000001 float16")
    assert by is not None
    small = pack({"t": torch.zeros(2000, 2000)}, by, HEAD).data
    assert len(small) < 200
    with pytest.raises(BadUpdate, match="declares 4000000 numbers"):
        unpack(small, limit=10_000)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for shape in (b"[9000,9000]", b"[9999,9999]"):
        with pytest.raises(BadUpdate, match="schema"):
            unpack(sealed(small[:-4].replace(b"[2000,2000]", shape)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 10_000


@pytest.mark.parametrize("codec", ["uniform1000000000", "uniform99999999999999", "classes3", "step" + "9" * 150])
def test_a_codec_that_cannot_be_is_refused_in_no_time(codec: str) -> None:
    """Such a text may come from any site."""
    data = coded("fp16")[0].data
    said = codec.encode()
    body = bytearray(data[:-4].replace(b"float16", said, 1))
    body[6:8] = struct.pack("<H", len(said))
    began = time.perf_counter()
    with pytest.raises(BadUpdate):
        read(sealed(bytes(body)))
    assert time.perf_counter() - began < 1


# ---------------------------------------------------------------- mutations


def sealed(body: bytes) -> bytes:
    """A body with a check sum that fits, so that a mutation gets past it."""
    return body + struct.pack("<I", zlib.crc32(body))


def mutated(data: bytes, dice: random.Random) -> bytes:
    body = bytearray(data[:-4])
    for _ in range(dice.randint(1, 4)):
        at, kind = dice.randrange(len(body)), dice.randrange(5)
        if kind == 0:
            body[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            body[at] = dice.choice((0, 255, 127, 128))
        elif kind == 2:
            del body[at : at + dice.randint(1, 9)]
        elif kind == 3:
            body[at:at] = dice.randbytes(dice.randint(1, 9))
        else:
            body[at : at + 4] = dice.choice((b"\xff" * 4, b"\0" * 4, struct.pack("<f", float("nan"))))
        if len(body) < 2:
            break
    if dice.random() < 0.5 and len(body) > 76:  # the last length in the head fits again: what lies behind it is read
        lengths = struct.unpack_from("<IIQQ", body, 44)
        rest = len(body) - 76 - sum(lengths) - struct.unpack_from("<H", body, 6)[0]
        struct.pack_into("<Q", body, 68, max(0, rest))
    return sealed(bytes(body))


def settles(data: bytes, base: dict[str, Tensor] | None) -> bool:
    """Whether the bytes are decoded to finite tensors; False where they are refused. Anything else fails."""
    try:
        tensors = read(data, base)
    except BadUpdate:
        return False
    assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())
    return True


def other(said: str) -> bytes:
    by = chain(said)
    assert by is not None
    return pack({"p": model()["head.weight"].softmax(1)}, by, HEAD).data


def storm(count: int, seed: int) -> tuple[int, int]:
    dice = random.Random(seed)
    whole = [(coded(name, change)[0].data, coded(name, change)[2]) for name in PRESETS for change in (False, True)]
    whole += [(other(said), None) for said in OTHERS]
    decoded = 0
    for _ in range(count):
        data, base = dice.choice(whole)
        decoded += settles(mutated(data, dice), base)
    return decoded, count - decoded


def test_mutated_messages_are_decoded_or_refused() -> None:
    decoded, refused = storm(600, 1)
    assert decoded > 20
    assert refused > 100


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_thousand_mutated_messages_are_decoded_or_refused() -> None:
    storm(100_000, 2)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("mutated-*.bin")), ids=lambda path: path.stem)
def test_the_corpus_is_decoded_or_refused(path: Path) -> None:
    settles(path.read_bytes(), coded("int8", change=True)[2])


@pytest.mark.parametrize("name", PRESETS)
def test_messages_of_other_days_are_read_as_they_were(name: str) -> None:
    base = load_tensors(CORPUS / "base.safetensors")[0]
    back = read((CORPUS / f"vector-{name}.bin").read_bytes(), base)
    for key, tensor in load_tensors(CORPUS / f"vector-{name}.safetensors")[0].items():
        assert torch.allclose(back[key].double(), tensor.double(), rtol=1e-5, atol=1e-6)
