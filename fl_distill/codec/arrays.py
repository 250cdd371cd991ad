"""Tensors in Flower's ArrayRecord: encoded once, checked before use, decoded without a copy."""

import math
import operator
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import accumulate, chain
from typing import TypeVar

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from ..errors import BadUpdate
from .records import make_array, make_arrays

NUMPY = "numpy.ndarray"
LARGEST = 1e18
"""No number in a model is larger; a sum of many that are, each times its weight, would leave float32."""
SMALL = 1 << 20
"""Bytes of a model whose tensors are looked at as one."""
RAW = "fl_distill.raw"  # little-endian, in C order, without numpy's header of 128 bytes
BFLOAT16 = "fl_distill.bfloat16"  # the same; numpy has no such type

BY_NAME = {
    str(np.dtype(name)): getattr(torch, name)
    for name in ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
} | {"bfloat16": torch.bfloat16}
NAME_OF = {dtype: name for name, dtype in BY_NAME.items()}


@dataclass(frozen=True)
class Form:
    """What one tensor must look like: shape and dtype name."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


Schema = Mapping[str, Form]
R = TypeVar("R", ArrayRecord, MetricRecord, ConfigRecord)

with warnings.catch_warnings():
    # Decoded tensors are views of a message's immutable bytes, and nothing here writes to them; torch warns of
    # that once a process, so let it be now.
    warnings.simplefilter("ignore")
    torch.frombuffer(b"\0", dtype=torch.uint8)


def encode(tensors: Mapping[str, Tensor], *, bare: bool = False) -> ArrayRecord:
    """The tensors as an ArrayRecord that any Flower app can read (bfloat16 only by `decode`).

    `bare` leaves out what only others need, numpy's header of 128 bytes a tensor: for small things between halves of
    this package.
    """
    return make_arrays({name: _encode_one(name, tensor, bare) for name, tensor in tensors.items()})


def schema_of(record: ArrayRecord) -> dict[str, Form]:
    """The names, shapes and dtypes that a record declares."""
    return {name: Form(tuple(array.shape), array.dtype) for name, array in record.items()}


def decode(record: ArrayRecord, schema: Schema | None = None) -> dict[str, Tensor]:
    """The tensors of a record, in the order of `schema`; read-only views of its bytes.

    Raises `BadUpdate`, before anything is allocated, when names, shapes, dtypes or lengths differ from
    `schema` (default: what the record itself declares), and when a floating tensor holds NaN, infinity or a
    number beyond `LARGEST`.
    """
    arrays = dict(record.items())
    schema = schema_of(record) if schema is None else schema
    if missing := [name for name in schema if name not in arrays]:
        raise BadUpdate(f"tensors are missing: {_few(missing)}")
    if unknown := [name for name in arrays if name not in schema]:
        raise BadUpdate(f"tensors that nobody asked for: {_few(unknown)}")
    starts = {name: _start(name, arrays[name], form) for name, form in schema.items()}
    if (found := _as_one(arrays, schema, starts)) is not None:
        return found
    return {name: _decode_one(name, arrays[name], form, starts[name]) for name, form in schema.items()}


class Latest:
    """Decodes records, the same bytes as the last time only once: sites of one process receive one model in turn."""

    def __init__(self) -> None:
        self._names: list[tuple[str, str, tuple[int, ...], str]] = []
        self._data: list[bytes] = []
        self._tensors: dict[str, Tensor] = {}

    def __call__(self, record: ArrayRecord) -> dict[str, Tensor]:
        """What `decode` returns; the tensors are those of the last call where nothing changed."""
        names = [(name, array.dtype, tuple(array.shape), array.stype) for name, array in record.items()]
        data = [array.data for array in record.values()]
        if names != self._names or not all(map(operator.is_, data, self._data)):
            self._tensors, self._names, self._data = decode(record), names, data
        return dict(self._tensors)


def narrowed(tensor: Tensor, bits: int) -> Tensor:
    """The tensor as float16 (`bits` 16) or float32, its numbers held to what that can say instead of infinity."""
    form = torch.float16 if bits == 16 else torch.float32
    limit = torch.finfo(form).max
    return tensor.clamp(-limit, limit).to(form)


def records_of(content: RecordDict, kind: type[R]) -> dict[str, R]:
    """The records of one kind in a message.

    Flower's own views of a message (`array_records` and others) tie it into a circle, which keeps all its tensors in
    memory until the garbage collector comes by.
    """
    return {key: record for key, record in content.items() if isinstance(record, kind)}


def payload_bytes(content: RecordDict) -> int:
    """Bytes of the encoded records: arrays as they lie in the message, numbers at 8 bytes, texts as UTF-8."""
    return sum(sizes(content))


def sizes(content: RecordDict) -> tuple[int, int]:
    """Bytes of the encoded tensors, and of all the rest."""
    tensors = scalars = 0
    for record in content.values():
        if isinstance(record, ArrayRecord):
            tensors += record_bytes(record)
        else:
            scalars += sum(map(_scalar_bytes, record, record.values()))
    return tensors, scalars


def record_bytes(record: ArrayRecord) -> int:
    """Bytes of one record's encoded tensors, and of their names."""
    names, arrays = "".join(record.keys()), record.values()
    return len(names.encode()) + sum([len(array.data) for array in arrays])


