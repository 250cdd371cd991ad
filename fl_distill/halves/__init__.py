"""The site's half of each algorithm: a function (client, task) -> outcome, named by the strategy's `action`."""

from .alone import alone
from .by_class import by_class
from .public import mutual
from .split import split
from .weights import averaged, gradient, scored

__all__ = ["alone", "averaged", "by_class", "gradient", "mutual", "scored", "split"]
