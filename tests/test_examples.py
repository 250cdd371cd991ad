"""The examples are run, so that they stay true."""

import importlib.util
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