def _encode_one(name: str, tensor: Tensor, bare: bool) -> Array:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype not in NAME_OF:
        raise ValueError(f"tensor {name!r} has dtype {tensor.dtype}, which does not travel; convert it first")
    dtype, shape = NAME_OF[tensor.dtype], tuple(tensor.shape)
    if tensor.dtype == torch.bfloat16:
        return make_array(dtype, shape, BFLOAT16, tensor.view(torch.int16).numpy().tobytes())
    if bare:
        return make_array(dtype, shape, RAW, tensor.numpy().tobytes())
    # One copy: the header of the npy format, then the tensor's own memory.
    return make_array(dtype, shape, NUMPY, b"".join((_npy_header(dtype, shape), tensor.numpy().data)))


def _start(name: str, array: Array, form: Form) -> int:
    """Where the tensor's numbers begin in an array that is all that it must be."""
    if array.dtype != form.dtype or tuple(array.shape) != form.shape:
        raise BadUpdate(f"tensor {name!r} is {Form(tuple(array.shape), array.dtype)}, expected {form}")
    if form.dtype not in BY_NAME:
        raise BadUpdate(f"tensor {name!r} has dtype {form.dtype}, which does not travel")
    offset, expected = _data_offset(name, array, form), math.prod(form.shape) * BY_NAME[form.dtype].itemsize
    if len(array.data) - offset != expected:
        raise BadUpdate(f"tensor {name!r} has {len(array.data) - offset} bytes, expected {expected} for {form}")
    return offset


def _as_one(arrays: Mapping[str, Array], schema: Schema, starts: Mapping[str, int]) -> dict[str, Tensor] | None:
    """The tensors of a small model in one piece of memory, looked at as one: what a call costs counts there.

    None where they are large, not all float32, or not all in order.
    """
    size = sum([len(arrays[name].data) for name in schema])
    if size > SMALL or not all([form.dtype == "float32" for form in schema.values()]):
        return None
    data = b"".join([memoryview(arrays[name].data)[start:] for name, start in starts.items()])
    if not data:
        return None
    flat = torch.frombuffer(data, dtype=torch.float32)
    if not torch.dot(flat, flat).item() < LARGEST:
        return None
    ends = accumulate(math.prod(form.shape) for form in schema.values())
    firsts = chain((0,), ends)
    return {
        name: flat.as_strided(form.shape, _strides(form.shape), first)
        for (name, form), first in zip(schema.items(), firsts, strict=False)
    }


@lru_cache(maxsize=4096)
def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return torch.empty(shape, device="meta").stride()


def _decode_one(name: str, array: Array, form: Form, start: int) -> Tensor:
    dtype = BY_NAME[form.dtype]
    if not math.prod(form.shape):
        return torch.empty(form.shape, dtype=dtype)
    tensor = torch.frombuffer(array.data, dtype=dtype, offset=start).view(form.shape)
    if dtype.is_floating_point:
        check_numbers(name, tensor)
    return tensor


def _data_offset(name: str, array: Array, form: Form) -> int:
    if array.stype == (BFLOAT16 if form.dtype == "bfloat16" else RAW):
        return 0
    if array.stype != NUMPY or form.dtype == "bfloat16":
        raise BadUpdate(f"tensor {name!r} is serialised as {array.stype!r}, expected {NUMPY!r}")
    expected = _npy_header(form.dtype, form.shape)
    if array.data.startswith(expected):
        return len(expected)
    return _foreign_offset(name, array.data, form)


def _foreign_offset(name: str, data: bytes, form: Form) -> int:
    """Where the data starts in an npy file that another version of numpy wrote."""
    stream = BytesIO(data[:65536])
    try:
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = readers[np.lib.format.read_magic(stream)](stream)
    except (ValueError, KeyError) as error:
        raise BadUpdate(f"tensor {name!r} does not start with a valid npy header") from error
    if tuple(shape) != form.shape or str(dtype) != form.dtype or (fortran and len(form.shape) > 1):
        raise BadUpdate(f"tensor {name!r} holds {dtype}{list(shape)} inside, expected {form} in C order")
    return stream.tell()


@lru_cache(maxsize=4096)
def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    stream = BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def check_numbers(name: str, tensor: Tensor) -> None:
    """Raise `BadUpdate` where a floating tensor holds NaN, infinity or a number beyond `LARGEST`."""
    # One pass settles it for all that is in order: NaN, infinity and huge numbers survive a norm.
    if _norm(tensor) < LARGEST:
        return
    if not torch.isfinite(tensor).all():
        raise BadUpdate(f"tensor {name!r} holds NaN or infinity")
    if (largest := tensor.abs().max().item()) > LARGEST:
        raise BadUpdate(f"tensor {name!r} holds a number as large as {largest:.3g}, expected at most {LARGEST:g}")


def _norm(tensor: Tensor) -> float:
    """||x||, or infinity where it is large; a dot product shares its work among threads, which a norm does not."""
    if tensor.dtype == torch.float32 and tensor.is_contiguous():
        flat = tensor.view(-1)
        return math.sqrt(abs(torch.dot(flat, flat).item()))
    return float(torch.linalg.vector_norm(tensor))


def _scalar_bytes(name: str, value: object) -> int:
    return len(name.encode()) + sum(map(_value_bytes, value if isinstance(value, list) else [value]))


def _value_bytes(value: object) -> int:
    if isinstance(value, bytes):
        return len(value)
    return len(value.encode()) if isinstance(value, str) else 8


def _few(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
