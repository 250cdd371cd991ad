"""Sites that a round went on without: they get nothing new to do before they answer something."""

import time
from collections.abc import Callable, Sequence

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from . import __version__
from .roster import Member

BUSY = "not asked: it has not answered round {} yet"

AGAIN_S = 60.0
"""Seconds after which a silent site is asked anew: what it was asked may be lost."""


class Owed:
    """Who still works on what nobody waits for any more.

    A SuperNode works on one message after the other, oldest first, so a slow one would fall ever further behind. Here
    it is asked who it is, at no cost, and gets work again with its answer, which comes after what it was busy with.
    """

    def __init__(self, grid: Grid, ttl_s: float, hear: Callable[[int, RecordDict], None]) -> None:
        self._grid, self._ttl_s, self._hear = grid, ttl_s, hear
        self._since: dict[int, int] = {}
        self._asked: dict[str, int] = {}
        self._last: dict[int, float] = {}

    def add(self, node: int, number: int) -> None:
        """A node did not answer round `number` in time."""
        if node not in self._since:
            self._since[node] = number
            self._ask(node)

    def refresh(self) -> None:
        """Forget those that have answered, or are gone; ask those anew that have been silent for long."""
        answers = self._grid.pull_messages(list(self._asked)) if self._asked else []
        there = set(self._grid.get_node_ids()) if self._since else set()
        free = {node for node in self._since if node not in there}
        for answer in answers:
            node = self._asked.get(answer.metadata.reply_to_message_id)
            if node is not None and node not in free:
                free.add(node)
                if answer.has_content():  # what it holds may have changed
                    self._hear(node, answer.content)
        self._since = {node: number for node, number in self._since.items() if node not in free}
        self._asked = {key: node for key, node in self._asked.items() if node not in free}
        for node in self._since:
            if time.monotonic() > self._last[node] + AGAIN_S:
                self._ask(node)

    def split(self, members: Sequence[Member], least: int) -> tuple[list[Member], dict[str, str]]:
        """Who may be asked, and why the others (by name) are not; all where fewer than `least` are free."""
        free = [member for member in members if member.node not in self._since]
        if len(free) < max(1, least):
            return list(members), {}
        return free, {m.name: BUSY.format(self._since[m.node]) for m in members if m.node in self._since}

    def _ask(self, node: int) -> None:
        content = RecordDict({"config": ConfigRecord({"version": __version__})})
        message = Message(content, node, MessageType.QUERY, group_id="roll-call", ttl=self._ttl_s)
        self._last[node] = time.monotonic()
        self._asked |= dict.fromkeys(self._grid.push_messages([message]), node)
