"""Tensors from Flower's ArrayRecord: checked before use, and not copied where they are large."""

import math
import operator
import warnings
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from itertools import accumulate, chain

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray
from torch import Tensor

from ..errors import BadUpdate
from .arrays import BFLOAT16, BY_NAME, NUMPY, RAW, Form, Schema, npy_header, schema_of

Vectors = Mapping[str, NDArray[np.float32]]
"""By name, the numbers of float32 tensors as they lie in a message, which may be anywhere in memory."""
LARGEST = 1e18
"""No number in a model is larger; a sum of many that are, each times its weight, would leave float32."""
SMALL = 1 << 20
"""Bytes of a model whose tensors are copied and looked at as one, at most; larger ones are not copied."""
MOST_DIMENSIONS = 32
"""As many as every numpy has."""

with warnings.catch_warnings():
    # Decoded tensors are views of immutable bytes, and nothing here writes to them; torch warns of that once a
    # process, so let it be now.
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"\0", np.uint8))


def decode(record: ArrayRecord, schema: Schema | None = None) -> dict[str, Tensor]:
    """The tensors of a record, in the order of `schema`: read-only views of its bytes, or of one copy of a small model.

    Raises `BadUpdate`, before anything is allocated, when names, shapes, dtypes or lengths differ from
    `schema` (default: what the record itself declares); then when a floating tensor holds NaN, infinity or a
    number beyond `LARGEST`.
    """
    schema = schema_of(record) if schema is None else schema
    arrays, starts = _parts(record, schema)
    if (found := _as_one(arrays, schema, starts)) is not None:
        return found
    return {name: _decode_one(name, arrays[name], form, starts[name]) for name, form in schema.items()}


def decode_unread(record: ArrayRecord, schema: Schema) -> tuple[Vectors, dict[str, Tensor]]:
    """The float32 tensors of a record as vectors at whose numbers nobody has looked; all others as `decode` has them.

    Empty ones are among the others; both are in the order of `schema`. Raises `BadUpdate` as `decode` does.
    """
    arrays, starts = _parts(record, schema)
    fast = {
        name: np.frombuffer(arrays[name].data, np.float32, -1, start)
        for name, start in starts.items()
        if schema[name].dtype == "float32" and len(arrays[name].data) > start
    }
    rest = {name: form for name, form in schema.items() if name not in fast}
    return fast, {name: _decode_one(name, arrays[name], form, starts[name]) for name, form in rest.items()}


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


def _parts(record: ArrayRecord, schema: Schema) -> tuple[dict[str, Array], dict[str, int]]:
    """The arrays of a record that is all that it must be, and where the numbers of each begin."""
    arrays = dict(record.items())
    if missing := [name for name in schema if name not in arrays]:
        raise BadUpdate(f"tensors are missing: {_few(missing)}")
    if unknown := [name for name in arrays if name not in schema]:
        raise BadUpdate(f"tensors that nobody asked for: {_few(unknown)}")
    return arrays, {name: _start(name, arrays[name], form) for name, form in schema.items()}


def _start(name: str, array: Array, form: Form) -> int:
    """Where the tensor's numbers begin in an array that is all that it must be."""
    if array.dtype != form.dtype or tuple(array.shape) != form.shape:
        raise BadUpdate(f"tensor {name!r} is {Form(tuple(array.shape), array.dtype)}, expected {form}")
    if form.dtype not in BY_NAME:
        raise BadUpdate(f"tensor {name!r} has dtype {form.dtype}, which does not travel")
    if min(form.shape, default=0) < 0:
        raise BadUpdate(f"tensor {name!r} says that its shape is {list(form.shape)}")
    if len(form.shape) > MOST_DIMENSIONS:
        raise BadUpdate(f"tensor {name!r} has {len(form.shape)} dimensions, expected at most {MOST_DIMENSIONS}")
    offset, expected = _data_offset(name, array, form), math.prod(form.shape) * BY_NAME[form.dtype].itemsize
    if len(array.data) - offset != expected:
        raise BadUpdate(f"tensor {name!r} has {len(array.data) - offset} bytes, expected {expected} for {form}")
    return offset


def _as_one(arrays: Mapping[str, Array], schema: Schema, starts: Mapping[str, int]) -> dict[str, Tensor] | None:
    """The tensors of a small model in one piece of memory, looked at as one: what a call costs counts there.

    None where they are few or large, not all float32, or not all in order; `decode` then looks at each.
    """
    size = sum([len(arrays[name].data) for name in schema])
    if len(schema) < 2 or size > SMALL or not all([form.dtype == "float32" for form in schema.values()]):
        return None
    data = b"".join([memoryview(arrays[name].data)[start:] for name, start in starts.items()])
    if not data:
        return None
    flat = torch.from_numpy(np.frombuffer(data, np.float32))
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
    # By way of numpy, which takes half the time of torch.frombuffer.
    held = "int16" if dtype == torch.bfloat16 else form.dtype
    tensor = torch.from_numpy(np.frombuffer(array.data, held, -1, start).reshape(form.shape))
    if dtype == torch.bfloat16:
        tensor = tensor.view(dtype)
    if dtype.is_floating_point:
        check_numbers(name, tensor)
    return tensor


def _data_offset(name: str, array: Array, form: Form) -> int:
    if array.stype == (BFLOAT16 if form.dtype == "bfloat16" else RAW):
        return 0
    if array.stype != NUMPY or form.dtype == "bfloat16":
        raise BadUpdate(f"tensor {name!r} is serialised as {array.stype!r}, expected {NUMPY!r}")
    header = npy_header(form.dtype, form.shape)
    return len(header) if array.data.startswith(header) else _foreign_offset(name, array.data, form)


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


def _few(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
