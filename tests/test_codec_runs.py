"""Coded runs from the command line: what they learn, what they send, and what happens when something is missing."""

import json
from pathlib import Path

import pytest

from fl_distill.mods import FileMemory

from .conftest import Finished, Launch, same

MLP = ("model=mlp", "rounds=4", "local.epochs=2")


def per_site(row: dict[str, object], key: str) -> dict[str, int]:
    return {name: entry[key] for name, entry in row["sites"].items()}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("up", "down", "share", "points"),
    [
        ("int8", "int8", 0.29, 0.02),
        ("step", "step", 0.16, 0.04),
        ("[delta,residual,rotate,lloydmax1]", "int8", 0.21, 0.08),
    ],
)
def test_coded_weights_learn_the_same_for_fewer_bytes(
    up: str, down: str, share: float, points: float, launch: Launch
) -> None:
    plain, coded = launch(*MLP).summary, launch(*MLP, f"codec.up={up}", f"codec.down={down}").summary
    sent = [run["bytes_up"] + run["bytes_down"] for run in (plain, coded)]
    assert sent[1] < share * sent[0]
    assert coded["server_accuracy"] > plain["server_accuracy"] - points
    assert coded["server_accuracy"] > 0.8


def test_workers_and_resuming_change_nothing(launch: Launch) -> None:
    settings = ("model=mlp", "codec.up=[delta,residual,uniform4x64]", "codec.down=step", "collect.fraction=0.6")
    whole = launch(*settings, "rounds=5", "runtime.workers=2")
    part = launch(*settings, "rounds=3")
    resumed = launch(*settings, f"resume={part.folder}", "rounds=5")
    assert same(whole.weights(), Finished(part.folder, resumed.code).weights())
    assert [row["bytes_up"] for row in whole.rows] == [row["bytes_up"] for row in Finished(part.folder, 0).rows]


def test_a_site_that_missed_rounds_gets_the_model_whole_and_is_in_step_again(launch: Launch) -> None:
    run = launch(
        "model=mlp", "rounds=6", "local.epochs=1", "codec.up=int8", "codec.down=int8", "collect.away.site-1=3-4"
    )
    down = [per_site(row, "bytes_down") for row in run.rows]
    assert all(not row["failures"] for row in run.rows)
    assert down[4]["site-1"] > 1.7 * down[4]["site-0"]
    assert down[1]["site-1"] == pytest.approx(down[1]["site-0"], rel=0.01)


def test_a_site_that_lost_its_files_says_so_and_gets_the_model_whole(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = FileMemory.load

    def forgetful(self: FileMemory, kind: str, number: int) -> object:
        return (
            None if self._site == "site-2" and kind.startswith("received") and number == 2 else load(self, kind, number)
        )

    monkeypatch.setattr(FileMemory, "load", forgetful)
    rows = launch("model=mlp", "rounds=5", "local.epochs=1", "codec.down=int8").rows
    assert [list(row["failures"]) for row in rows] == [[], [], ["site-2"], [], []]
    assert "does not hold model" in rows[2]["failures"]["site-2"]
    down = [per_site(row, "bytes_down") for row in rows]
    assert down[3]["site-2"] > 1.7 * down[3]["site-0"]


def test_budgets_are_kept_by_each_site(launch: Launch) -> None:
    run = launch(*MLP, "codec.up.bytes_per_round=5kB", "codec.sites.site-3={codec: step, bytes_per_round: 2500}")
    for row in run.rows:
        up = per_site(row, "knowledge_up")
        assert 4_000 < up["site-0"] <= 5_010  # the record's own name counts too
        assert 1_900 < up["site-3"] <= 2_510
    assert run.summary["server_accuracy"] > 0.8


def test_a_budget_that_nothing_fits_is_refused_with_the_least_possible(
    launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = launch(*MLP, "codec.sites.site-3={codec: eden4, bytes_per_round: 600}", code=2)
    said = capsys.readouterr()
    assert "codec.sites.site-3.bytes_per_round=600 is too few" in said.err
    assert "resume" not in said.out + said.err
    assert not (run.folder / "summary.json").exists()


@pytest.mark.parametrize("strategy", ["fedmd", "fd", "fedproto", "feddf", "split_teacher"])
def test_knowledge_and_mixed_models_travel_coded(strategy: str, launch: Launch) -> None:
    public = {
        "fedmd": ["strategy.examples=80", "strategy.warmup=1"],
        "feddf": ["strategy.examples=80", "strategy.server.steps=20"],
    }
    settings = ["models=[mlp,gru]", "local.epochs=1", "evaluate.alone=false", *public.get(strategy, [])]
    plain = launch(f"strategy={strategy}", *settings).summary
    coded = launch(f"strategy={strategy}", *settings, "codec.up=int8", "codec.down=int8")
    assert all(not row["failures"] for row in coded.rows)
    assert coded.summary["bytes_up"] <= plain["bytes_up"]
    assert abs(coded.summary["test_accuracy"] - plain["test_accuracy"]) < 0.1


def test_classes_that_matter_travel_renormalised(launch: Launch) -> None:
    settings = [
        "strategy=dsfl",
        "models=[mlp,gru]",
        "evaluate.alone=false",
        "strategy.examples=80",
        "strategy.warmup=1",
    ]
    run = launch(*settings, "local.epochs=1", "codec.up=classes3")
    assert all(not row["failures"] for row in run.rows)
    assert run.rows[-1]["codec"]["bits_up"] < 9


def test_what_a_codec_cannot_be_is_said_before_anything_starts(
    launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(
        "codec.up=int9",
        "codec.down=[float16,delta]",
        "codec.full=step",
        "codec.sites.site-1.bytes_per_round=much",
        code=2,
    )
    said = capsys.readouterr().err
    assert "int8" in said
    assert "come first" in said
    assert "codec: full" in said
    assert "sites.site-1" in said


def test_rows_say_what_coding_cost(launch: Launch) -> None:
    run = launch(*MLP, "codec.up=int8", "codec.down=step")
    codec = run.rows[-1]["codec"]
    assert 8 < codec["bits_up"] < 10
    assert 0 < codec["nmse_up"] < 2e-4
    assert 0 < codec["nmse_down"] < 0.05
    assert json.loads((Path(run.folder) / "summary.json").read_text())["codec"]["layers"]
