"""Flower's own engines: Ray in this process, and `flwr run` with a real local SuperLink."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from .conftest import MARK, ROOT, Finished, Launch, command, same
from .deployed import free_port

BASE = ("rounds=3", "sites=4", "local.epochs=1", "track.plots=false", "log=quiet")


def ray_processes() -> list[psutil.Process]:
    """Ray's daemons that these tests started: orphans have the environment of whom they were started by."""
    found = (p for p in psutil.process_iter(["name"]) if p.info["name"] in ("raylet", "gcs_server"))
    return [p for p in found if _environment(p).get(MARK) == os.environ[MARK]]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def test_simulation_gives_what_local_processes_give(launch: Launch, tmp_path: Path, ray_home: Path) -> None:
    before = len(ray_processes())
    folder = tmp_path / "ray"
    (ray_home / "ray").mkdir()
    (ray_home / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{free_port()}")  # of a cluster that was killed
    base = (*BASE, "strategy=fedprox", "collect.fraction=0.8", "local.together=true")
    process = command(*base, f"hydra.run.dir={folder}", RAY_TMPDIR=str(ray_home))
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    here = launch(*base, "runtime.workers=2")
    there = Finished(folder, 0)
    assert there.rows == here.rows
    assert there.summary == here.summary
    assert same(there.weights(), here.weights())
    assert len(ray_processes()) == before


def test_what_cannot_run_is_said_and_leaves_no_ray(tmp_path: Path) -> None:
    before = len(ray_processes())
    process = command(*BASE, "per_site.nobody.lr=0.1", f"hydra.run.dir={tmp_path}/ray")
    said, errors = process.communicate(timeout=100)
    assert process.returncode == 2
    assert said == ""
    first, second = errors.strip().splitlines()
    assert "cannot run" in first
    assert "site 'nobody' does not exist" in second
    assert not (tmp_path / "ray").exists()
    assert len(ray_processes()) == before


def test_local_training_on_ray_keeps_each_sites_model(launch: Launch, tmp_path: Path) -> None:
    mix = ("strategy=local", "models=[mlp,cnn]")
    process = command(*BASE, *mix, f"hydra.run.dir={tmp_path}/ray")
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert Finished(tmp_path / "ray", 0).rows == launch(*BASE, *mix).rows


def test_a_ray_worker_killed_mid_round_is_replaced(tmp_path: Path) -> None:
    process = command(
        "rounds=4",
        "sites=6",
        "local.epochs=20",
        "evaluate.alone=false",
        "track.plots=false",
        f"hydra.run.dir={tmp_path}/ray",
        "log=quiet",
    )
    deadline = time.monotonic() + 120
    actors: list[psutil.Process] = []
    rows = tmp_path / "ray" / "rounds.jsonl"
    while time.monotonic() < deadline and not (actors and rows.exists()):
        actors = [c for c in psutil.Process(process.pid).children(recursive=True) if "ClientAppActor" in _title(c)]
        time.sleep(0.1)
    spent = actors[0].cpu_times().user
    while time.monotonic() < deadline and actors[0].cpu_times().user < spent + 0.1:
        time.sleep(0.01)  # until it is at the next round's work
    actors[0].send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    done = Finished(tmp_path / "ray", 0)
    failed = [len(row["failures"]) for row in done.rows]
    # The site that it was at, if it was at one: those behind it got another actor.
    assert sum(failed) <= 2, [row["failures"] for row in done.rows]
    assert not actors[0].is_running()
    assert failed[-1] == 0


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_an_interrupt_leaves_no_ray_behind(tmp_path: Path) -> None:
    before = len(ray_processes())
    process = command(
        "strategy=fedavg", "rounds=500", "sites=4", "track.plots=false", f"hydra.run.dir={tmp_path}/ray", "log=quiet"
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "ray" / "rounds.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(ray_processes()) > before
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "can be resumed" in errors
    time.sleep(1)
    assert len(ray_processes()) == before
    assert Finished(tmp_path / "ray", 130).summary["status"] == "interrupted"


def test_more_resources_than_there_are_is_a_configuration_error(tmp_path: Path) -> None:
    process = command("runtime.cpus_per_site=4000", f"hydra.run.dir={tmp_path}/ray")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "lower runtime.cpus_per_site" in errors


@pytest.fixture
def superlink(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a local SuperLink of this test's own; it is stopped afterwards."""
    environment = os.environ | {
        "HOME": str(tmp_path / "home"),
        "FLWR_HOME": str(tmp_path / "flwr"),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
        "FLWR_LOCAL_CONTROL_API_PORT": str(free_port()),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    environment.pop("PYTHONPATH", None)
    (tmp_path / "home").mkdir()
    yield environment
    for process in psutil.process_iter():
        try:
            if process.environ().get("FLWR_HOME") == environment["FLWR_HOME"]:
                process.kill()
        except psutil.Error:
            continue


def flwr_run(folder: Path, environment: dict[str, str], overrides: str) -> str:
    """What `flwr run` says of this package as an app, from a checkout in a folder."""
    app = folder / "fl-distill"
    for name in ("conf", "fl_distill", "strategies"):
        shutil.copytree(ROOT / name, app / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, app / name)
    config = ["--run-config", f'overrides="{overrides}"', "--federation-config", "num-supernodes=4"]
    done = subprocess.run(
        ["flwr", "run", ".", "--stream", *config],
        cwd=app,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.stdout + done.stderr


def test_flwr_run_from_a_checkout_gives_the_same_rounds(
    superlink: dict[str, str], tmp_path: Path, launch: Launch
) -> None:
    overrides = "strategy=fedprox rounds=3 sites=4 local.epochs=1 track.plots=false log=quiet"
    said = flwr_run(tmp_path, superlink, overrides)
    folders = list((tmp_path / "home" / ".fl-distill" / "runs").glob("*"))
    assert len(folders) == 1, said
    assert Finished(folders[0], 0).rows == launch(*overrides.split()).rows


def test_flwr_run_says_what_cannot_run(superlink: dict[str, str], tmp_path: Path) -> None:
    said = flwr_run(tmp_path, superlink, "strategy=fedavg codec.up=itn8 rounds=0")
    assert "this cannot run:" in said
    assert "did you mean 'int8'?" in said
    assert "rounds must be a whole number >= 1" in said
    wanted = ["flwr", "list", "--format", "json"]
    listed = subprocess.run(wanted, env=superlink, capture_output=True, text=True, timeout=60, check=False)
    assert '"finished:failed"' in listed.stdout, listed.stdout + listed.stderr
