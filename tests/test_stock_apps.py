"""The strategies in somebody else's Flower app: stock `start()`, and a quickstart-style ClientApp."""

from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_distill.client_app import job_is, make_app
from fl_distill.codec import decode, encode
from fl_distill.config import composed
from fl_distill.runtime.process_grid import ProcessGrid
from fl_distill.strategies import FedAvg, FedProx, FedSGD, SiteStrategy
from fl_distill.workplace import job_text, workplace

from .conftest import Launch, same


@pytest.mark.parametrize("strategy", [FedAvg(), FedProx(mu=0.1), FedSGD(lr=0.1)])
def test_stock_start_gives_the_same_model_as_our_own_loop(
    strategy: SiteStrategy, launch: Launch, tmp_path: Path
) -> None:
    name = type(strategy).__name__.lower()
    settings = {"fedprox": ["strategy.mu=0.1"], "fedsgd": ["strategy.lr=0.1"]}.get(name, [])
    config, _ = composed([f"strategy={name}", *settings, "sites=4"])
    job = job_text(config, tmp_path)
    with ProcessGrid(make_app(job_is(job)), nodes=4, workers=0) as grid:
        initial = encode(workplace(job).initial("cnn"))
        result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=3)
    assert same(decode(result.arrays), launch(f"strategy={name}", *settings).weights())
    assert 0 < float(str(result.evaluate_metrics_clientapp[3]["score-local-accuracy"])) <= 1


def test_a_quickstart_client_needs_nothing_of_this_package() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        state = message.content["arrays"].to_torch_state_dict()  # type: ignore[union-attr]
        moved = {name: tensor + float(context.node_config["partition-id"]) for name, tensor in state.items()}
        metrics = MetricRecord({"num-examples": 1, "train_loss": 0.5})
        return Message(RecordDict({"arrays": ArrayRecord(moved), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 1, "loss": float(context.node_config["partition-id"])})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    with ProcessGrid(app, nodes=3, workers=0) as grid:
        result = FedAvg().start(grid=grid, initial_arrays=encode({"w": torch.zeros(2)}), num_rounds=2)
    assert decode(result.arrays)["w"].tolist() == [2.0, 2.0]
    assert result.train_metrics_clientapp[2]["train_loss"] == 0.5
    assert result.evaluate_metrics_clientapp[2]["loss"] == 1.0
