"""A grid as a strategy sees it in one round: only the nodes asked."""

from collections.abc import Iterable, Sequence
from typing import final

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid


@final
class Asked(Grid):
    """`grid`, restricted to `nodes` in their order, so that any Flower strategy samples among them."""

    def __init__(self, grid: Grid, nodes: Sequence[int]) -> None:
        self._grid, self._nodes = grid, list(nodes)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes asked this round."""
        return list(self._nodes)

    def set_run(self, run) -> None:  # type: ignore[no-untyped-def]  # Flower's Run is no public name
        """Hand on."""
        self._grid.set_run(run)

    @property
    def run(self):  # type: ignore[no-untyped-def]
        """Hand on."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Hand on."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand on."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand on."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Hand on."""
        return self._grid.send_and_receive(messages, timeout=timeout)
