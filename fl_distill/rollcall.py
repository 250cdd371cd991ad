"""Nodes are asked who they are, and heard whenever they answer."""

import time
from collections.abc import Collection, Iterable

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from . import __version__

AGAIN_S = 60.0
"""Seconds after which a silent node is asked anew: what it was asked may be lost."""


def questions(nodes: Iterable[int], ttl_s: float | None = None) -> list[Message]:
    """Who are you, for each of these nodes."""
    content = RecordDict({"config": ConfigRecord({"version": __version__})})
    return [Message(content, node, MessageType.QUERY, group_id="roll-call", ttl=ttl_s) for node in nodes]


class RollCall:
    """Questions that nobody waits for: a node that is busy answers them after what it is busy with."""

    def __init__(self, grid: Grid, ttl_s: float) -> None:
        self._grid, self._ttl_s = grid, ttl_s
        self._open: dict[str, int] = {}
        """By question: who was asked."""
        self._last: dict[int, float] = {}
        """By node that has not answered: when it was asked last."""

    def ask(self, nodes: Collection[int]) -> None:
        """Ask these nodes; what they answer to earlier questions is not heard any more."""
        self._forget(nodes)
        self._send(nodes)

    def answers(self, there: Collection[int]) -> dict[int, Message]:
        """What nodes have answered since the last time; of those that are `there`, the silent ones are asked anew."""
        self._forget([node for node in self._last if node not in there])
        found: dict[int, Message] = {}
        for reply in self._grid.pull_messages(list(self._open)) if self._open else []:
            node = self._open.pop(reply.metadata.reply_to_message_id, None)
            # That a question has expired is said in the name of the infrastructure: it means nothing.
            if node is not None and reply.metadata.src_node_id == node:
                found[node] = reply
        self._forget(found)
        before = time.monotonic() - AGAIN_S
        self._send([node for node, asked in self._last.items() if asked < before])
        return found

    def _send(self, nodes: Collection[int]) -> None:
        if nodes:
            numbers = self._grid.push_messages(questions(nodes, self._ttl_s))
            self._open |= dict(zip(numbers, nodes, strict=False))
            self._last |= dict.fromkeys(nodes, time.monotonic())

    def _forget(self, nodes: Collection[int]) -> None:
        self._open = {number: node for number, node in self._open.items() if node not in nodes}
        self._last = {node: asked for node, asked in self._last.items() if node not in nodes}
