"""Checks of values, so that one error lists every fault."""

import math


def require(*rules: tuple[bool, str]) -> None:
    """Raise one ValueError with the sentences of all rules that do not hold."""
    if faults := [sentence for holds, sentence in rules if not holds]:
        raise ValueError("; ".join(faults))


def number(value: object, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether `value` is a finite number with low <= value <= high."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return good and low <= value <= high  # type: ignore[operator]


def positive(value: object) -> bool:
    """Whether `value` is a finite number above 0."""
    return number(value) and value > 0  # type: ignore[operator]


def whole(value: object, low: int = 1) -> bool:
    """Whether `value` is an integer >= low."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= low
