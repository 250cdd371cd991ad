"""Run a command and watch its process from outside: its own memory, and when it began others."""

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_KINDS = "RssAnon:", "RssShmem:"


@dataclass
class Watched:
    """What was seen of a command.

    `peak` is the most memory that its first process had of its own, in bytes: what it allocated (RssAnon), and all of
    the memory that it shares with its workers, mapped or not. Libraries that are mapped from disk do not count, nor do
    other processes.
    """

    status: int = 0
    began: float = 0.0
    ended: float = 0.0
    peak: int = 0
    errors: str = ""
    children: dict[int, tuple[float, float]] = field(default_factory=dict)
    """When each descendant that was seen began, and when it was seen last."""


def watch(
    command: Sequence[str], env: Mapping[str, str], timeout: float, *, every: float = 0.004, family: bool = False
) -> Watched:
    """Run a command to its end, with a look `every` so many seconds; with `family` fewer, at its descendants too."""
    seen = Watched(began=time.time())
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None:
            seen.peak = max(seen.peak, own_memory(process.pid))
            for child in descendants(process.pid) if family else ():
                if born := seen.children.get(child, (start_of(child),))[0]:
                    seen.children[child] = born, time.time()
            if time.time() - seen.began > timeout:
                process.kill()
            time.sleep(5 * every if family else every)
        seen.ended, seen.status = time.time(), process.returncode
        errors.seek(0)
        seen.errors = errors.read()
    return seen


def own_memory(process: int) -> int:
    """Bytes; 0 where the process is gone."""
    place = Path(f"/proc/{process}")
    try:
        lines = (place / "status").read_text(encoding="ascii", errors="replace").splitlines()
        files = [file.stat() for file in (place / "fd").iterdir() if os.readlink(file).startswith("/memfd:")]
    except OSError:
        return 0
    own, mapped = (1024 * sum(int(line.split()[1]) for line in lines if line.startswith(k)) for k in _KINDS)
    return own + max(mapped, sum({file.st_ino: 512 * file.st_blocks for file in files}.values()))


def descendants(process: int) -> list[int]:
    """The processes that a process has begun, and those that they have."""
    try:
        lists = [task.joinpath("children").read_text() for task in Path(f"/proc/{process}/task").iterdir()]
    except OSError:
        return []
    children = [int(number) for text in lists for number in text.split()]
    return children + [more for child in children for more in descendants(child)]


def start_of(process: int) -> float:
    """Seconds since the epoch at which a process began, to a hundredth; 0 where it is gone."""
    try:
        ticks = int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except OSError:
        return 0.0
    up = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    return time.time() - up + ticks / _TICKS
