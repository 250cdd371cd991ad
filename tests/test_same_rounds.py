"""The same seed gives the same rounds and models, whoever serves the sites and however their messages travel."""

import hashlib
import json
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fl_distill.config.schema import Runtime
from fl_distill.runtime import local, packing
from fl_distill.runtime.couriers import Couriers
from fl_distill.runtime.process_grid import ProcessGrid
from fl_distill.runtime.tasks import Task

from .conftest import Finished, Launch, python

T = TypeVar("T")

WORKERS = (1, 2, 4)
FEW = ("rounds=3", "collect.fraction=0.6", "local.epochs=1", "local.together=true", "track.plots=false", "log=quiet")
EXPERIMENTS = {
    "weights": (
        *("strategy=fedprox", "model=mlp", "sites=20", "partition.alpha=0.3", "collect.stragglers=0.5"),
        *("codec.up=[delta,residual,rotate,lloydmax1]", "codec.down=step"),
    ),
    "knowledge": (
        *("strategy=fedmd", "models=[mlp,cnn]", "sites=10", "strategy.warmup=1", "strategy.examples=50"),
        *("strategy.digest_epochs=1", "evaluate.alone=false"),
    ),
}


def assert_same(one: Finished, other: Finished, how: str = "") -> None:
    assert one.rows == other.rows, how
    assert one.summary == other.summary, how
    assert models(one) == models(other), how


def models(run: Finished) -> dict[str, str]:
    found = (run.folder / "models").iterdir()
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def packed(_: pytest.MonkeyPatch) -> None:
    """As it is."""


def unpacked(patched: pytest.MonkeyPatch) -> None:
    """As where workers cannot reach the server's memory."""
    patched.setattr(packing, "Packing", partial(packing.Packing, shared=False))


def direct(patched: pytest.MonkeyPatch) -> None:
    """Without anything between the server and the grid of processes."""

    def run(app: ClientApp, serve: Callable[[Grid], T], *, nodes: int, runtime: Runtime, abreast: int) -> T:
        with ProcessGrid(app, nodes=nodes, workers=runtime.workers, threads=runtime.threads) as grid:
            return serve(grid)

    patched.setattr(local, "run_locally", run)


@pytest.fixture
def bundles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many sites each bundle was that this process sent."""
    sizes: list[int] = []
    send = Couriers.send

    def noted(self: Couriers, tasks: Sequence[Task]) -> bool:
        sizes.append(len(tasks))
        return send(self, tasks)

    monkeypatch.setattr(Couriers, "send", noted)
    return sizes


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_processes_give_the_same_however_many_they_are_and_however_messages_travel(
    name: str, launch: Launch, monkeypatch: pytest.MonkeyPatch, bundles: list[int]
) -> None:
    settings = (*FEW, *EXPERIMENTS[name])
    here = launch(*settings)
    assert not any(row["failures"] for row in here.rows)
    for way, largest in ((packed, range(2, 21)), (unpacked, [1]), (direct, [0])):
        for workers in WORKERS:
            bundles.clear()
            with monkeypatch.context() as patched:
                way(patched)
                done = launch(*settings, f"runtime.workers={workers}")
            how = f"{way.__name__}, workers={workers}"
            assert max(bundles, default=0) in largest, how
            assert_same(done, here, how)


ON_RAY = textwrap.dedent(
    """
    import sys
    from fl_distill import cli
    from fl_distill.runtime import simulation
    from fl_distill.runtime.packing import Packing

    def packing(grid, *, workers, **how):
        print(workers)
        return Packing(grid, workers=workers, shared=sys.argv[1] == "packed", **how)

    simulation.Packing = packing
    sys.exit(cli.run(sys.argv[2:]))
    """
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "workers", "how"),
    [
        ("weights", 1, "packed"),
        ("weights", 2, "packed"),
        ("weights", 4, "unpacked"),
        ("knowledge", 4, "packed"),
    ],
)
def test_ray_gives_what_one_process_gives(
    name: str, workers: int, how: str, launch: Launch, tmp_path: Path, ray_home: Path
) -> None:
    settings = (*FEW, *EXPERIMENTS[name])
    environment = {"RAY_TMPDIR": str(ray_home), "RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": workers})}
    process = python("-c", ON_RAY, how, *settings, "runtime=simulation", f"hydra.run.dir={tmp_path}/ray", **environment)
    said, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert said == f"{workers}\n"
    assert_same(Finished(tmp_path / "ray", 0), launch(*settings))
