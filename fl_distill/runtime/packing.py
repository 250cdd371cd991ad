"""Many sites on few nodes: a grid that shows N sites, and carries their messages in bundles to another grid's nodes.

What a strategy, a mod or an app sees is one message for each site, with its own context and state. On the way, records
that several sites receive travel once a bundle, large ones through memory that server and workers share; answers come
back as each site has finished, and are there even if the worker dies afterwards: then the site in whose turn it died
gets the error, and those behind it another worker.
"""

import time
import uuid
from collections import Counter, deque
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import final

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from ..asked import Passing
from ..collect import LATE, Cancels
from ..seeds import derive
from . import frames
from .balance import UNKNOWN, Balance
from .bundle import Answer, entries_of, pack, read_entry
from .carrier import FIRST_NODE, KIND, UNREACHABLE
from .flower_private import APP_CRASHED, NO_REPLY, UNAVAILABLE, stamp
from .inbox import Inbox
from .ledger import Reader
from .shared import Library, keep_freed_memory
from .tasks import States, Task, check_instruction

PULL_S = 0.05
"""How long a pull waits for the first reply."""
_QUICK_S, _LOOK_S = 0.0005, 0.005


def carriers(workers: int) -> int:
    """How many nodes `Packing` wants of the grid below, where `workers` bundles are worked on at a time."""
    return UNKNOWN * workers


@dataclass(eq=False)
class _Bundle:
    """Messages on their way: `tasks` are those without an answer, in the order in which they are worked on."""

    node: int
    tasks: dict[int, Task]
    ledger: Reader | None
    """Where the answers come; None where they come all at once with the bundle's own reply."""
    sent: list[Task]


