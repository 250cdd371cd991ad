"""The site's half of each algorithm: a function (client, task) -> outcome, named by the strategy's `action`."""

from collections.abc import Callable

from ..client import Client
from ..task import Outcome, Task
from .alone import alone
from .by_class import by_class
from .leaving import KINDS, leaves
from .public import mutual
from .split import split
from .weights import averaged, gradient, scored

__all__ = ["KINDS", "alone", "averaged", "by_class", "gradient", "leaves", "mutual", "of", "scored", "split"]


def of(action: str) -> Callable[[Client, Task], Outcome]:
    """The half that a strategy's `action` (a message type) asks for."""
    named = {half.__name__: half for half in (alone, averaged, by_class, gradient, mutual, split)}
    return named[action.partition(".")[2] or averaged.__name__]
