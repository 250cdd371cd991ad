"""Answers on their way from one process to another of this machine, as they are ready, in memory that both share.

    0   entries written          the writer's      } uint64, little-endian
    8   times back at the start  the writer's      }
    16  orders begun             the writer's      }
    24  entries read             the reader's      }
    32  orders to begin at most  the reader's      }
    40  bundles posted           the reader's      }
    48  where the last one lies  the reader's      }
    56  its length               the reader's      }
    64  bundle that is waited for  the writer's    }
    128 entries: lengths of head and body (uint64 each) | head | body, the next one at a multiple of 8

A writer that has come to the end of its room goes back to the start once everything is read, so that the memory holds
a few answers, however many there are and however slow the reader is. What was written is there even if the writer dies.
"""

import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import final

from .bell import Bell
from .shared import Region, anonymous_file

ROOM, LEAST = 1 << 23, 2
"""Bytes after which a writer goes back to the start; so many answers have room, however large they are."""

_START = 128
_WRITTEN, _BACK, _BEGUN, _READ, _LIMIT, _POSTED, _PLACE, _LENGTH, _AWAITED = range(0, 72, 8)
_NUMBER, _LENGTHS = struct.Struct("<Q"), struct.Struct("<QQ")
_ALL = 2**63
_PAUSE_S, _LONGEST_PAUSE_S, _SLOWER = 0.0005, 0.005, 20


class Unwanted(Exception):
    """Nobody waits for what a writer would do next."""


class _Side:
    """Both sides' access to the numbers at the start: by system calls, which order what the processor may not."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._at, self._back = _START, 0

    def _get(self, place: int) -> int:
        return int(_NUMBER.unpack(os.pread(self._region.descriptor, _NUMBER.size, place))[0])

    def _set(self, place: int, value: int) -> None:
        os.pwrite(self._region.descriptor, _NUMBER.pack(value), place)


@final
class Writer(_Side):
    """The side that has answers; `ring` wakes the other one."""

    def __init__(self, region: Region, ring: Callable[[], None], room: int = ROOM) -> None:
        super().__init__(region)
        self._room, self._written, self._lying, self._ring = room, 0, 0, ring

    def begin(self, order: int) -> None:
        """Say that this order (0, 1, …) is begun. Raises `Unwanted` where it must not be."""
        self._set(_BEGUN, order + 1)  # first said, then asked: the reader does it the other way round
        if order >= self._get(_LIMIT):
            raise Unwanted

    def posted(self, before: int, stay_s: float) -> tuple[int, int, int] | None:
        """Wait for the reader to post more than the bundles `before`: their number, offset and length of the last.

        All that was begun is answered by now, and nothing of what was posted before will be begun any more.
        """
        self._set(_AWAITED, before + 1)
        self._ring()
        began = time.monotonic()
        while (passed := time.monotonic() - began) < stay_s and self._get(_LIMIT):
            if (count := self._get(_POSTED)) != before:
                return count, self._get(_PLACE), self._get(_LENGTH)
            time.sleep(min(max(_PAUSE_S, passed / _SLOWER), _LONGEST_PAUSE_S))
        return None

    def put(self, head: bytes, body: Sequence[bytes]) -> None:
        """Hand over one answer; waits for the reader where there is no room. `Unwanted` where it wants no more."""
        end = self._at + _LENGTHS.size + len(head) + sum(map(len, body))
        if end > self._room and (self._lying >= LEAST or self._get(_READ) == self._written):
            while self._get(_READ) < self._written:
                if self._get(_LIMIT) == 0:
                    raise Unwanted
                time.sleep(_PAUSE_S)
            self._back += 1
            self._at, self._lying = _START, 0
            self._set(_BACK, self._back)
        at = self._region.write(self._at, _LENGTHS.pack(len(head), sum(map(len, body))), head, *body)
        self._at = -(-at // 8) * 8
        self._lying += 1
        self._written += 1
        self._set(_WRITTEN, self._written)  # last, since it says that the rest is there
        self._ring()


@final
class Reader(_Side):
    """The side that waits, which owns the memory and may use it for one writer after the other.

    A writer rings `bell` when there is something to read.
    """

    def __init__(self, bell: Bell) -> None:
        super().__init__(Region(anonymous_file(), writable=True))
        self.bell = bell
        self._count = 0
        self.reset()

    @property
    def descriptor(self) -> int:
        """Of the memory."""
        return self._region.descriptor

    @property
    def begun(self) -> int:
        """How many orders the writer has begun, or asked to begin."""
        return self._get(_BEGUN)

    @property
    def awaited(self) -> bool:
        """Whether the writer waits for a bundle, or did until it went: it is done with all that it had."""
        return self._get(_AWAITED) > self._get(_POSTED)

    def reset(self) -> None:
        """Ready for another writer; the one before must have ended."""
        self._at, self._count, self._back = _START, 0, 0
        self._region.write(0, bytes(_START))
        self._set(_LIMIT, _ALL)

    def post(self, place: int, length: int) -> None:
        """Ready for another bundle of the writer, which has written all it had; it lies at a place of the library."""
        self._at, self._count, self._back = _START, 0, 0
        for number in (_WRITTEN, _BACK, _BEGUN, _READ):
            self._set(number, 0)
        self._set(_LIMIT, _ALL)
        self._set(_PLACE, place)
        self._set(_LENGTH, length)
        self._set(_POSTED, self._get(_POSTED) + 1)  # last, since it says that the rest is there

    def limit(self, orders: int) -> None:
        """The writer must not begin more orders than this; it may have, until some time has passed."""
        self._set(_LIMIT, orders)

    def entries(self) -> Iterator[tuple[bytes, Callable[[Sequence[int]], list[bytes]]]]:
        """What has come since the last call: the head, and a function that cuts the body into parts of these lengths.

        The function serves until the next entry is asked for. Raises `FrameError` for lengths that cannot be.
        """
        while self._count < self._get(_WRITTEN):
            if (back := self._get(_BACK)) != self._back:
                self._back, self._at = back, _START
            head, body = _LENGTHS.unpack(self._region.read(self._at, _LENGTHS.size))
            start = self._at + _LENGTHS.size
            yield self._region.read(start, head), partial(self._region.cut, start + head)
            self._at = -(-(start + head + body) // 8) * 8
            self._count += 1
            self._set(_READ, self._count)

    def close(self) -> None:
        """Give the memory back, once the writer is gone too."""
        self._region.close()
