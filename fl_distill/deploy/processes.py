"""Processes of ours in the foreground, signals to them, and the ports that they want."""

import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

BARRED = 3
"""Exit code of a process of ours where another one would fare no better."""
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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


class Foreground:
    """Runs commands one after the other until a signal says that it is enough; it reaches the one that runs too."""

    def __init__(self) -> None:
        self._told = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def told(self) -> bool:
        """Whether a signal asked for the end."""
        return self._told.is_set()

    def pause(self, seconds: float) -> bool:
        """Wait, but not for longer than until the end is asked for; returns whether it is."""
        return self._told.wait(seconds)

    def run(self, command: Sequence[str], variables: Mapping[str, str]) -> int:
        """Run a command to its end; returns its exit code."""
        # In a session of its own a terminal's Ctrl-C arrives there once: through us.
        self._child = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, start_new_session=True)
        if self.told:
            self._child.terminate()
        return self._child.wait()

    def _hand_on(self, number: int, _: FrameType | None) -> None:
        self._told.set()
        if self._child is not None:
            self._child.send_signal(number)


@contextmanager
def foreground() -> Iterator[Foreground]:
    """What runs commands here, with the signals that ask for an end."""
    found = Foreground()
    before = {number: signal.signal(number, found._hand_on) for number in STOPS}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
