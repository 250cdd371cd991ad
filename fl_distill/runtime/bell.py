"""A bell between processes of this machine: who waits for answers sleeps until somebody rings.

It is a pipe; who rings opens its other end by the number that the waiting process has it under.
"""

import contextlib
import os
import select
from collections.abc import Callable
from typing import final

from .shared import Address, opened

_FULL = 1 << 16


@final
class Bell:
    """The side that waits."""

    def __init__(self) -> None:
        self._ear, self.descriptor = os.pipe()
        for end in (self._ear, self.descriptor):
            os.set_blocking(end, False)
        self._poll = select.poll()
        self._poll.register(self._ear, select.POLLIN)

    def wait(self, seconds: float) -> None:
        """Until somebody has rung since the last time, or time is out."""
        if self._poll.poll(1000 * seconds):
            os.read(self._ear, _FULL)

    def close(self) -> None:
        """Nobody waits any more. Closing twice does no harm."""
        for end in (self._ear, self.descriptor):
            if end >= 0:
                os.close(end)
        self._ear = self.descriptor = -1


def rope(address: Address) -> Callable[[], None] | None:
    """What rings the bell there; None where it is out of reach. Ringing what is gone does no harm."""
    if (end := _held.pop(address, None)) is None:
        end = opened(address, os.O_WRONLY | os.O_NONBLOCK, "pipe:")
    if end is None:
        return None
    while len(_held) >= _MOST_HELD:
        os.close(_held.pop(next(iter(_held))))
    _held[address] = end  # the last to be dropped

    def ring() -> None:
        if (held := _held.get(address)) is not None:  # else its number may be another file's by now
            with contextlib.suppress(OSError):  # full, so somebody has rung; or nobody is there
                os.write(held, b"\0")

    return ring


_held: dict[Address, int] = {}
_MOST_HELD = 16
