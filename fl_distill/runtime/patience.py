"""Waiting for what passes by itself: longer and longer, with one line in the log for each kind of reason."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

FIRST_S, MOST_S = 1.0, 30.0
SPREAD = 0.2
"""Many wait for the same thing, and should not all come back at the same moment."""


def growing(first: float = FIRST_S, most: float = MOST_S) -> Iterator[float]:
    """Pauses in seconds, each twice the one before, up to `most`."""
    while True:
        yield first * random.uniform(1 - SPREAD, 1)
        first = min(2 * first, most)


@dataclass
class Reasons:
    """Why something is waited for; each kind is said once until it has passed."""

    say: Callable[[str], None]
    _said: set[str] = field(default_factory=set)

    def arose(self, kind: str, sentence: str) -> None:
        """There is such a reason."""
        if kind not in self._said:
            self._said.add(kind)
            self.say(sentence)

    def passed(self) -> None:
        """There is none any more."""
        if self._said:
            self._said.clear()
            self.say("that has passed: going on")
