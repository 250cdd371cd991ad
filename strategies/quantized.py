"""Any Flower strategy, with fewer bytes: `Quantized(FedAdam(), up="int8", down="int8")`."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from ..codec.ways import Codecs, Way, misfits, way
from ..errors import BadUpdate
from .coding import Coding


@final
class Quantized(Strategy):
    """Wraps a strategy, of this package or of Flower: what it sends is coded, what it receives is decoded.

    `up`, `down`: a preset, or a sentence such as `delta residual rotate lloydmax2`; or a `Way` with a number of bytes.
    `sites`: ways up of nodes who differ, by the node's id as text.
    Clients need the mod `fl_distill.mods.quantized`. The strategy does not see a reply that cannot be decoded;
    `faults` says why, by node, for the last round.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        up: str | Way = "int8",
        down: str | Way = "int8",
        full: str = "fp16",
        sites: Mapping[str, Way] | None = None,
        seed: int = 0,
    ) -> None:
        self.strategy = strategy
        codecs = Codecs(way(up), way(down), full, sites or {})
        weights = bool(getattr(strategy, "has_server_model", True))
        changes = getattr(strategy, "changes", ())
        rows = getattr(strategy, "rows", {})
        if faults := misfits(codecs, rows):
            raise ValueError("; ".join(faults))
        self.coding = Coding(codecs, seed=seed, weights=weights, changes=changes, rows=rows)
        self.faults: dict[int, str] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The strategy's messages, coded."""
        return self.coding.outgoing(server_round, self.strategy.configure_train(server_round, arrays, config, grid))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """What the strategy makes of the decoded replies, one by one."""
        self.faults = {}
        nodes: list[int] = []
        result = self.strategy.aggregate_train(server_round, self._decoded(replies, nodes.append))
        bad = {*self.faults, *getattr(self.strategy, "faults", {})}
        if result[0] is not None:
            self.coding.used(server_round, [node for node in nodes if node not in bad])
        return result

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The strategy's messages, coded."""
        return self.coding.outgoing(server_round, self.strategy.configure_evaluate(server_round, arrays, config, grid))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """As the strategy does."""
        return self.strategy.aggregate_evaluate(server_round, self._decoded(replies, lambda _: None))

    def summary(self) -> None:
        """As the strategy does."""
        self.strategy.summary()

    def __getattr__(self, name: str) -> Any:
        # What a strategy offers beyond Flower's interface (such as `meet`) is the wrapped one's.
        if name == "strategy":
            raise AttributeError(name)
        return getattr(self.strategy, name)

    def _decoded(self, replies: Iterable[Message], heard: Callable[[int], None]) -> Iterable[Message]:
        for reply in replies:
            node, plain = reply.metadata.src_node_id, len(self.coding.plain)
            try:
                decoded = self.coding.incoming(reply)
            except BadUpdate as fault:
                self.faults[node] = why = str(fault)  # a log that keeps the error would keep the reply
                logging.getLogger("flwr").warning("node %s: %s", node, why)
                del reply
                continue
            if len(self.coding.plain) > plain:
                logging.getLogger("flwr").warning(
                    "node %s was asked for a coded answer and sent one that is not: its ClientApp needs "
                    "mods=[quantized], from fl_distill.mods import quantized",
                    node,
                )
            if decoded.has_content():
                heard(node)
            yield decoded
            del reply, decoded  # not held while the next one is awaited
