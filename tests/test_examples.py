"""The examples are run, so that they stay true."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fl_distill.runtime.process_grid import ProcessGrid

EXAMPLES = Path(__file__).parent.parent / "scripts" / "examples"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quantized_flower", EXAMPLES / "quantized_flower.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_lines_save_two_thirds_of_the_bytes_of_a_stock_app(example: ModuleType) -> None:
    results = []
    for make in (example.fedavg, example.quantized_fedavg):
        with ProcessGrid(example.app, nodes=example.SITES, workers=0) as grid:
            results.append(example.learn(make(), grid))
    (plain, sent), (coded, fewer) = results
    assert plain > 0.85
    assert abs(plain - coded) <= 0.02
    assert fewer < 0.35 * sent


def test_the_lines_are_the_only_ones_that_know_of_coding() -> None:
    text = (EXAMPLES / "quantized_flower.py").read_text(encoding="utf-8")
    marked = [line for line in text.splitlines() if "# <- the" in line]
    assert len(marked) == 2
    assert "ClientApp(mods=[quantized])" in marked[0]
    assert 'Quantized(FedAvg(min_available_nodes=SITES), up="int8", down="int8")' in marked[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_app_runs_in_flowers_simulation() -> None:
    command = [sys.executable, str(EXAMPLES / "quantized_flower.py")]
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=580, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.findall(r"^(\w+) +accuracy (0\.\d+)  ([\d.]+) MB$", done.stdout, re.MULTILINE)
    assert [name for name, _, _ in found] == ["float32", "int8"]
    (_, plain, sent), (_, coded, fewer) = found
    assert abs(float(plain) - float(coded)) <= 0.02
    assert float(fewer) < 0.35 * float(sent)


def test_the_hospitals_say_which_data_they_lack(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "hospitals.py"), "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"{tmp_path} lacks cleveland.csv" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_hospitals_say_which_step_failed(tmp_path: Path) -> None:
    for name in ("cleveland", "hungarian", "switzerland", "va"):
        (tmp_path / f"{name}.csv").touch()
    command = [sys.executable, str(EXAMPLES / "hospitals.py"), "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert re.search("share_tables.py .* ended with exit code 2; why stands above", done.stderr)
    assert "Traceback" not in done.stderr
