"""The wire form of coded tensors: one self-describing array of bytes a message; byte by byte in `docs/wire.md`."""

import json
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from ..errors import BadUpdate
from ..seeds import derive
from .arrays import BY_NAME, Form, Schema, check_numbers
from .chain import Chain, chain
from .floats import Float16
from .layout import (
    CODED,
    HALF,
    RAW,
    Layout,
    Tensors,
    codable,
    form_bytes,
    layout,
    schema_bytes,
    schema_id,
    schema_of_tensors,
)

STYPE = "fl_distill.codec/1"
KEY = "packed"
MAGIC, VERSION = b"FLDQ", 1
_HEAD = struct.Struct("<4sBBHQQQQIIIQQQ")
_CRC = struct.Struct("<I")
LARGEST_NUMEL = 2**28
"""Numbers that a message without a base may declare, unless the caller says otherwise: 1 GiB of float32."""
_LARGEST_SCHEMA = 2**20
_HALF = Float16()


@dataclass(frozen=True)
class Head:
    """What a message says of itself."""

    round: int = 0
    base: int = 0
    """Identifies the model that the change is against; 0: there is none."""
    becomes: int = 0
    """Identifies what the receiver holds afterwards; 0 in `pack`: it follows from base and content."""
    seed: int = 0


@dataclass(frozen=True)
class Packed:
    """A coded message, and what its sender wants to know of it."""

    data: bytes
    head: Head
    tensors: Tensors
    """What the receiver makes of it."""
    lost: Tensor
    """Of all coded tensors, end to end: what was put in minus what comes out."""
    energy: float
    """Sum of squares of what was put in."""
    layers: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """Tensor -> (its bytes: exact where they are its own, else its part by numbers; its normalised squared error)."""

    @property
    def nmse(self) -> float:
        """Normalised squared error of the coded tensors."""
        return _ratio(_energy(self.lost), self.energy)

    def record(self) -> ArrayRecord:
        """The message as Flower carries it: nothing that averages numbers can take it for numbers."""
        return ArrayRecord({KEY: Array("uint8", (len(self.data),), STYPE, self.data)})


def is_packed(record: ArrayRecord) -> bool:
    """Whether a record is a coded message."""
    return KEY in record and record[KEY].stype == STYPE


def codes_anything(schema: Schema) -> bool:
    """Whether there is a tensor that a codec would change."""
    return any(codable(form) for form in schema.values())


def pack(
    tensors: Tensors, by: Chain, head: Head, base: Tensors | None = None, residual: Tensor | None = None
) -> Packed:
    """Code tensors, or where there is a `base` of the same form their change against it.

    `residual` is added to what is coded, where it is as long. Raises `BadUpdate` that names the tensor which holds NaN
    or infinity.
    """
    for name, tensor in tensors.items():
        if tensor.dtype.is_floating_point and tensor.numel():
            check_numbers(name, tensor)
    plan = layout(schema_of_tensors(tensors), by.keep)
    vector, about = plan.vector(CODED, tensors, base), plan.about(CODED, head.seed)
    if residual is not None and residual.shape == vector.shape:
        vector = vector + residual
    raw, about_half = plan.raw(tensors), plan.about(HALF)
    halves, payload = _HALF.encode(plan.vector(HALF, tensors, base), about_half), by.coder.encode(vector, about)
    head = replace(
        head, becomes=head.becomes or derive(head.base, head.round, *map(zlib.crc32, (raw, halves, payload)))
    )
    said = by.text.encode()
    own_schema = base is None or schema_of_tensors(base) != plan.schema
    names = schema_bytes(plan.schema) if own_schema else b""
    parts = (said, names, bytes(plan.modes.values()), raw, halves, payload)
    body = b"".join((_head_bytes(head, plan, base is not None, [len(part) for part in parts]), *parts))
    seen = by.coder.decode(payload, about)
    lost = vector - seen
    back = plan.tensors(raw, _HALF.decode(halves, about_half), seen, base)
    data = body + _CRC.pack(zlib.crc32(body))
    return Packed(data, head, back, lost, _energy(vector), _layers(plan, vector, lost, len(payload)))


def unpack(
    data: bytes,
    base: Callable[[Head], Tensors] | None = None,
    expected: Schema | None = None,
    limit: int = LARGEST_NUMEL,
) -> tuple[Head, dict[str, Tensor]]:
    """The tensors of a coded message.

    `base` finds the model that a change is against, or raises `BadUpdate`. Nothing is allocated before lengths, schema
    (`expected`, where the receiver knows it; else at most `limit` numbers), codec and check sum are in order.
    """
    head, is_change, digest, lengths = _read_head(data)
    said, names, table, raw, halves, payload = _split(data, lengths)
    by = _chain(said)
    held = _held(head, base) if is_change else None
    wanted = schema_of_tensors(held) if held is not None else expected
    schema = _read_schema(names, limit) if held is None or names else schema_of_tensors(held)
    if schema_id(schema) != digest:
        raise BadUpdate("field schema: the message is about tensors of other names, shapes or dtypes than its base")
    if wanted is not None and _shapes(schema) != _shapes(wanted):
        raise BadUpdate("field schema: the tensors' names or shapes are not those that were expected")
    plan = layout(schema, by.keep)
    if bytes(plan.modes.values()) != bytes(table):
        raise BadUpdate("field table: which tensors are coded does not follow from the schema and the codec")
    about = plan.about(CODED, head.seed)
    if len(raw) != plan.raw_bytes:
        raise BadUpdate(f"field raw has {len(raw)} bytes, expected {plan.raw_bytes}")
    least, most = by.coder.lengths(about)
    if not least <= len(payload) <= most:
        raise BadUpdate(f"field coded has {len(payload)} bytes, expected {least} to {most}")
    half = _HALF.decode(halves, plan.about(HALF))
    return head, plan.tensors(raw, half, by.coder.decode(payload, about), held)


