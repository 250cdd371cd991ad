"""Answers on their way from one process to another of this machine, as they are ready, in memory that both share.

    0   entries written         } uint64, little-endian; the first and the third are the writer's,
    8   entries read            } the others the reader's
    16  times back at the start }
    24  1: stop                 }
    64  entries: lengths of head and body (uint64 each) | head | body, the next one at a multiple of 8

A writer that has come to the end of its room goes back to the start once everything is read, so that the memory holds
a few answers, however many there are. What was written is there even if the writer dies.
"""

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import final

from .shared import Region, anonymous_file

ROOM = 1 << 27
"""Bytes after which a writer goes back to the start."""

_START = 64
_WRITTEN, _READ, _BACK, _STOP = 0, 8, 16, 24
_NUMBER, _LENGTHS = struct.Struct("<Q"), struct.Struct("<QQ")
_PAUSE_S = 0.0005


@final
class Writer:
    """The side that has answers."""

    def __init__(self, region: Region, room: int = ROOM) -> None:
        self._region = region
        self._room, self._at, self._written, self._back = room, _START, 0, 0

    @property
    def stopped(self) -> bool:
        """Whether nobody waits for more."""
        return bool(self._number(_STOP))

    def put(self, head: bytes, body: Sequence[bytes], check: Callable[[], None] = lambda: None) -> None:
        """Hand over one answer; waits for the reader where there is no room. `check` raises to give up waiting."""
        length = sum(map(len, body))
        end = self._at + _LENGTHS.size + len(head) + length
        if end > self._room and self._at > _START:
            while self._number(_READ) < self._written:
                check()
                time.sleep(_PAUSE_S)
            self._back += 1
            end += _START - self._at
            self._at = _START
            self._region.write(_BACK, _NUMBER.pack(self._back))
        self._region.reserve(end)
        at = self._at
        for part in (_LENGTHS.pack(len(head), length), head, *body):
            self._region.write(at, part)
            at += len(part)
        self._at = -(-at // 8) * 8
        self._written += 1
        self._region.write(_WRITTEN, _NUMBER.pack(self._written))  # last, since it says that the rest is there

    def _number(self, at: int) -> int:
        return int(_NUMBER.unpack(self._region.read(at, _NUMBER.size))[0])


@final
class Reader:
    """The side that waits, which owns the memory and may use it for one writer after the other."""

    def __init__(self) -> None:
        self.descriptor = anonymous_file()
        self._region = Region(self.descriptor, writable=True)
        self.begin()

    def begin(self) -> None:
        """Ready for another writer; the one before must have ended."""
        self._at, self._read, self._back = _START, 0, 0
        self._region.write(0, bytes(_START))

    def stop(self) -> None:
        """Tell the writer that nobody waits for more."""
        self._region.write(_STOP, _NUMBER.pack(1))

    def entries(self) -> Iterator[tuple[bytes, Callable[[int, int], bytes]]]:
        """What has come since the last call: the head, and a function (offset, length) -> bytes of the body.

        The function serves until the next entry is asked for. Raises `FrameError` for lengths that cannot be.
        """
        while self._read < self._number(_WRITTEN):
            if (back := self._number(_BACK)) != self._back:
                self._back, self._at = back, _START
            head, body = _LENGTHS.unpack(self._region.read(self._at, _LENGTHS.size))
            start = self._at + _LENGTHS.size
            first = start + head
            yield self._region.read(start, head), partial(self._body, first)
            self._at = -(-(first + body) // 8) * 8
            self._read += 1
            self._region.write(_READ, _NUMBER.pack(self._read))

    def _body(self, start: int, offset: int, length: int) -> bytes:
        return self._region.read(start + offset, length)

    def close(self) -> None:
        """Give the memory back, once the writer is gone too."""
        self._region.close()

    def _number(self, at: int) -> int:
        return int(_NUMBER.unpack(self._region.read(at, _NUMBER.size))[0])
