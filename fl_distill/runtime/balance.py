"""Which sites travel together: bundles of about equal work, by what each site's work took before."""

import heapq
import math
from collections.abc import Sequence
from statistics import fmean
from typing import final

from .tasks import Task

LONG_S = 2.0
"""Seconds of work in one bundle, about, where there is more than this for every worker."""
UNKNOWN = 4
"""Bundles for each worker while for most sites nobody knows what the work takes."""


@final
class Balance:
    """Seconds that each site's work took, by kind of message, and bundles made after them."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._costs: dict[tuple[str, int], float] = {}

    def note(self, task: Task, seconds: float) -> None:
        """What a task took; later ones count more."""
        key = task.metadata.message_type, task.node
        self._costs[key] = (self._costs.get(key, seconds) + seconds) / 2

    def split(self, tasks: Sequence[Task]) -> list[list[Task]]:
        """The tasks in bundles: the longest first, each to the bundle with the least work; in order of nodes inside.

        As many bundles as workers, or more where they would be long, so that what is ready comes back meanwhile.
        """
        known = [self._costs.get((task.metadata.message_type, task.node)) for task in tasks]
        told = [cost for cost in known if cost is not None]
        usual = fmean(told) if told else 1.0
        costs = [usual if cost is None else cost for cost in known]
        count = min(len(tasks), self._count(sum(costs), 2 * len(told) >= len(tasks)))
        loads = [(0.0, number) for number in range(count)]
        bundles: list[list[Task]] = [[] for _ in range(count)]
        for at in sorted(range(len(tasks)), key=lambda at: (-costs[at], tasks[at].node)):
            load, number = heapq.heappop(loads)
            bundles[number].append(tasks[at])
            heapq.heappush(loads, (load + costs[at], number))
        return [sorted(bundle, key=lambda task: task.number) for bundle in bundles if bundle]

    def _count(self, total: float, known: bool) -> int:
        if not known:
            return UNKNOWN * self._workers
        return self._workers * max(1, math.ceil(total / self._workers / LONG_S))
