"""Shared by all tests: runs through the real command line, in small."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import torch
from hypothesis import settings

from fl_distill import cli
from fl_distill.files import load_tensors

settings.register_profile("default", deadline=None)
settings.load_profile("default")
os.environ.setdefault("WANDB_MODE", "offline")

MARK = "FL_DISTILL_TESTS"
"""A variable of the environment, by which whatever these tests start is known."""
os.environ[MARK] = uuid4().hex
ROOT = Path(__file__).parent.parent
SMALL = (
    "strategy=fedavg",
    "runtime=local",
    "runtime.workers=0",
    "rounds=3",
    "sites=4",
    "local.epochs=2",
    "track.plots=false",
    "log=quiet",
)


@dataclass(frozen=True)
class Finished:
    """What a run left behind."""

    folder: Path
    code: int

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rounds, without times."""
        return [without_times(row) for row in self.timed]

    @property
    def timed(self) -> list[dict[str, Any]]:
        """The rounds."""
        return [json.loads(line) for line in (self.folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        """The summary, without times."""
        return without_times(json.loads((self.folder / "summary.json").read_text(encoding="utf-8")))

    def weights(self, name: str = "server") -> dict[str, torch.Tensor]:
        """A final model."""
        return load_tensors(self.folder / "models" / f"{name}.safetensors")[0]


def without_times(found: dict[str, Any]) -> dict[str, Any]:
    """The same without seconds, at any depth: what coding took is among the figures of the codec."""
    return {k: without_times(v) if isinstance(v, dict) else v for k, v in found.items() if not k.endswith("_s")}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Federations of several processes follow one another where tests run side by side (`-n 2 --dist loadgroup`)."""
    for item in items:
        if item.path.name.startswith(("test_deploy", "test_ray_cluster")):
            item.add_marker(pytest.mark.xdist_group("federations"))


Launch = Callable[..., Finished]


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Run `fl-distill` in this process: `launch("strategy=fedprox", code=0)`; small unless told otherwise."""
    count = 0

    def go(*overrides: str, code: int = 0) -> Finished:
        nonlocal count
        count += 1
        folder = tmp_path / f"run-{count}"
        keys = {text.partition("=")[0] for text in overrides}
        if "experiment" in keys:
            keys.add("local.epochs")  # how long sites train is the experiment's affair
        rest = [text for text in SMALL if text.partition("=")[0] not in keys]
        got = cli.run([*rest, *overrides, f"hydra.run.dir={folder}"])
        assert got == code, f"exit code {got}, expected {code}"
        return Finished(folder, got)

    return go


def command(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """`fl-distill` in a process of its own, from this checkout."""
    return python("-m", "fl_distill.cli", *arguments, **environment)


def python(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Python in a process of its own, with this checkout."""
    env = os.environ | {"PYTHONPATH": str(ROOT), **environment}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    _commands.append(process)
    return process


_commands: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def no_command_outlives_its_test() -> Iterator[None]:
    """What a test that failed left running would be in the way of those behind it."""
    yield
    while _commands:
        process = _commands.pop()
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    child.kill()
            process.kill()
            process.communicate()


@pytest.fixture
def ray_home() -> Iterator[Path]:
    """A folder of Ray's own for `RAY_TMPDIR`; its path is short, as those of sockets in it must be."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two models are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; the test is skipped where there is none."""
    root = os.environ.get("FL_DISTILL_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("FL_DISTILL_DATA names no folder of real data sets")
    return Path(root)