def _held(head: Head, base: Callable[[Head], Tensors] | None) -> Tensors:
    if base is None:
        raise BadUpdate("the message is a change, and there is nothing here that it could change")
    return base(head)


def _shapes(schema: Schema) -> dict[str, tuple[int, ...]]:
    return {name: form.shape for name, form in schema.items()}


def _layers(plan: Layout, vector: Tensor, lost: Tensor, length: int) -> dict[str, tuple[int, float]]:
    found = {name: (form_bytes(plan.schema[name]), 0.0) for name in plan.names(RAW)}
    found |= {name: (2 * math.prod(plan.schema[name].shape), 0.0) for name in plan.names(HALF)}
    names = plan.names(CODED)
    sizes = [math.prod(plan.schema[name].shape) for name in names]
    parts = zip(torch.split(vector, sizes), torch.split(lost, sizes), strict=True) if names else ()
    for name, size, (x, gone) in zip(names, sizes, parts, strict=True):
        found[name] = (round(length * size / len(vector)), _ratio(_energy(gone), _energy(x)))
    return {name: found[name] for name in plan.schema}


def _energy(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x)) ** 2


def _ratio(lost: float, energy: float) -> float:
    return lost / energy if energy else 0.0


# ---------------------------------------------------------------- bytes of the head


def _head_bytes(head: Head, plan: Layout, is_change: bool, lengths: list[int]) -> bytes:
    said, names, count, raw, halves, coded = lengths
    ids = (schema_id(plan.schema), head.base, head.becomes, head.seed)
    return _HEAD.pack(MAGIC, VERSION, int(is_change), said, *ids, head.round, count, names, raw, halves, coded)


def _read_head(data: bytes) -> tuple[Head, bool, int, tuple[int, ...]]:
    if len(data) < _HEAD.size + _CRC.size:
        raise BadUpdate(f"the message has {len(data)} bytes, less than its head")
    (magic, version, flags, said, digest, base, becomes, seed, number, *rest) = _HEAD.unpack_from(data)
    count, names, raw, halves, coded = rest
    if magic != MAGIC:
        raise BadUpdate(f"field magic is {magic!r}, expected {MAGIC!r}")
    if version != VERSION:
        raise BadUpdate(f"field version is {version}, this package reads {VERSION}")
    if flags > 1 or not (flags or names):
        raise BadUpdate(f"field flags is {flags}: only a change, 1, may do without a schema")
    if names > _LARGEST_SCHEMA:
        raise BadUpdate(f"field schema has {names} bytes, at most {_LARGEST_SCHEMA} are read")
    lengths = (said, names, count, raw, halves, coded)
    if len(data) != (wanted := _HEAD.size + sum(lengths) + _CRC.size):
        raise BadUpdate(f"the message has {len(data)} bytes, its head says {wanted}")
    if zlib.crc32(memoryview(data)[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
        raise BadUpdate("field checksum does not fit the message: it was damaged on its way")
    return Head(number, base, becomes, seed), bool(flags), digest, lengths


def _split(data: bytes, lengths: tuple[int, ...]) -> list[memoryview]:
    view, start, parts = memoryview(data), _HEAD.size, []
    for length in lengths:
        parts.append(view[start : start + length])
        start += length
    return parts


def _chain(said: memoryview) -> Chain:
    try:
        by = chain(bytes(said).decode("ascii"))
    except ValueError as error:
        raise BadUpdate(f"field codec: {str(error)[:300]}") from error
    if by is None:
        raise BadUpdate("field codec is empty")
    return by


def _read_schema(data: memoryview, limit: int) -> dict[str, Form]:
    schema: dict[str, Form] = {}
    try:
        for name, dtype, shape in json.loads(bytes(data)):
            good = isinstance(name, str) and dtype in BY_NAME and all(type(n) is int and 0 <= n <= limit for n in shape)
            if not good or len(shape) > 16 or name in schema:
                raise ValueError(f"{str(name)[:80]!r}")
            schema[name] = Form(tuple(shape), dtype)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadUpdate(f"field schema cannot be read ({str(error)[:120]})") from error
    if (numel := sum(math.prod(form.shape) for form in schema.values())) > limit:
        raise BadUpdate(f"field schema declares {numel} numbers, at most {limit} are taken")
    return schema
