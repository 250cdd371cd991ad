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
from .flower_line import Line, connected
from .flower_private import Gone, Lost, fetch, objects
from .patience import Reasons

SETTLED_S = 10.0
"""Seconds without another message after which the last one is confirmed by itself."""


@dataclass(frozen=True)
class _Kept:
    """A message whose objects the SuperLink still keeps, some of them perhaps still on their way to it."""

    run: int
    number: str
    unasked: list[str]
    since: float


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
        if (found := self.line.next()) is None:
            self._settle()
            return None
        head, tree = found
        note(head)
        run, number, arrived = head.metadata.run_id, head.metadata.message_id, 0

        def pull(object_id: str) -> bytes:
            nonlocal arrived
            if arrived > largest:
                raise OverflowError
            data = self.line.pull(run, object_id)
            arrived += len(data)
            return data

        try:
            whole, unasked = fetch(head, tree, pull, KEY)
        except OverflowError:
            return head, f"the message has more than {largest} bytes"
        except Gone:
            raise
        except Exception as error:
            return head, f"the message could not be fetched ({type(error).__name__})"
        if unasked:
            self._kept.append(_Kept(run, number, unasked, time.monotonic()))
        else:
            self.line.confirm(run, number)
        return whole

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
            pull = partial(self.line.pull, kept.run)
            with suppress(Gone):
                try:
                    objects(kept.unasked, pull, patient=False)
                    self.line.confirm(kept.run, kept.number)
                except Lost:
                    self._kept.append(replace(kept, since=now))


@contextmanager
def linked(address: str, ca: Path | None, key: Path | None, reasons: Reasons) -> Iterator[Link]:
    """See `flower_line.connected`."""
    with connected(address, ca, key, reasons) as line:
        yield Link(line)
