"""The grid of a ServerApp that a SuperLink started: replies soon after they are there, at the price of few requests."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import final

from flwr.app import Message, Metadata
from flwr.serverapp import Grid

from ..asked import Passing
from .envelope import KEY
from .flower_private import Desk
from .pace import Pace

_QUICK, _SLOW, _SHARE = 0.05, 1.0, 0.1


@final
class Deployed(Passing):
    """Looks for replies at its own pace; a pull takes as long as the pause before the next look."""

    def __init__(self, grid: Grid, desk: Desk, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__(grid)
        self._desk, self._sleep, self._pace = desk, sleep, Pace(_QUICK, _SLOW, _SLOW, _SHARE)
        self._last: dict[int, Metadata] = {}
        """By node: a reply of which not everything may have arrived yet, so that it cannot be confirmed."""
        self._done: list[Metadata] = []
        self._pause = 0.0

    @staticmethod
    def over(grid: Grid) -> Grid:
        """This over a grid that Flower gave a ServerApp; another kind of grid as it is."""
        desk = Desk.of(grid)
        return grid if desk is None else Deployed(grid, desk)

    def push_messages(self, messages: Iterable[Message]) -> Sequence[str]:
        """Hand on; replies are expected from now on."""
        pushed = list(self.grid.push_messages(messages))
        self._pace.expect()
        self._pause = self._pace.pause()
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Sequence[Message]:
        """The replies that are there after a pause."""
        self._sleep(self._pause)
        before = time.monotonic()
        found = self._desk.heads(message_ids)
        took = time.monotonic() - before
        if found:
            self._pace.came()
        else:
            self._confirm()
        replies = [self._fetched(head, tree) for head, tree in found]
        self._pause = 0.0 if found else self._pace.pause(took)
        return replies

    def _fetched(self, head: Message, tree: object) -> Message:
        reply, unasked = self._desk.fetch(head, tree, KEY)
        if unasked:
            # A site that has sent another reply has sent this one to its end.
            if (earlier := self._last.pop(head.metadata.src_node_id, None)) is not None:
                self._done.append(earlier)
            self._last[head.metadata.src_node_id] = head.metadata
        else:
            self._desk.confirm(head.metadata)
        return reply

    def _confirm(self) -> None:
        """Nothing is there to be fetched: time to say what was."""
        while self._done:
            self._desk.confirm(self._done.pop())
