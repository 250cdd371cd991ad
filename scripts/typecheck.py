"""Run `mypy --strict` on the package as it is installed: with `strategies/` and `conf/` inside `fl_distill/`.

A checkout keeps those two folders beside the package, where mypy would take them for packages of other names.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "fl_distill"
        package.mkdir()
        for entry in (ROOT / "fl_distill").iterdir():
            if entry.name != "__pycache__":
                (package / entry.name).symlink_to(entry)
        for name in ("strategies", "conf"):
            (package / name).symlink_to(ROOT / name)
        cache = ROOT / ".mypy_cache"
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            str(ROOT / "pyproject.toml"),
            "--cache-dir",
            str(cache),
        ]
        return subprocess.run(
            [*command, *sys.argv[1:], "-p", "fl_distill"],
            cwd=folder,
            env=os.environ | {"MYPYPATH": folder},
            check=False,
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
