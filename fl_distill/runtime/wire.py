"""Frames on a stream: lengths, a JSON header, and the small buffers; large ones lie in shared memory.

A header says where each buffer is: `["here", length]` in the frame, `["kept", serial, offset, length]` in the
parent's library, `["slot", offset, length]` in the worker's reply memory, `["same", serial]` in an item of
the library that both sides have.
"""

import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .frames import FrameError

_LENGTHS = struct.Struct("<QQ")
_LARGEST = 1 << 31

Place = list[Any]
Fetch = Callable[..., bytes]


def frame(header: bytes, inline: Sequence[bytes]) -> bytes:
    """A whole frame, ready to be written."""
    return b"".join([_LENGTHS.pack(len(header), sum(map(len, inline))), header, *inline])


class FrameReader:
    """Takes bytes as they arrive and yields the frames that are complete, as (header, inline bytes)."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The frames that `data` completes. Raises `FrameError` when lengths make no sense."""
        self._pending += data
        while len(self._pending) >= _LENGTHS.size:
            header, inline = check_lengths(*_LENGTHS.unpack_from(self._pending))
            start, end = _LENGTHS.size, _LENGTHS.size + header + inline
            if len(self._pending) < end:
                return
            view = memoryview(self._pending)
            parts = bytes(view[start : start + header]), bytes(view[start + header : end])
            view.release()
            del self._pending[:end]
            yield parts


def receive(source: socket.socket) -> tuple[bytes, bytes]:
    """Wait for one frame. Raises EOFError when the other side is gone."""
    header, inline = check_lengths(*_LENGTHS.unpack(_exactly(source, _LENGTHS.size)))
    return _exactly(source, header), _exactly(source, inline)


def check_lengths(header: int, inline: int) -> tuple[int, int]:
    """The lengths of a frame, if they can be true."""
    if header > _LARGEST or inline > _LARGEST:
        raise FrameError(f"A frame announces {header} + {inline} bytes, more than {_LARGEST}: it is damaged.")
    return header, inline


def gather(places: Sequence[Place], inline: bytes, **fetch: Fetch) -> list[bytes]:
    """The buffer at each place; `fetch` reads those that are not `here`.

    Raises `FrameError` when places and inline bytes do not fit.
    """
    buffers, at = [], 0
    for kind, *where in places:
        if kind == "here":
            (length,) = where
            if not 0 <= length <= len(inline) - at:
                raise FrameError(f"A buffer of {length} bytes is announced, {len(inline) - at} are left.")
            buffers.append(inline[at : at + length])
            at += length
        elif kind in fetch:
            buffers.append(fetch[kind](*where))
        else:
            raise FrameError(f"Expected a place {['here', *fetch]}, got {kind!r}.")
    if at != len(inline):
        raise FrameError(f"{len(inline) - at} bytes of a frame belong to no buffer.")
    return buffers


def _exactly(source: socket.socket, count: int) -> bytes:
    if not count:
        return b""
    data = bytearray(count)
    view = memoryview(data)
    while view:
        got = source.recv_into(view)
        if not got:
            raise EOFError("the other process is gone")
        view = view[got:]
    return bytes(data)
