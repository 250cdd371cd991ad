"""Mixed architectures that learn together: FedMD through the command line."""

import pytest

from .conftest import Launch, same

MIX = ("models=[mlp,cnn,gru,vit]", "sites=8", "public=0.3")


def test_the_default_experiment_is_worth_it(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    done = launch("strategy=fedmd", "sites=8", "rounds=15", "runtime.workers=2", "log=info")
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
    done = launch("strategy=fedmd", f"combine={rule}", *MIX, "rounds=9", "strategy.warmup=4", "runtime.workers=2")
    assert done.summary["gain"] > 0.05


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
    launch("strategy=fedmd", "combine=vote", "strategy.exchange=logits", code=2)
    assert "Vote combines probabilities: set exchange=probabilities" in capsys.readouterr().err
