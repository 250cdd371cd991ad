"""Server halves: what happens to the replies of a round."""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor

from ..codec import decode, encode, schema_of
from ..errors import BadUpdate
from ..knowledge import WeightedMean
from .all_at_once import mean_of, worth_it
from .combiner import ARRAYS, Combiner, Facts, Sender, record_of

GRADIENTS, BUFFERS = "gradients", "buffers"


@final
class WeightAverage(Combiner):
    """w <- sum_k c_k w_k / sum_k c_k; every reply must look exactly like what was sent."""

    def begin(self, sent: ArrayRecord, number: int) -> None:
        """Expect replies of this form."""
        self._schema = schema_of(sent)
        self._mean = WeightedMean()

    def take(self, content: RecordDict, weight: float, sender: Sender) -> None:
        """Add one site's weights."""
        self._mean.add(decode(record_of(content, ARRAYS), self._schema), weight)

    def at_once(self, count: int) -> bool:
        """Where the models are large and numba is at hand."""
        return worth_it(self._schema, count)

    def take_all(self, contents: Sequence[RecordDict], weights: Sequence[float]) -> Mapping[int, str]:
        """Add all sites' weights, several in one pass over memory."""
        self._mean, faults = mean_of(self._schema, contents, weights)
        return faults

    def settle(self) -> ArrayRecord:
        """The mean model."""
        return encode(self._mean.result())

    def models(self, arrays: ArrayRecord) -> Mapping[str, Mapping[str, Tensor]]:
        """The one model."""
        return {"": decode(arrays)} if arrays else {}


@final
class GradientStep(Combiner):
    """v <- m v + sum_k c_k g_k / sum_k c_k;  w <- w - lr v.  Buffers (BatchNorm's statistics) are averaged."""

    def __init__(self, lr: float, momentum: float) -> None:
        if not lr > 0:
            raise ValueError(f"lr must be > 0, not {lr}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), not {momentum}")
        self._lr, self._momentum = lr, momentum
        self._velocity: dict[str, Tensor] = {}
        self._names: frozenset[str] | None = None

    def meet(self, facts: Facts) -> None:
        """Know which tensors are gradients, whatever a reply says."""
        self._names = facts.trainable

    def begin(self, sent: ArrayRecord, number: int) -> None:
        """Remember the weights that the gradients belong to."""
        self._schema, self._weights = schema_of(sent), decode(sent)
        self._gradient, self._buffers = WeightedMean(), WeightedMean()

    def take(self, content: RecordDict, weight: float, sender: Sender) -> None:
        """Add one site's gradient and buffers; together they cover every tensor that was sent."""
        record = record_of(content, GRADIENTS)
        names = frozenset(record) & self._schema.keys() if self._names is None else self._names
        gradient = decode(record, {name: form for name, form in self._schema.items() if name in names})
        rest = {name: form for name, form in self._schema.items() if name not in names}
        buffers = decode(record_of(content, BUFFERS), rest) if rest else {}
        if not gradient:
            raise BadUpdate("it sent no gradient")
        self._names = names  # where nobody said which tensors are trained, the first site does
        self._gradient.add(gradient, weight)
        self._buffers.add(buffers, weight)

    @torch.no_grad()
    def settle(self) -> ArrayRecord:
        """The weights after one step along the mean gradient."""
        step = self._gradient.result()
        if self._momentum:
            for name, gradient in step.items():
                if name in self._velocity:
                    gradient.add_(self._velocity[name], alpha=self._momentum)
            self._velocity = step
        moved = {name: self._weights[name] - self._lr * gradient for name, gradient in step.items()}
        after = {**moved, **self._buffers.result()}
        return encode({name: after[name] for name in self._schema})

    def models(self, arrays: ArrayRecord) -> Mapping[str, Mapping[str, Tensor]]:
        """The one model."""
        return {"": decode(arrays)} if arrays else {}

    def state(self) -> dict[str, Tensor]:
        """The velocity."""
        return dict(self._velocity)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take the velocity back."""
        self._velocity = dict(state)


@final
class Nothing(Combiner):
    """Sites exchange nothing."""

    @property
    def idle_ways(self) -> Mapping[str, str]:
        """Both."""
        return dict.fromkeys(("up", "down"), "sites exchange nothing")

    def begin(self, sent: ArrayRecord, number: int) -> None:
        """Nothing to prepare."""

    def take(self, content: RecordDict, weight: float, sender: Sender) -> None:
        """Only metrics arrive."""

    def settle(self) -> None:
        """The server holds no model."""
