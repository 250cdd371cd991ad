"""Rounds as people write them: "3-5", "3-", "1-4,9"."""

import math


def stretches(rounds: str) -> list[tuple[int, float]]:
    """First and last round of each stretch; raises ValueError for anything but "3", "3-5", "3-" and lists of them."""
    found: list[tuple[int, float]] = []
    for part in rounds.split(",") if rounds else []:
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or not (last.isdecimal() or (dash and not last) or not dash):
            raise ValueError(f"rounds are written like 3, 3-5, 3- or 1-4,9, not {rounds!r}")
        found.append((int(first), int(last) if last else math.inf if dash else int(first)))
    return found
