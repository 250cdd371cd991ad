"""No room reaches where it may not: the import direction of README's "How it is built", read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ERRORS, SEEDS, CHECKS = "fl_distill.errors", "fl_distill.seeds", "fl_distill.checks"
TORCH = ("torch", "numpy")
FLOWER = ("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.simulation")
PRIVATE = "fl_distill.runtime.flower_private"

# What a room may import beside itself and the standard library; a name stands for all that is below it.
ROOMS: dict[str, tuple[str, ...]] = {
    "fl_distill.models": ("torch", "torchvision", "safetensors", ERRORS, SEEDS, CHECKS, "fl_distill.targets"),
    "fl_distill.data": (
        *TORCH,
        *("PIL", "datasets", "flwr_datasets", "pyarrow", "safetensors", "sklearn"),
        *(ERRORS, SEEDS, CHECKS),
    ),
    "fl_distill.learning": ("torch", ERRORS, SEEDS, CHECKS, "fl_distill.data.types"),
    "fl_distill.knowledge": ("torch", ERRORS, SEEDS, CHECKS, "fl_distill.data.types"),
    "fl_distill.codec": (*TORCH, "flwr.app", ERRORS),
    "fl_distill.strategies": (
        *("torch", "flwr.app", "flwr.serverapp", ERRORS, SEEDS, CHECKS),
        *("fl_distill.codec", "fl_distill.knowledge", "fl_distill.learning"),
    ),
    "fl_distill.tracking": ("rich", "wandb", "matplotlib", ERRORS),
}
# Who may import these at all.
ONLY: dict[str, tuple[str, ...]] = {
    "ray": ("fl_distill.runtime",),
    "flwr.simulation": ("fl_distill.runtime",),
    "hydra": ("fl_distill.config",),
    "omegaconf": ("fl_distill.config",),
    "wandb": ("fl_distill.tracking",),
    "rich": ("fl_distill.tracking",),
    "matplotlib": ("fl_distill.tracking",),
    "sklearn": ("fl_distill.data",),
    "datasets": ("fl_distill.data",),
    "flwr_datasets": ("fl_distill.data",),
    "torchvision": ("fl_distill.models",),
    "strategies": (),  # they are `fl_distill.strategies`, in a checkout too
    "conf": (),
}


def below(module: str, names: Iterable[str]) -> bool:
    """Whether `module` is one of `names`, or is inside one."""
    return any(module == name or module.startswith(f"{name}.") for name in names)


def modules() -> Iterator[tuple[str, str, bool]]:
    """Every module of the package as it is installed: name, source, and whether it is a package."""
    for folder, prefix in (("fl_distill", "fl_distill"), ("strategies", "fl_distill.strategies")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            package = parts[-1] == "__init__"
            name = ".".join((prefix, *parts[: -1 if package else None]))
            yield name, path.read_text(encoding="utf-8"), package


MODULES = {name: (source, package) for name, source, package in modules()}


def imported(name: str, source: str, package: bool) -> set[str]:
    """Every module that `source` imports anywhere, in functions too; relative imports are resolved.

    `from a import b` counts as `a.b` where that is a module, of ours or right below `flwr`.
    """
    home = name.split(".") if package else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            ours = home[: len(home) - node.level + 1] if node.level else []
            base = ".".join([*ours, *filter(None, [node.module])])
            paths = [f"{base}.{alias.name}" for alias in node.names]
            found |= {path if path in MODULES or base == "flwr" else base for path in paths}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                found.add(str(node.args[0].value))
    return found


def faults(name: str, source: str, package: bool = False) -> list[str]:
    """One sentence for each import of module `name` that the house does not allow."""
    targets = sorted(imported(name, source, package))
    found = []
    for target in targets:
        top = target.partition(".")[0]
        for room, allowed in ROOMS.items():
            inside = below(target, (room, *allowed)) or top in sys.stdlib_module_names
            if below(name, (room,)) and not inside:
                found.append(f"{name} imports {target}, which {room} may not")
        for scarce, rooms in ONLY.items():
            if below(target, (scarce,)) and not below(name, rooms):
                found.append(f"{name} imports {target}, which only {', '.join(rooms) or 'nobody'} may")
        if top == "flwr" and name != PRIVATE and not _public_flower(target):
            found.append(f"{name} imports {target}, a private part of Flower, which only {PRIVATE} may")
    return found


def _public_flower(target: str) -> bool:
    """`flwr.app` and its like are public, `flwr.serverapp.strategy` too, but no other module inside them."""
    return target in (*FLOWER, "flwr.serverapp.strategy")


def check_no_circle(sources: Mapping[str, tuple[str, bool]]) -> None:
    """CycleError with the circle, where rooms import each other."""
    graph: dict[str, set[str]] = {}
    for name, (source, package) in sources.items():
        targets = {_room(target) for target in imported(name, source, package) if target.startswith("fl_distill.")}
        graph.setdefault(_room(name), set()).update(targets - {_room(name)})
    TopologicalSorter(graph).prepare()


def _room(name: str) -> str:
    return ".".join(name.split(".")[:2])


def test_rooms_form_no_circle() -> None:
    check_no_circle(MODULES)
    circle = {
        "fl_distill.codec.x": ("def f():\n    from ..data import y", False),
        "fl_distill.data.y": ("from fl_distill.codec.x import f", False),
    }
    with pytest.raises(CycleError):
        check_no_circle(circle)


@pytest.mark.parametrize("name", MODULES)
def test_no_room_reaches_where_it_may_not(name: str) -> None:
    assert not faults(name, *MODULES[name])


@pytest.mark.parametrize(
    ("name", "source", "sentence"),
    [
        ("fl_distill.models.new", "import flwr", "imports flwr, which fl_distill.models may not"),
        ("fl_distill.models.new", "from fl_distill import config", "imports fl_distill.config, which"),
        (
            "fl_distill.models.new",
            "def f():\n    from ..data.types import Split",
            "imports fl_distill.data.types, which",
        ),
        (
            "fl_distill.data.new",
            "async def f():\n    import flwr.app",
            "imports flwr.app, which fl_distill.data may not",
        ),
        ("fl_distill.data.new", "from hydra import compose", "imports hydra, which only fl_distill.config may"),
        ("fl_distill.learning.new", "import numpy as np", "imports numpy, which fl_distill.learning may not"),
        ("fl_distill.learning.new", "from ..data.federate import federate", "imports fl_distill.data.federate, which"),
        ("fl_distill.knowledge.new", "from ..learning import fit", "imports fl_distill.learning.fit, which"),
        (
            "fl_distill.codec.new",
            "from flwr.serverapp import Grid",
            "imports flwr.serverapp, which fl_distill.codec may",
        ),
        ("fl_distill.strategies.new", "from ..config import experiment", "imports fl_distill.config.experiment, which"),
        ("fl_distill.strategies.new", "from ..rounds import Rounds", "imports fl_distill.rounds, which"),
        ("fl_distill.tracking.new", "import torch", "imports torch, which fl_distill.tracking may not"),
        (
            "fl_distill.client",
            "if True:\n    import wandb.sdk",
            "imports wandb.sdk, which only fl_distill.tracking may",
        ),
        ("fl_distill.client", "import strategies", "imports strategies, which only nobody may"),
        ("fl_distill.server_app", "import ray", "imports ray, which only fl_distill.runtime may"),
        (
            "fl_distill.server_app",
            "from flwr import simulation",
            "imports flwr.simulation, which only fl_distill.runtime",
        ),
        (
            "fl_distill.runtime.new",
            "from flwr.common.constant import X",
            "imports flwr.common.constant, a private part",
        ),
        ("fl_distill.runtime.new", "from flwr import server", "imports flwr.server, a private part of Flower"),
        ("fl_distill.runtime.new", "from flwr.app.message import x", "imports flwr.app.message, a private part"),
        ("fl_distill.rounds", "m = __import__('flwr.supercore.run')", "imports flwr.supercore.run, a private part"),
        (
            "fl_distill.rounds",
            "importlib.import_module('omegaconf')",
            "imports omegaconf, which only fl_distill.config",
        ),
    ],
)
def test_the_check_sees(name: str, source: str, sentence: str) -> None:
    found = faults(name, source)
    assert len(found) >= 1
    assert any(sentence in fault for fault in found), found


def test_the_check_lets_pass_what_is_allowed() -> None:
    source = """
import math, torch.nn.functional as F
from collections.abc import Mapping
from . import combiners
from .base import SiteStrategy
from .. import codec
from ..knowledge.mean import WeightedMean
from flwr.serverapp.strategy import Strategy
"""
    assert faults("fl_distill.strategies.new", source) == []
    assert faults("fl_distill.strategies", "from .base import SiteStrategy", package=True) == []
    assert faults(PRIVATE, "from flwr.supercore.run import Run") == []


def loaded_after(statement: str, *names: str) -> list[str]:
    code = f"import sys; {statement}; print(*[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


HEAVY = (
    "datasets",
    "flwr_datasets",
    "matplotlib",
    "pandas",
    "pyarrow",
    "ray",
    "sklearn",
    "torchvision",
    "wandb",
)


def test_the_command_line_starts_light() -> None:
    assert loaded_after("import fl_distill.cli", "torch", "flwr", "hydra", "rich", *HEAVY) == []


def test_apps_load_nothing_heavy_before_it_is_used() -> None:
    assert loaded_after("import fl_distill.client_app, fl_distill.server_app", *HEAVY) == []


def test_strategies_need_no_hydra() -> None:
    assert loaded_after("import fl_distill.strategies", "hydra", "omegaconf", *HEAVY) == []
