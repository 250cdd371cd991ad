"""Mixed architectures that learn together: FedMD through the command line."""

import pytest

from .conftest import Launch


def test_the_default_experiment_is_worth_it(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    done = launch("strategy=fedmd", "sites=8", "rounds=15", "local.epochs=5", "runtime.workers=2", "log=info")
    last = done.summary
    assert last["gain"] > 0.15
    assert last["gain"] == pytest.approx(last["test_accuracy"] - last["alone_accuracy"])
    sites = done.rows[-1]["sites"].values()
    assert min(s["test_accuracy"] for s in sites) > min(s["alone_accuracy"] for s in sites)
    assert last["architectures"].keys() == {"mlp", "cnn", "gru", "vit"}
    assert all(entry["gain"] > 0 for entry in last["architectures"].values())
    assert not any(row["warnings"] for row in done.rows)
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("architecture", "alone", "federated", "gain", "vit"))


@pytest.mark.parametrize("rule", ["era", "median", "vote"])
def test_any_rule_lifts_mixed_models_over_local_training(launch: Launch, rule: str) -> None:
    mix = ("models=[mlp,gru]", "sites=8", "public=0.3")
    work = ("rounds=9", "local.epochs=5", "strategy.warmup=4", "evaluate.sites_every=9", "runtime.workers=2")
    done = launch("strategy=fedmd", f"combine={rule}", *mix, *work)
    assert done.summary["gain"] > 0.05


def test_only_scores_travel(launch: Launch) -> None:
    mix = ("models=[mlp,cnn,gru,vit]", "public=0.3", "evaluate.alone=false")
    done = launch("strategy=fedmd", *mix, "rounds=2", "strategy.examples=50", "strategy.warmup=0")
    logits = 50 * 10 * 2
    for entry in done.rows[-1]["sites"].values():
        assert logits < entry["bytes_up"] < logits + 700
        assert logits < entry["bytes_down"] < logits + 700


def test_fedmd_without_a_public_set_says_so(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    launch("strategy=fedmd", "public=0", "rounds=1", code=2)
    assert "set public" in capsys.readouterr().err


def test_rules_of_probabilities_want_probabilities(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    launch("strategy=fedmd", "combine=vote", "strategy.exchange=logits", code=2)
    assert "Vote combines probabilities: set exchange=probabilities" in capsys.readouterr().err
