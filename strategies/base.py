"""What every strategy here shares: sending to sites, reading replies safely, naming faults."""

import math
import time
from abc import ABC
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, final

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from ..errors import BadUpdate
from ..learning import Diverged
from ..seeds import derive
from .combiner import ARRAYS, Combiner, Facts
from .replies import WEIGHTS, MetricMeans, Read, number, read

CONFIG = "config"
Value = str | int | float | bool


class SiteStrategy(Strategy, ABC):
    """Ask sites with one message each, take their replies one by one, drop what cannot be used.

    A reply that is an error, lacks a tensor, has a wrong shape or dtype, holds NaN or infinity, or has a weight
    that is not a positive finite number costs its sender the round: `faults` maps the node to the reason.
    `fraction` matters under Flower's own `start()`: it samples nodes reproducibly from `seed`.
    """

    action: ClassVar[str] = MessageType.TRAIN
    """Message type that selects the site's half of the algorithm."""
    partial_work: ClassVar[bool] = False
    """Whether a site that did only a part of its steps still counts."""
    has_server_model: ClassVar[bool] = True
    """Whether the server holds the model, or one for each architecture, that sites receive and would deploy."""
    changes: ClassVar[tuple[str, ...]] = ()
    """Records of replies that are changes of the model themselves, such as gradients."""
    mixes: ClassVar[bool] = False
    """Whether sites may have different architectures."""
    uses_public: ClassVar[bool] = False
    """Whether sites need the public set, and must prove that all hold the same."""
    uses_labels: bool = False
    """Whether sites or server need the public set's labels."""
    feature_width: int | None = None
    """Width of the features of every site's model, whatever its architecture; None: each model's own."""

    def __init__(self, combine: Combiner, *, weight: str = "examples", fraction: float = 1.0, seed: int = 0) -> None:
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], not {fraction}")
        if weight not in WEIGHTS:
            raise ValueError(f"weight is one of {', '.join(WEIGHTS)}, not {weight!r}")
        self.fraction, self.weight, self.seed = fraction, weight, seed
        self._combine = combine
        self._facts = Facts()
        self.faults: dict[int, str] = {}
        self.troubles: list[str] = []
        """What went wrong at the server itself in the last round."""
        self._sent = ArrayRecord()

    def meet(self, facts: Facts) -> None:
        """Learn what the run is about, before its first round."""
        self._facts = facts
        self._combine.meet(facts)

    def models(self, arrays: ArrayRecord) -> Mapping[str, Mapping[str, Tensor]]:
        """The models that the server holds after a round, by architecture."""
        return self._combine.models(arrays)

    @property
    def rows(self) -> Mapping[str, str]:
        """See `Combiner.rows`."""
        return self._combine.rows

    @property
    def idle_ways(self) -> Mapping[str, str]:
        """Ways, `up` or `down`, in which a codec finds nothing to shorten -> why."""
        return self._combine.idle_ways

    def notes(self) -> Mapping[str, float]:
        """What the last round's knowledge was like, such as `agreement` and `entropy`, each in [0, 1]."""
        return self._combine.notes()

    def site_config(self) -> Mapping[str, Value]:
        """Plain values that the site's half of the algorithm needs each round."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """What the server keeps between rounds beside the arrays."""
        return self._combine.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self._combine.restore(state)

    # ------------------------------------------------------------ Flower's interface

    @final
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for each node asked this round."""
        self._sent = arrays
        values = {**config, **self.site_config(), "server-round": server_round, "weight": self.weight}
        if self.uses_public:
            values["public-seed"] = self._facts.seed
        return self._messages(server_round, arrays, values, grid, self.action)

    @final
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for each node; sites score the arrays on their own held-out data."""
        values = {**config, "server-round": server_round}
        arrays = arrays if self.has_server_model else ArrayRecord()  # sites score what they have
        return self._messages(server_round, arrays, values, grid, MessageType.EVALUATE)

    @final
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Combine replies in the order given; None when none of them can be used."""
        self.faults, self.troubles = {}, []
        self._combine.begin(self._sent, server_round)
        means = MetricMeans()
        at_once = isinstance(replies, Sequence) and self._combine.at_once(len(replies))
        for metrics, weight in (self._taken_at_once if at_once else self._taken)(replies):
            means.add(metrics, weight)
        if not means.weight:
            return None, None
        try:
            return self._combine.settle(), means.result()
        except Diverged as trouble:  # what was learned before stays
            self.troubles = [f"nothing was learned at the server: {trouble}"]
            return None, means.result()

    @final
    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The mean of the sites' scores, weighted by their held-out examples."""
        means = MetricMeans()
        for reply in replies:
            if reply.has_content():
                for metrics in reply.content.metric_records.values():
                    means.add(metrics, number(metrics.get("num-examples")))
        return means.result() if means.weight else None

    def summary(self) -> None:
        """Nothing: the run's observers say what it does."""

    # ------------------------------------------------------------

    def _messages(
        self, server_round: int, arrays: ArrayRecord, config: Mapping[str, object], grid: Grid, kind: str
    ) -> list[Message]:
        settings = ConfigRecord(config)  # type: ignore[arg-type]
        contents: dict[int, RecordDict] = {}  # sites that receive the same share one record
        messages = []
        for node in self._sample(server_round, _present(grid)):
            to = self._facts.sender(node)
            share = self._combine.share(arrays, to) if kind == self.action or arrays else arrays
            if id(share) not in contents:
                contents[id(share)] = RecordDict({ARRAYS: share, CONFIG: settings})
            messages.append(Message(contents[id(share)], node, kind, group_id=str(server_round)))
        return messages

    def _sample(self, server_round: int, nodes: list[int]) -> list[int]:
        if self.fraction == 1.0:
            return nodes
        count = max(1, math.ceil(self.fraction * len(nodes)))
        ranked = sorted(nodes, key=lambda node: derive(self.seed, "sample", server_round, node))
        return sorted(ranked[:count])

    def _usable(self, replies: Iterable[Message]) -> Iterator[Read]:
        """What replies say that are in order, as far as can be seen without their tensors; the others become faults."""
        for reply in replies:
            try:
                yield read(reply, self.weight, self.partial_work)
            except BadUpdate as fault:
                self.faults[reply.metadata.src_node_id] = str(fault)
            del reply  # not held while the next one is awaited

    def _taken(self, replies: Iterable[Message]) -> Iterator[tuple[MetricRecord, float]]:
        """Metrics and weights of the replies that were combined, each as it arrives; the others become faults."""
        for reply in self._usable(replies):
            try:
                self._combine.take(reply.content, reply.weight, self._facts.sender(reply.node))
                yield reply.metrics, reply.weight
            except BadUpdate as fault:
                self.faults[reply.node] = str(fault)
            del reply

    def _taken_at_once(self, replies: Iterable[Message]) -> Iterator[tuple[MetricRecord, float]]:
        """The same, of replies that are all there."""
        usable = list(self._usable(replies))
        faults = self._combine.take_all([reply.content for reply in usable], [reply.weight for reply in usable])
        for place, reply in enumerate(usable):
            if place in faults:
                self.faults[reply.node] = faults[place]
            else:
                yield reply.metrics, reply.weight


def _present(grid: Grid) -> list[int]:
    """The nodes of a grid; waits for the first one, as Flower's own strategies do."""
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.2)
    return nodes
