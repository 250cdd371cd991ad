"""Send messages and hand on the replies as they arrive, under a policy of time."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from flwr.app import Message
from flwr.serverapp import Grid

from .codec import sizes

LATE = "no reply within {:g} s"
LONGEST_REASON = 1000
GRACE = "no reply within {:g} s of grace"


@dataclass(frozen=True)
class Reply:
    """What one node answered, or why it did not."""

    node: int
    message: Message | None
    fault: str | None
    bytes_down: int = 0
    bytes_up: int = 0
    knowledge_down: int = 0
    """The part of `bytes_down` that is tensors."""
    knowledge_up: int = 0
    owing: bool = False
    """Whether the node may still be at work on it."""


@runtime_checkable
class Cancels(Protocol):
    """A grid that can give up messages; Flower's own cannot, and run them to their end."""

    def cancel(self, message_ids: Iterable[str]) -> None:
        """Nobody waits for replies to these messages any more."""


def never() -> None:
    """A check that stops nothing."""


@dataclass(frozen=True)
class Collector:
    """How long to wait for replies, and how often to look.

    `grace_s`: once `enough` usable replies are in, wait only this much longer. `poll_s` bounds the pause between
    two looks, which grows while nothing arrives and with the number of messages looked for: each look costs the
    engine time that its sites could use. `check_stop` raises to abandon the wait.
    """

    timeout_s: float = 600.0
    grace_s: float | None = None
    enough: int = 1
    poll_s: float = 0.1
    check_stop: Callable[[], None] = never

    def collect(self, grid: Grid, messages: Sequence[Message]) -> Iterator[Reply]:
        """Push the messages, yield one `Reply` for each, in order of arrival; late ones as faults at the end."""
        sizes = _Sizes()
        for message in messages:
            message.metadata.ttl = self.timeout_s  # what nobody waits for any more must not be worked on
        ids = list(grid.push_messages(messages))
        waiting = {
            key: (message.metadata.dst_node_id, *sizes.of(message)) for key, message in zip(ids, messages, strict=True)
        }
        deadline, good, pause, late = time.monotonic() + self.timeout_s, 0, 0.001, LATE.format(self.timeout_s)
        while waiting and time.monotonic() < deadline:
            self.check_stop()
            before = time.monotonic()
            found = deque(r for r in grid.pull_messages(list(waiting)) if r.metadata.reply_to_message_id in waiting)
            arrived = len(found)
            while found:
                message = found.popleft()
                reply = _reply(message, *waiting.pop(message.metadata.reply_to_message_id))
                good += reply.fault is None
                yield reply
                del message, reply  # decoded in place by now: a whole model where a few bytes arrived
            cut = time.monotonic() + (math.inf if self.grace_s is None else self.grace_s)
            if arrived and good >= self.enough and cut < deadline:
                deadline, late = cut, GRACE.format(self.grace_s)
            if arrived:
                pause = 0.001
            elif waiting and time.monotonic() - before < 0.01:  # a grid that waits by itself needs no pause
                least = min(0.001 * len(waiting), self.poll_s)
                time.sleep(max(pause, least))
                pause = min(2 * pause, self.poll_s)
        cancels = isinstance(grid, Cancels)
        if waiting and isinstance(grid, Cancels):
            grid.cancel(waiting)  # the next round shall not wait for what this one has given up
        for node, down, knowledge in waiting.values():
            yield Reply(node, None, late, down, 0, knowledge, owing=not cancels)


def in_order(replies: Iterable[Reply], nodes: Sequence[int]) -> Iterator[Reply]:
    """The replies in the order of `nodes`, each as soon as those before it are there."""
    held: dict[int, Reply] = {}
    queue = iter(nodes)
    current = next(queue, None)
    for reply in replies:
        held[reply.node] = reply
        del reply
        while current in held:
            yield held.pop(current)
            current = next(queue, None)


def fault_of(message: Message) -> str | None:
    """What went wrong, in the words of whoever sent this error."""
    return (_clean(message.error.reason) or f"error {message.error.code}") if message.has_error() else None


def _reply(message: Message, node: int, down: int, knowledge: int) -> Reply:
    # Errors that the infrastructure makes name no node of ours, hence the node that was asked.
    if (fault := fault_of(message)) is not None:
        return Reply(node, message, fault, down, 0, knowledge)
    told, rest = sizes(message.content)
    return Reply(node, message, None, down, told + rest, knowledge, told)


def _clean(reason: str | None) -> str:
    """What a site says, as one line of printable characters and of a sane length."""
    return "".join(c if c.isprintable() else " " for c in (reason or "")[:LONGEST_REASON])


class _Sizes:
    """Bytes of messages and of their tensors, counting records that several of them share once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int]] = {}

    def of(self, message: Message) -> tuple[int, int]:
        key = id(message.content)
        if key not in self._known:
            tensors, rest = sizes(message.content)
            self._known[key] = tensors + rest, tensors
        return self._known[key]
