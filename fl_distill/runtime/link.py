"""A site's connection to a SuperLink: messages in, replies out, few requests for either."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import Message

from .envelope import KEY
from .faults import Refusal
from .flower_line import Line, connected
from .flower_private import Gone, Lost, fetch, ids, objects
from .patience import Reasons

SETTLED_S = 10.0
"""Seconds without another message after which the last one is confirmed by itself."""
AT_ONCE = 8
"""Objects of such a message that are looked for before the next look for messages."""


@dataclass(frozen=True)
class _Kept:
    """A message whose objects the SuperLink still keeps, some of them perhaps still on their way to it."""

    run: int
    number: str
    unasked: list[str]
    since: float
    until: float
    """When its time to live is over: what has not come by then never will."""


@dataclass
class Link:
    """Messages and replies over a line, whose objects are confirmed as late as possible."""

    line: Line
    _kept: list[_Kept] = field(default_factory=list)

    @property
    def node(self) -> int:
        """The site's number."""
        return self.line.node

    def receive(self, largest: int, note: Callable[[Message], None]) -> Message | tuple[Message, str] | None:
        """The next message, if there is one; or the head of one that cannot be had, and why.

        `note` hears the head before anything else is fetched. Raises `Gone` where its run has ended.
        """
        if (waiting := self.line.next()) is None:
            self._settle()
            return None
        head, tree = waiting
        note(head)
        size, left = 0, dict.fromkeys(ids(tree))

        def pull(object_id: str) -> bytes:
            nonlocal size
            if size > largest:
                raise OverflowError
            data = self.line.pull(head.metadata.run_id, object_id)
            size += len(data)
            left.pop(object_id, None)
            return data

        found = _or_why(lambda: fetch(head, tree, pull, KEY)[0], head, largest)
        self._keep(head, list(left))
        return found

    def _keep(self, head: Message, unasked: list[str]) -> None:
        """Confirm a message, now or later: an object that comes after that is refused, and ends the run."""
        asked = head.metadata
        if unasked:
            now = time.monotonic()
            self._kept.append(_Kept(asked.run_id, asked.message_id, unasked, now, now + asked.ttl))
        else:
            self.line.confirm(asked.run_id, asked.message_id)

    def send(self, reply: Message, seconds: float) -> None:
        """Send a reply to a message that took `seconds` to work on."""
        self.line.send(reply, seconds)
        # Who has sent a message has sent all of the one before: no object of that one can come too late any more.
        for kept in [kept for kept in self._kept[:-1] if kept.run == reply.metadata.run_id]:
            self._kept.remove(kept)
            with suppress(Gone):
                self.line.confirm(kept.run, kept.number)

    def run_config(self, run: int) -> dict[str, Any]:
        """What the run was submitted with."""
        return self.line.run_config(run)

    def _settle(self) -> None:
        """Confirm what nothing has followed for a while, once all of it has come."""
        now = time.monotonic()
        for kept in [kept for kept in self._kept if now - kept.since > SETTLED_S]:
            self._kept.remove(kept)
            with suppress(Gone):
                try:
                    objects(kept.unasked[:AT_ONCE], partial(self.line.pull, kept.run), patient=False)
                except Lost:
                    self._kept += [replace(kept, since=now)] if now < kept.until else []
                    continue
                if left := kept.unasked[AT_ONCE:]:
                    self._kept.append(replace(kept, unasked=left))
                else:
                    self.line.confirm(kept.run, kept.number)


def _or_why(get: Callable[[], Message], head: Message, largest: int) -> Message | tuple[Message, str]:
    try:
        return get()
    except Refusal:
        raise
    except OverflowError:
        return head, f"the message has more than {largest} bytes"
    except Exception as error:
        return head, f"the message could not be fetched ({type(error).__name__})"


@contextmanager
def linked(address: str, ca: Path | None, key: Path | None, reasons: Reasons) -> Iterator[Link]:
    """See `flower_line.connected`."""
    with connected(address, ca, key, reasons) as line:
        yield Link(line)
