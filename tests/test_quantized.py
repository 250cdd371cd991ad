"""Quantized updates around strategies of this package and of Flower, in a quickstart-style app."""

from collections.abc import Callable, Iterable

import pytest
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, Strategy
from torch import Tensor, nn

from fl_distill.codec import decode, encode, payload_bytes
from fl_distill.mods import quantized
from fl_distill.runtime.process_grid import ProcessGrid
from fl_distill.strategies import Quantized

SITES, ROUNDS = 4, 6


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(20, 64), nn.BatchNorm1d(64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.two(F.relu(self.norm(self.one(x))))
        return out


def data(site: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(site)
    x = torch.randn(60, 20, generator=generator)
    return x, x[:, :5].argmax(1)


def client(mods: list[Callable[..., Message]]) -> ClientApp:
    """What a Flower tutorial has, with the mod."""
    app = ClientApp(mods=mods)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        torch.manual_seed(0)
        model = Net()
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())  # type: ignore[union-attr]
        x, y = data(int(context.node_config["partition-id"]))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        metrics = MetricRecord({"num-examples": len(x)})
        return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        model = Net()
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())  # type: ignore[union-attr]
        x, y = data(100)
        right = float((model.eval()(x).argmax(1) == y).float().mean())
        metrics = MetricRecord({"num-examples": len(x), "accuracy": right})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


class Counting:
    """A grid that counts the bytes of tensors that pass."""

    def __init__(self, grid: Grid) -> None:
        self._grid, self.bytes = grid, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._grid, name)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        sent = list(messages)
        replies = list(self._grid.send_and_receive(sent, timeout=timeout))
        self.bytes += sum(payload_bytes(m.content) for m in [*sent, *replies] if m.has_content())
        assert not [r.error.reason for r in replies if r.has_error()]
        return replies


def run(
    strategy: Strategy, mods: list[Callable[..., Message]], rounds: int = ROUNDS
) -> tuple[dict[str, Tensor], float, int]:
    torch.manual_seed(1)
    with ProcessGrid(client(mods), nodes=SITES, workers=0) as grid:
        counted = Counting(grid)
        result = strategy.start(
            grid=counted,
            initial_arrays=encode(Net().state_dict()),
            num_rounds=rounds,
            timeout=60,  # type: ignore[arg-type]
        )
    accuracy = result.evaluate_metrics_clientapp[rounds]["accuracy"]
    return decode(result.arrays), float(str(accuracy)), counted.bytes


@pytest.mark.parametrize("make", [FedAvg, FedAdam, FedMedian])
def test_a_stock_strategy_gives_what_it_gave_up_to_the_codec(make: Callable[..., Strategy]) -> None:
    plain, accuracy, sent = run(make(), [])
    coded, close, fewer = run(Quantized(make(), up="delta float16", down="delta float16"), [quantized])
    assert fewer < 0.65 * sent
    assert abs(accuracy - close) < 0.02
    moved = torch.cat([(plain[name].double() - coded[name].double()).flatten() for name in plain])
    assert moved.norm() < 3e-3 * torch.cat([t.double().flatten() for t in plain.values()]).norm()
