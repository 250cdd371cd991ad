"""Messages on their way to nodes: who is next, and what each node keeps between its messages."""

import heapq
from collections import deque
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Error, Message, Metadata, RecordDict

from . import frames
from .flower_private import compose
from .shared import Item

FIRST_NODE = 1001
"""Number of the first of a grid's nodes; the others follow, in the order of their partitions."""


@dataclass(slots=True, eq=False)
class Task:
    """One message between push and reply. Once `expired`, no reply is wanted: an error is out, or nobody waits."""

    number: int
    metadata: Metadata
    content: bytes
    buffers: list[bytes]
    deadline: float
    seed: int
    borrowed: list[Item] = field(default_factory=list)
    expired: bool = False
    done: bool = False
    apart: bool = False
    """Whether it must be worked on by itself: a worker died while it was at several, this one among them."""
    tries: int = 0
    """How often it was sent in vain: no worker began it."""

    @property
    def node(self) -> int:
        """The node that the message is for."""
        return self.metadata.dst_node_id

    def failed(self, code: int, reason: str) -> Message:
        """The error reply to this task's message."""
        return Message(Error(code, reason), reply_to=compose(self.metadata, RecordDict()))


def check_instruction(message: Message) -> None:
    """Raises `ValueError` for an error, a reply, or a message that is past its time before it starts."""
    if message.has_error() or message.metadata.reply_to_message_id or not message.metadata.ttl > 0:
        raise ValueError(f"Expected an instruction with content and a positive ttl, got {message.metadata}.")


def late_in_queue(ttl: float) -> str:
    """The reason why a message that nobody began has no reply."""
    return f"no reply within {ttl:g} s; the message was still in the queue"


class TaskQueue:
    """First come, first served; one message of a node at a time, since its state passes through them."""

    def __init__(self) -> None:
        self._ready: list[tuple[int, Task]] = []
        self._waiting: dict[int, deque[Task]] = {}
        self._deadlines: list[tuple[float, int, Task]] = []
        self._live = 0

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, task: Task) -> None:
        """Queue a new task."""
        self._live += 1
        heapq.heappush(self._deadlines, (task.deadline, task.number, task))
        if task.node in self._waiting:
            self._waiting[task.node].append(task)
        else:
            self._waiting[task.node] = deque()
            self.requeue(task)

    def requeue(self, task: Task) -> None:
        """Put a task back that was taken but not begun; it is as old as ever."""
        heapq.heappush(self._ready, (task.number, task))

    def take(self) -> Task | None:
        """The oldest task whose node is free; call `finish` when it is over."""
        while self._ready:
            task = heapq.heappop(self._ready)[1]
            if not task.expired:
                return task
            self.finish(task)
        return None

    def finish(self, task: Task) -> None:
        """The task is over: its node may have the next one."""
        task.done = True
        task.content, task.buffers = b"", []
        self._live -= 1
        if len(self._deadlines) > 2 * self._live + 64:
            self._deadlines = [entry for entry in self._deadlines if not entry[2].done]
            heapq.heapify(self._deadlines)
        waiting = self._waiting[task.node]
        if waiting:
            self.requeue(waiting.popleft())
        else:
            del self._waiting[task.node]

    def cancel(self, ids: Set[str]) -> None:
        """Nobody waits for the messages with these ids; those still in the queue will not be taken."""
        for _, _, task in self._deadlines:
            task.expired |= task.metadata.message_id in ids

    def overdue(self, now: float) -> Iterator[Task]:
        """Tasks whose deadline has passed and that somebody waits for, each once."""
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2].done):
            task = heapq.heappop(self._deadlines)[2]
            if not (task.done or task.expired):
                yield task

    def next_deadline(self) -> float:
        """When `overdue` has something to say again, at the earliest."""
        return self._deadlines[0][0] if self._deadlines else float("inf")


class States:
    """Each node's `Context.state` between its messages, in encoded form; most nodes have none."""

    def __init__(self) -> None:
        self._states: dict[int, tuple[bytes, list[bytes]]] = {}

    def get(self, node: int) -> tuple[bytes, list[bytes]]:
        """Header and buffers; `null` for an empty state."""
        return self._states.get(node, (b"null", []))

    def put(self, node: int, described: Any, buffers: list[bytes]) -> None:
        """Keep a state whose description was parsed already; None is the empty one."""
        if described is None:
            self._states.pop(node, None)
        else:
            self._states[node] = frames.to_json(described), buffers
