"""What a reply says beside its tensors: read with care, and averaged."""

import math
from typing import NamedTuple, final

from flwr.app import Message, MetricRecord, RecordDict

from ..errors import BadUpdate

METRICS = "metrics"

WEIGHTS = {"examples": "num-examples", "uniform": None, "validation": "trained-validation-accuracy"}
"""What a site weighs in a mean -> the metric of its reply that says so."""

SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-3, 1e12
"""More examples than any site has, and fewer; other weights would drown the rest or leave float32."""


class Read(NamedTuple):
    """A reply in order, as far as can be seen without its tensors."""

    node: int
    content: RecordDict
    metrics: MetricRecord
    weight: float


def read(reply: Message, by: str, partial_work: bool) -> Read:
    """What a reply says, weighed `by` one of `WEIGHTS`; raises `BadUpdate` for what cannot be used.

    `partial_work`: whether a site that did only a part of its steps still counts.
    """
    if reply.has_error():
        raise BadUpdate(reply.error.reason or f"error {reply.error.code} without a reason")
    metrics = reply.content.get(METRICS)
    if not isinstance(metrics, MetricRecord):
        raise BadUpdate(f"the reply has no {METRICS!r} record")
    work = number(metrics.get("work", 1.0))
    if not work >= 1 and not partial_work:
        raise BadUpdate(f"the site did only {work:.0%} of its work; this strategy wants all of it")
    return Read(reply.metadata.src_node_id, reply.content, metrics, _weight(metrics, by))


def _weight(metrics: MetricRecord, by: str) -> float:
    key = WEIGHTS[by]
    weight = 1.0 if key is None else number(metrics.get(key))
    if by == "validation" and weight == 0:
        weight = SMALLEST_WEIGHT  # it is right about nothing yet, which is no fault
    if not SMALLEST_WEIGHT <= weight <= LARGEST_WEIGHT:
        raise BadUpdate(
            f"its weight {key!r} is {weight}, expected a number from {SMALLEST_WEIGHT:g} to {LARGEST_WEIGHT:g}"
        )
    return weight


@final
class MetricMeans:
    """Weighted means of the scalar metrics that every site sends."""

    def __init__(self) -> None:
        self.weight = 0.0
        self._sums: dict[str, float] = {}

    def add(self, metrics: MetricRecord, weight: float) -> None:
        """Add one site's, unless its weight is not a positive finite number."""
        if not (math.isfinite(weight) and weight > 0):
            return
        scalars = {k: float(v) for k, v in metrics.items() if isinstance(v, int | float)}
        keys = scalars.keys() if not self.weight else self._sums.keys() & scalars.keys()
        self._sums = {k: self._sums.get(k, 0.0) + weight * scalars[k] for k in sorted(keys)}
        self.weight += weight

    def result(self) -> MetricRecord:
        """The means of what all sites sent."""
        return MetricRecord({k: v / self.weight for k, v in self._sums.items()})


def number(value: object) -> float:
    """A number as float, NaN for all else."""
    return float(value) if isinstance(value, int | float) else math.nan
