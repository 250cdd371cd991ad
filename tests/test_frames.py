"""Records and frames survive the way between processes to the bit, and damage is noticed."""

import contextlib
import math
import os
import socket
import struct
from random import Random
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Metadata, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_distill.runtime import frames, wire
from fl_distill.runtime.shared import Library, Region, anonymous_file

# A busy machine is slow to draw; that says nothing about the code.
patient = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

floats = st.floats(allow_nan=True, allow_infinity=True)
integers = st.integers(-(2**63), 2**63 - 1)
texts = st.text(max_size=8)
names = st.text(st.characters(), max_size=8)
arrays = st.builds(
    Array,
    st.sampled_from(["float32", "int64", "bfloat16", ""]),
    st.lists(st.integers(0, 9), max_size=4).map(tuple),
    st.sampled_from(["numpy.ndarray", "raw"]),
    st.binary(max_size=80),
)


def lists_of(*kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(*kinds, *(st.lists(kind, max_size=4) for kind in kinds))


records = st.dictionaries(
    names,
    st.one_of(
        st.dictionaries(names, arrays, max_size=4).map(ArrayRecord),
        st.dictionaries(names, lists_of(floats, integers), max_size=4).map(MetricRecord),
        st.dictionaries(names, lists_of(floats, integers, texts, st.booleans(), st.binary(max_size=9)), max_size=4).map(
            ConfigRecord
        ),
    ),
    max_size=4,
).map(RecordDict)


def exact(value: Any) -> Any:
    """A form that is equal only for equal types and bits."""
    if isinstance(value, float):
        return "float", struct.pack("<d", value)
    if isinstance(value, list):
        return [exact(item) for item in value]
    if isinstance(value, Array):
        return value.dtype, value.shape, value.stype, value.data
    if isinstance(value, RecordDict | ArrayRecord | MetricRecord | ConfigRecord):
        return type(value).__name__, [(key, exact(item)) for key, item in value.items()]
    return type(value).__name__, value


@patient
@given(records)
def test_any_records_come_back_exactly(content: RecordDict) -> None:
    header, buffers = frames.encode(content)
    assert exact(frames.decode(header, buffers)) == exact(content)


def test_array_data_is_not_copied() -> None:
    content = RecordDict({"a": ArrayRecord([np.arange(10.0)])})
    data = content.array_records["a"]["0"].data
    header, buffers = frames.encode(content)
    assert buffers[0] is data
    assert frames.decode(header, buffers).array_records["a"]["0"].data is data


def test_decoded_records_are_fresh() -> None:
    header, buffers = frames.encode(RecordDict({"c": ConfigRecord({"k": [1, 2]})}))
    one, two = frames.decode(header, buffers), frames.decode(header, buffers)
    one["c"]["k"].append(3)  # type: ignore[union-attr, index]
    assert two["c"]["k"] == [1, 2]  # type: ignore[index]


@patient
@given(
    st.tuples(
        integers, texts, integers, integers, texts, texts, st.floats(allow_nan=False),
        st.floats(allow_nan=False), st.sampled_from(["train", "query.some_action"]),
        st.none() | integers, st.none() | integers,
    )
)  # fmt: skip
def test_metadata_comes_back_exactly(fields: tuple[Any, ...]) -> None:
    metadata = Metadata(*fields)
    parsed = frames.parse(frames.to_json(frames.metadata_fields(metadata)))
    rebuilt = frames.rebuild(parsed, RecordDict()).metadata
    assert frames.metadata_fields(rebuilt) == list(fields)


def test_errors_travel() -> None:
    fields = [1, "a", 2, 3, "b", "", 0.5, 1, "train", None, None]
    message = frames.rebuild(fields, Error(7, "wärum\n"))
    assert (message.error.code, message.error.reason) == (7, "wärum\n")


@pytest.mark.parametrize(
    "header",
    [b"", b"{", b"null", b"[[1]]", b'[["a","cubes",[]]]', b'[["a","configs",[["k","float","zz"]]]]',
     b'[["a","configs",[["k","float",""]]]]', b'[["a","arrays",[["k","f",[1],"s"]]]]'],
)  # fmt: skip
def test_damaged_headers_are_refused(header: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.decode(header, [])


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c16", "S3", "U2", ">f4"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (3, 1, 2)], ids=str)
def test_numpy_arrays_come_back_exactly(dtype: str, shape: tuple[int, ...]) -> None:
    before = np.arange(math.prod(shape)).astype(dtype).reshape(shape)
    after = frames.decode(*frames.encode(RecordDict({"a": ArrayRecord([before])}))).array_records["a"]["0"].numpy()
    assert (after.dtype, after.shape, after.tobytes()) == (before.dtype, before.shape, before.tobytes())


@patient
@given(records, st.data())
def test_damage_is_refused_or_harmless(content: RecordDict, data: st.DataObject) -> None:
    header, buffers = frames.encode(content)
    cut = data.draw(st.integers(0, len(header)))
    length = data.draw(st.integers(0, 4))
    junk = data.draw(st.text('[]{}",0123456789.e-nul\\ \xff', max_size=4)).encode("latin1")
    damaged = header[:cut] + junk + header[cut + length :]
    with contextlib.suppress(frames.FrameError):
        assert isinstance(frames.decode(damaged, buffers), RecordDict)


def test_endless_nesting_is_refused() -> None:
    with pytest.raises(frames.FrameError, match="header"):
        frames.parse(b"[" * 200_000)


def test_a_frame_cut_short_is_the_end_rather_than_a_wait() -> None:
    whole = wire.frame(b"[1,2]", [b"abc"])
    for length in range(len(whole)):
        ours, theirs = socket.socketpair()
        ours.sendall(whole[:length])
        ours.close()
        with theirs, pytest.raises(EOFError):
            wire.receive(theirs)


def test_left_over_buffers_are_refused() -> None:
    with pytest.raises(frames.FrameError, match="1 of 1 buffers"):
        frames.decode(b"[]", [b"x"])


@patient
@given(st.lists(st.tuples(st.binary(max_size=60), st.lists(st.binary(max_size=30), max_size=3)), max_size=5),
       st.integers(1, 40))  # fmt: skip
def test_frames_arrive_whole_however_they_are_cut(sent: list[tuple[bytes, list[bytes]]], cut: int) -> None:
    stream = b"".join(wire.frame(header, inline) for header, inline in sent)
    reader = wire.FrameReader()
    got = [f for at in range(0, len(stream), cut) for f in reader.feed(stream[at : at + cut])]
    assert got == [(header, b"".join(inline)) for header, inline in sent]


def test_absurd_lengths_are_refused_before_memory_is_taken() -> None:
    with pytest.raises(frames.FrameError, match="damaged"):
        list(wire.FrameReader().feed(struct.pack("<QQ", 1 << 60, 0)))
    with pytest.raises(frames.FrameError, match="announced"):
        wire.gather([["here", 1 << 40]], b"abc")
    with pytest.raises(frames.FrameError, match="no buffer"):
        wire.gather([["here", 1]], b"abc")
    with pytest.raises(frames.FrameError, match="place"):
        wire.gather([["there", 1]], b"")
    region = Region(anonymous_file(), writable=False)
    for offset, length in [(0, 1 << 50), (-1, 2), (0, -1)]:
        with pytest.raises(frames.FrameError):
            region.read(offset, length)
    region.close()


@patient
@given(st.integers(0, 2**32))
def test_library_never_overwrites_what_is_in_use(seed: int) -> None:
    random = Random(seed)
    rounds = [[random.randint(1, 50_000) for _ in range(random.randint(1, 6))] for _ in range(12)]
    library = Library(lambda serial: None, growth=1 << 16)
    reader = Region(os.dup(library.descriptor), writable=False)
    live: list[tuple[Any, bytes]] = []
    for sizes in rounds:
        data = [random.randbytes(size) for size in sizes]
        live += [(library.borrow(item), item) for item in data]
        for item, content in live:
            assert reader.read(item.offset, len(content)) == content
        random.shuffle(live)
        keep = random.randint(0, len(live))
        library.release([item for item, _ in live[keep:]])
        live = live[:keep]
    reader.close()
    library.close()


def test_library_writes_once_and_reuses_its_room() -> None:
    evicted: list[int] = []
    library = Library(evicted.append)
    model = bytes(20 << 20)
    first, second = library.borrow(model), library.borrow(model)
    assert first is second
    library.release([first, second])
    assert library.borrow(model) is first  # idle, yet still there
    library.release([first])
    for _ in range(5):
        library.release([library.borrow(bytes(20 << 20))])
    assert first.serial in evicted
    assert library.size <= 32 << 20
    with pytest.raises(frames.FrameError):
        library.data(first.serial)
    library.close()


def test_nan_stays_nan() -> None:
    header, buffers = frames.encode(RecordDict({"m": MetricRecord({"x": math.nan, "y": [math.inf, -0.0]})}))
    back = frames.decode(header, buffers)["m"]
    assert math.isnan(back["x"])  # type: ignore[arg-type, index]
    assert math.copysign(1, back["y"][1]) == -1  # type: ignore[arg-type, index]
