"""Envelopes: what goes in comes out, bit for bit; damage is named; nobody gets one who cannot open it."""

from contextlib import suppress
from typing import cast

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fl_distill.runtime.envelope import KEY, MARK, WHOLE, is_sealed, marked, opened, sealed
from fl_distill.runtime.frames import FrameError

names = st.text(min_size=1, max_size=8)
arrays = st.builds(lambda data: Array("uint8", (len(data),), "x", data), st.binary(max_size=40))
records = st.one_of(
    st.dictionaries(names, arrays, max_size=3).map(ArrayRecord),
    st.dictionaries(names, st.one_of(st.integers(-(2**40), 2**40), st.floats(allow_nan=False)), max_size=3).map(
        lambda found: MetricRecord({k: v for k, v in found.items()})
    ),
    st.dictionaries(names, st.one_of(st.text(max_size=5), st.booleans(), st.binary(max_size=5)), max_size=3).map(
        ConfigRecord
    ),
)
contents = st.dictionaries(names, records, max_size=4).map(RecordDict)


@given(contents)
def test_what_goes_in_comes_out(content: RecordDict) -> None:
    found = sealed(content)
    assert is_sealed(found)
    assert list(found) == [KEY]
    assert opened(found) == content
    assert list(opened(found)) == list(content)
    assert opened(content) is content


def envelopes(data: bytes) -> list[RecordDict]:
    """These bytes in both forms in which they may come."""
    array = Array("uint8", (len(data),), KEY, data)
    return [RecordDict({KEY: ConfigRecord({KEY: data})}), RecordDict({KEY: ArrayRecord({KEY: array})})]


@given(contents, st.data())
def test_damage_is_named_or_read(content: RecordDict, draw: st.DataObject) -> None:
    data = bytearray(cast(bytes, sealed(content).config_records[KEY][KEY]))
    at = draw.draw(st.integers(0, len(data) - 1))
    data[at] ^= draw.draw(st.integers(1, 255))
    cut = bytes(data[: draw.draw(st.integers(0, len(data)))])
    for envelope in [*envelopes(bytes(data)), *envelopes(cut)]:
        with suppress(FrameError):
            assert isinstance(opened(envelope), RecordDict)


def test_an_envelope_of_something_else_is_refused() -> None:
    for value in ("text", 1, [b"a", b"b"]):
        with pytest.raises(FrameError, match="holds bytes"):
            opened(RecordDict({KEY: ConfigRecord({KEY: value})}))


def test_large_envelopes_are_arrays_which_flower_cuts_into_pieces() -> None:
    arrays = RecordDict({"a": ArrayRecord({"w": Array("uint8", (WHOLE,), "x", bytes(WHOLE))})})
    found = sealed(arrays)
    assert list(found.array_records) == [KEY]
    assert is_sealed(found)
    assert opened(found) == arrays


def test_a_mark_says_that_its_sender_opens_envelopes() -> None:
    assert MARK in marked(RecordDict())


def test_a_short_envelope_is_refused_before_anything_is_read() -> None:
    for data in (b"", b"1234567", b"\xff" * 8):
        for envelope in envelopes(data):
            with pytest.raises(FrameError, match="envelope"):
                opened(envelope)
