"""The workers of a grid, seen from the parent: hand out tasks, take replies, replace who dies or is late.

One thread and non-blocking sockets: everything happens inside `submit` and `pump`. A worker holds up to two
tasks, the one that it runs and the next, so that it need not wait while the parent aggregates.
"""

import os
import selectors
import socket
import time
from collections.abc import Callable, Set

from flwr.app import Message

from ..errors import FlDistillError
from .flower_private import APP_CRASHED, NO_REPLY
from .frames import FrameError
from .member import Member
from .memory import keep_freed_memory
from .shared import Library, Region, anonymous_file, close_quietly
from .tasks import States, Task, TaskQueue, late_in_queue
from .worker import SLOTS, Job, Worker
from .zygote import Zygote, how

_GRACE_S = 1.0
_EARLY_DEATHS = 5
_WORTH_PREFETCHING_S = 0.02


class Crew:
    """`workers` processes that serve tasks; each reply goes to `deliver(task, reply)`, once per task."""

    def __init__(self, job: Job, workers: int, deliver: Callable[[Task, Message], None]) -> None:
        self._deliver = deliver
        self._tasks = TaskQueue()
        self._states = States()
        self._library = Library(self._forget)
        self._members: dict[int, Member] = {}
        self._numbers = 0
        self._early_deaths = 0
        self._owner = os.getpid()
        keep_freed_memory()
        library = self._library.descriptor
        self._zygote = Zygote(lambda parent, *slots: Worker(job, parent, library, slots).run())
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._zygote.socket, selectors.EVENT_READ)
        try:
            for _ in range(workers):
                self._hire()
        except BaseException:
            self.close()
            raise

    def submit(self, task: Task) -> None:
        """Queue a task, and send it if a worker is free."""
        self._tasks.add(task)
        self._dispatch()

    def cancel(self, ids: Set[str]) -> None:
        """Nobody waits for the messages with these ids: skip those in the queue, kill workers that run one.

        One that a worker holds behind another message is given up about a second after its turn has come.
        """
        self._tasks.cancel(ids)
        for member in list(self._members.values()):
            if member.held and member.held[0].metadata.message_id in ids:
                self._dismiss(member, "nobody waits for a reply")
        self._dispatch()

    def pump(self, wait_s: float) -> None:
        """Send and receive what is possible now, waiting up to `wait_s` for the first event."""
        self._dispatch()
        wait_s = max(0.0, min(wait_s, self._next_alarm() - time.monotonic()))
        for key, events in self._selector.select(wait_s):
            member: Member | None = key.data
            if member is None:
                self._bury()
                continue
            if events & selectors.EVENT_WRITE and member.number in self._members:
                self._flush(member)
            if events & selectors.EVENT_READ and member.number in self._members:
                self._read(member)
        self._expire(time.monotonic())
        self._dispatch()

    def close(self) -> None:
        """Kill everybody and give back all memory. In a forked copy of the parent it does nothing."""
        if os.getpid() != self._owner:
            return
        self._selector.close()
        self._zygote.close()
        for member in self._members.values():
            member.close()
        self._members.clear()
        self._library.close()

    # -------------------------------------------------------------- people

    def _hire(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        slots = [anonymous_file() for _ in range(SLOTS)]
        self._numbers += 1
        try:
            self._zygote.spawn(self._numbers, theirs.fileno(), *slots)
        except FlDistillError:
            ours.close()
            close_quietly(*slots)
            raise
        finally:
            theirs.close()
        member = Member(self._numbers, ours, [Region(slot, writable=False) for slot in slots])
        self._members[member.number] = member
        self._selector.register(ours, selectors.EVENT_READ, member)

    def _replace(self, member: Member) -> None:
        """Give up a worker, put the tasks that it had not begun back into the queue, and start another."""
        del self._members[member.number]
        self._unwatch(member)
        member.close()
        for task in member.held:
            self._return(task)
            self._tasks.requeue(task)
        self._hire()

    def _bury(self) -> None:
        for number, status in self._zygote.deaths():
            if status < 0:
                raise FlDistillError(f"A worker process cannot start: {os.strerror(-status)}.")
            if (member := self._members.get(number)) is not None:
                self._read(member)  # what it said before it died counts
            if number in self._members:
                self._mourn(self._members[number], how(status))

    def _mourn(self, member: Member, cause: str) -> None:
        if member.held:
            reason = f"the worker process died ({cause}) while it worked on this message; it was replaced"
            self._fail(member.held.popleft(), APP_CRASHED, reason)
        else:
            self._early_deaths += 1
        if self._early_deaths > _EARLY_DEATHS:
            raise FlDistillError(f"{self._early_deaths} idle worker processes died, the last by {cause}.")
        self._replace(member)

    # -------------------------------------------------------------- time

    def _next_alarm(self) -> float:
        grace = [m.since + _GRACE_S for m in self._members.values() if m.held and m.held[0].expired]
        return min([self._tasks.next_deadline(), *grace])

    def _expire(self, now: float) -> None:
        running = {m.held[0].number: m for m in self._members.values() if m.held}
        for task in self._tasks.overdue(now):
            if (member := running.get(task.number)) is None:
                task.expired = True
                self._deliver(task, task.failed(NO_REPLY, late_in_queue(task.metadata.ttl)))
            else:
                late = f"no reply within {task.metadata.ttl:g} s"
                self._dismiss(member, f"{late}; the worker was killed and replaced")
        for member in list(self._members.values()):
            # A worker refuses a message that expired in its hands, but it may have begun it just before.
            if member.held and member.held[0].expired and now > member.since + _GRACE_S:
                self._dismiss(member, "too late")

    def _dismiss(self, member: Member, reason: str) -> None:
        self._zygote.kill(member.number)
        self._fail(member.held.popleft(), NO_REPLY, reason)
        self._replace(member)

    # -------------------------------------------------------------- tasks

    def _dispatch(self) -> None:
        while (member := self._free_member()) is not None and (task := self._tasks.take()) is not None:
            member.give(task, self._states, self._library)
            self._flush(member)

    def _free_member(self) -> Member | None:
        """Whom to give the next task: an idle worker, or one that may have a second."""
        member = min(self._members.values(), key=lambda m: len(m.held))
        # A second task pays where tasks are short. Behind a long one it would wait while another worker idles, and be
        # late through no fault of its own when that one hangs.
        quick = member.typical_s < _WORTH_PREFETCHING_S
        limit = SLOTS if quick and len(self._tasks) >= len(self._members) else 1
        return member if len(member.held) < limit else None

    def _forget(self, serial: int) -> None:
        for member in self._members.values():
            member.forget(serial)

    def _return(self, task: Task) -> None:
        self._library.release(task.borrowed)
        task.borrowed = []

    def _fail(self, task: Task, code: int, reason: str) -> None:
        self._finish(task, task.failed(code, reason))

    def _finish(self, task: Task, reply: Message) -> None:
        self._return(task)
        self._tasks.finish(task)
        if not task.expired:
            self._deliver(task, reply)

    # -------------------------------------------------------------- traffic

    def _flush(self, member: Member) -> None:
        if not member.flush() or member.socket not in self._selector.get_map():
            return  # it died; the zygote will say so
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if member.unsent else 0)
        if self._selector.get_key(member.socket).events != events:
            self._selector.modify(member.socket, events, member)

    def _read(self, member: Member) -> None:
        """Take what has arrived. A worker that says nonsense is replaced."""
        try:
            for task, reply in member.arrived(self._states, self._library):
                self._early_deaths = 0
                self._finish(task, reply)
        except EOFError:
            self._unwatch(member)  # it died; the zygote will say so
        except FrameError as error:
            if not member.held:
                raise
            self._dismiss(member, f"the worker's reply cannot be read: {error}")

    def _unwatch(self, member: Member) -> None:
        if member.socket in self._selector.get_map():
            self._selector.unregister(member.socket)
