"""A decoder written from `docs/wire.md` alone: nothing here imports what it describes."""

import hashlib
import json
import math
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from numpy.typing import NDArray

Array = NDArray[Any]
Shapes = Sequence[tuple[int, ...]]
Decode = Callable[[bytes, Shapes], Array]
Schema = list[tuple[str, str, tuple[int, ...]]]

CORPUS = Path(__file__).parent / "data" / "wire"
PRESETS = sorted(path.stem.removeprefix("vector-") for path in CORPUS.glob("vector-*.bin"))
FREE_SUMS = ("rotate", "lowrank")
SIZES = {"bool": 1, "bfloat16": 2} | {f"{kind}{bits}": bits // 8 for kind in ("int", "float") for bits in (16, 32, 64)}
SIZES |= {"int8": 1, "uint8": 1}
PAGE = (CORPUS.parents[2] / "docs" / "wire.md").read_text(encoding="utf-8")
NF4 = np.array(re.findall(r"-?\d\.\d+", PAGE.partition("unit(c), c = 0")[2].partition("**")[0]), np.float32)
POSITIVE = [np.array(units.split(", "), np.float32) for units in re.findall(r"^\| [1-4] \| (0\..*) \|$", PAGE, re.M)]


def count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes)


def widened(data: bytes) -> Array:
    """bfloat16 -> float32."""
    return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)


# ---------------------------------------------------------------- what steps share