@final
class Packing(Passing):
    """Shows `sites` nodes, numbered from `FIRST_NODE`, and uses `grid`, whose nodes run `carrier(app, sites)`.

    `workers`: how many messages the nodes below work on at a time. `shared`: whether to try memory that server and
    workers share; a worker that cannot reach it says so, and from then on everything travels in messages. `seed` seeds
    Python's, numpy's and torch's global generators for each message, so that apps do not depend on who serves them.
    """

    def __init__(self, grid: Grid, *, sites: int, workers: int, shared: bool = True, seed: int = 0) -> None:
        super().__init__(grid)
        keep_freed_memory()
        self._sites, self._seed = sites, seed
        self._nodes: list[int] = []
        self._balance = Balance(workers)
        self._library, self._shared = Library(lambda _: None), shared
        self._idle: list[Reader] = []
        self._count = 0
        self._per_node: Counter[int] = Counter()
        self._waiting: dict[int, deque[Task]] = {}
        self._out: dict[str, _Bundle] = {}
        self._states, self._inbox = States(), Inbox()
        self._next_look = 0.0

    def get_node_ids(self) -> list[int]:
        """All sites, in the order of their partitions."""
        return list(range(FIRST_NODE, FIRST_NODE + self._sites))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages in bundles; one for a site that is at work waits until it has finished."""
        encoded: dict[int, tuple[bytes, list[bytes]]] = {}
        messages = list(messages)
        for message in messages:
            check_instruction(message)
        tasks = [self._task(message, encoded) for message in messages]
        self._send([task for task in tasks if self._turn(task)])
        return [task.metadata.message_id for task in tasks]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are there, in the order of their arrival; waits up to `PULL_S` for the first."""
        wanted = message_ids if isinstance(message_ids, Set) else set(message_ids)
        until = time.monotonic() + PULL_S
        while wanted:
            self._work()
            if self._inbox.has_any(wanted) or time.monotonic() > until:
                break
            time.sleep(_QUICK_S)
        return self._inbox.take(wanted)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push, then pull until all replies are there or time is out; replies in the messages' order."""
        ids = self.push_messages(messages)
        until = time.monotonic() + (float("inf") if timeout is None else timeout)
        waiting, replies = set(ids), {}
        while waiting and time.monotonic() < until:
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies[reply.metadata.reply_to_message_id] = reply
        return [replies[key] for key in ids if key in replies]

    def cancel(self, message_ids: Iterable[str]) -> None:
        """Nobody waits for these messages: a worker skips what it has not begun."""
        unwanted = set(message_ids)
        for queue in self._waiting.values():
            for task in queue:
                task.expired |= task.metadata.message_id in unwanted
        for key, bundle in list(self._out.items()):
            for task in bundle.tasks.values():
                task.expired |= task.metadata.message_id in unwanted
            self._give_up(key, bundle)
        self._inbox.take(unwanted)

    def close(self) -> None:
        """Give the shared memory back, once the workers are gone."""
        for bundle in self._out.values():
            if bundle.ledger is not None:
                bundle.ledger.stop()
                bundle.ledger.close()
        for ledger in self._idle:
            ledger.close()
        self._library.close()
        self._out.clear()
        self._idle.clear()

    # ------------------------------------------------------------ out

    def _task(self, message: Message, encoded: dict[int, tuple[bytes, list[bytes]]]) -> Task:
        stamp(message, uuid.uuid4().hex)
        node, key = message.metadata.dst_node_id, id(message.content)
        self._count += 1
        self._per_node[node] += 1
        if key not in encoded:
            encoded[key] = frames.encode(message.content)
        content, buffers = encoded[key]
        metadata = frames.rebuild(frames.metadata_fields(message.metadata), RecordDict()).metadata
        seed = derive(self._seed, "node", node - FIRST_NODE, self._per_node[node])
        return Task(self._count, metadata, content, buffers, time.monotonic() + metadata.ttl, seed)

    def _turn(self, task: Task) -> bool:
        """Whether a task can be sent now; else it is refused, or waits for its site."""
        if not FIRST_NODE <= task.node < FIRST_NODE + self._sites:
            last = FIRST_NODE + self._sites - 1
            self._finish(
                task, task.failed(UNAVAILABLE, f"there is no node {task.node}; nodes are {FIRST_NODE} to {last}")
            )
            return False
        if task.node in self._waiting:
            self._waiting[task.node].append(task)
            return False
        self._waiting[task.node] = deque()
        return True

    def _send(self, tasks: Sequence[Task]) -> None:
        for some in self._balance.split(tasks) if tasks else ():
            self._send_bundle(some)

    def _send_bundle(self, tasks: list[Task]) -> None:
        ledger = None
        if self._shared:
            ledger = self._idle.pop() if self._idle else Reader()
            ledger.begin()
        while not self._nodes:  # an engine may still be making them
            time.sleep(_LOOK_S)
            self._nodes = list(self.grid.get_node_ids())
        busy = Counter(bundle.node for bundle in self._out.values())
        node = min(self._nodes, key=lambda node: busy[node])
        content = pack(tasks, self._states, self._library, ledger)
        message = Message(content, node, KIND, ttl=max(task.deadline for task in tasks) - time.monotonic())
        (key,) = self.grid.push_messages([message])
        self._out[key] = _Bundle(node, dict(enumerate(tasks)), ledger, tasks)

    # ------------------------------------------------------------ in

    def _work(self) -> None:
        now = time.monotonic()
        for bundle in list(self._out.values()):
            if bundle.ledger is not None:
                for entry in bundle.ledger.entries():
                    self._take(bundle, read_entry(*entry))
        if now >= self._next_look and self._out:
            for reply in self.grid.pull_messages(list(self._out)):
                self._ended(self._out.pop(reply.metadata.reply_to_message_id), reply)
            self._expire(now)
            self._next_look = time.monotonic() + _LOOK_S

    def _take(self, bundle: _Bundle, answer: Answer) -> None:
        task = bundle.tasks.pop(answer.number)
        if answer.state is not None:
            self._states.put(task.node, *answer.state)
        self._balance.note(task, answer.seconds)
        self._finish(task, answer.reply)

    def _ended(self, bundle: _Bundle, reply: Message) -> None:
        """A bundle's own reply: all was done, or something went wrong at the first of those without an answer."""
        if bundle.ledger is not None:
            for entry in bundle.ledger.entries():
                self._take(bundle, read_entry(*entry))
        if reply.has_content():
            for entry in entries_of(reply.content):
                self._take(bundle, read_entry(*entry))
        left = [bundle.tasks[number] for number in sorted(bundle.tasks)]
        self._settle(bundle, reused=not reply.has_error() or reply.error.code == UNREACHABLE)
        if reply.has_error() and reply.error.code == UNREACHABLE:
            self._shared = False
        elif len(left) > 1 and bundle.ledger is None:
            for task in self._wanted(left):  # nobody knows in whose turn it was: each by itself
                self._send_bundle([task])
            return
        elif left:
            error = reply.error if reply.has_error() else Error(APP_CRASHED, "the worker gave no answer")
            reason = LATE.format(left[0].metadata.ttl) if error.code == NO_REPLY else error.reason
            self._finish(left[0], left[0].failed(error.code, reason or "the worker gave no reason"))
            left = left[1:]
        self._send(self._wanted(left))

    def _settle(self, bundle: _Bundle, reused: bool) -> None:
        for task in bundle.sent:
            self._library.release(task.borrowed)
            task.borrowed = []
        if bundle.ledger is not None and reused:
            self._idle.append(bundle.ledger)
        elif bundle.ledger is not None:
            bundle.ledger.close()  # a worker that is not dead after all may still write there

    def _wanted(self, tasks: Iterable[Task]) -> list[Task]:
        """Those that somebody waits for; the others are over."""
        wanted = []
        for task in tasks:
            if task.expired:
                self._finish(task, None)
            else:
                wanted.append(task)
        return wanted

    def _expire(self, now: float) -> None:
        for key, bundle in list(self._out.items()):
            late = [task for task in bundle.tasks.values() if now > task.deadline and not task.expired]
            for task in late:
                task.expired = True
                self._inbox.deliver(task, task.failed(NO_REPLY, LATE.format(task.metadata.ttl)))
            if late:
                self._give_up(key, bundle)

    def _give_up(self, key: str, bundle: _Bundle) -> None:
        """Where nobody waits for what a worker is at: free it, if the grid below can, and send the rest elsewhere."""
        left = [bundle.tasks[number] for number in sorted(bundle.tasks)]
        if not left or not left[0].expired:
            return
        if isinstance(self.grid, Cancels):
            self.grid.cancel([key])
            del self._out[key]
            self._settle(bundle, reused=False)
            self._send(self._wanted(left))
        elif bundle.ledger is not None and all(task.expired for task in left):
            bundle.ledger.stop()

    def _finish(self, task: Task, reply: Message | None) -> None:
        if not task.expired and reply is not None:
            self._inbox.deliver(task, reply)
        task.done = True
        if waiting := self._waiting.get(task.node):
            self._send(self._wanted([waiting.popleft()]))
        else:
            self._waiting.pop(task.node, None)
