"""One worker process as the parent knows it: its socket, its tasks, and what it has read already."""

import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Error, Message

from . import frames, wire
from .shared import Library, Region
from .tasks import States, Task
from .zygote import hang_up

SHARE_FROM = 512
"""Bytes from which a buffer goes through the library rather than through the socket."""

_CHUNK = 1 << 18


@dataclass(eq=False)
class Member:
    """A worker; `since` is when the first of the tasks that it holds became the one that it runs.

    `typical_s` is about how long its recent tasks took.
    """

    number: int
    socket: socket.socket
    slots: list[Region]
    held: deque[Task] = field(default_factory=deque)
    since: float = 0.0
    typical_s: float = 1.0
    unsent: bytearray = field(default_factory=bytearray)
    _inbox: wire.FrameReader = field(default_factory=wire.FrameReader)
    _known: set[int] = field(default_factory=set)
    _dropped: list[int] = field(default_factory=list)
    _replies: int = 0

    def give(self, task: Task, states: States, library: Library) -> None:
        """Hand the worker one more task; `flush` sends it."""
        state, state_buffers = states.get(task.node)
        buffers = [*task.buffers, *state_buffers]
        places, inline = self._place(task, buffers, library)
        envelope: dict[str, Any] = {
            "metadata": frames.metadata_fields(task.metadata),
            "deadline": task.deadline,
            "seed": task.seed,
            "split": len(task.buffers),
            "places": places,
            "drop": self._dropped,
        }
        self._dropped = []
        if not self.held:
            self.since = time.monotonic()
        self.held.append(task)
        header = b"[%b,%b,%b]" % (frames.to_json(envelope), task.content, state)
        self.unsent += wire.frame(header, inline)

    def flush(self) -> bool:
        """Send what the socket takes now; False when the worker is gone."""
        try:
            while self.unsent:
                del self.unsent[: self.socket.send(self.unsent)]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def arrived(self, states: States, library: Library) -> Iterator[tuple[Task, Message]]:
        """The replies that have come, each with its task, which the worker holds no longer.

        Raises `FrameError` when they cannot be read, EOFError when the worker is gone.
        """
        try:
            while data := self.socket.recv(_CHUNK):
                for header, inline in self._inbox.feed(data):
                    yield self._unpack(header, inline, states, library)
        except BlockingIOError:
            return
        except ConnectionResetError:
            pass
        raise EOFError

    def forget(self, serial: int) -> None:
        """Shared bytes were overwritten: the worker shall drop its copy before it reads the next message."""
        if serial in self._known:
            self._known.discard(serial)
            self._dropped.append(serial)

    def close(self) -> None:
        """Close what the parent has of it."""
        hang_up(self.socket)
        for slot in self.slots:
            slot.close()

    def _place(self, task: Task, buffers: list[bytes], library: Library) -> tuple[list[wire.Place], list[bytes]]:
        places: list[wire.Place] = []
        inline = []
        for buffer in buffers:
            if len(buffer) < SHARE_FROM:
                inline.append(buffer)
                places.append(["here", len(buffer)])
                continue
            item = library.borrow(buffer)
            task.borrowed.append(item)
            self._known.add(item.serial)
            places.append(["kept", item.serial, item.offset, len(buffer)])
        return places, inline

    def _unpack(self, header: bytes, inline: bytes, states: States, library: Library) -> tuple[Task, Message]:
        envelope, content, state = frames.parse(header)
        if not self.held:
            raise frames.FrameError("A worker replied to nothing.")
        slot = self.slots[self._replies % len(self.slots)]
        buffers = wire.gather(envelope["places"], inline, slot=slot.read, same=library.data)
        split = envelope["split"]
        error = envelope["error"]
        body = frames.restore(content, buffers[:split]) if error is None else Error(*error)
        reply = frames.rebuild(envelope["metadata"], body)
        task = self.held.popleft()
        self._replies += 1
        now = time.monotonic()
        self.typical_s = 0.8 * min(self.typical_s, 1.0) + 0.2 * (now - self.since)
        self.since = now
        if not envelope["keep_state"]:
            states.put(task.node, state, buffers[split:])
        return task, reply
