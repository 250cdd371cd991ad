"""What a server of quantized updates needs does not grow with the number of its sites."""

import os
import subprocess
import sys

import pytest

from .conftest import ROOT

MODEL_KB = 4 * 11_173_962 / 1024
# One round of a server; each reply is made by the site's half when the strategy asks for it, and nobody keeps it.
SERVER = """
import resource, sys
from collections.abc import Iterator

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from fl_distill import models
from fl_distill.codec import decode, encode
from fl_distill.mods import quantized
from fl_distill.runtime.flower_private import identity
from fl_distill.strategies import FedAvg, Quantized

torch.set_num_threads(1)
count, codec = int(sys.argv[1]), sys.argv[2]


class Nodes:
    def get_node_ids(self) -> list[int]:
        return list(range(1, count + 1))


def train(message: Message, context: Context) -> Message:
    moved = {n: t + 0.01 if t.is_floating_point() else t for n, t in decode(message.content["arrays"]).items()}
    scores = MetricRecord({"num-examples": 10, "train-loss": 0.5})
    return Message(RecordDict({"arrays": encode(moved), "metrics": scores}), reply_to=message)


def replies(messages: list[Message]) -> Iterator[Message]:
    while messages:
        sent = messages.pop()
        node = sent.metadata.dst_node_id
        to = Message(sent.content, node, "train", group_id="1")
        yield quantized(to, Context(7, node, {}, RecordDict(), {}), train)


with identity(7):
    strategy = Quantized(FedAvg(), up=codec, down="int8")
    start = encode(models.resnet18((3, 32, 32), 10).state_dict())
    messages = list(strategy.configure_train(1, start, ConfigRecord(), Nodes()))
    assert len(messages) == count
    arrays, _ = strategy.aggregate_train(1, replies(messages))
    assert not strategy.faults, strategy.faults
    moved = decode(arrays)["head.weight"] - decode(start)["head.weight"]
    assert abs(float(moved.mean()) - 0.01) < 1e-3
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kb(replies: int, codec: str) -> int:
    """The largest memory of a fresh process that takes so many replies."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", SERVER, str(replies), codec]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["int8", "step", "eden4"])
def test_fifty_replies_need_little_more_than_one(codec: str) -> None:
    few, many = peak_kb(1, codec), peak_kb(50, codec)
    assert many - few < 3 * MODEL_KB, f"{few} kB with one reply, {many} kB with fifty"
