"""Which sites travel together: bundles of about equal work, by what each site's work took before."""

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import final

from .tasks import Task

UNKNOWN_S = 1.0
"""What the work of sites takes of which nothing is known."""
REMEMBERED = 5
"""Times of which the shortest counts: what else a machine does only ever makes work longer."""


@final
class Balance:
    """Seconds that each site's work took, by kind of message, and bundles made after them."""

    def __init__(self) -> None:
        self._took: dict[tuple[str, int], deque[float]] = {}

    def note(self, task: Task, seconds: float) -> None:
        """What a task took."""
        self._took.setdefault((task.metadata.message_type, task.node), deque(maxlen=REMEMBERED)).append(seconds)

    def costs(self, tasks: Iterable[Task]) -> list[float]:
        """Seconds that tasks will take: what they took before, else the mean of the others."""
        took = [self._took.get((task.metadata.message_type, task.node)) for task in tasks]
        known = [None if some is None else min(some) for some in took]
        told = [cost for cost in known if cost is not None]
        usual = fmean(told) if told else UNKNOWN_S
        return [usual if cost is None else cost for cost in known]

    def split(self, tasks: Sequence[Task], bundles: int) -> list[list[Task]]:
        """The tasks in at most so many bundles: the longest first, each to the one with the least work.

        Inside a bundle they have the order in which they were sent.
        """
        costs = self.costs(tasks)
        loads = [(0.0, number) for number in range(bundles)]
        made: list[list[Task]] = [[] for _ in loads]
        for at in sorted(range(len(tasks)), key=lambda at: (-costs[at], tasks[at].number)):
            load, number = heapq.heappop(loads)
            made[number].append(tasks[at])
            heapq.heappush(loads, (load + costs[at], number))
        return [sorted(some, key=lambda task: task.number) for some in made if some]
