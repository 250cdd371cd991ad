"""One record instead of many: a message's records as a single value, where each object costs a request of its own.

Flower carries every record, array and chunk of a message separately: 18 requests for a small network, hundreds for a
deep one. Only nodes that said so in an answer of theirs are sent envelopes; a stock SuperNode gets what it knows.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import final

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from ..asked import Passing, connections
from . import frames
from .flower_private import compose

KEY = "fl_distill.envelope.2"
MARK = "fl_distill.opens-envelopes.2"
"""Record of an answer whose sender can open envelopes of this form."""
WHOLE = 5_000_000
"""Bytes up to which an envelope is one value and one request; Flower cuts larger ones into pieces of about as many."""
DAMAGED = 1007
"""Error code of an answer that cannot be opened."""
_HEAD, _SIZE = struct.Struct("<II"), struct.Struct("<Q")


def sealed(content: RecordDict) -> RecordDict:
    """The same records as one value: lengths, JSON header, buffers."""
    header, buffers = frames.encode(content)
    sizes = b"".join(_SIZE.pack(len(buffer)) for buffer in buffers)
    data = b"".join([_HEAD.pack(len(header), len(buffers)), sizes, header, *buffers])
    if len(data) > WHOLE:
        return RecordDict({KEY: ArrayRecord({KEY: Array("uint8", (len(data),), KEY, data)})})
    return RecordDict({KEY: ConfigRecord({KEY: data})})


def opened(content: RecordDict) -> RecordDict:
    """What `sealed` was given; content that is no envelope comes back as it is. Raises `FrameError` for damage."""
    if not is_sealed(content):
        return content
    value = content[KEY][KEY]
    data = value.data if isinstance(value, Array) else value
    if not isinstance(data, bytes):
        raise frames.FrameError(f"an envelope holds bytes, not {type(data).__name__}")
    if len(data) < _HEAD.size:
        raise frames.FrameError(f"an envelope has {len(data)} bytes, fewer than its head")
    header, count = _HEAD.unpack_from(data)
    start = _HEAD.size + count * _SIZE.size + header
    if start > len(data):
        raise frames.FrameError(f"an envelope announces a head of {start} bytes, it has {len(data)}")
    sizes = [_SIZE.unpack_from(data, _HEAD.size + at * _SIZE.size)[0] for at in range(count)]
    if start + sum(sizes) != len(data):
        raise frames.FrameError(f"an envelope announces {start + sum(sizes)} bytes, it has {len(data)}")
    buffers, at = [], start
    for size in sizes:
        buffers.append(data[at : at + size])
        at += size
    return frames.decode(data[start - header : start], buffers)


def is_sealed(content: RecordDict) -> bool:
    """Whether the content is one value that `opened` can read."""
    record = content.get(KEY)
    return isinstance(record, ArrayRecord | ConfigRecord) and KEY in record


def marked(content: RecordDict) -> RecordDict:
    """The content with a word that its sender opens envelopes."""
    content[MARK] = ConfigRecord({"version": 2})
    return content


@final
class Sealing(Passing):
    """A grid that seals what goes to nodes that can open it, and opens what comes back."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self._opening: set[int] = set()

    def connections(self) -> Mapping[int, str]:
        """Hand on."""
        return connections(self.grid)

    def push_messages(self, messages: Iterable[Message]) -> Sequence[str]:
        """Push; content that several messages share is sealed, and travels, once."""
        done: dict[int, RecordDict] = {}
        out = []
        for message in messages:
            if message.has_content() and message.metadata.dst_node_id in self._opening:
                key = id(message.content)
                done[key] = done[key] if key in done else sealed(message.content)
                message = compose(message.metadata, done[key])
            out.append(message)
        return list(self.grid.push_messages(out))

    def pull_messages(self, message_ids: Iterable[str]) -> Sequence[Message]:
        """Pull; an answer that cannot be opened is one that went wrong."""
        return [self._opened(message) for message in self.grid.pull_messages(message_ids)]

    def _opened(self, message: Message) -> Message:
        if not message.has_content():
            return message
        if message.content.pop(MARK, None) is not None:
            self._opening.add(message.metadata.src_node_id)
        try:
            return compose(message.metadata, opened(message.content))
        except frames.FrameError as error:
            return compose(message.metadata, Error(DAMAGED, f"its answer is damaged: {error}"))
