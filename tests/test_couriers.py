"""Workers that stay for their next bundle: what they answer, and when they go. The engine runs in this process."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_distill.asked import Passing
from fl_distill.collect import never
from fl_distill.runtime import errand, flower_private, frames, packing
from fl_distill.runtime.bell import Bell
from fl_distill.runtime.bundle import Bundle, Unreachable
from fl_distill.runtime.carrier import carrier
from fl_distill.runtime.ledger import Reader, Unwanted, Writer
from fl_distill.runtime.packing import Packing
from fl_distill.runtime.shared import Region
from fl_distill.runtime.tasks import Task

BELL = Bell()
SLOW = -1.0
"""Instead of seconds: until the test says so."""
go_on = threading.Event()
app = ClientApp()


@app.query()
def works(message: Message, context: Context) -> Message:
    """Takes as long as it is told, and remembers whose state this is."""
    seconds = float(message.content["c"]["s"])  # type: ignore[index, arg-type, call-overload]
    go_on.wait(5) if seconds == SLOW else time.sleep(seconds)
    context.state["of"] = ConfigRecord({"node": message.metadata.dst_node_id})
    return Message(RecordDict(), reply_to=message)


class Threads(Passing):
    """An engine whose workers are threads; `open` is cleared while it delivers nothing."""

    def __init__(self, sites: int, workers: int) -> None:
        self.app, self.workers = carrier(app, sites), workers
        self.open = threading.Event()
        self.open.set()
        self.pushed: list[Message] = []
        self.finished = 0
        self.replies: list[Message] = []
        self._queue: SimpleQueue[Message] = SimpleQueue()
        for _ in range(workers):
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            message = self._queue.get()
            self.open.wait()
            context = Context(1, message.metadata.dst_node_id, {}, RecordDict(), {})
            self.replies.append(self.app(message, context))
            self.finished += 1

    def get_node_ids(self) -> list[int]:
        return list(range(1, self.workers + 1))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        found = list(messages)
        for message in found:
            flower_private.stamp(message, f"e{len(self.pushed)}")
            self.pushed.append(message)
            self._queue.put(message)
        return [message.metadata.message_id for message in found]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        found = [reply for reply in self.replies if reply.metadata.reply_to_message_id in set(message_ids)]
        for reply in found:
            self.replies.remove(reply)
        return found


@contextmanager
def crew(sites: int, workers: int, stay_s: float = 30.0) -> Iterator[tuple[Packing, Threads, list[int]]]:
    with flower_private.identity(1):
        engine = Threads(sites, workers)
        grid = Packing(engine, sites=sites, workers=workers, stay_s=stay_s)
        yield grid, engine, grid.get_node_ids()
        grid.close()
        assert wait_for(lambda: engine.finished == len(engine.pushed)), "workers go when they are told to"


def wait_for(what: Callable[[], Any], seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while not what() and time.monotonic() < until:
        time.sleep(0.005)
    return bool(what())


def ask(node: int, seconds: float = 0.0, ttl: float = 20.0) -> Message:
    return Message(RecordDict({"c": ConfigRecord({"s": seconds})}), node, "query", ttl=ttl)


def answers(grid: Packing, ids: list[str], seconds: float = 5.0) -> dict[str, Message]:
    """The replies by what they answer, once all are there or time is out."""
    found: dict[str, Message] = {}
    until = time.monotonic() + seconds
    while len(found) < len(ids) and time.monotonic() < until:
        found |= {reply.metadata.reply_to_message_id: reply for reply in grid.pull_messages(ids)}
    return found


def owners(grid: Packing, nodes: list[int]) -> list[int | None]:
    """Whose state is kept for each of the nodes."""
    kept = [json.loads(grid._states.get(node)[0]) for node in nodes]
    return [records[0][2][0][2] if records else None for records in kept]


def test_who_has_an_answer_wakes_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_LOOK_S", 30.0)  # it would not find out by itself
    with crew(3, 1) as (grid, _, nodes):
        began = time.monotonic()
        for node in nodes:  # brought by the engine the first time, then laid where the worker looks
            ids = grid.push_messages([ask(node, 0.05)])
            assert list(answers(grid, ids)) == ids
        assert time.monotonic() - began < 15


def test_a_bundle_that_nobody_waits_for_any_more_answers_no_later_one() -> None:
    with crew(4, 1) as (grid, engine, nodes):
        engine.open.clear()
        grid.cancel(grid.push_messages([ask(node) for node in nodes[:2]]))  # before the engine has delivered them
        assert answers(grid, ["none"], 0.05) == {}
        ids = grid.push_messages([ask(node) for node in nodes[2:]])
        engine.open.set()
        found = answers(grid, ids)
        assert [found[key].metadata.src_node_id for key in ids] == nodes[2:]
        assert owners(grid, nodes) == [None, None, *nodes[2:]]


def test_a_worker_that_is_about_to_begin_what_was_given_away_begins_nothing_of_the_next_bundle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin, slow = Writer.begin, threading.Event()

    def interrupted(self: Writer, order: int) -> None:
        if order == 1 and slow.is_set():
            slow.clear()
            time.sleep(0.05)
        begin(self, order)

    monkeypatch.setattr(Writer, "begin", interrupted)
    with crew(4, 1) as (grid, _, nodes):
        grid.send_and_receive([ask(node, 0.01) for node in nodes])
        slow.set()
        late = grid.push_messages([ask(nodes[0], 0.4, ttl=0.2), ask(nodes[1], ttl=0.2)])
        ids = grid.push_messages([ask(node) for node in nodes[2:]])
        found = answers(grid, [*late, *ids])
        assert [found[key].has_error() for key in (*late, *ids)] == [True, True, False, False]
        assert owners(grid, nodes) == nodes


def test_a_worker_that_was_refused_an_order_gives_it_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = errand.Errand._cut

    def and_it_ends(self: errand.Errand, limit: int, now: float) -> None:
        cut(self, limit, now)
        go_on.set()  # the site at work ends right then

    monkeypatch.setattr(errand.Errand, "_cut", and_it_ends)
    with crew(4, 2, stay_s=4.0) as (grid, _, nodes):
        grid.send_and_receive([ask(node, 0.3) for node in nodes])
        go_on.clear()
        began = time.monotonic()
        times = (SLOW, 0.05, 0.05, 0.1)
        replies = grid.send_and_receive([ask(node, s) for node, s in zip(nodes, times, strict=True)], timeout=20)
        assert [reply.has_error() for reply in replies] == [False] * 4
        assert time.monotonic() - began < 2.0


def test_workers_go_when_the_grid_is_closed_or_memory_turns_out_to_be_out_of_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with crew(4, 2) as (grid, engine, nodes):
        grid.send_and_receive([ask(node) for node in nodes])
        assert wait_for(lambda: all(one.awaits_more for _, one in grid._couriers.out()))
        assert not engine.replies
        grid.close()
        assert wait_for(lambda: len(engine.replies) == 2)
    reached = Bundle.__init__
    far = iter([True])

    def sometimes(self: Bundle, data: bytes) -> None:
        if next(far, False):
            raise Unreachable
        reached(self, data)

    monkeypatch.setattr(Bundle, "__init__", sometimes)
    with crew(4, 2) as (grid, engine, nodes):
        for _ in range(3):
            assert len(grid.send_and_receive([ask(node) for node in nodes], timeout=10)) == 4
        assert not grid._couriers.shared
        assert len(engine.pushed) > 8, "each site's message by itself"


def test_what_was_handed_over_is_released() -> None:
    with crew(6, 2) as (grid, engine, nodes):
        library, used = grid._couriers._library, []
        for round_ in range(30):
            content = RecordDict({"c": ConfigRecord({"s": 0.0, "large": bytes([round_]) * 5000})})
            grid.send_and_receive([Message(content, node, "query", ttl=20) for node in nodes])
            used.append(len(library._items) - len(library._idle))
        assert len(engine.pushed) == 2
        assert max(used) < 15, "30 rounds were handed over"
        assert all(item.users >= 0 for item in library._items.values())


def test_posting_starts_from_the_beginning_whatever_was_before() -> None:
    reader = Reader(BELL)
    writer = Writer(Region(os.dup(reader.descriptor), writable=True), never)
    writer.begin(0)
    writer.put(b"old", [b"x"])
    list(reader.entries())
    reader.limit(1)
    assert not reader.awaited
    thread = threading.Thread(target=writer.posted, args=(0, 5.0))
    thread.start()
    assert wait_for(lambda: reader.awaited)
    reader.post(640, 7)
    thread.join()
    assert writer.posted(0, 5.0) == (1, 640, 7)
    assert writer.posted(1, 0.0) is None
    assert reader.awaited, "for the second"
    assert reader.begun == 0
    again = Writer(writer._region, never)
    again.begin(3)  # nothing is limited any more
    again.put(b"new", [b"y"])
    assert [(head, cut([1])) for head, cut in reader.entries()] == [(b"new", [b"y"])]
    writer._region.close()
    reader.close()


def test_an_answer_that_makes_no_sense_and_comes_last_costs_one_site(monkeypatch: pytest.MonkeyPatch) -> None:
    read = packing.read_entry

    def damaged(head: bytes, cut: Any) -> Any:
        answer = read(head, cut)
        if answer.reply.metadata.src_node_id == nodes[3]:
            raise frames.FrameError("damaged")
        return answer

    with crew(4, 1) as (grid, _, nodes):
        grid.send_and_receive([ask(node) for node in nodes])
        monkeypatch.setattr(packing, "read_entry", damaged)
        monkeypatch.setattr(Packing, "_drain_all", lambda grid: None)  # it is seen when the worker waits for more
        replies = grid.send_and_receive([ask(node) for node in nodes], timeout=10)
        assert [reply.metadata.src_node_id for reply in replies if reply.has_error()] == [nodes[3]]
        assert len(replies) == 4


def test_a_worker_that_is_to_begin_no_more_may_still_answer_what_it_has_begun() -> None:
    with flower_private.identity(1):
        metadata = [ask(node).metadata for node in (1001, 1002, 1003)]
    reader = Reader(BELL)
    writer = Writer(Region(os.dup(reader.descriptor), writable=True), never, room=200)
    sent = errand.Errand(1, [Task(at, one, b"", [], 0.0, 0) for at, one in enumerate(metadata)], reader)
    writer.begin(0)
    writer.begin(1)
    for head in (b"a", b"b"):
        writer.put(head, [b"x" * 300])
    sent.stop(time.monotonic())
    thread = threading.Thread(target=writer.put, args=(b"c", [b"x" * 300]))  # has no room so far
    thread.start()
    seen: list[bytes] = []
    assert wait_for(lambda: seen.extend(head for head, _ in reader.entries()) or len(seen) == 3)
    with pytest.raises(Unwanted):
        writer.begin(2)
    thread.join()
    writer._region.close()
    reader.close()
