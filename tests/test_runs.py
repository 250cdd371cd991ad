"""Whole runs on the bundled digits, through the command line."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fl_distill import cli
from fl_distill.config.compose import composed
from fl_distill.tracking import Observer
from fl_distill.workplace import job_text, workplace

from .conftest import Finished, Launch, command, same

MIX = ("strategy=local", "models=[mlp,cnn,gru,vit]")
SLIGHT = ("model=mlp",)
"""For what does not depend on the architecture."""
FEW = ("strategy=local", "models=[mlp,gru]")


def test_a_run_learns_and_leaves_what_is_promised(launch: Launch) -> None:
    done = launch("sites=10", "rounds=20", "track.plots=true", "runtime.workers=2")
    assert done.summary["server_accuracy"] >= 0.93
    assert done.summary["test_accuracy"] == done.summary["server_accuracy"]
    assert done.summary["status"] == "finished"
    assert [row["round"] for row in done.rows] == list(range(1, 21))
    first = done.rows[0]
    assert set(first) >= {
        "round",
        "bytes_up",
        "bytes_down",
        "test_accuracy",
        "local_accuracy",
        "server_accuracy",
        "failures",
        "sites",
    }
    assert set(first["sites"]["site-3"]) == {
        "model",
        "examples",
        "loss",
        "test_accuracy",
        "alone_accuracy",
        "local_accuracy",
        "bytes_up",
        "bytes_down",
        "knowledge_up",
        "knowledge_down",
    }
    for key in ("bytes_up", "bytes_down"):
        assert sum(row[key] for row in done.rows) == done.summary[key]
        assert all(row[key] == sum(site[key] for site in row["sites"].values()) for row in done.rows)
    for name in ("config.yaml", "report.html", "plots", "checkpoints", "models/site-3.safetensors"):
        assert (done.folder / name).exists(), name
    selected = max(done.rows, key=lambda row: (row["validation_accuracy"], -row["round"]))
    assert done.summary["selected"]["round"] == selected["round"]


def test_bytes_are_those_of_the_records(launch: Launch) -> None:
    done = launch("rounds=2", "sites=3")
    weights = done.weights()
    raw = sum(t.numel() * t.element_size() for t in weights.values())
    for row in done.rows[:1]:
        for entry in row["sites"].values():
            assert raw < entry["bytes_down"] < raw + 200 * len(weights)
            assert raw < entry["bytes_up"] < raw + 200 * len(weights)


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "fedsgd", "local"])
def test_the_number_of_workers_changes_nothing(launch: Launch, strategy: str) -> None:
    base = (f"strategy={strategy}", "collect.fraction=0.7", "local.epochs=1")
    runs = [launch(*base, f"runtime.workers={n}") for n in (0, 1, 2)]
    assert runs[0].rows == runs[1].rows == runs[2].rows
    name = "server" if strategy != "local" else "site-0"
    assert same(runs[0].weights(name), runs[1].weights(name))
    assert same(runs[0].weights(name), runs[2].weights(name))


def test_another_seed_is_another_run(launch: Launch) -> None:
    assert launch("seed=0", *SLIGHT).rows != launch("seed=1", *SLIGHT).rows


def test_fedprox_without_its_term_is_fedavg_bit_for_bit(launch: Launch) -> None:
    fedavg, fedprox = launch(*SLIGHT), launch(*SLIGHT, "strategy=fedprox", "strategy.mu=0")
    assert same(fedavg.weights(), fedprox.weights())
    assert not same(fedavg.weights(), launch(*SLIGHT, "strategy=fedprox", "strategy.mu=0.5").weights())


def test_fedsgd_is_full_batch_descent_on_the_pooled_data(launch: Launch) -> None:
    done = launch("strategy=fedsgd", "strategy.lr=0.3", "strategy.momentum=0.9", "rounds=5", "model=mlp")
    config, _ = composed(["model=mlp", "sites=4"])
    place = workplace(job_text(config, Path("unused")))
    sites = [place.site(i).train for i in range(4)]
    x, y = torch.cat([s.x for s in sites]).double(), torch.cat([s.y for s in sites])
    model = place.fresh_model("mlp").double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    for name, reference in model.state_dict().items():
        gap = (done.weights()[name].double() - reference).norm() / reference.norm()
        assert gap <= 1e-5, name


def test_mixed_models_train_alone_and_are_scored_on_the_shared_test_set(launch: Launch) -> None:
    done = launch(*MIX, "rounds=4", "local.epochs=3")
    sites = done.summary["sites"]
    assert [sites[f"site-{i}"]["model"] for i in range(4)] == ["mlp", "cnn", "gru", "vit"]
    assert done.summary["server_accuracy"] is None
    accuracies = [entry["test_accuracy"] for entry in sites.values()]
    assert done.summary["test_accuracy"] == pytest.approx(sum(accuracies) / 4)
    assert done.rows[-1]["test_accuracy"] > done.rows[0]["test_accuracy"]
    assert done.summary["bytes_up"] < 4 * 4 * 400  # scores only
    assert done.weights("site-0").keys() != done.weights("site-1").keys()


def test_batch_norm_counters_stay_integers_through_averaging(launch: Launch) -> None:
    weights = launch("model=resnet8", "rounds=1", "sites=2", "local.steps=3").weights()
    counters = [t for name, t in weights.items() if name.endswith("num_batches_tracked")]
    assert counters
    assert all(t.dtype == torch.int64 for t in counters)


def test_a_fraction_of_the_sites_is_asked_and_the_choice_changes(launch: Launch) -> None:
    done = launch(*SLIGHT, "sites=10", "rounds=6", "collect.fraction=0.3", "evaluate.sites_every=0")
    asked = [tuple(row["sites"]) for row in done.rows]
    assert all(len(names) == 3 for names in asked)
    assert len(set(asked)) > 1


class Teller(Observer):
    def site_replied(self, round: int, site: str, fault: str | None) -> None:
        print("reply", round)

    def round_done(self, row: dict[str, Any]) -> None:
        print("row", row["round"])


def test_a_round_that_no_site_scores_is_told_when_it_is_over(
    launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(*SLIGHT, "sites=2", "rounds=2", "evaluate.sites_every=0", f"track.observers=[{__name__}.Teller]")
    told = capsys.readouterr().out.splitlines()
    assert told == ["reply 1", "reply 1", "row 1", "reply 2", "reply 2", "row 2"]


def test_stragglers_count_in_fedprox_and_are_dropped_by_fedavg(launch: Launch) -> None:
    base = (*SLIGHT, "sites=10", "collect.stragglers=0.5", "local.epochs=5")
    fedavg, fedprox = launch(*base), launch(*base, "strategy=fedprox")
    assert all(len(row["failures"]) == 5 for row in fedavg.rows)
    assert all("straggler" in reason for reason in fedavg.rows[0]["failures"].values())
    assert all(not row["failures"] for row in fedprox.rows)


def test_scores_may_travel_in_messages_of_their_own(launch: Launch) -> None:
    riding, separate = launch(*SLIGHT, "rounds=3"), launch(*SLIGHT, "rounds=3", "evaluate.separately=true")
    assert same(riding.weights(), separate.weights())
    for a, b in zip(riding.rows, separate.rows, strict=True):
        assert a["local_accuracy"] == b["local_accuracy"]
        assert a["validation_accuracy"] == b["validation_accuracy"]
    assert separate.summary["bytes_down"] > 1.4 * riding.summary["bytes_down"]


@pytest.mark.parametrize("weight", ["uniform", "validation"])
def test_other_weights_give_other_models(launch: Launch, weight: str) -> None:
    assert not same(launch(*SLIGHT).weights(), launch(*SLIGHT, f"strategy.weight={weight}").weights())


def test_a_run_ends_early_at_its_target_or_without_progress(launch: Launch) -> None:
    target = launch(*SLIGHT, "rounds=30", "stop.target_accuracy=0.6", "local.epochs=3")
    assert len(target.rows) < 30
    assert "target" in target.summary["reason"]
    patient = launch(*SLIGHT, "rounds=30", "stop.patience=2", "stop.min_delta=0.5", "local.epochs=3")
    assert len(patient.rows) < 30
    assert "no better" in patient.summary["reason"]


def test_a_sweep_reports_a_failing_job_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["runtime=local", "runtime.workers=0", "rounds=1", "track.plots=false", "local.epochs=1", "sites=3"]
    code = cli.run(
        [
            "-m",
            "strategy=fedavg,fedprox",
            "partition.alpha=0.5,0.000001",
            "sites=40",
            *small[:-1],
            f"hydra.sweep.dir={tmp_path}",
        ]
    )
    shown = capsys.readouterr()
    assert code == 1
    results = json.loads((tmp_path / "sweep.json").read_text())
    assert [r["status"] for r in results] == ["finished", "failed", "finished", "failed"]
    assert "strategy=fedprox partition.alpha=0.5" in shown.out
    assert "job 2 failed" in shown.err


def test_a_killed_run_resumes_to_the_same_end(launch: Launch, tmp_path: Path) -> None:
    base = (
        "rounds=8",
        "sites=4",
        "runtime=local",
        "runtime.workers=2",
        "track.plots=false",
        "local.epochs=4",
        "collect.fraction=0.8",
    )
    for overrides in (("strategy=fedsgd", "strategy.momentum=0.5"), (*FEW, "checkpoint.every=3")):
        whole = launch(*base, *overrides)
        moments = random.Random(4)
        for attempt in range(3 if overrides[0] != FEW[0] else 2):
            folder = tmp_path / f"{overrides[0]}-{attempt}"
            _kill_after(folder, moments.uniform(0.0, 0.9), *base, *overrides)
            assert cli.run([f"resume={folder}", "log=quiet"]) == 0
            again = Finished(folder, 0)
            assert again.rows == whole.rows
            assert again.summary == whole.summary
            for path in sorted((whole.folder / "models").iterdir()):
                assert same(again.weights(path.stem), whole.weights(path.stem))


def _kill_after(folder: Path, part: float, *overrides: str) -> None:
    """Kill a run somewhere in its rounds: at a moment between its first sign of life and its usual end."""
    process = command(*overrides, f"hydra.run.dir={folder}")
    deadline = time.monotonic() + 60
    while not (folder / "job.json").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
    time.sleep(part)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_resuming_extends_a_finished_run(launch: Launch) -> None:
    short, long = launch(*SLIGHT, "rounds=2"), launch(*SLIGHT, "rounds=4")
    assert cli.run([f"resume={short.folder}", "rounds=4", "log=quiet"]) == 0
    assert short.rows == long.rows
    assert same(short.weights(), long.weights())


def test_resume_refuses_what_is_no_run_or_another_one(
    launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = launch(*SLIGHT, "rounds=1")
    assert cli.run([f"resume={tmp_path / 'nothing'}"]) == 2
    assert "is no run folder" in capsys.readouterr().err
    assert cli.run([f"resume={done.folder}", "dataset=mnist", "local.lr=0.7"]) == 2
    shown = capsys.readouterr().err
    assert "was run with dataset=digits, not mnist" in shown
    assert "was run with local.lr=" in shown


def test_an_interrupt_leaves_a_resumable_run_and_no_process(launch: Launch, tmp_path: Path) -> None:
    import psutil

    small = ("local.epochs=2", "sites=4", "runtime=local", "runtime.workers=2", "track.plots=false")
    base = ("strategy=fedavg", "rounds=400", *small)
    folder = tmp_path / "interrupted"
    process = command(*base, f"hydra.run.dir={folder}")
    while not (folder / "checkpoints" / "round-000003.safetensors").exists() and process.poll() is None:
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "can be resumed" in errors
    assert children
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    done = Finished(folder, 130)
    assert done.summary["status"] == "interrupted"
    reached = len(done.rows) + 2
    assert cli.run([f"resume={folder}", f"rounds={reached}", "log=quiet"]) == 0
    assert done.rows == launch(*base[1:], f"rounds={reached}").rows


def test_a_map_of_open_files_does_not_grow_with_rounds(launch: Launch) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    launch(*SLIGHT, "rounds=3", "runtime.workers=2")
    after = len(os.listdir("/proc/self/fd")) if before else 0
    assert after <= before + 3


def test_a_run_that_ended_early_ends_there_again_when_resumed(launch: Launch) -> None:
    done = launch(*SLIGHT, "rounds=30", "stop.target_accuracy=0.6", "local.epochs=3")
    rows, weights = done.rows, done.weights()
    assert cli.run([f"resume={done.folder}", "log=quiet"]) == 0
    assert done.rows == rows
    assert same(done.weights(), weights)


def test_a_used_folder_holds_nothing_that_a_resumption_could_mistake(launch: Launch, tmp_path: Path) -> None:
    folder = f"hydra.run.dir={tmp_path}/used"
    same_work = (*FEW, "sites=3", "local.epochs=1")
    small = ("runtime=local", "runtime.workers=0", "track.plots=false", "log=quiet", *same_work)
    assert cli.run([*small, "rounds=5", folder]) == 0
    assert cli.run([*small, "rounds=2", "seed=5", folder]) == 0
    assert cli.run([f"resume={tmp_path}/used", "rounds=3", "log=quiet"]) == 0
    assert Finished(tmp_path / "used", 0).rows == launch(*same_work, "seed=5", "rounds=3").rows


def test_resuming_changes_one_setting_and_keeps_its_neighbours(launch: Launch) -> None:
    done = launch(*SLIGHT, "rounds=2", "checkpoint.every=2")
    assert cli.run([f"resume={done.folder}", "rounds=3", "runtime.workers=1", "checkpoint.keep=2", "log=quiet"]) == 0
    job = json.loads((done.folder / "job.json").read_text())["config"]
    assert (job["rounds"], job["runtime"]["workers"], job["checkpoint"]) == (3, 1, {"every": 2, "keep": 2})
    assert job["track"]["plots"] is False
    assert cli.run([f"resume={done.folder}", "experiment=stragglers"]) == 2
    assert cli.run(["-m", f"resume={done.folder}", "seed=0,1"]) == 2


def test_sites_that_were_ahead_of_the_newest_checkpoint_go_back_to_it(launch: Launch) -> None:
    done, whole = (launch(*FEW, "rounds=8", "checkpoint.every=3") for _ in range(2))
    (done.folder / "checkpoints" / "round-000008.safetensors").unlink()
    assert cli.run([f"resume={done.folder}", "log=quiet"]) == 0
    assert done.rows == whole.rows
    assert all(same(done.weights(f"site-{i}"), whole.weights(f"site-{i}")) for i in range(4))
