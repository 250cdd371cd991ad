"""A Ray cluster of several nodes, started apart from the run that uses it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from .conftest import ROOT, Finished, Launch, command
from .deployed import free_port

RAY = Path(sys.executable).parent / "ray"


def started(environment: dict[str, str], *arguments: str) -> str:
    """What one of Ray's commands says."""
    done = subprocess.run([RAY, *arguments], env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def cluster(tmp_path: Path, ray_home: Path) -> Iterator[str]:
    """The address of two nodes with one CPU each; they are gone afterwards."""
    mark = {"FL_DISTILL_TEST": str(tmp_path), "RAY_TMPDIR": str(ray_home)}
    environment = os.environ | mark | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    address = f"127.0.0.1:{free_port()}"
    plain = ("--num-cpus=1", "--disable-usage-stats")
    try:
        started(
            environment, "start", "--head", f"--port={address.partition(':')[2]}", "--include-dashboard=false", *plain
        )
        started(environment, "start", f"--address={address}", *plain)
        deadline = time.monotonic() + 60
        while "0.0/2.0 CPU" not in started(environment, "status", f"--address={address}"):
            assert time.monotonic() < deadline, "the second node did not join"
            time.sleep(0.5)
        yield address
    finally:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("FL_DISTILL_TEST") == str(tmp_path):
                    process.kill()


@pytest.mark.slow
def test_two_nodes_give_what_this_machine_gives(cluster: str, launch: Launch, tmp_path: Path) -> None:
    small = ("rounds=3", "strategy.warmup=1", "local.epochs=1", "track.plots=false", "log=quiet")
    process = command(*small, f"runtime.address={cluster}", f"hydra.run.dir={tmp_path}/ray")
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    here = launch(*small, "strategy=fedmd", "sites=8", "runtime.workers=2")
    assert Finished(tmp_path / "ray", 0).rows == here.rows
