"""Bad input and faults, each with a real file or process, each ending in the promised sentence."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from flwr.app import Message

from fl_distill import cli, client_app
from fl_distill.errors import BadUpdate
from fl_distill.runtime.tasks import FIRST_NODE
from fl_distill.task import Task

from .conftest import Finished, Launch, command


def refused(capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    code = cli.run([*overrides, "runtime=local", "runtime.workers=0", "rounds=1", "log=quiet", "hydra.run.dir=unused"])
    assert code == 2
    assert not Path("unused").exists()
    return capsys.readouterr().err


def test_more_sites_than_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert "5000 sites" in refused(capsys, "sites=5000")


def test_a_partition_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    shown = refused(capsys, "sites=40", "partition.alpha=0.000001")
    assert "alpha=1e-06 cannot give 40 sites" in shown


def test_a_missing_data_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shown = refused(capsys, "dataset=heart_disease", f"dataset.path={tmp_path}/absent")
    assert f"{tmp_path}/absent" in shown


def test_a_corrupt_parquet_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 this is no parquet file PAR1")
    assert "train.parquet" in refused(capsys, "dataset=mnist", f"dataset.path={tmp_path}")


def test_an_image_folder_with_a_truncated_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from PIL import Image

    for label in "ab":
        (tmp_path / label).mkdir()
        for n in range(6):
            Image.new("RGB", (9, 9), (40 * n, 0, 0)).save(tmp_path / label / f"{n}.png")
    bad = tmp_path / "a" / "3.png"
    bad.write_bytes(bad.read_bytes()[:40])
    assert "3.png" in refused(capsys, "dataset=image_folder", f"dataset.path={tmp_path}")


@pytest.mark.parametrize(
    ("text", "named"),
    [("a,colour,y\n1,red,0\n2,pink,1\n3,red,0\n", "colour"), ("a,colour,y\n,red,0\n?,red,1\n,blue,0\n", "'a'")],
)
def test_a_table_with_an_unknown_category_or_an_empty_column(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, named: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    shown = refused(
        capsys,
        "dataset=csv",
        f"dataset.path={tmp_path}/t.csv",
        "dataset.target=y",
        "dataset.numeric=[a]",
        "dataset.categorical={colour: [red, blue]}",
        "sites=2",
        "model=tabular",
    )
    assert named in shown
    assert "t.csv" in shown


def test_a_model_that_cannot_take_the_data(capsys: pytest.CaptureFixture[str], real_data: Path) -> None:
    assert "lenet" in refused(capsys, "dataset=heart_disease", "model=lenet")


def test_a_site_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert "site 'site-99' does not exist" in refused(capsys, "per_site.site-99.lr=0.1")


def test_training_that_diverges_costs_the_site_the_round(launch: Launch) -> None:
    done = launch("per_site.site-1.lr=1e30", "local.momentum=0.0", "model=mlp")
    assert all("training diverged" in row["failures"]["site-1"] for row in done.rows)
    assert done.summary["server_accuracy"] > 0.2


def test_a_site_that_raises_is_named_and_its_text_stays_at_home(launch: Launch) -> None:
    done = launch("per_site.site-2.device=toaster", "model=mlp")
    reason = done.rows[0]["failures"]["site-2"]
    assert "RuntimeError" in reason
    assert "toaster" not in reason
    assert "toaster" in (done.folder / "sites" / "errors.log").read_text()
    assert set(done.rows[0]["failures"]) == {"site-2"}
    assert done.summary["left_out"] == done.rows[-1]["failures"], "the end tells who had no part in it"


def test_the_end_tells_of_the_last_round_even_when_nothing_was_scored_in_it(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = client_app._task

    def task(message: Message) -> Task:
        found = whole(message)
        if found.round == 2 and message.metadata.dst_node_id == FIRST_NODE:
            raise BadUpdate("not today")
        return found

    monkeypatch.setattr(client_app, "_task", task)
    done = launch("strategy=local", "evaluate.sites_every=0", "rounds=2", "model=mlp", "runtime.workers=0")
    assert [row["failures"] for row in done.rows] == [{}, {"site-0": "not today"}]
    for again in ((), (f"resume={done.folder}", "log=quiet")):
        assert not again or cli.run(list(again)) == 0
        assert done.summary["left_out"] == {"site-0": "not today"}


def test_too_few_results_stop_the_run_with_everything_saved(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    done = launch("per_site.site-2.device=toaster", "collect.min_results=4", "model=mlp", code=1)
    assert "collect.min_results=4" in capsys.readouterr().err
    assert done.summary["status"] == "stopped"
    assert "site-2" in done.rows[0]["failures"]


def test_a_site_beyond_the_timeout_costs_only_itself(launch: Launch) -> None:
    done = launch(
        "per_site.site-1.steps=100000000", "collect.timeout_s=3", "runtime.workers=2", "rounds=2", "local.epochs=1"
    )
    assert "no reply within 3 s" in done.rows[0]["failures"]["site-1"]
    assert [set(row["failures"]) for row in done.rows] == [{"site-1"}, {"site-1"}]


def test_grace_ends_the_wait_once_enough_are_there(launch: Launch) -> None:
    began = time.monotonic()
    done = launch(
        "per_site.site-1.steps=100000000",
        "collect.timeout_s=60",
        "collect.grace_s=0.5",
        "collect.min_results=3",
        "runtime.workers=2",
        "rounds=1",
        "evaluate.sites_every=0",
    )
    assert time.monotonic() - began < 40
    assert "no reply within" in done.rows[0]["failures"]["site-1"]


def test_a_killed_worker_costs_its_site_the_round(launch: Launch) -> None:
    def assassin() -> None:
        deadline = time.monotonic() + 60
        me = psutil.Process()
        while time.monotonic() < deadline:
            workers = [c for c in me.children(recursive=True) if c.cpu_times().user > 0.3]
            if workers:
                workers[0].send_signal(signal.SIGKILL)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=assassin)
    thread.start()
    done = launch("runtime.workers=2", "rounds=6", "local.epochs=12", "sites=6")
    thread.join()
    failures = [reason for row in done.rows for reason in row["failures"].values()]
    assert len(failures) == 1
    assert "the worker process died" in failures[0]


def test_a_read_only_run_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert cli.run([f"hydra.run.dir={tmp_path}/file/run", "runtime=local", "rounds=1"]) == 2
    assert "cannot make the run folder" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_stops_the_run_and_it_can_go_on(tmp_path: Path, launch: Launch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not let tests mount a small disk")
    small = (
        "runtime=local",
        "runtime.workers=0",
        "rounds=6",
        "sites=4",
        "track.plots=false",
        "log=quiet",
        "local.epochs=1",
    )
    base = ("strategy=fedavg", *small)
    try:
        process = command(*base, f"hydra.run.dir={disk}/run", "checkpoint.keep=9")
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1, errors
        assert "No space left" in errors
        assert "resume=" in errors
        subprocess.run(["mount", "-o", "remount,size=60m", disk], check=True)
        assert cli.run([f"resume={disk}/run", "log=quiet"]) == 0
        assert Finished(disk / "run", 0).rows == launch(*base).rows
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(launch: Launch) -> None:
    whole, broken = launch("rounds=4", "model=mlp"), launch("rounds=4", "model=mlp")
    newest = max((broken.folder / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    assert cli.run([f"resume={broken.folder}", "log=quiet"]) == 0
    assert broken.rows == whole.rows


def test_bad_configuration_needs_no_torch() -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", "import sys; import fl_distill.cli; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    assert done.stdout.strip() == "False", time.monotonic() - began
