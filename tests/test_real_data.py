"""Real data sets, from the folder that FL_DISTILL_DATA names."""

import pytest

from .conftest import Launch

pytestmark = pytest.mark.usefixtures("real_data")


def test_four_hospitals_are_four_sites_and_learn(launch: Launch) -> None:
    done = launch("dataset=heart_disease", "rounds=15")
    assert list(done.summary["sites"]) == ["cleveland", "hungarian", "switzerland", "va"]
    assert {entry["model"] for entry in done.summary["sites"].values()} == {"tabular"}
    assert done.summary["selected"]["server_accuracy"] > 0.7


@pytest.mark.parametrize("standardise", ["site", "none"])
def test_hospitals_may_scale_their_own_columns(launch: Launch, standardise: str) -> None:
    done = launch("dataset=heart_disease", f"dataset.standardise={standardise}", "rounds=2", "local.lr=0.001")
    assert done.summary["status"] == "finished"
    assert not done.rows[-1]["failures"]


def test_german_credit_beats_guessing_the_majority(launch: Launch) -> None:
    done = launch("dataset=german_credit", "rounds=10", "local.lr=0.02")
    assert done.summary["selected"]["server_accuracy"] > 0.7


def test_hospitals_with_models_of_their_own_learn_from_each_other(launch: Launch) -> None:
    done = launch("experiment=heart", "strategy=fedmd", "rounds=20")
    assert {entry["model"] for entry in done.summary["sites"].values()} == {"tabular", "mlp", "tabular_wide", "linear"}
    assert done.summary["gain"] > 0
    assert done.summary["knowledge_up"] < 100_000


def test_other_pictures_serve_as_public_examples_for_digits(launch: Launch) -> None:
    crops = ("public_dataset=cifar10", "public_examples=300", "public=0")
    done = launch("strategy=fedmd", "model=mixed", *crops, "strategy.warmup=0", "rounds=2")
    assert not any(row["failures"] for row in done.rows)


def test_four_architectures_train_alone_on_cifar10(launch: Launch) -> None:
    pytest.importorskip("torchvision")
    mix = "models=[cnn,resnet8,vit,mobilenet_v2]"
    few = ("local.steps=4", "public=0.9", "local.batch_size=16", "evaluate.sites_every=0")
    done = launch("dataset=cifar10", "strategy=local", mix, "rounds=1", *few, "runtime.workers=2")
    assert [entry["model"] for entry in done.summary["sites"].values()] == ["cnn", "resnet8", "vit", "mobilenet_v2"]
    assert not done.rows[0]["failures"]
    assert all(entry["loss"] > 0 for entry in done.rows[0]["sites"].values())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_mnist_under_strong_skew(launch: Launch) -> None:
    work = ("local.epochs=1", "local.lr=0.02", "rounds=12", "public=0.1", "runtime.workers=2")
    rarely = ("evaluate.sites_every=0", "evaluate.server_every=12")
    done = launch("dataset=mnist", "sites=20", "partition.alpha=0.1", "model=lenet", *work, *rarely)
    assert done.summary["server_accuracy"] >= 0.97


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fedavgs_published_line_is_reached_in_fewer_rounds(launch: Launch) -> None:
    done = launch("experiment=repro/r2", "rounds=40", "sites=20", "runtime.workers=2")
    assert done.summary["server_accuracy"] >= 0.9016


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fedprox_beats_fedavg_where_sites_are_slow(launch: Launch) -> None:
    fast = ("experiment=stragglers", "rounds=6", "sites=20", "runtime.workers=2")
    fedavg, fedprox = launch(*fast, "strategy=fedavg"), launch(*fast, "strategy=fedprox")
    assert fedprox.summary["server_accuracy"] > fedavg.summary["server_accuracy"] + 0.1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fd_reaches_its_published_line(launch: Launch) -> None:
    early = ("rounds=3", "evaluate.sites_every=3")
    done = launch("experiment=repro/r1", "strategy=fd", *early, "sites=10", "runtime.workers=2")
    assert done.summary["test_accuracy"] >= 0.7524
    bits = 8 * (done.summary["knowledge_up"] + done.summary["knowledge_down"]) / 10
    assert bits <= 102_400 * 3 / 16  # of each device, as the paper counts, which has 16 rounds


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fedproto_reaches_its_published_line(launch: Launch) -> None:
    early = ("rounds=15", "evaluate.sites_every=15")
    done = launch("experiment=repro/r3", "strategy=fedproto", *early, "sites=20", "runtime.workers=2")
    assert done.summary["local_accuracy"] >= 0.97
