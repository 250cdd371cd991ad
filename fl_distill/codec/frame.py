"""What surrounds the tensors of a message: its head, the lengths of its parts, its schema, its check sum."""

import json
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import BadUpdate
from .arrays import BY_NAME, Form, Schema
from .checksum import joined
from .layout import schema_id

MAGIC, VERSION = b"FLDQ", 2
_HEAD = struct.Struct("<4sBBHQQQQIIIQQQ")
_CRC = struct.Struct("<I")
LARGEST_NUMEL = 2**28
"""Numbers that a message without a base may declare, unless the caller says otherwise: 1 GiB of float32."""
_LARGEST_SCHEMA = 2**20
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Head:
    """What a message says of itself."""

    round: int = 0
    base: int = 0
    """Identifies the model that the change is against; 0: there is none."""
    becomes: int = 0
    """Identifies what the receiver holds afterwards; 0 in `pack`: it follows from base and content."""
    seed: int = 0


def head_bytes(head: Head, schema: Schema, is_change: bool, lengths: list[int]) -> bytes:
    """The head of a message whose parts have these lengths."""
    said, names, count, raw, halves, coded = lengths
    ids = (schema_id(schema), head.base, head.becomes, head.seed)
    return _HEAD.pack(MAGIC, VERSION, int(is_change), said, *ids, head.round, count, names, raw, halves, coded)


def read_head(data: bytes) -> tuple[Head, bool, int]:
    """What a message says of itself, whether it is a change, and its digest; `BadUpdate` where the frame is broken."""
    if len(data) < _HEAD.size + _CRC.size:
        raise BadUpdate(f"the message has {len(data)} bytes, less than its head")
    (magic, version, flags, _, digest, base, becomes, seed, number, _, names, *_) = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise BadUpdate(f"field magic is {magic!r}, expected {MAGIC!r}")
    if version != VERSION:
        same = "server and sites need the same fl-distill"
        raise BadUpdate(f"field version is {version}, this package reads {VERSION}: {same}")
    if flags > 1 or not (flags or names):
        raise BadUpdate(f"field flags is {flags}: only a change, 1, may do without a schema")
    if names > _LARGEST_SCHEMA:
        raise BadUpdate(f"field schema has {names} bytes, at most {_LARGEST_SCHEMA} are read")
    if len(data) != (wanted := _HEAD.size + sum(_lengths(data)) + _CRC.size):
        raise BadUpdate(f"the message has {len(data)} bytes, its head says {wanted}")
    if zlib.crc32(memoryview(data)[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
        raise BadUpdate("field checksum does not fit the message: it was damaged on its way")
    return Head(number, base, becomes, seed), bool(flags), digest


def sealed(front: bytes, coded: Sequence[bytes], sums: Sequence[int]) -> bytes:
    """A whole message: its front, the coded parts whose check sums these are, and the check sum of all."""
    checksum = zlib.crc32(front)
    for part, own in zip(coded, sums, strict=True):
        checksum = joined(checksum, own, len(part))
    return b"".join((front, *coded, _CRC.pack(checksum)))


def parts_of(data: bytes) -> list[memoryview]:
    """Codec, schema, table, raw, half and coded."""
    view, start, parts = memoryview(data), _HEAD.size, []
    for length in _lengths(data):
        parts.append(view[start : start + length])
        start += length
    return parts


def read_schema(data: memoryview, limit: int) -> dict[str, Form]:
    """The schema of a message, of at most `limit` numbers; raises `BadUpdate` for any other."""
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


def _lengths(data: bytes) -> tuple[int, ...]:
    """Of codec, schema, table, raw, half and coded."""
    (_, _, _, said, *_, count, names, raw, halves, coded) = _HEAD.unpack_from(data)
    return said, names, count, raw, halves, coded
