"""Envelopes: what goes in comes out, bit for bit; damage is named; nobody gets one who cannot open it."""

from contextlib import suppress

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fl_distill.runtime.envelope import KEY, MARK, is_sealed, marked, opened, sealed
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


@given(contents, st.data())
def test_damage_is_named_or_read(content: RecordDict, draw: st.DataObject) -> None:
    data = bytearray(sealed(content).array_records[KEY][KEY].data)
    at = draw.draw(st.integers(0, len(data) - 1))
    data[at] ^= draw.draw(st.integers(1, 255))
    cut = bytes(data[: draw.draw(st.integers(0, len(data)))])
    for broken in (bytes(data), cut):
        envelope = RecordDict({KEY: ArrayRecord({KEY: Array("uint8", (len(broken),), KEY, broken)})})
        with suppress(FrameError):
            assert isinstance(opened(envelope), RecordDict)


def test_a_mark_says_that_its_sender_opens_envelopes() -> None:
    assert MARK in marked(RecordDict())


def test_a_short_envelope_is_refused_before_anything_is_read() -> None:
    for data in (b"", b"1234567", b"\xff" * 8):
        with pytest.raises(FrameError, match="envelope"):
            opened(RecordDict({KEY: ArrayRecord({KEY: Array("uint8", (len(data),), KEY, data)})}))
