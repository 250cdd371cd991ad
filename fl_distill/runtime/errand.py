"""One bundle on its way, as the server sees it: who has answered, who is at work, who was not begun."""

import time
from collections.abc import Sequence
from math import inf
from typing import final

from .frames import FrameError
from .ledger import Reader
from .shared import Item
from .tasks import Task

OVERDUE_S = 1.0
"""Seconds at one site after which those behind it may be given away, whatever they would take."""
SETTLED_S = 0.005
"""After so long a worker that was told to begin no more has heard it, or has begun."""

RETURNED_S = 0.02
"""After its last answer a worker that stays waits for more in this time, or there is something wrong with it."""


@final
class Errand:
    """`tasks` in the order in which `node` works on them; answers come through `ledger`, or at the end (None)."""

    def __init__(
        self, node: int, tasks: Sequence[Task], ledger: Reader | None, valid_until: float = inf, stay_s: float = 0.0
    ) -> None:
        self.node, self.ledger, self.valid_until, self._stay_s = node, ledger, valid_until, stay_s
        self._dismissed = False
        self.borrowed: list[Item] = []
        """What its messages need of the library, until all of it is over."""
        self._open = dict(enumerate(tasks))
        self._since = time.monotonic()
        self._limit = len(self._open)
        self._limited_at: float | None = None

    def left(self) -> list[Task]:
        """Those without an answer, in order."""
        return list(self._open.values())

    def answered(self, number: int, message_id: str) -> Task:
        """The task with this number has its answer. Raises `FrameError` where it is none of those left."""
        if not isinstance(number, int) or number not in self._open:
            raise FrameError(f"an answer to order {number!r}, expected one of {list(self._open)[:5]}")
        if self._open[number].metadata.message_id != message_id:
            raise FrameError(f"an answer to another message than that of order {number}")
        self._since = time.monotonic()
        return self._open.pop(number)

    @property
    def answered_all(self) -> bool:
        """Whether only the end of the bundle is still to be heard of: its worker has nothing to do."""
        return not self._open

    def takes_more(self, until: float) -> bool:
        """Whether the worker waits for another bundle, and will at that time."""
        return self.answered_all and self.awaits_more and not self._dismissed and until < self._since + self._stay_s

    def dismiss(self) -> None:
        """Let a worker go that has answered all."""
        if self.ledger is not None and self.answered_all:
            self._dismissed = True
            self.ledger.limit(0)

    def busy(self, now: float) -> bool:
        """Whether the worker has something to do, or is just about to wait for more."""
        returning = self._stay_s > 0 and now < self._since + RETURNED_S and not self.awaits_more
        return not self.answered_all or returning

    @property
    def awaits_more(self) -> bool:
        """Whether the worker waits for another bundle: what has no answer once all are read, it will not begin."""
        return self.ledger is not None and self.ledger.awaited

    @property
    def begun(self) -> list[Task]:
        """Those left that may have been begun; without a ledger nobody knows, and they are taken in order."""
        if self.ledger is None:
            return self.left()[:1]
        begun = self.ledger.begun
        return [task for number, task in self._open.items() if number < begun]

    @property
    def stuck(self) -> bool:
        """Whether nobody waits for one that the worker may be at."""
        return any(task.expired for task in self.begun or self.left()[:1])

    def not_begun(self) -> list[Task]:
        """Those that could still be given to another worker."""
        if self.ledger is None or self._limited_at is not None:
            return []
        begun = self.ledger.begun
        return [task for number, task in self._open.items() if begun <= number < self._limit]

    def give_half(self, worthy: bool, now: float) -> None:
        """Let the worker begin only half of what is before it, where that is worth it or somebody takes very long.

        A worker that has begun nothing yet keeps one at least: elsewhere that would not be begun any sooner.
        """
        at_work = self.ledger is not None and self.ledger.begun > 0
        given = (len(self.not_begun()) + at_work) // 2
        if given and (worthy or now - self._since > OVERDUE_S):
            self._cut(self._limit - given, now)

    def stop(self, now: float) -> None:
        """Let the worker begin nothing more; what it has begun is still wanted."""
        if self.ledger is not None and self.not_begun():
            self._cut(self.ledger.begun, now)

    def given_back(self) -> list[Task]:
        """All that is left, of a worker that waits for another bundle: from now on no affair of this one."""
        left = self.left()
        self._open.clear()
        return left

    @property
    def limited(self) -> bool:
        """Whether the worker was told to begin no more, a moment ago."""
        return self._limited_at is not None

    def left_over(self, now: float) -> list[Task]:
        """What the worker was told not to begin, and has not: from now on no affair of this bundle."""
        if self.ledger is None or self._limited_at is None or now < self._limited_at + SETTLED_S:
            return []
        self._limited_at = None
        least = max(self.ledger.begun, self._limit)
        return [self._open.pop(number) for number in list(self._open) if number >= least]

    def _cut(self, limit: int, now: float) -> None:
        assert self.ledger is not None
        self._limit, self._limited_at = limit, now
        self.ledger.limit(limit)
