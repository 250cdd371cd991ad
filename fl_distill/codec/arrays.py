"""Tensors in Flower's ArrayRecord, and what records weigh."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import TypeVar

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from .records import make_array, make_arrays

NUMPY = "numpy.ndarray"
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


def encode(tensors: Mapping[str, Tensor], *, bare: bool = False) -> ArrayRecord:
    """The tensors as an ArrayRecord that any Flower app can read (bfloat16 only by `decode`).

    `bare` leaves out what only others need, numpy's header of 128 bytes a tensor: for small things between halves of
    this package.
    """
    return make_arrays({name: _encode_one(name, tensor, bare) for name, tensor in tensors.items()})


def schema_of(record: ArrayRecord) -> dict[str, Form]:
    """The names, shapes and dtypes that a record declares."""
    return {name: Form(tuple(array.shape), array.dtype) for name, array in record.items()}


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
    return make_array(dtype, shape, NUMPY, b"".join((npy_header(dtype, shape), tensor.numpy().data)))


@lru_cache(maxsize=4096)
def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """What numpy writes before an array of this form."""
    stream = BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _scalar_bytes(name: str, value: object) -> int:
    return len(name.encode()) + sum(map(_value_bytes, value if isinstance(value, list) else [value]))


def _value_bytes(value: object) -> int:
    if isinstance(value, bytes):
        return len(value)
    return len(value.encode()) if isinstance(value, str) else 8
