"""Replies between arrival and pull."""

import time
import uuid
from collections.abc import Callable, Iterable, Set

from flwr.app import Message

from .flower_private import stamp
from .tasks import Task

_KEEP_S = 60.0
_SWEEP_S = 1.0


def exchanged(
    push: Callable[[Iterable[Message]], list[str]],
    pull: Callable[[Set[str]], list[Message]],
    messages: Iterable[Message],
    timeout: float | None,
) -> list[Message]:
    """Push, then pull until all replies are there or time is out; replies in the messages' order."""
    ids = push(messages)
    until = time.monotonic() + (float("inf") if timeout is None else timeout)
    waiting, replies = set(ids), {}
    while waiting and time.monotonic() < until:
        for reply in pull(waiting):
            waiting.discard(reply.metadata.reply_to_message_id)
            replies[reply.metadata.reply_to_message_id] = reply
    return [replies[key] for key in ids if key in replies]


class Inbox:
    """Holds replies by the id of the message that they answer, for at least as long as that was valid."""

    def __init__(self) -> None:
        self._replies: dict[str, tuple[float, Message]] = {}
        self._next_sweep = 0.0

    def deliver(self, task: Task, reply: Message) -> None:
        """Keep a reply until it is taken."""
        stamp(reply, uuid.uuid4().hex)
        keep_until = time.monotonic() + max(task.metadata.ttl, _KEEP_S)
        self._replies[task.metadata.message_id] = keep_until, reply

    def has_any(self, ids: Set[str]) -> bool:
        """Whether a reply to one of these messages is here."""
        return any(key in ids for key in self._replies)

    def take(self, ids: Set[str]) -> list[Message]:
        """The replies to these messages, in the order of their arrival."""
        self._sweep(time.monotonic())
        return [self._replies.pop(key)[1] for key in [key for key in self._replies if key in ids]]

    def clear(self) -> None:
        """Forget everything."""
        self._replies.clear()

    def _sweep(self, now: float) -> None:
        if now < self._next_sweep:
            return
        self._next_sweep = now + _SWEEP_S
        for key in [key for key, (until, _) in self._replies.items() if until < now]:
            del self._replies[key]
