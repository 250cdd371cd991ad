"""The wire form of coded tensors: one self-describing array of bytes a message; byte by byte in `docs/wire.md`."""

import json
import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from ..errors import BadUpdate
from ..seeds import derive
from .arrays import BY_NAME, LARGEST, Form, Schema, check_numbers
from .chain import Chain, chain
from .checksum import joined
from .coder import About
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
    numbers_in,
    schema_bytes,
    schema_id,
    schema_of_tensors,
)

STYPE = "fl_distill.codec/1: this ClientApp needs mods=[fl_distill.mods.quantized]"
"""What Flower quotes, at the client and at the server, when an app without the mod takes a message for numbers."""
KEY = "packed"
MAGIC, VERSION = b"FLDQ", 1
_HEAD = struct.Struct("<4sBBHQQQQIIIQQQ")
_CRC = struct.Struct("<I")
LARGEST_NUMEL = 2**28
"""Numbers that a message without a base may declare, unless the caller says otherwise: 1 GiB of float32."""
_LARGEST_SCHEMA = 2**20
_LONGEST_NAME = 200
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
    _plan: Layout = field(repr=False)
    _norms: Sequence[float] = field(repr=False)
    """Of the coded tensors, as they were put in."""
    _take: Callable[[], Tensors] = field(repr=False)
    _subtract: Callable[[], Tensor] = field(repr=False)

    # Found when they are first asked for: most senders need only a part of it, and each is as much work as to encode.

    @cached_property
    def tensors(self) -> Tensors:
        """What the receiver makes of it."""
        return self._take()

    @cached_property
    def lost(self) -> Tensor:
        """Of all coded tensors, end to end: what was put in minus what comes out."""
        return self._subtract()

    @property
    def nmse(self) -> float:
        """Normalised squared error of the coded tensors."""
        return self.error / self.energy if self.energy else 0.0

    @property
    def error(self) -> float:
        """Sum of squares of what is lost of the coded tensors."""
        return sum(norm**2 for norm in self._lost_norms)

    @property
    def energy(self) -> float:
        """Sum of squares of the coded tensors, as they were put in."""
        return sum(norm**2 for norm in self._norms)

    @property
    def numbers(self) -> int:
        """How many numbers the message is about, coded or not."""
        return numbers_in(self._plan.schema)

    @cached_property
    def layers(self) -> Mapping[str, tuple[int, float]]:
        """Tensor -> (its bytes: exact where they are its own, else its part by numbers; its error as in `nmse`)."""
        plan, schema = self._plan, self._plan.schema
        found = {name: (form_bytes(schema[name]), 0.0) for name in plan.names(RAW)}
        found |= {name: (2 * math.prod(schema[name].shape), 0.0) for name in plan.names(HALF)}
        length = _lengths(self.data)[-1] / max(1, len(self.lost))
        for name, gone, norm in zip(plan.names(CODED), self._lost_norms, self._norms, strict=True):
            found[name] = round(length * math.prod(schema[name].shape)), _ratio([gone], [norm])
        return {name: found[name] for name in schema}

    @cached_property
    def _lost_norms(self) -> list[float]:
        return self._plan.norms(CODED, self.lost)

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
    plan = layout(schema_of_tensors(tensors), by.keep)
    vector, half = plan.vector(CODED, tensors, base), plan.vector(HALF, tensors, base)
    if residual is not None and residual.shape == vector.shape:
        vector.add_(residual)
    norms = plan.norms(CODED, vector)
    _check(plan, tensors, [*norms, float(torch.linalg.vector_norm(half))])
    about = plan.about(CODED, head.seed)
    try:
        payload = by.coder.encode(vector, about)
    except ValueError as error:
        raise BadUpdate(f"codec {by.text!r}: {error}") from error
    coded = plan.raw(tensors), _HALF.encode(half, plan.about(HALF)), payload
    sums = [zlib.crc32(part) for part in coded]
    head = replace(head, becomes=head.becomes or derive(head.base, head.round, *sums))
    own_schema = base is None or schema_of_tensors(base) != plan.schema
    names = schema_bytes(plan.schema) if own_schema else b""
    parts = (by.text.encode(), names, bytes(plan.modes.values()), *coded)
    front = b"".join((_head_bytes(head, plan, base is not None, [len(part) for part in parts]), *parts[:3]))
    checksum = zlib.crc32(front)
    for part, own in zip(coded, sums, strict=True):
        checksum = joined(checksum, own, len(part))
    data = b"".join((front, *coded, _CRC.pack(checksum)))
    take = partial(_take, data, by, plan, head.seed, base)
    return Packed(data, head, plan, norms, take, partial(_subtract, data, by, about, vector))


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
    said, names, table, raw, _, payload = _split(data, lengths)
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
    try:
        least, most = by.coder.lengths(about)
        if not least <= len(payload) <= most:
            raise BadUpdate(f"field coded has {len(payload)} bytes, expected {least} to {most}")
        return head, _take(data, by, plan, head.seed, held)
    except ValueError as error:  # a codec that cannot be of such tensors
        raise BadUpdate(f"field coded: {str(error)[:300]}") from error


