"""The grid of a ServerApp that a SuperLink started: replies soon after they are there, at the price of few requests."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import final

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from ..asked import Passing
from .arrivals import Arrivals
from .flower_private import Desk
from .pace import Pace

_QUICK, _SLOW, _SHARE = 0.05, 1.0, 0.1


@final
class Deployed(Passing):
    """Looks for replies at its own pace; a pull takes as long as the pause before the next look."""

    def __init__(self, grid: Grid, desk: Desk, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__(grid)
        self._desk, self._arrivals = desk, Arrivals(desk)
        self._sleep, self._pace = sleep, Pace(_QUICK, _SLOW, _SLOW, _SHARE)
        self._pause = 0.0
        self._waiting: set[str] = set()
        """What the pause is for; who looks for something else does not wait."""

    @staticmethod
    def over(grid: Grid) -> Grid:
        """This over a grid that Flower gave a ServerApp; another kind of grid as it is."""
        desk = Desk.of(grid)
        return grid if desk is None else Deployed(grid, desk)

    def connections(self) -> Mapping[int, str]:
        """The nodes that are online, and since when."""
        return self._desk.connections()

    def push_messages(self, messages: Iterable[Message]) -> Sequence[str]:
        """Hand on; replies are expected from now on, though not to questions, which take any time."""
        messages = list(messages)
        pushed = list(self.grid.push_messages(messages))
        self._arrivals.expect(pushed, messages)
        if any(message.metadata.message_type != MessageType.QUERY for message in messages):
            self._pace.expect()
            self._pause, self._waiting = self._pace.pause(), set(pushed)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Sequence[Message]:
        """The replies that are there after a pause."""
        wanted = set(message_ids)
        self._sleep(self._pause if wanted & self._waiting else 0.0)
        before = time.monotonic()
        news = self._arrivals.look(wanted)
        took = time.monotonic() - before
        replies = self._arrivals.take(wanted)
        if news or replies:
            self._pace.came()
        else:
            self._arrivals.settle()
        self._pause, self._waiting = 0.0 if replies else self._pace.pause(took), wanted
        return replies
