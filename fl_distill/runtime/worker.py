"""Worker processes: a zygote that was forked early, and the workers it forks on request.

The zygote is forked before any thread starts, so its children are safe to use whatever threads the parent runs by
then; they share the parent's imports and data, copy on write. When the parent goes, for whatever reason, sockets
close and everybody leaves.
"""

import contextlib
import os
import signal
import socket
import struct
import sys
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from . import frames
from .flower_private import RAISED
from .shelf import Reader

_PID = struct.Struct("<q")


def answer(app: ClientApp, message: Message, context: Context) -> Message:
    """The app's reply; an exception becomes an error reply, as in Flower's own runtimes."""
    try:
        return app(message, context)
    except Exception as error:
        return Message(Error(RAISED, f"{type(error).__name__}: {error}"), reply_to=message)


class Zygote:
    """The parent's handle of the process that forks workers."""

    def __init__(
        self, app: ClientApp, nodes: dict[int, dict[str, Any]], run_config: dict[str, Any], threads: int
    ) -> None:
        self._control, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._control.close()
            _leave_after(lambda: _zygote(theirs, app, nodes, run_config, threads))
        theirs.close()

    def spawn(self) -> tuple[socket.socket, int]:
        """A fresh worker: the socket to talk through, and its process id."""
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
        socket.send_fds(self._control, [b"w"], [theirs.fileno()])
        theirs.close()
        (pid,) = _PID.unpack(self._control.recv(_PID.size))
        return ours, pid

    def close(self) -> None:
        """End the zygote; workers leave when their sockets close."""
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _zygote(
    control: socket.socket, app: ClientApp, nodes: dict[int, dict[str, Any]], run_config: dict[str, Any], threads: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    children: list[int] = []
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not request:
            break
        pid = os.fork()
        if pid == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _leave_after(lambda: _work(socket.socket(fileno=descriptors[0]), app, nodes, run_config, threads))
        os.close(descriptors[0])
        children.append(pid)
        control.sendall(_PID.pack(pid))
    for pid in children:  # a worker in a long computation would not see that its socket closed
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _work(
    parent: socket.socket, app: ClientApp, nodes: dict[int, dict[str, Any]], run_config: dict[str, Any], threads: int
) -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    reader = Reader()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            header, buffers = frames.receive(parent)
            message = frames.unpack_message(header, buffers, reader.get)
            node = message.metadata.dst_node_id
            state = frames.unpack(header["state"], buffers) if header["state"] else RecordDict()
            context = Context(message.metadata.run_id, node, dict(nodes[node]), state, dict(run_config))
            del header, buffers
            reply = answer(app, message, context)
            out: frames.Buffers = []
            described = frames.pack_message(reply, out)
            described["state"] = frames.pack(context.state, out)
            frames.send(parent, described, out)


def _leave_after(job: Any) -> None:
    """Run a child's whole life; never return into the parent's code."""
    code = 1
    try:
        job()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
