"""Imports in a hurry."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_MANY = 50_000


@contextmanager
def in_a_hurry() -> Iterator[None]:
    """Look for garbage rarely: modules make much that stays, and a fifth of their time would go into looking."""
    young, *older = gc.get_threshold()
    gc.set_threshold(max(young, _MANY) if young else 0, *older)
    try:
        yield
    finally:
        gc.set_threshold(young, *older)
