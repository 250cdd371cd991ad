"""Records made quickly are what Flower's constructors make; a change of Flower's insides shows here."""

from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fl_distill.codec.records import make_array, make_arrays, make_records, make_scalars

MOVED = "Flower's records look different inside: "
SCALARS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.booleans(), st.text(), st.binary())
LISTS = st.one_of(st.lists(st.integers(-9, 9)), st.lists(st.floats(allow_nan=False)), st.lists(st.text()))
OTHERS = st.sampled_from([None, {"a": 1}, (1, 2), [1, "a"], 1j])


def same(fast: Any, slow: Any) -> None:
    assert fast == slow
    assert list(fast) == list(slow)
    assert type(fast) is type(slow)
    assert vars(fast).keys() == vars(slow).keys(), MOVED + str(type(slow))
    assert fast.deflate() == slow.deflate()


def test_arrays_are_what_the_constructor_makes() -> None:
    arrays = {name: Array("float32", (1,), "numpy.ndarray", name.encode()) for name in "ab"}
    slow, fast = ArrayRecord(dict(arrays)), make_arrays(dict(arrays))
    same(fast, slow)
    fast["c"] = arrays["a"]
    assert list(fast) == ["a", "b", "c"]
    with pytest.raises(TypeError, match="texts as keys"):
        make_arrays({1: arrays["a"]})  # type: ignore[dict-item]


def test_an_array_is_what_the_constructor_makes() -> None:
    slow = Array("float32", (2, 3), "numpy.ndarray", b"abc")
    fast = make_array("float32", (2, 3), "numpy.ndarray", b"abc")
    assert vars(fast) == vars(slow), MOVED + "Array"
    assert fast == slow
    assert fast.object_id == slow.object_id, MOVED + "Array"
    with pytest.raises(TypeError, match="Expected str, str and bytes"):
        make_array("f", (), "s", bytearray(b"a"))  # type: ignore[arg-type]


@given(
    st.sampled_from([MetricRecord, ConfigRecord]),
    st.dictionaries(st.one_of(st.text(), st.integers()), st.one_of(SCALARS, LISTS, OTHERS), max_size=4),
)
def test_scalars_are_taken_and_refused_as_by_the_constructor(kind: Any, values: dict[Any, Any]) -> None:
    try:
        slow = kind(dict(values))
    except TypeError:
        with pytest.raises(TypeError):
            make_scalars(kind, dict(values))
    else:
        fast = make_scalars(kind, dict(values))
        same(fast, slow)
        fast["more"] = 1
        with pytest.raises(TypeError):
            fast["more"] = None


def test_records_are_what_the_constructor_makes() -> None:
    parts = {"m": MetricRecord({"a": 1}), "c": ConfigRecord({"b": "c"}), "a": ArrayRecord()}
    fast, slow = make_records(dict(parts)), RecordDict(dict(parts))
    same(fast, slow)
    assert fast.metric_records == slow.metric_records
    fast["more"] = MetricRecord()
    with pytest.raises(TypeError):
        make_records({"a": 1})  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        make_records({1: MetricRecord()})  # type: ignore[dict-item]
