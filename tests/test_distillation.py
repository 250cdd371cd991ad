"""Mixed architectures that learn together: FedMD through the command line, and messages nobody should trust."""

from collections.abc import Iterable

import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fl_distill.codec import decode, encode
from fl_distill.knowledge import Median, Vote
from fl_distill.runtime.flower_private import identity
from fl_distill.strategies import Facts, FedMD

from .conftest import Launch, same
from .test_strategies import Nodes

MIX = ("models=[mlp,cnn,gru,vit]", "sites=8", "public=0.3")


@pytest.mark.parametrize("rule", [["combine=median"], ["combine=era", "strategy.exchange=probabilities"]])
def test_fedmd_lifts_mixed_models_over_local_training(launch: Launch, rule: list[str]) -> None:
    same_work = (*MIX, "rounds=10", "local.epochs=5", "runtime.workers=2")
    alone, together = launch("strategy=local", *same_work), launch("strategy=fedmd", *rule, *same_work)
    assert together.summary["test_accuracy"] > alone.summary["test_accuracy"] + 0.1
    sites = [run.summary["sites"].values() for run in (alone, together)]
    worst_alone, worst_together = (min(entry["test_accuracy"] for entry in entries) for entries in sites)
    assert worst_together > worst_alone


def test_only_scores_travel(launch: Launch) -> None:
    done = launch("strategy=fedmd", *MIX, "rounds=2", "strategy.examples=50", "strategy.warmup=0")
    logits = 50 * 10 * 2
    for entry in done.rows[-1]["sites"].values():
        assert logits < entry["bytes_up"] < logits + 700
        assert logits < entry["bytes_down"] < logits + 700


def test_fedmd_gives_the_same_with_any_number_of_workers_and_after_resuming(launch: Launch) -> None:
    from fl_distill import cli

    base = (
        "strategy=fedmd",
        *MIX,
        "strategy.pretrain_epochs=1",
        "strategy.warmup=1",
        "collect.fraction=0.6",
        "checkpoint.every=2",
    )
    one, two = launch(*base, "rounds=5"), launch(*base, "rounds=5", "runtime.workers=2")
    assert one.rows == two.rows
    resumed = launch(*base, "rounds=3")
    assert cli.run([f"resume={resumed.folder}", "rounds=5", "log=quiet"]) == 0
    assert resumed.rows == one.rows
    for site in ("site-0", "site-3"):
        assert same(resumed.weights(site), one.weights(site))


def test_fedmd_without_a_public_set_says_so(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    launch("strategy=fedmd", "public=0", "rounds=1", code=2)
    assert "set public" in capsys.readouterr().err


def test_rules_of_probabilities_want_probabilities(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    launch("strategy=fedmd", "combine=vote", code=2)
    assert "Vote combines probabilities: set exchange=probabilities" in capsys.readouterr().err


def test_probabilities_that_do_not_sum_to_one_cost_their_sender_the_round() -> None:
    strategy = FedMD(combine=Vote(), exchange="probabilities")
    strategy.meet(Facts(frozenset(), public=1, classes=2))
    list(strategy.configure_train(1, encode({}), ConfigRecord(), Nodes(1, 2, 3)))  # type: ignore[arg-type]
    said = [torch.tensor([[0.9, 0.9]]), torch.tensor([[1.4, -0.4]]), torch.tensor([[0.3, 0.7]])]
    arrays, _ = strategy.aggregate_train(1, [reply(p.half(), node) for node, p in enumerate(said, 1)])
    assert strategy.faults == dict.fromkeys((1, 2), "its probabilities are negative or do not sum to 1")
    assert arrays is not None
    assert decode(arrays)["consensus"].tolist() == [[0.0, 1.0]]


@pytest.fixture(autouse=True)
def _inside_a_run() -> Iterable[None]:
    with identity(7):
        yield


def reply(logits: torch.Tensor | None, node: int, key: str = "logits") -> Message:
    to = Message(RecordDict(), node, "train.mutual", group_id="1")
    records = {key: encode({"logits": logits})} if logits is not None else {}
    return Message(RecordDict({**records, "metrics": MetricRecord({"num-examples": 3})}), reply_to=to)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (reply, "no 'logits' record"),
        (torch.full((4, 3), float("nan")).half(), "NaN or infinity"),
        (torch.zeros(5, 3).half(), "is float16[5, 3], expected float16[4, 3]"),
        (torch.zeros(4, 2).half(), "is float16[4, 2], expected float16[4, 3]"),
        (torch.zeros(4, 3), "is float32[4, 3], expected float16[4, 3]"),
    ],
)
def test_logits_that_are_off_cost_their_sender_the_round(bad: object, sentence: str) -> None:
    strategy = FedMD(examples=10, combine=Median())
    strategy.meet(Facts(frozenset(), public=4, classes=3))
    list(strategy.configure_train(6, encode({}), ConfigRecord(), Nodes(1, 2)))  # type: ignore[arg-type]
    good = torch.randn(4, 3).half()
    sent = reply(bad if isinstance(bad, torch.Tensor) else None, 1)
    arrays, _ = strategy.aggregate_train(6, [sent, reply(good, 2)])
    assert strategy.faults[1].endswith(sentence) or sentence in strategy.faults[1]
    assert arrays is not None
    answer = decode(arrays)
    assert torch.equal(answer["consensus"], good)
    assert answer["round"].item() == 6
