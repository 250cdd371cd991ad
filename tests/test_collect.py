"""A reply that was taken is not held while the next one is awaited: a server needs memory for one."""

import weakref
from collections.abc import Iterable, Iterator

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from fl_distill.codec import decode, encode
from fl_distill.collect import Collector, in_order
from fl_distill.mods import quantized
from fl_distill.phases import Exchange
from fl_distill.runtime.flower_private import identity
from fl_distill.strategies import FedAvg, Quantized

from .nodes import Nodes

MODEL = {"weight": torch.linspace(-1, 1, 4096)}


class Pairs(Nodes):
    """Two answers are there at each look, and what is alive of earlier ones is counted."""

    def __init__(self, *nodes: int) -> None:
        super().__init__(*nodes)
        self.given: list[weakref.ref[Message]] = []
        self.alive: list[int] = []

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.alive.append(count(self.given))
        pair = [Message(RecordDict(), reply_to=message) for message in self.asked[len(self.given) :][:2]]
        self.given += map(weakref.ref, pair)
        return pair


def count(refs: Iterable[weakref.ref[Message]]) -> int:
    return sum(ref() is not None for ref in refs)


def test_replies_of_one_look_are_let_go_one_by_one() -> None:
    alive = []
    with identity(1):
        grid = Pairs(1, 2, 3, 4)
        messages = [Message(RecordDict(), node, "query", group_id="1") for node in grid.get_node_ids()]
        replies = in_order(Exchange(grid).until(Collector().collect(grid, messages)), [1, 2, 3, 4])
        while next(replies, None) is not None:
            alive.append(count(grid.given))
    assert alive == [2, 1, 2, 1]
    assert grid.alive == [0, 0]


def train(message: Message, context: Context) -> Message:
    moved = {name: tensor + 0.01 for name, tensor in decode(message.content["arrays"]).items()}
    scores = MetricRecord({"num-examples": 10, "train-loss": 0.5})
    return Message(RecordDict({"arrays": encode(moved), "metrics": scores}), reply_to=message)


def spoiled(reply: Message) -> None:
    """Cut off the end of what it holds."""
    arrays = reply.content["arrays"]
    assert isinstance(arrays, ArrayRecord)
    name, array = next(iter(arrays.items()))
    arrays[name] = Array(array.dtype, array.shape, array.stype, array.data[:-3])


@pytest.mark.parametrize("bad", [set(), {2}], ids=["all good", "one bad"])
@pytest.mark.parametrize("strategy", [FedAvg(), Quantized(FedAvg(), up="int8", down="int8")], ids=["plain", "coded"])
def test_a_strategy_holds_no_reply_while_it_awaits_the_next(strategy: FedAvg | Quantized, bad: set[int]) -> None:
    alive = []

    def replies(messages: list[Message]) -> Iterator[Message]:
        sent: list[weakref.ref[Message]] = []
        while messages:
            alive.append(count(sent))
            node = messages[0].metadata.dst_node_id
            to = Message(messages.pop(0).content, node, "train", group_id="1")
            reply = quantized(to, Context(7, 1, {}, RecordDict(), {}), train)
            sent.append(weakref.ref(reply))
            if node in bad:
                spoiled(reply)
            yield reply
            del reply

    with identity(7):
        messages = list(strategy.configure_train(1, encode(MODEL), ConfigRecord(), Nodes(1, 2, 3)))
        arrays, _ = strategy.aggregate_train(1, replies(messages))
    assert isinstance(arrays, ArrayRecord)
    assert torch.allclose(decode(arrays)["weight"], MODEL["weight"] + 0.01, atol=1e-2)
    assert set(strategy.faults) == bad
    assert alive == [0, 0, 0]
