"""Flower's Grid over processes of this machine."""

import contextlib
import itertools
import os
import queue
import select
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, final

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from . import frames
from .flower_private import UNAVAILABLE, Run, empty_run, identity, stamp
from .shelf import Shelf
from .worker import Zygote, answer

FIRST_NODE = 1001
PULL_S = 0.05
"""How long a pull waits for the first reply, so that callers need no pause of their own."""


@dataclass
class _Job:
    message: Message
    header: frames.Header
    buffers: frames.Buffers
    deadline: float


@dataclass
class _State:
    """A node's Context.state between messages, as it travels."""

    described: list[Any] = field(default_factory=list)
    buffers: frames.Buffers = field(default_factory=list)


@final
class ProcessGrid(Grid):
    """Runs a ClientApp for `nodes` nodes in `workers` forked processes, or inside this one when `workers` is 0.

    Nodes have `partition-id` and `num-partitions` in their `node_config` as in Flower's simulation, and their
    Context.state lasts from message to message whichever worker serves them. A message's time to live is a promise:
    when it runs out while a worker is busy with it, that worker is killed and replaced; when a worker dies, it is
    replaced. Either costs that message's node an error reply, and no other node anything. Use as a context manager.
    """

    def __init__(
        self,
        client_app: ClientApp,
        *,
        nodes: int,
        workers: int,
        threads: int = 1,
        run_config: dict[str, Any] | None = None,
    ) -> None:
        self._app, self._run_config = client_app, dict(run_config or {})
        self._nodes: dict[int, dict[str, Any]] = {
            FIRST_NODE + i: {"partition-id": i, "num-partitions": nodes} for i in range(nodes)
        }
        self._run = empty_run(int.from_bytes(os.urandom(7), "big") or 1)
        self._states = {node: _State() for node in self._nodes}
        self._ids = (f"{self._run.run_id}-{n}" for n in itertools.count(1))
        self._shelf = Shelf()
        self._identity = contextlib.ExitStack()
        self._todo: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._inline: deque[Message] = deque()
        self._arrived: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._replies: dict[str, Message] = {}
        self._outstanding = 0
        self._closed = False
        self._pids: dict[int, int] = {}
        self._threads: list[threading.Thread] = []
        self._zygote = Zygote(client_app, self._nodes, self._run_config, threads) if workers else None
        self._spawning = threading.Lock()
        for number in range(workers):
            thread = threading.Thread(target=self._serve, args=(number, *self._spawn()), daemon=True)
            thread.start()
            self._threads.append(thread)

    # ------------------------------------------------------------ Flower's interface

    def set_run(self, run: Run) -> None:
        """Take the id of another run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Deprecated in Flower; kept because its interface asks for it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes, in the order of their partitions."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages, first come first served; arrays that several share are written once."""
        if self._closed:
            raise RuntimeError("this grid is closed")
        if not self._outstanding:
            self._shelf.clear()  # nobody reads the last round's arrays any more
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            if node not in self._nodes:
                raise ValueError(f"node {node} does not exist; there are {FIRST_NODE} to {max(self._nodes)}")
            ids.append(next(self._ids))
            stamp(message, ids[-1])
            self._outstanding += 1
            if self._zygote is None:
                self._inline.append(message)
                continue
            buffers: frames.Buffers = []
            header = frames.pack_message(message, buffers, self._shelf.put)
            self._todo.put(_Job(message, header, buffers, time.monotonic() + message.metadata.ttl))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there; waits a moment for the first."""
        wanted = set(message_ids)
        if not wanted & self._replies.keys():
            self._receive()
        with contextlib.suppress(queue.Empty):
            while True:
                self._keep(self._arrived.get_nowait())
        return [self._replies.pop(key) for key in list(self._replies) if key in wanted]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, then pull until all replies are there or `timeout` seconds have passed."""
        waiting = set(self.push_messages(messages))
        deadline = time.monotonic() + timeout if timeout is not None else None
        replies: list[Message] = []
        while waiting and (deadline is None or time.monotonic() < deadline):
            pulled = list(self.pull_messages(waiting))
            waiting -= {message.metadata.reply_to_message_id for message in pulled}
            replies += pulled
        return replies

    # ------------------------------------------------------------ life

    def __enter__(self) -> "ProcessGrid":
        self._identity.enter_context(identity(self._run.run_id))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers at once, busy or not; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._identity.close()
        for _ in self._threads:
            self._todo.put(None)
        with self._spawning:
            for pid in self._pids.values():
                _kill(pid)
        for thread in self._threads:
            thread.join(timeout=5)
        if self._zygote is not None:
            self._zygote.close()
        self._shelf.clear()

    # ------------------------------------------------------------ replies

    def _receive(self) -> None:
        if self._zygote is None and self._inline:
            self._keep(self._here(self._inline.popleft()))
            return
        with contextlib.suppress(queue.Empty):
            self._keep(self._arrived.get(timeout=PULL_S))

    def _keep(self, reply: Message) -> None:
        self._outstanding -= 1
        self._replies[reply.metadata.reply_to_message_id] = reply

    def _here(self, message: Message) -> Message:
        """Serve a message inside this process, through the same packing as between processes."""
        buffers: frames.Buffers = []
        header = frames.pack_message(message, buffers)
        node = message.metadata.dst_node_id
        state = self._states[node]
        context = Context(
            message.metadata.run_id,
            node,
            dict(self._nodes[node]),
            frames.unpack(state.described, state.buffers),
            dict(self._run_config),
        )
        reply = answer(self._app, frames.unpack_message(header, buffers), context)
        kept = _State()
        kept.described = frames.pack(context.state, kept.buffers)
        self._states[node] = kept
        return reply

    # ------------------------------------------------------------ one thread for each worker

    def _spawn(self) -> tuple[socket.socket, int]:
        with self._spawning:
            if self._zygote is None or (self._closed and self._threads):
                raise OSError("closed")
            return self._zygote.spawn()

    def _serve(self, number: int, worker: socket.socket, pid: int) -> None:
        self._pids[number] = pid
        while (job := self._todo.get()) is not None:
            try:
                reply = self._ask(worker, pid, job)
            except (OSError, EOFError, ValueError) as error:
                if self._closed:
                    break
                reply = _failed(job, _why(error, job))
                worker.close()
                _kill(pid)
                try:
                    worker, pid = self._spawn()
                except OSError:
                    break
                self._pids[number] = pid
            self._arrived.put(reply)
        worker.close()

    def _ask(self, worker: socket.socket, pid: int, job: _Job) -> Message:
        if time.monotonic() > job.deadline:
            return _failed(job, f"no reply within {job.message.metadata.ttl:g} s; it never came to this message")
        node = job.message.metadata.dst_node_id
        state = self._states[node]
        base = len(job.buffers)
        header = {**job.header, "state": _moved(state.described, base)}
        frames.send(worker, header, [*job.buffers, *state.buffers])
        job.buffers.clear()
        if not _readable(worker, job.deadline):
            raise TimeoutError
        described, buffers = frames.receive(worker)
        kept = _State()
        if described["state"]:
            kept.described = frames.pack(frames.unpack(described["state"], buffers), kept.buffers)
        self._states[node] = kept
        return frames.unpack_message(described, buffers)


def _moved(described: list[Any], base: int) -> list[Any]:
    """The same description with buffers counted from `base`."""
    if not described or not base:
        return described

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {"buffer": value["buffer"] + base}
        return [moved(item) for item in value] if isinstance(value, list) else value

    def record(kind: str, body: Any) -> Any:
        return [[*row[:-1], row[-1] + base] for row in body] if kind == "array" else moved(body)

    return [[key, kind, record(kind, body)] for key, kind, body in described]


def _readable(worker: socket.socket, deadline: float) -> bool:
    poll = select.poll()
    poll.register(worker, select.POLLIN)
    left = deadline - time.monotonic()
    return left > 0 and bool(poll.poll(min(left * 1000, 2**31 - 1)))


def _why(error: Exception, job: _Job) -> str:
    if isinstance(error, TimeoutError):
        return f"no reply within {job.message.metadata.ttl:g} s; its worker was killed and replaced"
    return "the worker process died while it worked on this message; it was replaced"


def _failed(job: _Job, reason: str) -> Message:
    return Message(Error(UNAVAILABLE, reason), reply_to=job.message)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
