"""Messages between this machine's processes: a JSON header and raw buffers, without pickle; exact to the bit."""

import json
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, Metadata, MetricRecord, RecordDict

from .flower_private import compose

Buffers = list[bytes]
Header = dict[str, Any]

_HEAD = struct.Struct("<QQ")
_FIELDS = ["run_id", "message_id", "src_node_id", "dst_node_id", "reply_to_message_id", "group_id", "created_at", "ttl", "message_type", "src_task_id", "dst_task_id"]


def pack_arrays(record: ArrayRecord, buffers: Buffers) -> list[Any]:
    """The table of a record, `[name, dtype, shape, stype, buffer index]` a row; the data is appended to `buffers`."""
    table = []
    for name, array in record.items():
        table.append([name, array.dtype, [int(n) for n in array.shape], array.stype, len(buffers)])
        buffers.append(bytes(array.data))
    return table


def unpack_arrays(table: Sequence[Any], buffers: Sequence[bytes]) -> dict[str, Array]:
    """The arrays of a table."""
    return {
        name: Array(dtype, tuple(shape), stype, bytes(buffers[index])) for name, dtype, shape, stype, index in table
    }


def pack(records: RecordDict, buffers: Buffers) -> list[Any]:
    """`[name, kind, body]` for each record, in order."""
    return [[name, *_pack_record(record, buffers)] for name, record in records.items()]


def unpack(described: Sequence[Any], buffers: Sequence[bytes]) -> RecordDict:
    """The records that `pack` described."""
    return RecordDict({name: _unpack_record(kind, body, buffers) for name, kind, body in described})


def pack_message(
    message: Message, buffers: Buffers, put: Callable[[ArrayRecord], list[Any] | None] | None = None
) -> Header:
    """The header of a message; `put` may find a shared place for an array record instead of `buffers`."""
    header: Header = {"metadata": [getattr(message.metadata, name) for name in _FIELDS]}
    if message.has_error():
        return {**header, "error": [message.error.code, message.error.reason]}
    rows = []
    for name, record in message.content.items():
        place = put(record) if put is not None and isinstance(record, ArrayRecord) else None
        rows.append([name, *(_pack_record(record, buffers) if place is None else ("shared", place))])
    return {**header, "content": rows}


def unpack_message(
    header: Header, buffers: Sequence[bytes], get: Callable[[Sequence[Any]], ArrayRecord] | None = None
) -> Message:
    """The message that `pack_message` described; `get` reads shared places."""
    metadata = Metadata(*header["metadata"])
    if "error" in header:
        return compose(metadata, Error(*header["error"]))
    content = RecordDict()
    for name, kind, body in header["content"]:
        shared = kind == "shared" and get is not None
        content[name] = get(body) if shared and get else _unpack_record(kind, body, buffers)
    return compose(metadata, content)


def send(to: socket.socket, header: Header, buffers: Sequence[bytes]) -> None:
    """Write one frame, blocking."""
    text = json.dumps({"header": header, "lengths": [len(b) for b in buffers]}).encode()
    to.sendall(_HEAD.pack(len(text), sum(len(b) for b in buffers)) + text)
    for buffer in buffers:
        to.sendall(buffer)


def receive(source: socket.socket) -> tuple[Header, Buffers]:
    """Read one frame, blocking; EOFError when the other side is gone, ValueError when the frame is damaged."""
    length, total = _HEAD.unpack(_exactly(source, _HEAD.size))
    envelope = json.loads(_exactly(source, length))
    lengths = envelope["lengths"]
    if min(lengths, default=0) < 0 or sum(lengths) != total:
        raise ValueError(f"a frame announces {total} bytes of buffers and lists {sum(lengths)}")
    return envelope["header"], [_exactly(source, n) for n in lengths]


def _exactly(source: socket.socket, count: int) -> bytes:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        got = source.recv_into(view)
        if not got:
            raise EOFError("the other side of a socket is gone")
        view = view[got:]
    return bytes(data)


def _pack_record(record: ArrayRecord | MetricRecord | ConfigRecord, buffers: Buffers) -> tuple[str, list[Any]]:
    if isinstance(record, ArrayRecord):
        return "array", pack_arrays(record, buffers)
    kind = "metric" if isinstance(record, MetricRecord) else "config"
    return kind, [[key, _pack_value(value, buffers)] for key, value in record.items()]


def _unpack_record(
    kind: str, body: Sequence[Any], buffers: Sequence[bytes]
) -> ArrayRecord | MetricRecord | ConfigRecord:
    if kind == "array":
        return ArrayRecord(unpack_arrays(body, buffers))
    values = {key: _unpack_value(value, buffers) for key, value in body}
    return MetricRecord(values) if kind == "metric" else ConfigRecord(values)


def _pack_value(value: Any, buffers: Buffers) -> Any:
    if isinstance(value, list):
        return [_pack_value(item, buffers) for item in value]
    if isinstance(value, bytes):
        buffers.append(value)
        return {"buffer": len(buffers) - 1}
    return float(value) if isinstance(value, float) else value


def _unpack_value(value: Any, buffers: Sequence[bytes]) -> Any:
    if isinstance(value, list):
        return [_unpack_value(item, buffers) for item in value]
    return bytes(buffers[value["buffer"]]) if isinstance(value, dict) else value
