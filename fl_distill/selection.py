"""Whom a round asks, and who of them is slow: drawn over site names, so that a seed says it all."""

from collections.abc import Sequence

import torch

from .roster import Member
from .seeds import generator
from .stretches import stretches


def away(rounds: str, number: int) -> bool:
    """Whether round `number` is among `rounds`, such as "3-5", "3-" or "1-4,9"; faults are those of `stretches`."""
    return any(first <= number <= last for first, last in stretches(str(rounds)))


def sample(members: Sequence[Member], fraction: float, least: int, seed: int, number: int) -> list[Member]:
    """The sites asked in round `number`, in the order of their names; all of them where `fraction` is 1."""
    count = min(len(members), max(least, round(fraction * len(members)), 1))
    if count == len(members):
        return list(members)
    order = torch.randperm(len(members), generator=generator(seed, "sample", number))
    return [members[i] for i in sorted(order[:count].tolist())]


def stragglers(asked: Sequence[Member], part: float, seed: int, number: int) -> dict[str, float]:
    """Site name -> part of its work, uniform in (0, 1), for `part` of the sites asked (rounded down)."""
    count = int(part * len(asked) + 1e-9)
    if not count:
        return {}
    draws = generator(seed, "stragglers", number)
    slow = torch.randperm(len(asked), generator=draws)[:count].tolist()
    work = torch.rand(count, generator=draws).clamp(min=1e-3, max=0.999).tolist()
    return {asked[i].name: w for i, w in sorted(zip(slow, work, strict=True))}
