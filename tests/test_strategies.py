"""Strategies against float64 references, Flower's own FedAvg, and replies that nobody should trust."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from hypothesis import given
from hypothesis import strategies as st

from fl_distill.codec import decode, encode
from fl_distill.knowledge import WeightedMean
from fl_distill.runtime.flower_private import identity
from fl_distill.strategies import Facts, FedAvg, FedProx, FedSGD, Local, SiteStrategy

Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _inside_a_run() -> Iterable[None]:
    with identity(7):
        yield


def weights(seed: int) -> Tensors:
    g = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(13, 7, generator=g),
        "bn.num_batches_tracked": torch.tensor(100 + seed),
        "bias": torch.randn(5, generator=g) * 1e-3,
    }


def reply(tensors: Tensors | ArrayRecord, node: int = 1, key: str = "arrays", **metrics: float) -> Message:
    to = Message(RecordDict(), node, "train", group_id="1")
    arrays = tensors if isinstance(tensors, ArrayRecord) else encode(tensors)
    scalars = MetricRecord({"num-examples": 10, "train-loss": 0.5, **metrics})
    return Message(RecordDict({key: arrays, "metrics": scalars}), reply_to=to)


class Nodes:
    """The two methods of a Grid that configuring a round needs."""

    def __init__(self, *ids: int) -> None:
        self._ids = ids

    def get_node_ids(self) -> list[int]:
        return list(self._ids)


def aggregate(strategy: SiteStrategy, sent: Tensors, replies: Iterable[Message]) -> Tensors | None:
    list(strategy.configure_train(1, encode(sent), ConfigRecord(), Nodes(1, 2, 3)))  # type: ignore[arg-type]
    arrays, _ = strategy.aggregate_train(1, replies)
    return None if arrays is None else {k: v.clone() for k, v in decode(arrays).items()}


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=12))
def test_fedavg_is_the_weighted_mean_of_a_float64_reference(examples: list[int]) -> None:
    with identity(7):
        sites = [weights(i) for i in range(len(examples))]
        got = aggregate(
            FedAvg(),
            weights(99),
            [reply(s, i, **{"num-examples": n}) for i, (s, n) in enumerate(zip(sites, examples, strict=True))],
        )
    assert got is not None
    for name in ("a.weight", "bias"):
        stacked = torch.stack([s[name].double() for s in sites])
        share = torch.tensor(examples, dtype=torch.float64) / sum(examples)
        reference = torch.tensordot(share, stacked, 1)
        assert (got[name].double() - reference).norm() <= 1e-6 * reference.norm()
    assert got["bn.num_batches_tracked"].dtype == torch.int64
    mean = sum(n * (100 + i) for i, n in enumerate(examples)) / sum(examples)
    assert abs(got["bn.num_batches_tracked"].item() - mean) <= 0.5 + 1e-9


def test_fedavg_agrees_with_flowers_own_on_the_same_replies() -> None:
    replies = [reply(weights(i), i, **{"num-examples": 10 * i + 3}) for i in range(5)]
    ours = aggregate(FedAvg(), weights(99), replies)
    theirs, _ = FlowerFedAvg().aggregate_train(1, replies)
    assert ours is not None
    assert theirs is not None
    for name in ("a.weight", "bias"):
        reference = theirs[name].numpy().astype(np.float64)
        assert np.linalg.norm(ours[name].numpy() - reference) <= 1e-6 * np.linalg.norm(reference)
    assert theirs["bn.num_batches_tracked"].numpy().dtype == np.float64  # which is why ours keeps the dtype


@pytest.mark.parametrize(("weight", "shares"), [("examples", [3, 1]), ("uniform", [1, 1]), ("validation", [0.9, 0.3])])
def test_weights_follow_the_chosen_rule(weight: str, shares: list[float]) -> None:
    replies = [
        reply(weights(0), 1, **{"num-examples": 3, "trained-validation-accuracy": 0.9}),
        reply(weights(1), 2, **{"num-examples": 1, "trained-validation-accuracy": 0.3}),
    ]
    got = aggregate(FedAvg(weight=weight), weights(9), replies)
    assert got is not None
    expected = (shares[0] * weights(0)["bias"] + shares[1] * weights(1)["bias"]) / sum(shares)
    torch.testing.assert_close(got["bias"], expected)


def changed(**change: torch.Tensor) -> Tensors:
    return {**weights(1), **{k.replace("_", "."): v for k, v in change.items()}}


BAD = {
    "missing": (lambda: reply({"bias": torch.ones(5)}), "missing: 'a.weight'"),
    "unknown": (lambda: reply({**weights(1), "extra": torch.ones(1)}), "nobody asked for: 'extra'"),
    "shape": (lambda: reply(changed(bias=torch.ones(1))), r"is float32\[1\], expected float32\[5\]"),
    "dtype": (lambda: reply(changed(bias=torch.ones(5).double())), r"is float64\[5\], expected float32\[5\]"),
    "nan": (lambda: reply(changed(bias=torch.full((5,), math.nan))), "NaN or infinity"),
    "negative": (lambda: reply(weights(1), **{"num-examples": -3}), "weight 'num-examples' is -3"),
    "zero": (lambda: reply(weights(1), **{"num-examples": 0}), "expected a number from 0.001 to 1e+12"),
    "infinite": (lambda: reply(weights(1), **{"num-examples": math.inf}), "expected a number from 0.001 to 1e+12"),
    "enormous": (lambda: reply(weights(1), **{"num-examples": 1e300}), "from 0.001 to 1e+12"),
    "huge": (lambda: reply(changed(bias=torch.full((5,), 3e38))), "expected at most 1e+18"),
    "no weight": (lambda: _without_metrics(), "no 'metrics' record"),
    "other key": (lambda: reply(weights(1), key="weights"), "no 'arrays' record"),
    "partial": (lambda: reply(weights(1), work=0.5), "did only 50% of its work"),
    "error": (lambda: _error("the disk is full"), "the disk is full"),
}


def _without_metrics() -> Message:
    to = Message(RecordDict(), 1, "train", group_id="1")
    return Message(RecordDict({"arrays": encode(weights(1))}), reply_to=to)


def _error(reason: str) -> Message:
    return Message(Error(1, reason), reply_to=Message(RecordDict(), 1, "train", group_id="1"))


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_reply_costs_its_sender_the_round_and_nobody_else(fault: str) -> None:
    make, sentence = BAD[fault]
    good = reply(weights(2), 2)
    strategy = FedAvg()
    with_bad = aggregate(strategy, weights(0), [make(), good])
    assert sentence.replace("\\", "") in strategy.faults[1]
    without = aggregate(FedAvg(), weights(0), [good])
    assert with_bad is not None
    assert without is not None
    assert all(torch.equal(with_bad[k], without[k]) for k in without)


def test_nothing_usable_leaves_the_model_alone() -> None:
    assert aggregate(FedAvg(), weights(0), [_error("gone")]) is None


def test_fedprox_counts_partial_work_and_sends_mu() -> None:
    strategy = FedProx(mu=0.25)
    messages = list(strategy.configure_train(3, encode(weights(0)), ConfigRecord({"k": 1}), Nodes(5)))  # type: ignore[arg-type]
    assert messages[0].content["config"] == ConfigRecord(
        {"k": 1, "proximal-mu": 0.25, "server-round": 3, "weight": "examples"}
    )
    assert aggregate(strategy, weights(0), [reply(weights(1), work=0.3)]) is not None
    assert strategy.faults == {}


def test_fedsgd_is_momentum_descent_on_the_mean_gradient() -> None:
    start = {"w": torch.randn(4).double(), "steps": torch.tensor(3)}
    strategy, here, velocity = FedSGD(lr=0.1, momentum=0.5), dict(start), torch.zeros(4).double()
    for r in range(3):
        g = [torch.randn(4, generator=torch.Generator().manual_seed(10 * r + i)).double() for i in range(2)]
        replies = [gradient_reply({"w": g[i]}, {"steps": torch.tensor(7)}, i, 1 + i) for i in range(2)]
        got = aggregate(strategy, here, replies)
        velocity = 0.5 * velocity + (g[0] + 2 * g[1]) / 3
        start["w"] = start["w"] - 0.1 * velocity
        assert got is not None
        torch.testing.assert_close(got["w"], start["w"], rtol=1e-12, atol=1e-12)
        assert got["steps"].item() == 7
        here = got
    again = FedSGD(lr=0.1, momentum=0.5)
    again.restore(strategy.state())
    assert torch.equal(again.state()["w"], strategy.state()["w"])


def test_a_site_cannot_say_which_tensors_are_gradients() -> None:
    start = {"w": torch.ones(4), "steps": torch.tensor(3)}
    strategy = FedSGD(lr=0.1)
    strategy.meet(Facts(frozenset({"w"})))
    liar = gradient_reply({}, {"w": torch.ones(4), "steps": torch.tensor(0)}, 1, 5)
    honest = gradient_reply({"w": torch.ones(4)}, {"steps": torch.tensor(4)}, 2, 5)
    got = aggregate(strategy, start, [liar, honest])
    assert set(strategy.faults) == {1}
    assert got is not None
    assert got["w"].tolist() == pytest.approx([0.9] * 4)


def gradient_reply(gradients: Tensors, buffers: Tensors, node: int, examples: int) -> Message:
    to = Message(RecordDict(), node, "train.gradient", group_id="1")
    records = {"gradients": encode(gradients), "buffers": encode(buffers)}
    return Message(RecordDict({**records, "metrics": MetricRecord({"num-examples": examples})}), reply_to=to)


def test_local_exchanges_nothing() -> None:
    strategy = Local()
    to = Message(RecordDict(), 1, "train.alone", group_id="1")
    answer = Message(RecordDict({"metrics": MetricRecord({"num-examples": 3})}), reply_to=to)
    arrays, metrics = strategy.aggregate_train(1, [answer])
    assert arrays is None
    assert metrics is not None
    assert not strategy.has_server_model


def test_values_are_checked_when_a_strategy_is_made() -> None:
    for make in (
        lambda: FedProx(mu=-0.1),
        lambda: FedProx(mu=math.nan),
        lambda: FedAvg(weight="size"),
        lambda: FedAvg(fraction=0.0),
        lambda: FedSGD(lr=0),
        lambda: FedSGD(momentum=1.0),
    ):
        with pytest.raises(ValueError, match="must be|is one of"):
            make()


def test_sampling_is_reproducible_and_differs_between_rounds() -> None:
    def asked(number: int) -> list[int]:
        strategy = FedAvg(fraction=0.3, seed=5)
        messages = strategy.configure_train(number, encode(weights(0)), ConfigRecord(), Nodes(*range(100, 120)))  # type: ignore[arg-type]
        return [message.metadata.dst_node_id for message in messages]

    assert asked(1) == asked(1)
    assert len(asked(1)) == 6
    assert asked(1) != asked(2)


def test_the_mean_of_nothing_and_bad_weights_are_errors() -> None:
    mean = WeightedMean()
    with pytest.raises(ValueError, match="no sites"):
        mean.result()
    for weight in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="positive finite"):
            mean.add({"x": torch.ones(1)}, weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_the_mean_keeps_every_dtype(dtype: torch.dtype) -> None:
    mean = WeightedMean()
    mean.add({"x": torch.tensor([1, 0]).to(dtype)}, 3)
    mean.add({"x": torch.tensor([1, 1]).to(dtype)}, 1)
    result = mean.result()["x"]
    assert result.dtype == dtype
    assert result[0].item() == 1


def test_arrays_of_bfloat16_reach_the_mean() -> None:
    sent = {"x": torch.ones(3, dtype=torch.bfloat16)}
    got = aggregate(FedAvg(), sent, [reply(sent)])
    assert got is not None
    assert torch.equal(got["x"], sent["x"])


def test_a_handmade_array_with_a_lying_header_is_refused() -> None:
    lying = ArrayRecord({k: a for k, a in encode(weights(1)).items()})
    lying["bias"] = Array("float32", (5,), "numpy.ndarray", encode({"x": torch.ones(500)})["x"].data)
    strategy = FedAvg()
    assert aggregate(strategy, weights(0), [reply(lying)]) is None
    assert "inside, expected" in strategy.faults[1]