def planes(data: bytes, bits: int, n: int) -> Array:
    codes, at = np.zeros(n, np.int64), 0
    for tile in np.split(codes, range(262144, n, 262144)):
        low = 0
        for w in [8] * (bits // 8) + [w for w in (4, 2, 1) if bits & w]:
            k = -(-len(tile) * w // 8)
            plane = np.frombuffer(data, np.uint8, k, at)
            pieces = np.concatenate([plane >> i * w & (1 << w) - 1 for i in range(8 // w)])
            assert not pieces[len(tile) :].any()
            tile |= pieces[: len(tile)].astype(np.int64) << low
            at, low = at + k, low + w
    assert at == len(data)
    return codes


def row(data: bytes, w: int, n: int) -> Array:
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: n * w].reshape(n, w)
    return np.asarray(bits.astype(np.int64) @ (1 << np.arange(w)))


def blocks(data: bytes, bits: int, block: int, n: int, form: int, unit: Callable[[Array], Array]) -> Array:
    front = form * -(-n // block)
    scales = widened(data[:front]) if form == 2 else np.frombuffer(data[:front], "<f4")
    return np.repeat(scales, block)[:n] * unit(planes(data[front:], bits, n)).astype(np.float32)


def signs(seed: int, n: int) -> Array:
    """Stream 0: whether each number's sign is minus."""

    def mix(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    key = mix((seed + 0x9E3779B97F4A7C15) % 2**64)
    words = [mix((key + place * 0x9E3779B97F4A7C15) % 2**64) for place in range(1, n // 64 + 2)]
    return np.unpackbits(np.array(words, "<u8").view(np.uint8), bitorder="little")[:n].astype(bool)


# ---------------------------------------------------------------- steps, as functions of seed and numbers


def uniform(seed: int, bits: int = 8, block: int = 64) -> Decode:
    return lambda data, shapes: blocks(data, bits, block, count(shapes), 2, lambda c: c - 2 ** (bits - 1))


def nf(seed: int, bits: int = 4, block: int = 64) -> Decode:
    return lambda data, shapes: blocks(data, bits, block, count(shapes), 2, lambda c: NF4[c])


def lloydmax(seed: int, bits: int = 4, block: int = 4096) -> Decode:
    units = np.concatenate((-POSITIVE[bits - 1][::-1], POSITIVE[bits - 1]))
    return lambda data, shapes: blocks(data, bits, block, count(shapes), 4, lambda c: units[c])


def ring(seed: int, bits: int = 8, senders: int = 16, clip: float = 0.1) -> Decode:
    width, per = bits + (senders - 1).bit_length(), 2 * clip / (2**bits - 1)
    return lambda data, shapes: (planes(data, width, count(shapes)) * per - clip).astype(np.float32)


def sign(seed: int) -> Decode:
    def decode(data: bytes, shapes: Shapes) -> Array:
        scales = np.repeat(np.frombuffer(data, "<f4", len(shapes)), [math.prod(s) for s in shapes])
        return np.where(planes(data[4 * len(shapes) :], 1, len(scales)), scales, -scales)

    return decode


def step(seed: int, width: float = 0.5) -> Decode:
    def decode(data: bytes, shapes: Shapes) -> Array:
        size, wide, long, shrink = struct.unpack_from("<fIIB", data)
        q, at = np.zeros(n := count(shapes), np.float32), 13
        for tile in np.split(q, range(65536, n, 65536)):
            half = (len(tile) + 1) // 2
            nibbles = np.frombuffer(data, np.int8, half, at)
            tile[:] = np.concatenate([(nibbles << 4) >> 4, nibbles >> 4])[: len(tile)]
            at += half
        outside = np.frombuffer(data, np.int8, wide, at).astype(np.float32)
        outside[outside == -128] = np.frombuffer(data, "<i4", long, at + wide)
        q[q == -8] = outside
        return np.sign(q) * np.maximum(np.abs(q) - np.float32(shrink / 510), 0) * np.float32(size)

    return decode


def rotate(inner: Decode, seed: int, block: int = 4096) -> Decode:
    def decode(data: bytes, shapes: Shapes) -> Array:
        n = count(shapes)
        b = min(block, 1 << max(0, n - 1).bit_length())
        y, h = inner(data, [(b * -(-n // b),)]), np.ones((1, 1))
        while len(h) < b:
            h = np.block([[h, h], [h, -h]])
        x = (y.reshape(-1, b).astype(np.float64) @ h / math.sqrt(b)).ravel()[:n]
        return np.where(signs(seed, n), -x, x).astype(np.float32)

    return decode


def top(inner: Decode, seed: int, fraction: float = 0.01) -> Decode:
    def decode(data: bytes, shapes: Shapes) -> Array:
        x = np.zeros(n := count(shapes), np.float32)
        k = min(n, math.ceil(fraction * n))
        low = (n // k).bit_length() - 1
        first, marks = -(-k * low // 8), k + (n - 1 >> low)
        second = first + -(-marks // 8)
        at = np.flatnonzero(row(data[first:second], 1, marks)) - np.arange(k)
        x[(at << low) + row(data[:first], low, k)] = inner(data[second:], [(k,)])
        return x

    return decode


def lowrank(inner: Decode, seed: int, rank: int = 2) -> Decode:
    def decode(data: bytes, shapes: Shapes) -> Array:
        sides = [(s[0], math.prod(s[1:])) if len(s) > 1 else (math.prod(s), 1) for s in shapes]
        sizes = [min(rank * (m + n), m * n) for m, n in sides]
        parts = np.split(inner(data, [(sum(sizes),)]), np.cumsum(sizes)[:-1])
        for at, (m, n) in enumerate(sides):
            if len(parts[at]) < m * n:
                p, q = np.split(parts[at], [m * rank])
                parts[at] = (p.reshape(m, rank) @ q.reshape(n, rank).T).ravel()
        return np.concatenate(parts)

    return decode


def zstd(inner: Decode, seed: int, level: int = 1) -> Decode:
    return lambda data, shapes: inner(data[1:] if data[0] == 0 else zstandard.decompress(data[1:]), shapes)


TRANSFORMS: dict[str, Callable[..., Decode]] = {"rotate": rotate, "top": top, "lowrank": lowrank}
GRIDS: dict[str, Callable[..., Decode]] = {
    "float": lambda seed, bits: lambda data, shapes: np.frombuffer(data, "<f2").astype(np.float32),
    "bfloat": lambda seed, bits: lambda data, shapes: widened(data),
    **{"uniform": uniform, "nf": nf, "lloydmax": lloydmax, "step": step, "sign": sign, "ring": ring},
}


def codec(sentence: str, seed: int) -> Decode:
    found = [re.fullmatch(r"([a-z]+)([0-9.x]*)", word) for word in sentence.split()]
    said = [(m[1], [float(x) if "." in x else int(x) for x in m[2].split("x") if x]) for m in found if m]
    steps = [(name, numbers) for name, numbers in said if name not in ("delta", "residual", "keep")]
    (at,) = [at for at, (name, _) in enumerate(steps) if name in GRIDS]
    decode = GRIDS[steps[at][0]](seed, *steps[at][1])
    for name, numbers in steps[:at][::-1]:
        decode = TRANSFORMS[name](decode, seed, *numbers)
    for _ in steps[at + 1 :]:
        decode = zstd(decode, seed)
    return decode


# ---------------------------------------------------------------- messages


def load(path: Path) -> tuple[Schema, dict[str, Array]]:
    """A safetensors file: bfloat16 as its bits."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    head = json.loads(data[8 : 8 + length])
    spelled = {"F": "float", "I": "int", "U": "uint"}
    schema, tensors = [], {}
    for name in json.loads(head["__metadata__"]["fl_distill.order"]):
        said, shape, (start, stop) = (head[name][key] for key in ("dtype", "shape", "data_offsets"))
        dtype = {"BOOL": "bool", "BF16": "bfloat16"}.get(said) or spelled[said[0]] + said[1:]
        schema.append((name, dtype, tuple(shape)))
        tensors[name] = as_they_are(data[8 + length + start : 8 + length + stop], dtype, tuple(shape))
    return schema, tensors


def as_they_are(data: bytes, dtype: str, shape: tuple[int, ...]) -> Array:
    return np.frombuffer(data, "<u2" if dtype == "bfloat16" else dtype).reshape(shape)


def single(tensor: Array, dtype: str) -> Array:
    return widened(tensor.tobytes()).reshape(tensor.shape) if dtype == "bfloat16" else tensor.astype(np.float32)


def rounded(x: Array, dtype: str) -> Array:
    if dtype != "bfloat16":
        return x.astype(dtype)
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)


def modes(schema: Schema, keep: bool) -> list[int]:
    large = [name for name, dtype, shape in schema if "float" in dtype and math.prod(shape) >= 64]
    matrices = [name for name, _, shape in schema if name in large and len(shape) > 1]
    halves = {*large} - {*matrices} if matrices else set()
    halves |= {*matrices[:1], *matrices[-1:]} if keep else set()
    raw = {name for name, _, _ in schema if name not in large or name.endswith(("running_mean", "running_var"))}
    return [0 if name in raw else 1 if name in halves else 2 for name, _, _ in schema]


def decoded(data: bytes, base: tuple[Schema, dict[str, Array]]) -> tuple[Schema, bytes, dict[str, Array], str]:
    magic, version, flags, *_ = struct.unpack_from("<4sBBHQQQQIIIQQQ", data)
    digest, against, becomes, seed, number, *_ = struct.unpack_from("<8sQQQI", data, 8)
    assert (magic, version, against) == (b"FLDQ", 2, 5 * flags)
    lengths = [struct.unpack_from("<H", data, 6)[0], struct.unpack_from("<I", data, 48)[0]]
    lengths += struct.unpack_from("<I", data, 44) + struct.unpack_from("<QQQ", data, 52)
    *parts, checksum = (data[a:][:n] for a, n in zip(76 + np.cumsum([0, *lengths]), [*lengths, 4], strict=True))
    said, names, table, raw, half, coded = parts
    assert struct.unpack("<I", checksum) == (zlib.crc32(data[:-4]),)
    identity = "\x1f".join(map(str, (against, number, zlib.crc32(raw), zlib.crc32(half), zlib.crc32(coded))))
    assert becomes == int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") >> 1
    schema = [(n, dtype, tuple(shape)) for n, dtype, shape in json.loads(names)] if names else base[0]
    assert hashlib.sha256(names or json.dumps(schema, separators=(",", ":")).encode()).digest()[:8] == digest
    sentence = said.decode("ascii")
    assert modes(schema, "keep" in sentence.split()) == [*table]
    numbers = codec(sentence, seed)(coded, [s for (_, _, s), mode in zip(schema, table, strict=True) if mode == 2])
    left = {1: np.frombuffer(half, "<f2").astype(np.float32), 2: numbers}
    found = {}
    for (name, dtype, shape), mode in zip(schema, table, strict=True):
        n = math.prod(shape)
        if mode == 0:
            own, raw = raw[: n * SIZES[dtype]], raw[n * SIZES[dtype] :]
            found[name] = as_they_are(own, dtype, shape)
            continue
        x, left[mode] = left[mode][:n].reshape(shape), left[mode][n:]
        found[name] = rounded(x + single(base[1][name], dtype) if flags else x, dtype)
    assert not len(raw)
    assert not any(map(len, left.values()))
    return schema, table, found, sentence


@pytest.mark.parametrize("name", PRESETS)
def test_stored_messages_are_read_by_the_document_alone(name: str) -> None:
    data = (CORPUS / f"vector-{name}.bin").read_bytes()
    schema, table, tensors, sentence = decoded(data, load(CORPUS / "base.safetensors"))
    wanted_schema, wanted = load(CORPUS / f"vector-{name}.safetensors")
    assert schema == wanted_schema
    free = any(word in sentence for word in FREE_SUMS)
    for (key, dtype, _), mode in zip(schema, table, strict=True):
        if not free or mode != 2:
            assert tensors[key].tobytes() == wanted[key].tobytes(), key
            continue
        found, stored = single(tensors[key], dtype), single(wanted[key], dtype)
        neighbour = np.abs(stored) * {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype, 0)
        assert (np.abs(found - stored) <= 1e-6 * np.abs(stored).max() + neighbour).all(), key