def _take(data: bytes, by: Chain, plan: Layout, seed: int, base: Tensors | None) -> dict[str, Tensor]:
    """The tensors of a message whose parts have the lengths that they should."""
    *_, raw, halves, payload = _split(data, _lengths(data))
    coded = by.coder.decode(payload, plan.about(CODED, seed))
    return plan.tensors(raw, _HALF.decode(halves, plan.about(HALF)), coded, base)


def _subtract(data: bytes, by: Chain, about: About, vector: Tensor) -> Tensor:
    """`vector` less what the message says that it is, in place."""
    by.coder.add(_split(data, _lengths(data))[-1], about, vector, -1.0)
    return vector


def _check(plan: Layout, tensors: Tensors, norms: Sequence[float]) -> None:
    """Raise `BadUpdate` where a tensor holds what does not travel; `norms` are those of what is made of them."""
    suspects = plan.names(RAW) if all(norm < LARGEST for norm in norms) else list(plan.modes)
    for name in suspects:
        if tensors[name].dtype.is_floating_point and tensors[name].numel():
            check_numbers(name, tensors[name])


def _held(head: Head, base: Callable[[Head], Tensors] | None) -> Tensors:
    if base is None:
        raise BadUpdate("the message is a change, and there is nothing here that it could change")
    return base(head)


def _shapes(schema: Schema) -> dict[str, tuple[int, ...]]:
    return {name: form.shape for name, form in schema.items()}


def _ratio(lost: Sequence[float], put_in: Sequence[float]) -> float:
    """Of the sums of squares of norms."""
    energy = math.fsum(norm**2 for norm in put_in)
    return math.fsum(norm**2 for norm in lost) / energy if energy else 0.0


# ---------------------------------------------------------------- bytes of the head


def _head_bytes(head: Head, plan: Layout, is_change: bool, lengths: list[int]) -> bytes:
    said, names, count, raw, halves, coded = lengths
    ids = (schema_id(plan.schema), head.base, head.becomes, head.seed)
    return _HEAD.pack(MAGIC, VERSION, int(is_change), said, *ids, head.round, count, names, raw, halves, coded)


def _read_head(data: bytes) -> tuple[Head, bool, int, tuple[int, ...]]:
    if len(data) < _HEAD.size + _CRC.size:
        raise BadUpdate(f"the message has {len(data)} bytes, less than its head")
    (magic, version, flags, _, digest, base, becomes, seed, number, _, names, *_) = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise BadUpdate(f"field magic is {magic!r}, expected {MAGIC!r}")
    if version != VERSION:
        raise BadUpdate(f"field version is {version}, this package reads {VERSION}")
    if flags > 1 or not (flags or names):
        raise BadUpdate(f"field flags is {flags}: only a change, 1, may do without a schema")
    if names > _LARGEST_SCHEMA:
        raise BadUpdate(f"field schema has {names} bytes, at most {_LARGEST_SCHEMA} are read")
    lengths = _lengths(data)
    if len(data) != (wanted := _HEAD.size + sum(lengths) + _CRC.size):
        raise BadUpdate(f"the message has {len(data)} bytes, its head says {wanted}")
    if zlib.crc32(memoryview(data)[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
        raise BadUpdate("field checksum does not fit the message: it was damaged on its way")
    return Head(number, base, becomes, seed), bool(flags), digest, lengths


def _lengths(data: bytes) -> tuple[int, ...]:
    """Of codec, schema, table, raw, half and coded."""
    (_, _, _, said, *_, count, names, raw, halves, coded) = _HEAD.unpack_from(data)
    return said, names, count, raw, halves, coded


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
            if not good or len(shape) > 16 or len(name) > _LONGEST_NAME or name in schema:
                raise ValueError(f"{str(name)[:80]!r}")
            schema[name] = Form(tuple(shape), dtype)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadUpdate(f"field schema cannot be read ({str(error)[:120]})") from error
    if (numel := sum(math.prod(form.shape) for form in schema.values())) > limit:
        raise BadUpdate(f"field schema declares {numel} numbers, at most {limit} are taken")
    return schema
