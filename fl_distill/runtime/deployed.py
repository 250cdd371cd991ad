"""The grid of a ServerApp that a SuperLink started: replies soon after they are there, at the price of few requests."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import final

from flwr.app import Message
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
        self._arrivals, self._sleep, self._pace = Arrivals(desk), sleep, Pace(_QUICK, _SLOW, _SLOW, _SHARE)
        self._pause = 0.0

    @staticmethod
    def over(grid: Grid) -> Grid:
        """This over a grid that Flower gave a ServerApp; another kind of grid as it is."""
        desk = Desk.of(grid)
        return grid if desk is None else Deployed(grid, desk)

    def push_messages(self, messages: Iterable[Message]) -> Sequence[str]:
        """Hand on; replies are expected from now on."""
        messages = list(messages)
        pushed = list(self.grid.push_messages(messages))
        self._arrivals.expect(pushed, messages)
        self._pace.expect()
        self._pause = self._pace.pause()
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Sequence[Message]:
        """The replies that are there after a pause."""
        self._sleep(self._pause)
        before, wanted = time.monotonic(), list(message_ids)
        news = self._arrivals.look(wanted)
        took = time.monotonic() - before
        replies = self._arrivals.take(wanted)
        if news or replies:
            self._pace.came()
        else:
            self._arrivals.settle()
        self._pause = 0.0 if replies else self._pace.pause(took)
        return replies
