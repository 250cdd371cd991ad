"""Four hospitals, four processes, four files: the shipped example, and whether a simulation tells the same story."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from fl_distill import cli
from fl_distill.files import load_tensors

from .conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
EXAMPLE = ROOT / "scripts" / "examples" / "hospitals.py"
FILES = ("dataset.path={}/sites", "public_dataset={}/public.csv", "test_dataset={}/test.csv")
FEDMD = ("experiment=heart", "rounds=5", "evaluate.alone=false")
FEDAVG = ("dataset=heart_disease", "strategy=fedavg", "model=tabular", "rounds=5", "codec.up=step", "codec.down=step")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--data", real_data / "heart_disease", "--folder", folder],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in found:
        row.pop("codec", None)  # how long coding took is told there
    return [{key: value for key, value in row.items() if not key.endswith("_s")} for row in found]


@pytest.mark.parametrize(("run", "task"), [("fedmd", FEDMD), ("fedavg", FEDAVG)])
def test_a_simulation_tells_the_same_story_bit_for_bit(
    run: str, task: tuple[str, ...], place: Path, tmp_path: Path
) -> None:
    files = [text.format(place / "data") for text in FILES]
    quiet = ["dataset.standardise=public", "runtime=local", "runtime.workers=0", "track.plots=false", "log=quiet"]
    assert cli.run([*task, *files, *quiet, f"hydra.run.dir={tmp_path}/run"]) == 0
    assert rows(place / run) == rows(tmp_path / "run")
    models = sorted(path.name for path in (place / run / "models").glob("server*"))
    for name in models:
        ours, theirs = (load_tensors(folder / "models" / name)[0] for folder in (place / run, tmp_path / "run"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_no_weights_left_while_the_policies_forbade_it(place: Path) -> None:
    """Logits of the public rows, at two bytes a number and class, are all that a hospital said."""
    public = len((place / "data" / "public.csv").read_text(encoding="utf-8").splitlines()) - 1
    for row in rows(place / "fedmd"):
        assert row["knowledge_up"] <= 4 * (public * 2 * 2 + 600), row["knowledge_up"]


def test_a_hospital_kept_its_memory_and_no_process_is_left(place: Path) -> None:
    for name in ("cleveland", "hungarian", "switzerland", "va"):
        assert list((place / name / "state" / "runs").glob("*/sites/*/round-*.safetensors")), name
        assert not (place / name / "state" / "in-hand.json").exists()
        assert not (place / name / "state" / "online").exists()
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(place) in " ".join(process.cmdline()):
                left.append(process.cmdline())
    assert not left
