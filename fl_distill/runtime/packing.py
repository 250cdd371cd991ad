"""Many sites on few nodes: a grid that shows N sites, and carries their messages in bundles to another grid's nodes.

What a strategy, a mod or an app sees is one message for each site, with its own context and state. On the way, records
that several sites receive travel once a bundle, large ones through memory that server and workers share; answers come
back as each site has finished, and are there even if the worker dies afterwards: then the site in whose turn it died
gets the error, and those behind it another worker; where several took turns (see `meeting`), each is worked on again by
itself, which shows whose error it is. A worker that has nothing left takes what others have not begun.
"""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Set
from typing import final

from flwr.app import Error, Message
from flwr.serverapp import Grid

from ..asked import Passing
from ..collect import never
from ..errors import FlDistillError
from ..phases import Tally, Work
from ..seeds import derive
from . import frames
from .balance import Balance
from .bundle import Answer, entries_of, read_entry
from .carrier import UNREACHABLE
from .couriers import Couriers
from .errand import SETTLED_S, Errand
from .flower_private import APP_CRASHED, UNAVAILABLE, copied, stamp
from .inbox import Inbox, exchanged
from .memory import keep_freed_memory
from .tasks import FIRST_NODE, States, Task, check_instruction
from .turns import Turns

PULL_S = 0.05
"""How long a pull waits for the first reply."""
WORTH_S = 0.2
"""On an engine that takes a while to deliver a message."""
TRIES, TRY_S = 6, 0.5
"""How often a bundle that no worker began is sent again, and seconds before the first time; then twice as long."""
_LOOK_S = 0.01
"""Between two looks at what nobody rings for: deadlines, the engine's answers, workers that died."""


