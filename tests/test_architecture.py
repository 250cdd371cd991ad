"""Every import stands in a room that may reach so far; see "How it is built" in the README."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from itertools import accumulate
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "fl_distill"
FOLDERS = {PACKAGE: ROOT / PACKAGE, f"{PACKAGE}.strategies": ROOT / "strategies", f"{PACKAGE}.conf": ROOT / "conf"}

PRIVATE_FLOWER = ("fl_distill.runtime.flower_private", "fl_distill.runtime.flower_line")
PUBLIC_FLOWER = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.simulation"}


def own(*rooms: str) -> set[str]:
    return {f"{PACKAGE}.{room}" for room in rooms}


# What a room may import beside the standard library and itself. A name covers everything below it.
LEAVES = own("errors", "seeds", "checks", "targets", "stretches")
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "checks": set(),
    "seeds": {"torch", "numpy"},
    "stretches": set(),
    "targets": own("errors"),
    "locks": set(),
    "meeting": {"torch", "greenlet"},
    "programs": own("errors"),
    "registered": set(),
    "files": {"torch", "safetensors"} | own("errors"),
    "models": {"torch", "torchvision", "safetensors"} | LEAVES,
    "data": {"torch", "numpy", "pandas", "PIL", "datasets", "flwr_datasets", "pyarrow", "safetensors", "sklearn"}
    | LEAVES,
    "quantize": {"torch"},
    "export": {"torch", "numpy", "onnx", "onnxruntime"} | LEAVES | own("quantize", "learning", "data.types"),
    "learning": {"torch"} | LEAVES | own("data.types", "models.conv2d", "models.stages", "quantize"),
    "knowledge": {"torch", "numpy", "numba"} | LEAVES,
    "codec": {"torch", "numpy", "zstandard", "flwr.app"} | LEAVES,
    "strategies": {"torch", "flwr.app", "flwr.serverapp"}
    | LEAVES
    | own("knowledge", "codec", "learning", "data.types"),
    "tracking": {"rich", "matplotlib", "wandb"} | own("errors", "locks"),
    "config": {"hydra", "omegaconf"} | LEAVES | own("codec", "conf", "learning", "models", "quantize"),
    "policy": {"yaml"} | LEAVES | own("codec.rate", "config", "halves.leaving"),
    "deploy": {"cryptography", "yaml"}
    | own("errors", "locks", "programs", "registered", "__version__", "client_app", "policy")
    | own("runtime.node", "runtime.link", "runtime.faults", "runtime.patience"),
    "cli": {PACKAGE},
    "runtime": {"torch", "numpy", "ray", "flwr", "cryptography", "httpx", PACKAGE},
}
# The modules that join the rooms: the site, the server, the round loop, the commands.
JOINTS = {"torch", "yaml", "flwr.app", "flwr.clientapp", "flwr.serverapp", PACKAGE}


def modules() -> Iterator[tuple[str, bool, str]]:
    """(name, whether it is a package, source) of every module under its installed name."""
    for prefix, folder in FOLDERS.items():
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            package = parts[-1] == "__init__"
            yield ".".join((prefix, *(parts[:-1] if package else parts))), package, file.read_text(encoding="utf-8")


def imports(name: str, package: bool, source: str) -> Iterator[str]:
    """The full name of everything that `source` imports, inside functions too, and by a literal `import_module`."""
    base = name.split(".") if package else name.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                start = base[: len(base) - level + 1] if level else []
                path = ".".join([*start, *([module] if module else [])])
                yield from (f"{path}.{alias.name}" for alias in names)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(target)), *_],
            ):
                yield target


def room_of(name: str) -> str:
    return ".".join(name.split(".")[:2])


def covered(name: str, allowed: Iterable[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)


def private_flower(name: str) -> bool:
    """Whether `name`, imported from Flower, is neither a public module nor a name that one exports."""
    return name not in PUBLIC_FLOWER and name.rpartition(".")[0] not in PUBLIC_FLOWER


def violations(name: str, package: bool, source: str) -> list[str]:
    room = room_of(name)
    allowed = ROOMS.get(room.removeprefix(f"{PACKAGE}."), JOINTS) | {room}
    found = {target for target in imports(name, package, source) if target.split(".")[0] not in sys.stdlib_module_names}
    bad = [f"{name} may not import {target}" for target in found if not covered(target, allowed)]
    bad += [
        f"{name} may not import {target}: only {' and '.join(PRIVATE_FLOWER)} may know what Flower does not export"
        for target in found
        if covered(target, ["flwr"]) and private_flower(target) and name not in PRIVATE_FLOWER
    ]
    return sorted(bad)


def test_no_room_reaches_where_it_may_not() -> None:
    assert [fault for module in modules() for fault in violations(*module)] == []


def test_every_rule_is_about_a_room_that_exists() -> None:
    rooms = {room_of(name).removeprefix(f"{PACKAGE}.") for name, _, _ in modules()}
    assert ROOMS.keys() - rooms == set()


def test_rooms_form_no_circle() -> None:
    known = {name for name, _, _ in modules()} - {PACKAGE}
    graph: dict[str, set[str]] = {}
    for name, package, source in modules():
        for target in imports(name, package, source):
            there = [prefix for prefix in accumulate(target.split("."), "{}.{}".format) if prefix in known]
            if there and room_of(there[-1]) != room_of(name):
                graph.setdefault(room_of(name), set()).add(room_of(there[-1]))
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("fl_distill.models.net", "def f():\n    import wandb", "fl_distill.models.net may not import wandb"),
        (
            "fl_distill.models.net",
            "from ..data import types",
            "fl_distill.models.net may not import fl_distill.data.types",
        ),
        ("fl_distill.learning.x", "from ..data.digits import Digits", "may not import fl_distill.data.digits.Digits"),
        ("fl_distill.strategies.x", "import hydra.core", "may not import hydra.core"),
        ("fl_distill.client", "from importlib import import_module\nimport_module('ray')", "may not import ray"),
        ("fl_distill.data.x", "import importlib\nimportlib.import_module('flwr.app')", "may not import flwr.app"),
        ("fl_distill.rounds", "from flwr.simulation import run_simulation", "may not import flwr.simulation"),
        (
            "fl_distill.runtime.x",
            "from flwr.common.constant import ErrorCode",
            "only fl_distill.runtime.flower_private",
        ),
        ("fl_distill.runtime.x", "import flwr", "only fl_distill.runtime.flower_private"),
        ("fl_distill.runtime.x", "from flwr import server", "only fl_distill.runtime.flower_private"),
        ("fl_distill.learning.x", "async def f():\n    import numpy", "may not import numpy"),
        ("fl_distill.strategies.x", "from .. import rounds", "may not import fl_distill.rounds"),
        ("fl_distill.strategies.x", "import strategies", "may not import strategies"),
    ],
)
def test_what_reaches_too_far_is_seen(name: str, source: str, fault: str) -> None:
    (found,) = violations(name, False, source)
    assert fault in found


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("fl_distill.learning.x", "import math\nfrom ..data.types import Split\nfrom . import fit"),
        ("fl_distill.codec.x", "from flwr.app import Array"),
        (
            "fl_distill.strategies.x",
            "from flwr.serverapp.strategy import Strategy\nfrom ..knowledge import WeightedMean",
        ),
        (PRIVATE_FLOWER[0], "from flwr.common.constant import ErrorCode"),
    ],
)
def test_what_a_room_needs_is_allowed(name: str, source: str) -> None:
    assert violations(name, False, source) == []


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("fl_distill", "torch flwr hydra numpy"),
        (
            "fl_distill.cli",
            "torch flwr hydra rich matplotlib wandb sklearn datasets flwr_datasets torchvision ray pandas",
        ),
        ("fl_distill.commands", "torch flwr numpy rich ray"),
        ("fl_distill.runtime.ray_here", "torch flwr numpy hydra ray"),
        (
            "fl_distill.server_app",
            "matplotlib wandb sklearn datasets flwr_datasets torchvision ray pandas pyarrow numba",
        ),
        ("fl_distill.strategies", "hydra omegaconf matplotlib wandb sklearn datasets flwr_datasets torchvision numba"),
    ],
)
def test_imports_are_light(module: str, heavy: str) -> None:
    code = f"import sys, {module}; print(*sorted({set(heavy.split())!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
