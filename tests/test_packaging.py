"""One package from a checkout, a wheel, an editable install and a Flower bundle: the same names, the same files."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

import fl_distill

ROOT = Path(__file__).parent.parent
FOLDERS = ("fl_distill", "strategies", "conf")
FILES = (".gitignore", "LICENSE", "README.md", "pyproject.toml")
# What every way of installing must give.
PROBE = """
import json, sys, fl_distill, fl_distill.conf, fl_distill.strategies as strategies
from fl_distill.config.experiment import experiment
from fl_distill.client_app import app as client_app
from fl_distill.server_app import app as server_app
print(json.dumps({
    "package": fl_distill.__file__,
    "strategies": strategies.__file__,
    "conf": fl_distill.conf.__file__,
    "module": strategies.FedAvg.__module__,
    "rounds": experiment(["rounds=3", "strategy=fedprox"]).rounds,
    "apps": [type(client_app).__name__, type(server_app).__name__],
    "twins": "strategies" in sys.modules or "conf" in sys.modules,
}))
"""


def python(
    code: str, folder: Path, path: Path | None = None, interpreter: str | Path = sys.executable
) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {"PYTHONPATH": str(path)} if path else {}
    return subprocess.run([interpreter, "-c", code], cwd=folder, env=env, capture_output=True, text=True, check=False)


def run(*command: str | Path, cwd: Path, **environment: str) -> None:
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def probe(folder: Path, path: Path | None = None, interpreter: str | Path = sys.executable) -> dict[str, Any]:
    done = python(PROBE, folder, path, interpreter)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["module"].startswith("fl_distill.strategies.")
    assert found["rounds"] == 3
    assert found["apps"] == ["ClientApp", "ServerApp"]
    assert not found["twins"], "a module of the package is importable under a second name"
    return found


def sources(root: Path, *endings: str) -> set[str]:
    """Files of the package, relative to a checkout's root."""
    return {
        str(file.relative_to(root))
        for folder in FOLDERS
        for ending in endings
        for file in (root / folder).rglob(f"*{ending}")
    }


def installed_name(file: str) -> str:
    return file if file.startswith("fl_distill/") else f"fl_distill/{file}"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout's package, which builds may litter."""
    copy = tmp_path_factory.mktemp("checkout") / "fl-distill"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy(ROOT / file, copy / file)
    return copy


def test_tests_see_the_checkout() -> None:
    assert Path(fl_distill.__file__).parent == ROOT / "fl_distill"


def test_a_bare_checkout_imports(checkout: Path, tmp_path: Path) -> None:
    found = probe(tmp_path, path=checkout)
    assert found["package"] == str(checkout / "fl_distill/__init__.py")
    assert found["strategies"] == str(checkout / "strategies/__init__.py")
    assert found["conf"] == str(checkout / "conf/__init__.py")


def test_strategies_have_one_name(checkout: Path) -> None:
    done = python("import strategies", checkout)
    assert done.returncode == 1
    assert "ImportError: import these as `fl_distill.strategies`" in done.stderr


def test_a_wheel_holds_everything_under_one_name(checkout: Path, tmp_path: Path) -> None:
    # Without --wheel, the wheel is built from the source distribution: both must hold everything.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, checkout, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = [archive.read(name).decode() for name in names if name.endswith("entry_points.txt")]
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"fl_distill"}
    package = {name for name in names if ".dist-info/" not in name}
    assert package == {installed_name(file) for file in sources(checkout, ".py", ".yaml", "py.typed")}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "fl-distill = fl_distill.cli:main" in entry_points

    target = tmp_path / "installed"
    run(
        sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", target, wheel, cwd=tmp_path
    )
    found = probe(tmp_path, path=target)
    assert found["package"] == str(target / "fl_distill/__init__.py")
    assert found["strategies"] == str(target / "fl_distill/strategies/__init__.py")


def environment_without_this_project(folder: Path) -> Path:
    """The interpreter of a new environment: all that is installed here but this project, which would come first."""
    venv.create(folder)
    links = folder / "links"
    links.mkdir()
    for site in (path for path in map(Path, sys.path) if path.name in ("site-packages", "dist-packages")):
        for entry in site.iterdir():
            if "fl_distill" not in entry.name and not (links / entry.name).exists():
                (links / entry.name).symlink_to(entry)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "links.pth").write_text(f"{links}\n", encoding="utf-8")
    return folder / "bin/python"


def test_an_editable_install_reads_the_checkout(checkout: Path, tmp_path: Path) -> None:
    interpreter = environment_without_this_project(tmp_path / "environment")
    flags = ["-q", "--no-deps", "--no-index", "--no-build-isolation"]
    run(sys.executable, "-m", "pip", "--python", interpreter, "install", *flags, "-e", checkout, cwd=tmp_path)
    found = probe(tmp_path, interpreter=interpreter)
    assert found["package"] == str(checkout / "fl_distill/__init__.py")
    assert found["strategies"] == str(checkout / "strategies/__init__.py")


def test_a_flower_bundle_holds_everything(checkout: Path, tmp_path: Path) -> None:
    shutil.copytree(checkout, tmp_path / "app", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    flwr = Path(sys.executable).parent / "flwr"
    run(flwr, "build", "--app", tmp_path / "app", cwd=tmp_path, FLWR_HOME=str(tmp_path / "home"))
    (bundle,) = tmp_path.glob("*.fab")
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "bundle")
    assert sources(checkout, ".py", ".yaml") <= sources(tmp_path / "bundle", ".py", ".yaml")
    found = probe(tmp_path, path=tmp_path / "bundle")
    assert found["package"] == str(tmp_path / "bundle/fl_distill/__init__.py")
    assert found["strategies"] == str(tmp_path / "bundle/strategies/__init__.py")
