"""A small Flower app, as its tutorials have it, that sends a quarter of the bytes by two lines; they are marked.

    python scripts/examples/quantized_flower.py

trains on scikit-learn's digits in Flower's simulation, first with the second line left out, and prints accuracy and
megabytes of both.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Strategy
from flwr.simulation import run_simulation
from sklearn.datasets import load_digits
from torch import Tensor, nn

from fl_distill.codec import payload_bytes
from fl_distill.mods import quantized
from fl_distill.strategies import Quantized

SITES, ROUNDS, TESTED = 5, 3, 397

app = ClientApp(mods=[quantized])  # <- the first line; what nobody asked to code passes it as it is


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]


def received(message: Message) -> nn.Module:
    model = net()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    return model


@app.train()
def train(message: Message, context: Context) -> Message:
    model, (x, y) = received(message), digits()
    own = slice(TESTED + int(context.node_config["partition-id"]), None, int(context.node_config["num-partitions"]))
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        for batch in torch.randperm(len(y[own])).split(32):
            optimizer.zero_grad()
            F.cross_entropy(model(x[own][batch]), y[own][batch]).backward()
            optimizer.step()
    told = MetricRecord({"num-examples": len(y[own])})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": told}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    model, (x, y) = received(message), digits()
    with torch.no_grad():
        right = (model(x[:TESTED]).argmax(1) == y[:TESTED]).float().mean()
    told = MetricRecord({"num-examples": TESTED, "accuracy": float(right)})
    return Message(RecordDict({"metrics": told}), reply_to=message)


def fedavg() -> Strategy:
    return FedAvg(min_available_nodes=SITES)


def quantized_fedavg() -> Strategy:
    return Quantized(FedAvg(min_available_nodes=SITES), up="int8", down="int8")  # <- the second line


def learn(strategy: Strategy, grid: Grid, rounds: int = ROUNDS) -> tuple[float, int]:
    """What a ServerApp does: returns the accuracy in the end, and the bytes that went both ways."""
    torch.manual_seed(0)
    counted = Counted(grid)
    result = strategy.start(counted, ArrayRecord(net().state_dict()), num_rounds=rounds)  # type: ignore[arg-type]
    return float(str(result.evaluate_metrics_clientapp[rounds]["accuracy"])), counted.bytes


class Counted:
    """A grid that counts what passes; only the figures below need it."""

    def __init__(self, grid: Grid) -> None:
        self._grid, self.bytes = grid, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._grid, name)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        sent = list(messages)
        replies = list(self._grid.send_and_receive(sent, timeout=timeout))
        self.bytes += sum(payload_bytes(m.content) for m in [*sent, *replies] if m.has_content())
        return replies


def simulated(strategy: Strategy) -> tuple[float, int]:
    """`learn` in Flower's simulation."""
    server, results = ServerApp(), []

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        results.append(learn(strategy, grid))

    run_simulation(server, app, SITES, backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}})
    return results[0]


def main() -> None:
    found = {name: simulated(make()) for name, make in (("float32", fedavg), ("int8", quantized_fedavg))}
    for name, (accuracy, sent) in found.items():
        print(f"{name:8} accuracy {accuracy:.3f}  {sent / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
