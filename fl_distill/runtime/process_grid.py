"""Flower's `Grid` over processes of this machine: stock apps and strategies, without Ray."""

import contextlib
import time
import uuid
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Set
from types import TracebackType
from typing import Self, final

from flwr.app import Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from ..errors import FlDistillError
from ..seeds import derive
from . import frames
from .crew import Crew
from .flower_private import UNAVAILABLE, Run, compose, empty_run, identity, stamp
from .inbox import Inbox, exchanged
from .tasks import FIRST_NODE, States, Task, check_instruction
from .worker import Job, answer, seeded

PULL_S = 0.05

_RUN_ID = 1


@final
class ProcessGrid(Grid):
    """Runs a ClientApp for `nodes` nodes in `workers` forked processes, or in this one when `workers` is 0.

    Nodes are numbered from `FIRST_NODE`, in the order of their `partition-id`. `Context.state` lasts from
    message to message whichever worker serves a node, and a node's messages are served in order. A message's
    `ttl` is a promise: when it runs out while a worker is busy with the message, that worker is killed and
    replaced; a worker that dies is replaced as well. Either costs the node an error reply, and no other node
    anything. With `workers=0` each pull runs one message, and nothing expires: a debugger may take its time.

    Workers share what the parent has imported and loaded before the grid is made; a parent that has used CUDA
    by then cannot give it to them. The global generators of Python, numpy and torch are seeded per message,
    from `seed`, the node and its count of messages: apps that draw from them do not depend on the workers.

    A pull waits up to `patience_s` for the first reply, so that a caller's loop needs no pause of its own.

    One thread uses a grid, as a context manager or with `close`, after which nothing of it is left.
    """

    def __init__(
        self,
        client_app: ClientApp,
        *,
        nodes: int,
        workers: int,
        threads: int = 1,
        run_config: Mapping[str, bool | float | int | str] | None = None,
        seed: int = 0,
        patience_s: float = PULL_S,
    ) -> None:
        if nodes < 1 or workers < 0 or threads < 1:
            raise ValueError(
                "Expected nodes >= 1, workers >= 0 and threads >= 1, "
                f"got nodes={nodes}, workers={workers}, threads={threads}."
            )
        self._job = Job(client_app, FIRST_NODE, nodes, threads, dict(run_config or {}))
        self._seed, self._patience_s = seed, patience_s
        self._run = empty_run(_RUN_ID)
        self._count = 0
        self._per_node: Counter[int] = Counter()
        self._inbox = Inbox()
        self._inline: deque[Task] = deque()
        self._states = States()
        self._crew = Crew(self._job, workers, self._inbox.deliver) if workers else None
        resources = contextlib.ExitStack()
        resources.enter_context(identity(_RUN_ID))
        if self._crew is not None:
            resources.callback(self._crew.close)
        # Runs at `close`, when the grid is collected, or when Python exits: whichever comes first.
        self._close = weakref.finalize(self, resources.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers, busy or not, and forget every message. Closing twice does no harm."""
        self._close()
        self._inline.clear()
        self._inbox.clear()

    # -------------------------------------------------------------- Flower's interface

    def set_run(self, run: Run) -> None:
        """Take other run information; messages carry the run id of whoever made them."""
        self._run = run

    @property
    def run(self) -> Run:
        """Run information."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message; Flower has deprecated this in favour of `Message(content, dst_node_id, …)`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """All nodes, in the order of their partitions."""
        return list(range(FIRST_NODE, FIRST_NODE + self._job.nodes))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue messages as they are now, first come first served; returns their ids.

        Raises `ValueError` for what is not an instruction, `FlDistillError` when the grid is closed.
        A node that does not exist answers with an error.
        """
        if not self._close.alive:
            raise FlDistillError("The grid is closed; make a new one.")
        messages = list(messages)
        for message in messages:
            check_instruction(message)
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are there, in the order of their arrival; waits a little for the first."""
        wanted = message_ids if isinstance(message_ids, Set) else set(message_ids)
        if not wanted or not self._close.alive:
            return []
        self._work(0.0)
        until = time.monotonic() + self._patience_s
        while self._crew is not None and not self._inbox.has_any(wanted) and time.monotonic() < until:
            self._work(until - time.monotonic())
        return self._inbox.take(wanted)

    def cancel(self, message_ids: Iterable[str]) -> None:
        """Drop messages nobody waits for any more: no reply will come, and a worker busy with one is replaced.

        Ids that are unknown, or whose reply was pulled already, do no harm. With `workers=0` nothing is busy.
        """
        unwanted = set(message_ids)
        if not self._close.alive:
            return
        if self._crew is not None:
            self._crew.cancel(unwanted)
        self._inline = deque(task for task in self._inline if task.metadata.message_id not in unwanted)
        self._inbox.take(unwanted)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push, then pull until all replies are there or time is out; replies in the messages' order."""
        return exchanged(self.push_messages, self.pull_messages, messages, timeout)

    # -------------------------------------------------------------- inside

    def _push(self, message: Message) -> str:
        stamp(message, uuid.uuid4().hex)
        task = self._task(message)
        if not FIRST_NODE <= task.node < FIRST_NODE + self._job.nodes:
            last = FIRST_NODE + self._job.nodes - 1
            reason = f"there is no node {task.node}; nodes are {FIRST_NODE} to {last}"
            self._inbox.deliver(task, task.failed(UNAVAILABLE, reason))
        elif self._crew is None:
            self._inline.append(task)
        else:
            self._crew.submit(task)
        return message.metadata.message_id

    def _task(self, message: Message) -> Task:
        node = message.metadata.dst_node_id
        self._count += 1
        self._per_node[node] += 1
        content, buffers = frames.encode(message.content)
        metadata = frames.rebuild(frames.metadata_fields(message.metadata), RecordDict()).metadata
        return Task(
            self._count,
            metadata,
            content,
            buffers,
            time.monotonic() + metadata.ttl,
            derive(self._seed, "node", node - FIRST_NODE, self._per_node[node]),
        )

    def _work(self, wait_s: float) -> None:
        if self._crew is not None:
            self._crew.pump(wait_s)
        elif self._inline:
            task = self._inline.popleft()
            self._inbox.deliver(task, self._serve_here(task))

    def _serve_here(self, task: Task) -> Message:
        """Run a task in this process, on copies of records as if it were another one."""
        described, buffers = self._states.get(task.node)
        message = compose(task.metadata, frames.decode(task.content, task.buffers))
        state = frames.restore(frames.parse(described) or [], buffers)
        with seeded(task.seed):
            reply, after = answer(self._job, message, state)
        if after is not None:
            header, kept = frames.encode(after)
            self._states.put(task.node, frames.parse(header) or None, kept)
        if reply.has_error():
            return compose(reply.metadata, Error(reply.error.code, reply.error.reason))
        return compose(reply.metadata, frames.decode(*frames.encode(reply.content)))