@final
class Packing(Passing):
    """Shows `sites` nodes, numbered from `FIRST_NODE`, and uses `grid`, whose nodes run `carrier(app, sites)`.

    `workers`: how many messages the nodes below work on at a time; there must be as many nodes. `shared`: whether to
    try memory that server and workers share; once a worker cannot reach it, every site's message travels by itself.
    `seed` seeds Python's, numpy's and torch's global generators for each message, so that apps do not depend on who
    serves them. `worth_s`: seconds of work from which on some of it is given to an idle worker. `stay_s`: how long a
    worker that has done its bundle stays for the next one (see `couriers`); for engines that take a while to deliver.
    `check` raises to abandon the wait for nodes.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        sites: int,
        workers: int,
        shared: bool = True,
        seed: int = 0,
        worth_s: float = WORTH_S,
        stay_s: float = 0.0,
        check: Callable[[], None] = never,
    ) -> None:
        super().__init__(grid)
        keep_freed_memory()
        self._sites, self._workers, self._seed, self._worth_s = sites, workers, seed, worth_s
        self._balance, self._states, self._inbox = Balance(), States(), Inbox()
        self._turns, self._tally = Turns(self._inbox), Tally(workers)
        self._couriers = Couriers(grid, workers, self._states, shared, stay_s, check)
        self._count = 0
        self._per_node: Counter[int] = Counter()
        self._next_look, self._pause_until, self._open = 0.0, 0.0, True

    # ------------------------------------------------------------ Flower's interface

    def get_node_ids(self) -> list[int]:
        """All sites, in the order of their partitions."""
        return list(range(FIRST_NODE, FIRST_NODE + self._sites))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages in bundles; one for a site that is at work waits until it has finished."""
        messages = list(messages)
        if not self._open:
            raise FlDistillError("The grid is closed; make a new one.")
        for message in messages:
            check_instruction(message)
        encoded: dict[int, tuple[bytes, list[bytes]]] = {}
        tasks = [self._task(message, encoded) for message in messages]
        for task in tasks:
            self._turns.add(task)
            if not FIRST_NODE <= task.node < FIRST_NODE + self._sites:
                last = FIRST_NODE + self._sites - 1
                reason = f"there is no node {task.node}; nodes are {FIRST_NODE} to {last}"
                self._turns.finish(task, task.failed(UNAVAILABLE, reason))
        self._dispatch()
        return [task.metadata.message_id for task in tasks]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are there, in the order of their arrival; waits up to `PULL_S` for the first."""
        wanted = message_ids if isinstance(message_ids, Set) else set(message_ids)
        until = time.monotonic() + PULL_S
        while wanted and self._open:
            self._work()
            if self._inbox.has_any(wanted) or time.monotonic() > until:
                break
            self._couriers.wait(self._pause_s)
        return self._inbox.take(wanted)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push, then pull until all replies are there or time is out; replies in the messages' order."""
        return exchanged(self.push_messages, self.pull_messages, messages, timeout)

    def cancel(self, message_ids: Iterable[str]) -> None:
        """Nobody waits for these messages: no reply will come.

        A worker that is at one of them is freed where the grid below can do that; it may still begin one that was sent
        to it behind another.
        """
        unwanted = set(message_ids)
        if self._open:
            self._drain_all()
        self._turns.cancel(unwanted)
        self._inbox.take(unwanted)
        if self._open:
            self._look(time.monotonic())

    def worked(self) -> Work:
        """What the workers did since the last call."""
        return self._tally.take()

    def close(self) -> None:
        """Let the workers go, give the shared memory back, forget every message."""
        if self._open:
            self._couriers.close()
        self._inbox.clear()
        self._open = False

    # ------------------------------------------------------------ out

    def _task(self, message: Message, encoded: dict[int, tuple[bytes, list[bytes]]]) -> Task:
        stamp(message, uuid.uuid4().hex)
        node, key = message.metadata.dst_node_id, id(message.content)
        self._count += 1
        self._per_node[node] += 1
        if key not in encoded:
            encoded[key] = frames.encode(message.content)
        content, buffers = encoded[key]
        seed = derive(self._seed, "node", node - FIRST_NODE, self._per_node[node])
        deadline = time.monotonic() + message.metadata.ttl
        return Task(self._count, copied(message.metadata), content, buffers, deadline, seed)

    def _dispatch(self) -> None:
        """Send what is ready, to as many workers as are free; where memory is not shared, one by one."""
        free = self._workers - self._couriers.working
        if time.monotonic() < self._pause_until:
            return
        if not self._couriers.shared:
            for task in self._turns.ready():
                self._send([task])
        elif free > 0:
            ready = self._turns.ready()
            alone = [[task] for task in ready if task.apart][:free]
            others = [task for task in ready if not task.apart]
            bundles = alone + (self._balance.split(others, free - len(alone)) if free > len(alone) else [])
            sent = {task.number for tasks in bundles for task in tasks}
            self._turns.requeue(task for task in ready if task.number not in sent)
            for tasks in bundles:
                self._send(tasks)

    def _send(self, tasks: list[Task]) -> None:
        if not self._couriers.send(tasks):
            for task in tasks:
                self._turns.finish(task, task.failed(UNAVAILABLE, "the engine does not take messages any more"))

    # ------------------------------------------------------------ in

    @property
    def _pause_s(self) -> float:
        return SETTLED_S if self._couriers.changing or not self._couriers.shared else _LOOK_S

    def _work(self) -> None:
        self._drain_all()
        if (now := time.monotonic()) >= self._next_look or self._couriers.any_newly_done():
            self._look(now)
            self._next_look = time.monotonic() + self._pause_s

    def _look(self, now: float) -> None:
        """What need not be looked at all the time: deadlines, ends of bundles, idle workers."""
        self._turns.expire(now)
        for key, errand, reply in self._couriers.replies():
            self._ended(key, errand, reply)
        for key, errand in self._couriers.out():
            if errand.awaits_more:
                self._drain(key, errand)  # what it had finished just before
                if key not in self._couriers:
                    continue
                self._turns.requeue(errand.given_back())
            self._turns.requeue(errand.left_over(now))
            if errand.stuck:
                self._free(key, errand, now)
        if self._couriers.working < self._workers and not self._turns.any_ready:
            self._share_out(now)
        self._dispatch()

    def _drain_all(self) -> None:
        for key, errand in self._couriers.out():
            self._drain(key, errand)

    def _drain(self, key: str, errand: Errand) -> None:
        """Take the answers that have come; where one makes no sense, the site that it should be of has failed."""
        try:
            for entry in errand.ledger.entries() if errand.ledger is not None else ():
                self._take(errand, read_entry(*entry))
        except frames.FrameError as error:
            self._blame(errand, Error(APP_CRASHED, f"the worker's answer cannot be read: {error}"))
            self._couriers.over(key, reused=False)

    def _take(self, errand: Errand, answer: Answer) -> None:
        task = errand.answered(answer.number, answer.reply.metadata.reply_to_message_id)
        self._tally.add(errand.node, answer.seconds)
        if answer.state is not None:
            self._states.put(task.node, *answer.state)
        if answer.reply.has_content():
            self._balance.note(task, answer.seconds)
        self._turns.finish(task, answer.reply)

    def _ended(self, key: str, errand: Errand, reply: Message) -> None:
        """A bundle's own reply: all was done, or what is left was not begun, or something went wrong at the first."""
        self._drain(key, errand)
        if key not in self._couriers:
            return
        try:
            for entry in entries_of(reply.content) if reply.has_content() else ():
                self._take(errand, read_entry(*entry))
        except frames.FrameError as error:
            reply = Message(Error(APP_CRASHED, f"the worker's answer cannot be read: {error}"), reply_to=reply)
        if not reply.has_error():
            self._turns.requeue(errand.left())
        elif reply.error.code == UNREACHABLE:
            self._couriers.shared = False
            self._turns.requeue(errand.left())
        else:
            self._blame(errand, reply.error)
        self._couriers.over(key, reused=not reply.has_error() or reply.error.code == UNREACHABLE)

    def _blame(self, errand: Errand, error: Error) -> None:
        """The error is that of the site in whose turn it happened; where none was begun, it may pass.

        Where several took turns, each is worked on again by itself: then it shows whose error it is.
        """
        left, suspects = errand.left(), errand.begun
        if self._set_apart(suspects):
            blamed, again = [], left
        elif suspects:
            blamed, again = suspects, [task for task in left if task is not suspects[0]]
        else:
            blamed, again = [t for t in left if t.tries >= TRIES], [t for t in left if t.tries < TRIES]
            if tries := [task.tries for task in again if not task.expired]:
                self._pause_until = max(self._pause_until, time.monotonic() + TRY_S * 2 ** max(tries))
            for task in again:
                task.tries += 1
        for task in blamed:
            self._turns.finish(task, task.failed(error.code, error.reason or "the worker gave no reason"))
        self._turns.requeue(again)

    @staticmethod
    def _set_apart(tasks: list[Task]) -> bool:
        """Whether there are several whose worker is lost: each is worked on by itself from now on."""
        for task in tasks if len(tasks) > 1 else ():
            task.apart = True
        return len(tasks) > 1

    def _free(self, key: str, errand: Errand, now: float) -> None:
        """A worker is at something that nobody waits for: free it, or at least let it begin nothing else."""
        self._drain(key, errand)  # it may have gone on meanwhile
        if key not in self._couriers or not errand.stuck:
            return
        if not self._couriers.cancel(key):
            errand.stop(now)
            return
        self._drain(key, errand)  # what it had finished just before
        if key in self._couriers:
            self._set_apart(errand.begun)
            self._couriers.over(key, reused=False)
            self._turns.requeue(errand.left())

    def _share_out(self, now: float) -> None:
        """Let the worker with the most before it give half of that to those who have nothing."""
        worth = [(sum(self._balance.costs(errand.not_begun())), errand) for _, errand in self._couriers.out()]
        if worth:
            most, errand = max(worth, key=lambda pair: pair[0])
            errand.give_half(most > self._worth_s, now)
