"""The way of bundles: as messages to another grid's nodes, or handed to a worker that stays for more.

An engine may take a while to deliver a message, Flower's tenths of a second. So a worker that has done its bundle looks
for some time whether the next one lies in the memory that it shares with the server; only then it answers the engine's
message. Whoever puts a bundle there does not know whether the worker has gone by then: if so, the engine's answer comes
with nothing of the bundle begun, and it is sent again.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import final

from flwr.app import Message
from flwr.serverapp import Grid

from ..collect import Cancels
from ..errors import FlDistillError
from .bell import Bell
from .bundle import content_of, pack
from .carrier import KIND
from .errand import Errand
from .ledger import Reader
from .shared import Library
from .tasks import States, Task

MARGIN_S = 10.0
"""How much longer a bundle is valid than its messages, which expire here first."""
TERM_S = 600.0
"""For so long a worker may take one bundle after the other before it answers."""
NEAR_S = 0.5
"""A worker that would go in so few seconds is not counted on."""
_LOOK_S, _START_S = 0.005, 60.0


@final
class Couriers:
    """Takes bundles to the nodes of `grid`; `workers` of them work at a time.

    `stay_s`: how long a worker stays after its bundle. `check` raises to abandon the wait for nodes.
    """

    def __init__(
        self, grid: Grid, workers: int, states: States, shared: bool, stay_s: float, check: Callable[[], None]
    ) -> None:
        self._grid, self._workers, self._states, self._check = grid, workers, states, check
        self._stay_s = stay_s
        self._library = Library(lambda _: None)
        self._bell = Bell()
        self._idle: list[Reader] = []
        self._nodes: list[int] = []
        self._out: dict[str, Errand] = {}
        self._done: set[tuple[Errand, bool]] = set()
        self.shared = shared
        """Whether memory that server and workers share can be reached from everywhere, as far as is known."""

    # ------------------------------------------------------------ who is where

    def out(self) -> list[tuple[str, Errand]]:
        """The bundles that are not over."""
        return list(self._out.items())

    def __contains__(self, key: str) -> bool:
        return key in self._out

    @property
    def working(self) -> int:
        """How many workers have something to do."""
        now = time.monotonic()
        return sum(errand.busy(now) for errand in self._out.values())

    # ------------------------------------------------------------ out

    def send(self, tasks: Sequence[Task]) -> bool:
        """Give a worker these; False where the engine takes no messages any more."""
        now = time.monotonic()
        until = max(max(task.deadline for task in tasks), now) + MARGIN_S
        for key, errand in self._out.items():
            stays = self.shared and errand.takes_more(now + NEAR_S) and until < errand.valid_until
            if stays and errand.ledger is not None:
                self._hand_over(key, errand, errand.ledger, tasks)
                return True
        return self._push(tasks, until - now)

    def _hand_over(self, key: str, before: Errand, ledger: Reader, tasks: Sequence[Task]) -> None:
        """Put a bundle where the worker looks that has answered all of the one before."""
        errand = Errand(before.node, tasks, ledger, before.valid_until, self._stay_s)
        content, errand.borrowed = pack(tasks, self._states, self._library, ledger, self._stay_s)
        errand.borrowed.append(item := self._library.borrow(content))
        self._library.release(before.borrowed)
        before.borrowed = []
        self._out[key] = errand
        ledger.post(item.offset, len(content))

    def _push(self, tasks: Sequence[Task], ttl: float) -> bool:
        stay_s = self._stay_s if self.shared else 0.0
        ledger = self._ledger() if self.shared else None
        ttl += TERM_S if stay_s else 0.0
        errand = Errand(self._node(), tasks, ledger, time.monotonic() + ttl, stay_s)
        content, errand.borrowed = pack(tasks, self._states, self._library, ledger, stay_s)
        message = Message(content_of(content), errand.node, KIND, ttl=ttl)
        keys = list(self._grid.push_messages([message]))
        if keys:
            self._out[keys[0]] = errand
        else:
            self._settle(errand, reused=True)
        return bool(keys)

    def _ledger(self) -> Reader:
        ledger = self._idle.pop() if self._idle else Reader(self._bell)
        ledger.reset()
        return ledger

    def _node(self) -> int:
        """The node with the least to do; who stays there for more is let go."""
        busy = Counter(errand.node for errand in self._out.values() if not errand.answered_all)
        ending = Counter(errand.node for errand in self._out.values())
        chosen = min(self._carriers(), key=lambda node: (busy[node], ending[node]))
        for errand in self._out.values():
            if errand.node == chosen:
                errand.dismiss()
        return chosen

    def _carriers(self) -> list[int]:
        """The nodes, once they are there."""
        until = time.monotonic() + _START_S
        while len(self._nodes) < self._workers:
            self._check()
            if time.monotonic() > until:
                raise FlDistillError(f"the engine has {len(self._nodes)} nodes, expected {self._workers}")
            self._nodes = list(self._grid.get_node_ids())
            if len(self._nodes) < self._workers:
                time.sleep(_LOOK_S)
        return self._nodes

    # ------------------------------------------------------------ back

    def wait(self, seconds: float) -> None:
        """Until a worker has something to say through shared memory; no longer than that."""
        self._bell.wait(seconds)

    @property
    def changing(self) -> bool:
        """Whether it will soon be known what a worker that was to begin no more has begun."""
        return any(errand.limited for errand in self._out.values())

    def any_newly_done(self) -> bool:
        """Whether a worker has answered all of its bundle, or waits for another, that had not at the last call."""
        done = {(errand, errand.awaits_more) for errand in self._out.values() if errand.answered_all}
        before, self._done = self._done, done
        return not done <= before

    def replies(self) -> Iterator[tuple[str, Errand, Message]]:
        """The engine's answers that have come."""
        if not self.shared:
            for errand in self._out.values():
                errand.dismiss()  # it would keep others from the engine's messages
        for reply in self._grid.pull_messages(list(self._out)) if self._out else ():
            key = reply.metadata.reply_to_message_id
            yield key, self._out[key], reply

    def cancel(self, key: str) -> bool:
        """Free the worker of a bundle, where the engine can do that."""
        if not isinstance(self._grid, Cancels):
            return False
        self._grid.cancel([key])
        return True

    def over(self, key: str, reused: bool) -> None:
        """A bundle is over; its ledger serves another one unless a worker may still write there (`reused`)."""
        if (errand := self._out.pop(key, None)) is not None:
            self._settle(errand, reused)

    def _settle(self, errand: Errand, reused: bool) -> None:
        self._library.release(errand.borrowed)
        errand.borrowed = []
        if errand.ledger is not None and reused and len(self._idle) < 2 * self._workers:
            self._idle.append(errand.ledger)
        elif errand.ledger is not None:
            errand.ledger.limit(0)
            errand.ledger.close()

    def close(self) -> None:
        """Let the workers go, and give the shared memory back."""
        for key in list(self._out):
            self.over(key, reused=False)
        for ledger in self._idle:
            ledger.close()
        self._library.close()
        self._bell.close()
        self._idle.clear()
        self._done.clear()
