"""Whose turn it is: one message of a site at a time, and none that nobody waits for any more."""

import heapq
from collections import deque
from collections.abc import Iterable, Set
from typing import final

from flwr.app import Message

from ..collect import LATE
from .flower_private import NO_REPLY
from .inbox import Inbox
from .tasks import Task


@final
class Turns:
    """Tasks from push to reply; replies go to `inbox`, each once, and none after a task has expired."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._ready: list[Task] = []
        self._behind: dict[int, deque[Task]] = {}
        self._deadlines: list[tuple[float, int, Task]] = []

    def add(self, task: Task) -> None:
        """A new task: ready, or behind another one of its site."""
        heapq.heappush(self._deadlines, (task.deadline, task.number, task))
        if task.node in self._behind:
            self._behind[task.node].append(task)
        else:
            self._behind[task.node] = deque()
            self._ready.append(task)

    @property
    def any_ready(self) -> bool:
        """Whether `ready` has something."""
        return bool(self._ready)

    def ready(self) -> list[Task]:
        """What can be sent, in the order of pushing; it is the caller's affair from now on."""
        found = []
        while self._ready:
            task = self._ready.pop()
            if task.expired:
                self.finish(task)
            elif not task.done:
                found.append(task)
        return sorted(found, key=lambda task: task.number)

    def requeue(self, tasks: Iterable[Task]) -> None:
        """Tasks that were sent, but not worked on."""
        self._ready += tasks

    def finish(self, task: Task, reply: Message | None = None) -> None:
        """The task is over: its site may have the next one."""
        if task.done:
            return
        if reply is not None and not task.expired:
            self._inbox.deliver(task, reply)
        task.done = True
        task.content, task.buffers = b"", []
        if len(self._deadlines) > 2 * len(self._behind) + 64:
            self._deadlines = [entry for entry in self._deadlines if not entry[2].done]
            heapq.heapify(self._deadlines)
        if behind := self._behind[task.node]:
            self._ready.append(behind.popleft())
        else:
            del self._behind[task.node]

    def cancel(self, ids: Set[str]) -> None:
        """Nobody waits for the messages with these ids."""
        for _, _, task in self._deadlines:
            task.expired |= task.metadata.message_id in ids

    def expire(self, now: float) -> None:
        """Answer what is past its time, wherever it is."""
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2].done):
            task = heapq.heappop(self._deadlines)[2]
            if not (task.done or task.expired):
                self._inbox.deliver(task, task.failed(NO_REPLY, LATE.format(task.metadata.ttl)))
                task.expired = True
