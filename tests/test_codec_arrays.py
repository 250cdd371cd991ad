"""Tensors through Flower's ArrayRecord: exact, checked, refused when anything is off."""

import random

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fl_distill.codec import Form, Latest, decode, encode, payload_bytes, schema_of
from fl_distill.errors import BadUpdate

from .conftest import python

DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
]
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


def tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 50).to(dtype)


@given(st.dictionaries(st.text(max_size=9), st.tuples(shapes, st.sampled_from(DTYPES)), max_size=5))
def test_every_dtype_and_shape_comes_back_bit_for_bit(what: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
    tensors = {name: tensor(shape, dtype) for name, (shape, dtype) in what.items()}
    back = decode(encode(tensors))
    assert list(back) == list(tensors)
    for name, original in tensors.items():
        assert back[name].dtype == original.dtype
        assert back[name].shape == original.shape
        assert torch.equal(back[name], original)


@given(shapes, st.sampled_from([d for d in DTYPES if d != torch.bfloat16]))
def test_flower_reads_what_we_write_and_we_read_what_flower_writes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    original = tensor(shape, dtype)
    assert np.array_equal(encode({"x": original})["x"].numpy(), original.numpy())
    assert torch.equal(decode(ArrayRecord({"x": Array(original.numpy())}))["x"], original)


def test_transposed_and_sliced_tensors_travel_in_their_logical_order() -> None:
    original = torch.arange(12.0).reshape(3, 4)
    for view in (original.t(), original[:, ::2], original[1]):
        assert torch.equal(decode(encode({"x": view}))["x"], view)


def record(**change: object) -> ArrayRecord:
    whole = {
        "dtype": "float32",
        "shape": (2,),
        "stype": "numpy.ndarray",
        "data": encode({"x": torch.ones(2)})["x"].data,
    }
    return ArrayRecord({"x": Array(**{**whole, **change})})  # type: ignore[arg-type]


SCHEMA = {"x": Form((2,), "float32")}


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (ArrayRecord(), "missing: 'x'"),
        (ArrayRecord({**record(), "y": Array(np.ones(1))}), "nobody asked for: 'y'"),
        (record(shape=(3,)), r"is float32\[3\], expected float32\[2\]"),
        (record(dtype="float64"), r"is float64\[2\], expected float32\[2\]"),
        (record(stype="other"), "serialised as 'other'"),
        (record(data=b""), "valid npy header"),
        (record(data=b"\x93NUMPY" + b"\xff" * 40), "valid npy header"),
        (record(data=record()["x"].data[:-1]), "has 7 bytes, expected 8"),
        (record(data=record()["x"].data + b"\0"), "has 9 bytes, expected 8"),
        (record(data=Array(np.ones(3, np.float32)).data), "holds float32.* inside"),
        (record(data=Array(np.array(["a", "b"])).data), "inside, expected"),
        (encode({"x": torch.tensor([1.0, float("nan")])}), "NaN or infinity"),
        (encode({"x": torch.tensor([float("-inf"), 1.0])}), "NaN or infinity"),
        (ArrayRecord({"x": Array(np.array([1, 2], object).astype("U1"))}), "expected float32"),
    ],
)
def test_what_is_off_is_refused_with_the_reason(bad: ArrayRecord, sentence: str) -> None:
    with pytest.raises(BadUpdate, match=sentence):
        decode(bad, SCHEMA)


@given(st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=6), st.randoms())
def test_small_tensors_come_back_whatever_their_shapes_and_order(shapes: list[list[int]], order: random.Random) -> None:
    tensors = {f"t{at}": torch.randn(shape) for at, shape in enumerate(shapes)}
    arrays = list(encode(tensors).items())
    order.shuffle(arrays)
    found = decode(ArrayRecord(dict(arrays)), schema_of(encode(tensors)))
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
        assert found[name].stride() == tensor.stride()


@pytest.mark.parametrize("size", [3, 300_000])
@pytest.mark.parametrize("name", ["a", "b", "c"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -2e18])
def test_the_tensor_with_a_bad_number_is_named(name: str, wrong: float, size: int) -> None:
    tensors = {"a": torch.ones(size), "b": torch.ones(2, 2), "c": torch.ones(())}
    assert len(decode(encode(tensors))) == 3
    tensors[name].view(-1)[-1] = wrong
    with pytest.raises(BadUpdate, match=f"'{name}' holds"):
        decode(encode(tensors))


