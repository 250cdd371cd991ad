"""How often to look for something that nobody announces."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

DUE = 0.5
"""The part of the shortest wait of late in which nothing is looked for."""
REMEMBERED = 8
BUSY = 2.0
"""Pauses in terms of what a look took: whoever answers slowly has much to do."""


@dataclass
class Pace:
    """Not before something can be there, often around the time when it should, less and less in a long silence."""

    quick: float
    """Seconds between two looks, at least."""
    soon: float
    """At most, when waits like this one have ended before."""
    slow: float
    """At most."""
    share: float
    """The pause as a part of the time in which nothing came."""
    clock: Callable[[], float] = time.monotonic
    _waits: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    _since: float = 0.0
    _expecting: bool = False

    def expect(self) -> None:
        """Something will come from now on, some time."""
        self._since, self._expecting = self.clock(), True

    def came(self) -> None:
        """Something came; more may follow at once."""
        if self._expecting:
            self._waits.append(self.clock() - self._since)
        self._since, self._expecting = self.clock(), False

    def pause(self, took: float = 0.0) -> float:
        """Seconds until the next look, where the last one took some."""
        silent = self.clock() - self._since
        shortest, longest = min(self._waits, default=0.0), max(self._waits, default=0.0)
        if self._expecting and silent < DUE * shortest:
            return min(DUE * shortest - silent, self.slow)
        most = self.soon if silent < 2 * longest else self.slow
        return min(max(self.quick, self.share * silent, BUSY * took), most)
