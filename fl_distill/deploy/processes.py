"""Flower's own programs as processes of ours: where they lie, what they find in their environment, and signals."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ..errors import ConfigError

KEPT = 60
"""Last lines of a process that are kept to explain its end."""
SHOWN_S = 5.0
"""For how long the last lines of a process that has ended are waited for."""
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, whether a signal asked it to, and its last lines."""

    code: int
    told: bool
    last: tuple[str, ...]


def environment(home: Path) -> dict[str, str]:
    """This process's environment, with Flower's folder at `home`, nothing sent home, and its programs on the path."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    return os.environ | QUIET | {"FLWR_HOME": str(home), "PATH": path}


def program(name: str) -> str:
    """The path of one of Flower's programs, from the environment that this Python runs in."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise ConfigError(f"{name} was not found: install fl-distill in this environment, Flower comes with it")
    return found


def port_in_use(port: int) -> list[str]:
    """A sentence if something on this machine listens on `port` already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return [
                f"127.0.0.1:{port} cannot be listened on ({error.strerror}): stop what runs there, or change the port"
            ]
    return []


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _show(process: subprocess.Popen[str], last: deque[str]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            last.append(line.rstrip("\n"))
            print(line, end="", flush=True)


def supervise(command: Sequence[str], variables: dict[str, str]) -> Ended:
    """Run a command in the foreground, handing on signals and showing its output."""
    told = False
    last: deque[str] = deque(maxlen=KEPT)
    process = subprocess.Popen(
        command,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a terminal's Ctrl-C arrives once: through us
    )

    def hand_on(number: int, _: FrameType | None) -> None:
        nonlocal told
        told = True
        process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    # Flower's own children hold the other end of the pipe, and end once their parent is gone and was waited for.
    shown = threading.Thread(target=_show, args=(process, last), daemon=True)
    shown.start()
    try:
        code = process.wait()
        shown.join(SHOWN_S)
        return Ended(code, told, tuple(last))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
