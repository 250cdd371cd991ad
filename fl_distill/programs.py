"""Flower's own programs: where they lie, what they find in their environment, and what its command answers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from .errors import ConfigError

ANSWER_S = 120.0
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "PYTHONUNBUFFERED": "1",
}


def program(name: str) -> str:
    """The path of one of Flower's programs, from the environment that this Python runs in."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise ConfigError(f"{name} was not found: install fl-distill in this environment, Flower comes with it")
    return found


def environment(home: Path | None) -> dict[str, str]:
    """This process's environment with nothing sent home, Flower's programs on the path and its folder at `home`.

    Without a `home` Flower's folder is the user's own.
    """
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    own = {} if home is None else {"FLWR_HOME": str(home)}
    return os.environ | QUIET | own | {"PATH": path}


def flwr(home: Path | None, *words: str) -> tuple[dict[str, Any], str]:
    """What `flwr … --format json` answers, and all that it printed; the answer is empty where it failed.

    Raises `TimeoutError` when it says nothing within `ANSWER_S`.
    """
    command = [program("flwr"), *words, "--format", "json"]
    try:
        done = subprocess.run(
            command, env=environment(home), capture_output=True, text=True, timeout=ANSWER_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"flwr {words[0]}: no answer within {ANSWER_S:.0f} s") from error
    answer = _json_in(done.stdout)
    said = answer.get("error-message") or done.stderr.strip() or done.stdout.strip()
    return (answer if done.returncode == 0 and answer.get("success") else {}), str(said)


def _json_in(text: str) -> dict[str, Any]:
    """The JSON object in what Flower's command printed, which may surround it with other words."""
    begin, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[begin : end + 1])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
