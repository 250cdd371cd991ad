"""The process that forks workers: itself forked early, single-threaded for life, and the one that reaps them.

Workers share the parent's imports and data, copy on write, and none of its threads, whatever it starts later.
Nobody outlives the parent: the zygote leaves when its socket closes or its own parent changes, and takes the
workers with it; workers also die with the zygote.
"""

import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Set
from typing import NoReturn

from ..errors import FlDistillError

_ORDER = struct.Struct("<cI")
_REPORT = struct.Struct("<Ii")
_LOOK_AROUND_S = 1.0
_PATIENCE_S = 5.0
_PR_SET_PDEATHSIG = 1
_DESCRIPTORS = 8
_PARENTS = frozenset({signal.SIGINT, signal.SIGTERM})
"""Signals that reach the whole process group; the parent alone decides what they mean."""

WorkerMain = Callable[..., None]
"""The life of a worker: takes its socket to the parent, then the descriptors it was given."""


class Zygote:
    """The parent's handle. `socket` becomes readable when workers have died: see `deaths`."""

    def __init__(self, main: WorkerMain) -> None:
        self.socket, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        # A signal in the child before it ignores it would run the caller's handler in the caller's code, twice.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns when threads exist
                self._pid = os.fork()
            if self._pid == 0:
                _live(lambda: _Nursery(theirs, parent, main).run(), close=self.socket, ignore=_PARENTS)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._pending = b""

    def spawn(self, number: int, *descriptors: int) -> None:
        """Fork a worker that owns these descriptors; the caller closes its copies."""
        self._send(_ORDER.pack(b"S", number), descriptors)

    def kill(self, number: int) -> None:
        """Kill a worker. Harmless when it is dead already."""
        self._send(_ORDER.pack(b"K", number), ())

    def deaths(self) -> Iterator[tuple[int, int]]:
        """Number and wait status of workers that have died since the last call, without waiting."""
        try:
            data = self.socket.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionResetError as error:
            raise _gone() from error
        if not data:
            raise _gone()
        self._pending += data
        while len(self._pending) >= _REPORT.size:
            report, self._pending = self._pending[: _REPORT.size], self._pending[_REPORT.size :]
            yield _REPORT.unpack(report)

    def close(self) -> None:
        """Kill all workers and the zygote, and wait until they are gone."""
        hang_up(self.socket)
        until = time.monotonic() + _PATIENCE_S
        with contextlib.suppress(ChildProcessError):
            while not os.waitpid(self._pid, os.WNOHANG)[0]:
                if time.monotonic() > until:
                    os.kill(self._pid, signal.SIGKILL)
                time.sleep(0.0005)

    def _send(self, order: bytes, descriptors: tuple[int, ...]) -> None:
        try:
            socket.send_fds(self.socket, [order], list(descriptors))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _gone() from error


class _Nursery:
    """The zygote's own life."""

    def __init__(self, control: socket.socket, parent: int, main: WorkerMain) -> None:
        self._control = control
        self._parent = parent
        self._main = main
        self._children: dict[int, int] = {}
        self._wake, wakeup = socket.socketpair()
        self._wake.setblocking(False)
        wakeup.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        self._wakeup = wakeup
        self._prctl = getattr(ctypes.CDLL(None), "prctl", None)
        gc.freeze()  # collections in workers shall not touch, and so copy, what they share with the parent

    def run(self) -> None:
        """Obey and reap until the parent is gone; then take everybody along."""
        try:
            while os.getppid() == self._parent:
                ready, _, _ = select.select([self._control, self._wake], [], [], _LOOK_AROUND_S)
                if self._wake in ready:
                    self._wake.recv(1 << 12)
                if self._control in ready and not self._obey():
                    return
                self._reap()
        finally:
            for pid in self._children:
                os.kill(pid, signal.SIGKILL)
            for pid in self._children:
                os.waitpid(pid, 0)

    def _obey(self) -> bool:
        """Carry out one order; False when the parent is gone."""
        order, descriptors, _, _ = socket.recv_fds(self._control, _ORDER.size, _DESCRIPTORS)
        if not order:
            return False
        kind, number = _ORDER.unpack(order)
        if kind == b"S":
            self._spawn(number, *descriptors)
        for pid in [p for p, n in self._children.items() if kind == b"K" and n == number]:
            os.kill(pid, signal.SIGKILL)
        return True

    def _spawn(self, number: int, *descriptors: int) -> None:
        zygote = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._control.sendall(_REPORT.pack(number, -(error.errno or 1)))
            return
        if pid == 0:
            self._wake.close()
            self._wakeup.close()
            _live(lambda: self._become(zygote, *descriptors), close=self._control, ignore={signal.SIGINT})
        self._children[pid] = number
        for descriptor in descriptors:
            os.close(descriptor)

    def _become(self, zygote: int, parent: int, *slots: int) -> None:
        if self._prctl is not None:
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == zygote:
            self._main(socket.socket(fileno=parent), *slots)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if (number := self._children.pop(pid, None)) is not None:
                with contextlib.suppress(BrokenPipeError):
                    self._control.sendall(_REPORT.pack(number, status))


def _live(life: Callable[[], None], close: socket.socket, ignore: Set[signal.Signals]) -> NoReturn:
    """The whole life of a forked child; it never returns into its parent's code."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN if number in ignore else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PARENTS)
        close.close()
        sys.stdin = open(os.devnull)  # noqa: SIM115
        life()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def hang_up(connection: socket.socket) -> None:
    """Close a socket for every process that has a copy: a later fork of the parent has, and would hold it open."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def how(status: int) -> str:
    """A wait status in words."""
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _gone() -> FlDistillError:
    return FlDistillError("The process that starts the workers died; start the run again, or resume it.")