def test_a_declared_size_beyond_the_data_is_refused_before_memory_is_taken() -> None:
    huge = ArrayRecord({"x": Array("float32", (10**12,), "numpy.ndarray", record()["x"].data)})
    with pytest.raises(BadUpdate):
        decode(huge)


def test_a_shape_below_nothing_is_refused() -> None:
    numbers = encode({"x": torch.ones(2)}, bare=True)["x"]
    with pytest.raises(BadUpdate, match="says that its shape is"):
        decode(ArrayRecord({"x": Array("float32", (-1, -2), numbers.stype, numbers.data)}))


def test_more_dimensions_than_numpy_has_are_refused() -> None:
    for record in (encode({"x": torch.ones(1)}), encode({"x": torch.ones(1)}, bare=True)):
        shape = (1,) * 33
        with pytest.raises(BadUpdate, match="has 33 dimensions"):
            decode(ArrayRecord({"x": Array("float32", shape, record["x"].stype, record["x"].data)}))


def test_nobody_is_warned_of_views_of_bytes() -> None:
    code = (
        "import warnings, torch\n"
        "from fl_distill.codec import decode, encode, wire\n"
        "from fl_distill.codec.chain import chain\n"
        "from fl_distill.codec.frame import Head\n"
        "warnings.simplefilter('error', UserWarning)\n"
        "x = {'x': torch.randn(200, 3000)}\n"
        "decode(encode(x))\n"
        "for codec in ('float16', 'bfloat16', 'top0.01 float16', 'uniform8'):\n"
        "    wire.unpack(wire.pack(x, chain(codec), Head()).data)\n"
    )
    assert python("-c", code).communicate(timeout=100)[1] == ""


def test_large_numbers_are_accepted_up_to_the_bound_and_not_beyond() -> None:
    assert len(decode(encode({"x": torch.full((400,), 9e17)}))["x"]) == 400
    with pytest.raises(BadUpdate, match=r"as large as 3e\+38, expected at most 1e\+18"):
        decode(encode({"x": torch.tensor([1.0, 3e38])}))


@given(st.binary(max_size=200))
def test_random_bytes_never_do_worse_than_a_refusal(data: bytes) -> None:
    with pytest.raises(BadUpdate):
        decode(record(data=data), SCHEMA)


def test_unsupported_dtypes_are_named() -> None:
    with pytest.raises(ValueError, match="complex64"):
        encode({"x": torch.ones(2, dtype=torch.complex64)})


def test_payload_counts_what_is_in_the_records() -> None:
    arrays = encode({"weight": torch.ones(10)})
    content = RecordDict(
        {
            "arrays": arrays,
            "m": MetricRecord({"loss": 0.5}),
            "c": ConfigRecord({"name": "ab", "k": [1, 2], "raw": b"xyz"}),
        }
    )
    assert payload_bytes(content) == len("weight") + len(arrays["weight"].data) + 4 + 8 + 4 + 2 + 1 + 16 + 3 + 3
    assert schema_of(arrays) == {"weight": Form((10,), "float32")}


def test_the_same_bytes_are_decoded_once_and_others_again() -> None:
    latest, record = Latest(), encode({"a": torch.ones(3), "b": torch.zeros(2, 2)})
    same = ArrayRecord({name: Array(a.dtype, a.shape, a.stype, a.data) for name, a in record.items()})
    first, again = latest(record), latest(same)
    assert all(first[name] is again[name] for name in first)
    first.clear()
    assert list(latest(record)) == ["a", "b"]
    other = encode({"a": torch.ones(3), "b": torch.zeros(2, 2)})  # equal, but not the same bytes
    assert latest(other)["a"] is not again["a"]
    renamed = ArrayRecord({f"x{name}": array for name, array in other.items()})
    assert list(latest(renamed)) == ["xa", "xb"]
    with pytest.raises(BadUpdate):
        latest(ArrayRecord({"a": Array("float32", (4,), other["a"].stype, other["a"].data)}))
