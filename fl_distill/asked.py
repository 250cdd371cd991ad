"""Grids that stand before another one; as a strategy sees it in one round: only the nodes asked."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, final, runtime_checkable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid


@runtime_checkable
class Connects(Protocol):
    """A grid that knows when its nodes connected; Flower's own only says who is there."""

    def connections(self) -> Mapping[int, str]:
        """See the function of this name."""


def connections(grid: Grid) -> Mapping[int, str]:
    """The nodes that are there, each with a word that changes when it connects anew, where that is known."""
    return grid.connections() if isinstance(grid, Connects) else dict.fromkeys(grid.get_node_ids(), "")


class Passing(Grid):
    """Hands everything on to `grid`, unless a subclass says otherwise."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def get_node_ids(self) -> Iterable[int]:
        """Hand on."""
        return self.grid.get_node_ids()

    def set_run(self, run) -> None:  # type: ignore[no-untyped-def]  # Flower's Run is no public name
        """Hand on."""
        self.grid.set_run(run)

    @property
    def run(self):  # type: ignore[no-untyped-def]
        """Hand on."""
        return self.grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Hand on."""
        return self.grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand on."""
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand on."""
        return self.grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Hand on."""
        return self.grid.send_and_receive(messages, timeout=timeout)


@final
class Asked(Passing):
    """`grid`, restricted to `nodes` in their order, so that any Flower strategy samples among them."""

    def __init__(self, grid: Grid, nodes: Sequence[int]) -> None:
        super().__init__(grid)
        self._nodes = list(nodes)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes asked this round."""
        return list(self._nodes)
