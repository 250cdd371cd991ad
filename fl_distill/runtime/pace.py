"""How often to look for something that nobody announces."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

DUE = 0.5
"""The part of the shortest wait of late in which nothing is looked for, unless that is long."""
EARLY, LATE = 0.8, 1.25
"""Between these parts of a wait of late, what comes as regularly as before is found."""
NEAR = 0.2
"""Seconds between two looks then, at most."""
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
    _began: float = 0.0
    """When something was expected from; 0 for never."""
    _since: float = 0.0
    """When something came, or was expected."""
    _expecting: bool = False
    _of: int = 0

    def expect(self) -> None:
        """Something will come from now on, some time."""
        self._began = self._since = self.clock()
        self._expecting = True

    def came(self, of: int = 0) -> None:
        """Something came; more may follow at once. How long one waited for it says nothing of another `of`."""
        now = self.clock()
        if of != self._of:
            self._waits.clear()
        elif self._began:
            self._waits.append(now - self._began)
        self._since, self._expecting, self._of = now, False, of

    def pause(self, took: float = 0.0) -> float:
        """Seconds until the next look, where the last one took some."""
        now = self.clock()
        silent, waited = now - self._since, now - self._began
        shortest, longest = min(self._waits, default=0.0), max(self._waits, default=0.0)
        if self._expecting and silent < DUE * shortest:
            return min(DUE * shortest - silent, self.soon)
        most = self.soon if waited < 2 * longest else self.slow
        grown = min(max(self.quick, self.share * silent), most, self._until_near(waited))
        return max(grown, min(BUSY * took, most))

    def _until_near(self, waited: float) -> float:
        """Seconds until a wait like one of those remembered may end; `NEAR` where that is now."""
        ahead = [wait for wait in self._waits if waited < LATE * wait]
        return max(NEAR, EARLY * min(ahead) - waited) if ahead else self.slow
