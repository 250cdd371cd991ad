"""Processes of ours in the foreground: signals, their last words, and the ports that they want."""

import re
import signal
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

KEPT = 60
"""Last lines of a process that are kept to explain its end."""
SHOWN_S = 5.0
"""For how long the last lines of a process that has ended are waited for."""


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, whether a signal asked it to, and its last lines."""

    code: int
    told: bool
    last: tuple[str, ...]
    held: tuple[str, ...] = ()
    """Those that were not shown."""


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


def _show(process: subprocess.Popen[str], last: deque[str], until: str | None, held: deque[str]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            last.append(line.rstrip("\n"))
            if held or (until is not None and re.match(until, bare(line))):
                held.append(last[-1])
            else:
                print(line, end="", flush=True)


def bare(text: str) -> str:
    """A text without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def supervise(command: Sequence[str], variables: dict[str, str], until: str | None = None) -> Ended:
    """Run a command in the foreground, handing on signals and showing its output.

    From the line that begins as the pattern `until` says its output is held back: whoever called may have better words.
    """
    told = False
    last: deque[str] = deque(maxlen=KEPT)
    held: deque[str] = deque(maxlen=KEPT)
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
    shown = threading.Thread(target=_show, args=(process, last, until, held), daemon=True)
    shown.start()
    try:
        code = process.wait()
        shown.join(SHOWN_S)
        return Ended(code, told, tuple(last), tuple(held))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
