"""The strategies in somebody else's Flower app: stock `start()`, and a quickstart-style ClientApp."""

from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_distill.client_app import make_app
from fl_distill.codec import decode, encode
from fl_distill.config.compose import composed
from fl_distill.jobs import job_is
from fl_distill.learning import Settings
from fl_distill.runtime.process_grid import ProcessGrid
from fl_distill.strategies import DSFL, Facts, FedAvg, FedProx, FedSGD, Sender, SiteStrategy
from fl_distill.workplace import job_text, workplace

from .conftest import Launch, same


@pytest.mark.parametrize("strategy", [FedAvg(), FedProx(mu=0.1), FedSGD(lr=0.1)])
def test_stock_start_gives_the_same_model_as_our_own_loop(
    strategy: SiteStrategy, launch: Launch, tmp_path: Path
) -> None:
    name = type(strategy).__name__.lower()
    settings = ["local.epochs=1", *{"fedprox": ["strategy.mu=0.1"], "fedsgd": ["strategy.lr=0.1"]}.get(name, [])]
    config, _ = composed([f"strategy={name}", *settings, "sites=4"])
    job = job_text(config, tmp_path)
    with ProcessGrid(make_app(job_is(job)), nodes=4, workers=0) as grid:
        initial = encode(workplace(job).initial("cnn"))
        result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=3)
    assert same(decode(result.arrays), launch(f"strategy={name}", *settings).weights())
    assert 0 < float(str(result.evaluate_metrics_clientapp[3]["score-local-accuracy"])) <= 1


def test_knowledge_travels_under_stock_start_too(launch: Launch, tmp_path: Path) -> None:
    """What the server must know, it is told; the rest is Flower's own loop."""
    settings = ["strategy.examples=80", "strategy.warmup=1", "strategy.server.epochs=1", "public=0.3", "local.epochs=1"]
    config, _ = composed(["strategy=dsfl", "sites=4", *settings])
    job = job_text(config, tmp_path)
    place = workplace(job)
    strategy = DSFL(examples=80, warmup=1, server=Settings(optimizer="adam", lr=0.001, batch_size=64, epochs=1.0))
    with ProcessGrid(make_app(job_is(job)), nodes=4, workers=0) as grid:
        sites = dict(zip(grid.get_node_ids(), place.federation.names, strict=True))
        strategy.meet(
            Facts(
                classes=10,
                public=place.federation.public,
                sender=lambda node: Sender(sites[node]),
                model=place.fresh_model,
                default="mlp",
            )
        )
        result = strategy.start(grid=grid, initial_arrays=ArrayRecord(), num_rounds=3)
    (name, weights), *_ = strategy.models(result.arrays).items()
    ours = launch("strategy=dsfl", *settings)
    assert name == "mlp"
    assert same(dict(weights), ours.weights("server"))


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
