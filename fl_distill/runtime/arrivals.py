"""Replies on their way into a ServerApp: the head comes first, the rest when its sender gets it through."""

import logging
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, final

from flwr.app import Error, Message, Metadata

from .envelope import KEY
from .flower_private import NO_REPLY, SUPERLINK, Damaged, Desk, Late, Lost, compose, fetch

log = logging.getLogger("fl_distill.server")

CLOSE_S, AGAIN_S = 0.2, 0.03
"""For how long, and how often, the rest of a reply is looked for that follows its head closely, as it should."""


@dataclass(frozen=True)
class _Asked:
    node: int
    until: float
    """When nobody waits for an answer any more."""


@dataclass(frozen=True)
class _Coming:
    head: Message
    tree: Any
    since: float
    until: float
    have: dict[str, bytes] = field(default_factory=dict)
    """What has arrived."""

    def failed(self, why: str) -> Message:
        """An error instead of the reply."""
        return compose(self.head.metadata, Error(NO_REPLY, why))


@final
class Arrivals:
    """Fetches replies without waiting for any; one that its sender does not get through is in no other's way."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._asked: dict[str, _Asked] = {}
        self._coming: dict[str, _Coming] = {}
        """By what they reply to."""
        self._last: dict[int, Metadata] = {}
        """By node: a reply of which not everything may have arrived yet, so that it cannot be confirmed."""
        self._done: list[Metadata] = []

    def expect(self, numbers: Iterable[str], messages: Iterable[Message]) -> None:
        """Replies to messages of these numbers, from nobody else than those that were asked."""
        now = time.monotonic()
        asked = (_Asked(message.metadata.dst_node_id, now + message.metadata.ttl) for message in messages)
        left = {number: kept for number, kept in self._asked.items() if kept.until > now}
        self._asked = left | dict(zip(numbers, asked, strict=False))

    def look(self, wanted: Collection[str]) -> bool:
        """Whether there are new heads of replies to messages of these numbers."""
        now = time.monotonic()
        self._coming = {key: found for key, found in self._coming.items() if key in wanted or found.until > now}
        # Flower hands a head out once, and then knows nothing of it any more.
        unseen = [number for number in wanted if number not in self._coming]
        found = [pair for pair in (self._desk.heads(unseen) if unseen else []) if self._is_answer(pair[0])]
        for head, tree in found:
            self._give_up(head.metadata.src_node_id, wanted)
            number = head.metadata.reply_to_message_id
            asked = self._asked.get(number)
            self._coming[number] = _Coming(head, tree, now, asked.until if asked else now + head.metadata.ttl)
        return bool(found)

    def take(self, wanted: Collection[str]) -> list[Message]:
        """The replies to messages of these numbers that are complete, or never will be."""
        while True:
            coming = [(number, found) for number, found in self._coming.items() if number in wanted]
            tried = [self._tried(number, found) for number, found in coming]
            done = [reply for reply in tried if reply is not None]
            if done or not any(time.monotonic() < found.since + CLOSE_S for _, found in coming):
                return done
            time.sleep(AGAIN_S)

    def settle(self) -> None:
        """Say what was fetched, so that the SuperLink need not keep it: when there is nothing better to do."""
        while self._done:
            self._desk.confirm(self._done.pop())

    def _is_answer(self, head: Message) -> bool:
        """Whether a reply is from the node that was asked, or the SuperLink's word that there is none."""
        sender, asked = head.metadata.src_node_id, self._asked.get(head.metadata.reply_to_message_id)
        if (sender == SUPERLINK and head.has_error()) or (asked is not None and sender == asked.node):
            return True
        who = "nobody" if asked is None else f"node {asked.node}"
        log.warning("node %d answered what %s was asked: its answer is dropped", sender, who)
        return False

    def _give_up(self, node: int, wanted: Collection[str]) -> None:
        """A node that sends another reply sends nothing more of one that nobody waits for."""
        for number, found in list(self._coming.items()):
            if found.head.metadata.src_node_id == node and number not in wanted:
                self._done.append(self._coming.pop(number).head.metadata)

    def _tried(self, number: str, found: _Coming) -> Message | None:
        try:
            reply, unasked = self._fetch(found)
        except Late:
            if time.monotonic() < found.until:
                return None
            reply, unasked = found.failed("its answer did not arrive in time"), []
        del self._coming[number]
        self._asked.pop(number, None)
        self._fetched(found.head.metadata, bool(unasked))
        return reply

    def _fetch(self, found: _Coming) -> tuple[Message, list[str]]:
        """See `flower_private.fetch`; what has arrived before is not asked for again."""

        def pull(object_id: str) -> bytes:
            if object_id not in found.have:
                found.have[object_id] = self._desk.pull(found.head.metadata.run_id, object_id)
            return found.have[object_id]

        try:
            return fetch(found.head, found.tree, pull, KEY, patient=False)
        except Late:
            raise
        except Lost as error:
            return found.failed(f"its answer did not arrive as a whole: {error}"), []
        except Damaged as error:
            return found.failed(f"its answer is damaged: {error}"), []

    def _fetched(self, reply: Metadata, partly: bool) -> None:
        if not partly:
            self._desk.confirm(reply)
            return
        # A site that has sent another reply has sent this one to its end.
        if (earlier := self._last.pop(reply.src_node_id, None)) is not None:
            self._done.append(earlier)
        self._last[reply.src_node_id] = reply
