"""Records as a JSON header and a list of byte buffers, without pickle; exact in types, order and every bit.

The header names the records and says how to read the buffers; where the buffers travel (in the same frame,
or in shared memory) is the transport's affair, see `wire` and `shared`.
"""

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, Metadata, MetricRecord, RecordDict

from ..codec.records import make_array, make_arrays, make_records, make_scalars
from ..errors import FlDistillError
from .flower_private import compose

_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class FrameError(FlDistillError):
    """A frame between the runtime's own processes cannot be read: it is damaged, or of another version."""


def encode(records: RecordDict) -> tuple[bytes, list[bytes]]:
    """The header of `records` and the buffers it speaks of, in order; array data is not copied."""
    buffers: list[bytes] = []
    described = [[name, *_describe(record, buffers)] for name, record in records.items()]
    return _to_json(described).encode(), buffers


def decode(header: bytes, buffers: Sequence[bytes]) -> RecordDict:
    """The records that `encode` described; arrays share the given buffers.

    Raises `FrameError` when header and buffers do not belong together.
    """
    return restore(parse(header), buffers)


def parse(header: bytes | bytearray | memoryview) -> Any:
    """The JSON value of a header."""
    try:
        return json.loads(bytes(header))
    except (RecursionError, ValueError) as error:
        raise FrameError(f"Expected the JSON header of a frame, got {bytes(header[:40])!r}: {error}.") from error


def restore(described: Any, buffers: Sequence[bytes]) -> RecordDict:
    """The records of a parsed header; see `decode`."""
    source = iter(buffers)
    try:
        records = make_records({name: _READERS[kind](items, source) for name, kind, items in described})
    except (LookupError, RuntimeError, StopIteration, TypeError, ValueError, struct.error) as error:
        raise FrameError(f"Records do not fit their description: {type(error).__name__}: {error}.") from error
    if (rest := sum(1 for _ in source)) > 0:
        raise FrameError(f"{rest} of {len(buffers)} buffers belong to no record.")
    return records


def _describe(record: ArrayRecord | MetricRecord | ConfigRecord, buffers: list[bytes]) -> tuple[str, list[Any]]:
    if isinstance(record, ArrayRecord):
        return "arrays", [_describe_array(key, array, buffers) for key, array in record.items()]
    kind = "metrics" if isinstance(record, MetricRecord) else "configs"
    return kind, [[key, *_describe_value(value, buffers)] for key, value in record.items()]


def _describe_array(key: str, array: Array, buffers: list[bytes]) -> list[Any]:
    data = array.data
    buffers.append(data if type(data) is bytes else bytes(data))
    return [key, array.dtype, [int(n) for n in array.shape], array.stype]


def _describe_value(value: Any, buffers: list[bytes]) -> tuple[str, Any]:
    """A tag and a JSON value. JSON itself is exact for everything but floats (NaN) and bytes."""
    many = isinstance(value, list)
    sample = value[0] if many and value else value
    if isinstance(sample, float):
        values = value if many else [value]
        return "floats" if many else "float", struct.pack(f"<{len(values)}d", *values).hex()
    if isinstance(sample, bytes):
        buffers.extend(value if many else [value])
        return ("bytes", None) if not many else ("byte-strings", len(value))
    return "json", value


def _floats(text: str) -> list[float]:
    data = bytes.fromhex(text)
    return list(struct.unpack(f"<{len(data) // 8}d", data))


_VALUE_READERS: dict[str, Callable[[Any, Iterator[bytes]], Any]] = {
    "json": lambda value, source: value,
    "float": lambda text, source: _floats(text)[0],
    "floats": lambda text, source: _floats(text),
    "bytes": lambda _, source: next(source),
    "byte-strings": lambda count, source: [next(source) for _ in range(count)],
}


def _read_arrays(items: Any, source: Iterator[bytes]) -> ArrayRecord:
    return make_arrays(
        {key: make_array(dtype, tuple(shape), stype, next(source)) for key, dtype, shape, stype in items}
    )


def _read_values(items: Any, source: Iterator[bytes]) -> dict[str, Any]:
    return {key: _VALUE_READERS[tag](value, source) for key, tag, value in items}


_READERS: dict[str, Callable[[Any, Iterator[bytes]], ArrayRecord | MetricRecord | ConfigRecord]] = {
    "arrays": _read_arrays,
    "metrics": lambda items, source: make_scalars(MetricRecord, _read_values(items, source)),
    "configs": lambda items, source: make_scalars(ConfigRecord, _read_values(items, source)),
}


def metadata_fields(metadata: Metadata) -> list[Any]:
    """The metadata as a JSON list, in the order of `Metadata`'s arguments."""
    return [
        metadata.run_id,
        metadata.message_id,
        metadata.src_node_id,
        metadata.dst_node_id,
        metadata.reply_to_message_id,
        metadata.group_id,
        metadata.created_at,
        metadata.ttl,
        metadata.message_type,
        metadata.src_task_id,
        metadata.dst_task_id,
    ]


def rebuild(fields: list[Any], body: RecordDict | Error) -> Message:
    """The message with these `metadata_fields` and this body."""
    try:
        metadata = Metadata(*fields)
    except (TypeError, ValueError) as error:
        raise FrameError(f"Expected the fields of a message's metadata, got {fields!r}: {error}.") from error
    return compose(metadata, body)


def to_json(value: Any) -> bytes:
    """Compact JSON; NaN and infinities are written as Python reads them back."""
    return _to_json(value).encode()
