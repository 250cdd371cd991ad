"""Many sites on few nodes: what holds for a grid of processes holds for bundles too, and what is theirs alone."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_distill.asked import Passing
from fl_distill.collect import never
from fl_distill.meeting import together
from fl_distill.runtime import bell, bundle, couriers, flower_private, frames, packing, shared
from fl_distill.runtime.balance import Balance
from fl_distill.runtime.bell import Bell
from fl_distill.runtime.carrier import carrier
from fl_distill.runtime.ledger import Reader, Unwanted, Writer
from fl_distill.runtime.packing import Packing
from fl_distill.runtime.process_grid import ProcessGrid
from fl_distill.runtime.shared import Address, Library, Region
from fl_distill.runtime.tasks import FIRST_NODE, States, Task

from .test_process_grid import (  # noqa: F401  the same promises
    app,
    metric,
    model,
    nothing_left,
    received,
    test_a_cancelled_message_gets_no_late_error,
    test_a_cancelled_reply_is_dropped,
    test_a_worker_that_dies_costs_one_message,
    test_an_app_may_change_what_it_received,
    test_an_exception_becomes_an_error_reply_and_leaves_the_state_alone,
    test_bad_messages_are_refused,
    test_cancelled_messages_free_their_workers,
    test_cancelling_costs_no_other_message,
    test_each_message_its_own_large_content,
    test_large_models_both_ways,
    test_many_tiny_messages,
    test_messages_are_as_they_were_when_pushed,
    test_replies_answer_their_messages,
    test_state_lasts_between_messages,
    test_timeout_returns_what_is_there,
    test_train_evaluate_and_named_actions,
    to,
)

BELL = Bell()


def packed(
    sites: int, workers: int, shared: bool = True, engine: bool = False, stay_s: float = 0.0
) -> Iterator[Packing]:
    with ProcessGrid(carrier(app, sites), nodes=workers, workers=workers) as below:
        grid = Packing(Engine(below) if engine else below, sites=sites, workers=workers, shared=shared, stay_s=stay_s)
        yield grid
        grid.close()


@pytest.fixture(
    params=[(1, True), (2, True), (2, False), (2, True, True, 60.0)],
    ids=["one worker", "two workers", "nothing shared", "workers stay"],
)
def grid(request: pytest.FixtureRequest) -> Iterator[Packing]:
    yield from packed(5, *request.param)


@pytest.fixture
def crew() -> Iterator[Packing]:
    yield from packed(5, 2)


def known(grid: Packing, *kinds: str) -> None:
    """Let the grid measure what these cost, so that the next bundles hold many sites."""
    for kind in kinds:
        grid.send_and_receive([to(node, kind, model(2)) for node in grid.get_node_ids()])


def watched(grid: Packing) -> list[Message]:
    """What the grid sends from now on."""
    pushed: list[Message] = []
    push = grid.grid.push_messages

    def note(messages: Iterable[Message]) -> Iterable[str]:
        pushed.extend(messages := list(messages))
        return push(messages)

    grid.grid.push_messages = note  # type: ignore[method-assign]
    return pushed


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_stock_strategy_gives_the_same_arrays_packed_and_unpacked() -> None:
    def trained(grid: Any) -> dict[str, bytes]:
        random.seed(0)
        strategy = FedAvg(fraction_train=0.5, fraction_evaluate=0.5, min_available_nodes=2)
        initial = model(10, 3000)["arrays"]
        result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=3)  # type: ignore[arg-type]
        return {key: array.data for key, array in result.arrays.items()}

    with ProcessGrid(app, nodes=6, workers=1) as plain:
        expected = trained(plain)
    for workers, memory in ((1, True), (2, True), (2, False)):
        for grid in packed(6, workers, memory):
            assert trained(grid) == expected


def test_global_generators_depend_on_site_and_message_only() -> None:
    draws = []
    with ProcessGrid(app, nodes=4, workers=1) as plain:
        replies = plain.send_and_receive([to(n, "query.draw") for n in [*plain.get_node_ids()] * 3])
        draws.append([tuple(metric(reply, "x")) for reply in replies])
    for grid in packed(4, 2):
        replies = grid.send_and_receive([to(n, "query.draw") for n in [*grid.get_node_ids()] * 3])
        draws.append([tuple(metric(reply, "x")) for reply in replies])
    assert draws[0] == draws[1]


def test_sites_travel_together_once_their_work_is_known() -> None:
    pids: list[int] = []
    for grid in packed(40, 2):
        grid._worth_s = float("inf")  # on a slow machine an idle worker would be given some
        known(grid, "query.env")
        pushed = watched(grid)
        replies = grid.send_and_receive([to(node, "query.env") for node in grid.get_node_ids()])
        pids = [int(reply.content["c"]["pid"]) for reply in replies]  # type: ignore[index, call-overload]
        assert len(pushed) == 2
    assert len(pids) == 40
    assert len(set(pids)) == 2


def test_a_shared_model_travels_once_a_bundle(crew: Packing) -> None:
    known(crew, "evaluate")
    pushed = watched(crew)
    content = model(100_000)
    assert len(crew.send_and_receive([to(node, "evaluate", content) for node in crew.get_node_ids()])) == 5
    assert sum(len(m.content.array_records[bundle.BUNDLE][bundle.BUNDLE].data) for m in pushed) < 10_000


@pytest.mark.parametrize("memory", [True, False])
def test_a_worker_that_dies_costs_the_site_in_whose_turn_it_died(memory: bool) -> None:
    for grid in packed(12, 1, memory):
        known(grid, "query")
        nodes = grid.get_node_ids()
        kinds = ["query"] * 12
        kinds[5] = "query.die"
        replies = grid.send_and_receive([to(n, kind) for n, kind in zip(nodes, kinds, strict=True)], timeout=60)
        failed = [reply.metadata.src_node_id for reply in replies if reply.has_error()]
        assert failed == [nodes[5]]
        counts = [metric(reply, "n") for reply in replies if not reply.has_error()]
        if memory:  # what was ready before the death was there, and was not done again
            assert counts == [2] * 11


meeting_app = ClientApp()


@meeting_app.query()
def asks(message: Message, context: Context) -> Message:
    """Waits for the others."""
    count = together("any", 1, lambda ones: [len(ones)] * len(ones))
    return Message(RecordDict({"metrics": MetricRecord({"n": count})}), reply_to=message)


@meeting_app.query("die")
def dies(message: Message, context: Context) -> Message:
    """Is killed while those before it wait."""
    os.kill(os.getpid(), signal.SIGKILL)
    return asks(message, context)


def test_a_worker_that_dies_while_sites_take_turns_costs_one_of_them() -> None:
    below = ProcessGrid(carrier(meeting_app, 8, abreast=8), nodes=1, workers=1)
    with below, closing(Packing(below, sites=8, workers=1)) as grid:
        nodes = grid.get_node_ids()
        kinds = ["query"] * 5 + ["query.die"] + ["query"] * 2
        replies = grid.send_and_receive([to(n, kind) for n, kind in zip(nodes, kinds, strict=True)], timeout=60)
        assert [reply.metadata.src_node_id for reply in replies if reply.has_error()] == [nodes[5]]
        again = grid.send_and_receive([to(node, "query") for node in nodes], timeout=60)
        assert [metric(reply, "n") for reply in again] == [8] * 8


@final
class Engine(Passing):
    """As Flower's simulation engine: what was sent cannot be called back."""


def test_a_site_that_hangs_costs_its_own_round_only() -> None:
    for engine in (False, True):
        for grid in packed(6, 2 if engine else 1, engine=engine):
            nodes = grid.get_node_ids()
            known(grid, "query")
            for _ in range(2):  # the second time the hanging one may still be at work
                messages = [to(node, "query", ttl=8) for node in nodes]
                messages[2] = to(nodes[2], "query.sleep", ttl=1.0)
                started = time.monotonic()
                replies = grid.send_and_receive(messages, timeout=20)
                assert time.monotonic() - started < 7
                assert [reply.metadata.src_node_id for reply in replies if reply.has_error()] == [nodes[2]]
                assert [r.error.reason for r in replies if r.has_error()] == ["no reply within 1 s"]
                assert len(replies) == 6


def test_a_slow_site_does_not_hold_those_behind_it() -> None:
    for grid in packed(8, 2, engine=True):
        known(grid, "query")
        nodes = grid.get_node_ids()
        ids = grid.push_messages([to(n, "query.linger" if n == nodes[0] else "query", ttl=60) for n in nodes])
        started, there = time.monotonic(), 0
        while there < 7 and time.monotonic() - started < 20:
            there += len(grid.pull_messages(ids))
        assert time.monotonic() - started < 4.5  # it takes 5 s


def test_a_message_behind_a_hanging_one_of_its_site_expires_too(crew: Packing) -> None:
    node = crew.get_node_ids()[0]
    started = time.monotonic()
    replies = crew.send_and_receive([to(node, "query.sleep", ttl=20), to(node, "query", ttl=0.3)], timeout=3)
    assert time.monotonic() - started < 5
    assert [(r.metadata.src_node_id, r.error.code) for r in replies] == [(node, flower_private.NO_REPLY)]


def test_all_late_at_once_is_no_fault_of_the_grid() -> None:
    for grid in packed(6, 2, engine=True):
        nodes = grid.get_node_ids()
        replies = grid.send_and_receive([to(node, "query.linger", ttl=1.0) for node in nodes], timeout=30)
        assert [r.error.reason for r in replies] == ["no reply within 1 s"] * 6
        replies = grid.send_and_receive([to(node, "query", ttl=30) for node in nodes], timeout=30)
        assert [metric(r, "n") for r in replies] == [1] * 6


def test_an_answer_that_makes_no_sense_costs_one_site(crew: Packing, monkeypatch: pytest.MonkeyPatch) -> None:
    known(crew, "query")
    nodes = crew.get_node_ids()

    def damaged(head: bytes, cut: Callable[[Sequence[int]], list[bytes]]) -> bundle.Answer:
        answer = bundle.read_entry(head, cut)
        if answer.reply.metadata.src_node_id == nodes[2]:
            raise frames.FrameError("damaged")
        return answer

    monkeypatch.setattr(packing, "read_entry", damaged)
    replies = crew.send_and_receive([to(node, "query", ttl=20) for node in nodes], timeout=20)
    assert [reply.metadata.src_node_id for reply in replies if reply.has_error()] == [nodes[2]]
    assert len(replies) == 5


def test_workers_that_stay_get_their_next_bundles_without_a_message() -> None:
    for grid in packed(6, 2, engine=True, stay_s=60.0):
        known(grid, "train")
        pushed = watched(grid)
        for round_ in range(3):
            content = model(3, 40_000 + round_)
            replies = grid.send_and_receive([to(node, "train", content) for node in grid.get_node_ids()])
            for partition, reply in enumerate(replies):
                expected = np.arange(40_000 + round_, dtype=np.float32) * 2 + partition
                np.testing.assert_array_equal(received(reply)["1"], expected)
            counted = grid.send_and_receive([to(node, "query") for node in grid.get_node_ids()])
            assert [metric(reply, "n") for reply in counted] == [round_ + 1] * 6, "state goes on"
        assert not pushed


def test_what_a_worker_that_has_just_gone_was_given_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(couriers, "NEAR_S", -1.0)  # trusts workers that are gone
    for grid in packed(4, 2, engine=True, stay_s=0.05):
        known(grid, "query")
        for pause in (0.0, 0.049, 0.05, 0.051, 0.2):
            time.sleep(pause)
            replies = grid.send_and_receive([to(node, "query") for node in grid.get_node_ids()], timeout=20)
            assert [reply.has_error() for reply in replies] == [False] * 4, pause


def test_a_worker_that_dies_while_it_stays_costs_nothing() -> None:
    for grid in packed(6, 2, engine=True, stay_s=60.0):
        known(grid, "query.env")
        nodes = grid.get_node_ids()
        replies = grid.send_and_receive([to(node, "query.env") for node in nodes])
        os.kill(int(replies[0].content["c"]["pid"]), signal.SIGKILL)  # type: ignore[index, call-overload]
        replies = grid.send_and_receive([to(node, "query") for node in nodes], timeout=60)
        assert [reply.has_error() for reply in replies] == [False] * 6


def test_a_worker_stays_no_longer_than_its_message_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(couriers, "TERM_S", 5.0)
    for grid in packed(4, 1, engine=True, stay_s=60.0):
        nodes = grid.get_node_ids()
        grid.send_and_receive([to(node, "query", ttl=20) for node in nodes])
        pushed = watched(grid)
        assert len(grid.send_and_receive([to(node, "query", ttl=10) for node in nodes])) == 4
        assert not pushed, "10 s and some are left"
        replies = grid.send_and_receive([to(node, "query", ttl=60) for node in nodes], timeout=30)
        assert pushed, "it would not be valid long enough"
        assert [reply.has_error() for reply in replies] == [False] * 4


def test_memory_out_of_reach_is_given_up_once_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "reached", lambda *_, **__: None)  # as on another machine
    for grid in packed(5, 2):
        content = model(3, 40_000)
        for _ in range(2):
            replies = grid.send_and_receive([to(node, "train", content) for node in grid.get_node_ids()])
            for partition, reply in enumerate(replies):
                expected = np.arange(40_000, dtype=np.float32) * 2 + partition
                np.testing.assert_array_equal(received(reply)["1"], expected)
        assert not grid._couriers.shared


def test_only_the_file_that_is_meant_is_taken_for_it(tmp_path: Path) -> None:
    reader = Reader(BELL)
    address = Address.of(reader.descriptor)
    device, inode = address.file
    with (tmp_path / "other").open("w") as other:
        wrong = [
            replace(address, file=(device, inode + 1)),
            replace(address, file=(device + 1, inode)),
            replace(address, process=2**22 + 5),
            replace(address, machine="another"),
            Address.of(other.fileno()),  # not one of ours
        ]
        assert [shared.reached(at, writable=True) for at in wrong] == [None] * 5
    found = shared.reached(address, writable=False)
    assert found is not None
    with pytest.raises(TypeError):
        found.write(0, b"x")
    forget_reached()
    reader.close()


def forget_reached() -> None:
    for region in shared._reached.values():
        region.close()
    shared._reached.clear()
    for end in bell._held.values():
        os.close(end)
    bell._held.clear()


# ------------------------------------------------------------------ the parts


entries = st.lists(st.tuples(st.binary(max_size=50), st.lists(st.binary(max_size=300), max_size=4)), max_size=30)


@given(entries, st.integers(100, 2000))
@settings(deadline=None)
def test_a_ledger_gives_back_what_was_written_however_little_room_there_is(
    given_entries: list[tuple[bytes, list[bytes]]], room: int
) -> None:
    reader = Reader(BELL)
    for _ in range(2):  # the memory serves one writer after the other
        reader.reset()
        writer = Writer(Region(os.dup(reader.descriptor), writable=True), never, room)
        thread = threading.Thread(target=lambda w=writer: [w.put(*entry) for entry in given_entries])  # type: ignore[misc]
        thread.start()
        seen = []
        until = time.monotonic() + 20
        while len(seen) < len(given_entries) and time.monotonic() < until:
            for head, cut in reader.entries():
                seen.append((head, cut([len(part) for part in given_entries[len(seen)][1]])))
        thread.join(5)
        assert seen == given_entries
        writer._region.close()
    reader.close()


def test_a_writer_that_waits_for_room_can_be_told_to_stop() -> None:
    reader = Reader(BELL)
    writer = Writer(Region(os.dup(reader.descriptor), writable=True), never, room=200)
    for head in (b"a", b"b"):
        writer.put(head, [b"x" * 150])
    reader.limit(0)
    with pytest.raises(Unwanted):
        writer.put(b"c", [b"x" * 150])
    assert [head for head, _ in reader.entries()] == [b"a", b"b"]
    writer._region.close()
    reader.close()


@pytest.mark.parametrize(("size", "count", "most"), [(150_000, 300, 9_000_000), (10_000_000, 10, 21_000_000)])
@pytest.mark.parametrize("late", [False, True])
def test_a_ledger_holds_a_few_answers_however_many_come_and_however_late_they_are_read(
    size: int, count: int, most: int, late: bool
) -> None:
    reader = Reader(BELL)
    writer = Writer(Region(os.dup(reader.descriptor), writable=True), never)
    thread = threading.Thread(target=lambda: [writer.put(b"", [bytes(size)]) for _ in range(count)])
    thread.start()
    seen, until = 0, time.monotonic() + 20
    while seen < count and time.monotonic() < until:
        time.sleep(0.05 if late else 0)
        seen += sum(1 for _ in reader.entries())
    thread.join(5)
    assert seen == count
    assert os.fstat(reader.descriptor).st_size < most
    writer._region.close()
    reader.close()


def test_a_writer_begins_no_more_than_it_may_and_says_what_it_tried() -> None:
    reader = Reader(BELL)
    writer = Writer(Region(os.dup(reader.descriptor), writable=True), never)
    writer.begin(0)
    reader.limit(2)
    writer.begin(1)
    with pytest.raises(Unwanted):
        writer.begin(2)
    assert reader.begun == 3
    reader.reset()
    assert reader.begun == 0
    writer.begin(5)
    writer._region.close()
    reader.close()


values = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=5), st.binary(max_size=700))
records = st.dictionaries(st.text(max_size=4), values, max_size=4).map(ConfigRecord)  # type: ignore[arg-type]
contents = st.dictionaries(st.text(min_size=1, max_size=5), records, max_size=3)


@given(st.lists(st.tuples(contents, contents, st.booleans()), min_size=1, max_size=6))
@settings(deadline=None, max_examples=50)
def test_bundles_and_entries_carry_messages_and_states_exactly(sites: list[tuple[Any, Any, bool]]) -> None:
    for memory in (True, False):
        library, reader, states = Library(lambda _: None), Reader(BELL), States()
        tasks, shown = [], []
        with flower_private.identity(1):
            for at, (content, state, error) in enumerate(sites):
                content = RecordDict({**content, "arrays": ArrayRecord([np.full(200, at)])})
                if state:
                    described, buffers = frames.encode(RecordDict(state))
                    states.put(FIRST_NODE + at, frames.parse(described), buffers)
                metadata = to(FIRST_NODE + at, "query").metadata
                flower_private.stamp(flower_private.compose(metadata, RecordDict()), f"m{at}")
                tasks.append(Task(at, metadata, *frames.encode(content), 0.0, at))
                shown.append((content, RecordDict(state), error))
            made, _ = bundle.pack(tasks, states, library, reader if memory else None)
            arrived = bundle.Bundle(bundle.bundle_of(bundle.content_of(made)))
            written = []
            for at, order in enumerate(arrived.orders()):
                assert frames.encode(order.message.content) == frames.encode(shown[at][0])
                assert frames.encode(order.state) == frames.encode(shown[at][1])
                body: Any = Error(7, "no") if shown[at][2] else order.message.content
                reply = Message(body, reply_to=order.message)
                written.append(bundle.entry(at, reply, order.state if at % 2 else None, 0.5))
            for at, (head, cut) in enumerate(bundle.entries_of(bundle.entries_as_records(written))):
                answer = bundle.read_entry(head, cut)
                assert (answer.number, answer.seconds, answer.reply.has_error()) == (at, 0.5, shown[at][2])
                if not shown[at][2]:
                    assert frames.encode(answer.reply.content) == frames.encode(shown[at][0])
                assert (answer.state is None) == (at % 2 == 0)
        library.close()
        reader.close()
    forget_reached()


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=60), st.integers(1, 8))
def test_bundles_are_balanced_and_lose_nobody(costs: list[float], workers: int) -> None:
    metadata = [to_metadata(FIRST_NODE + at) for at in range(len(costs))]
    tasks = [Task(at, metadata[at], b"", [], 0.0, 0) for at in range(len(costs))]
    balance = Balance()
    sizes = [len(some) for some in balance.split(tasks, workers)]  # nothing is known yet
    assert max(sizes) - min(sizes) <= 1
    for task, cost in zip(tasks, costs, strict=True):
        balance.note(task, cost)
    bundles = balance.split(tasks, workers)
    assert sorted(task.number for some in bundles for task in some) == list(range(len(costs)))
    loads = [sum(costs[task.number] for task in some) for some in bundles]
    assert max(loads) <= sum(costs) / workers + max(costs) + 1e-6
    assert all([task.number for task in some] == sorted(task.number for task in some) for some in bundles)


def test_work_is_expected_to_take_the_shortest_of_its_last_times() -> None:
    balance, task = Balance(), Task(0, to_metadata(FIRST_NODE), b"", [], 0.0, 0)
    for cost in (5.0, 1.0, 9.0):
        balance.note(task, cost)
    assert balance.costs([task]) == [1.0]
    for cost in (3.0, 4.0, 2.0, 6.0, 7.0):
        balance.note(task, cost)
    assert balance.costs([task]) == [2.0]


def to_metadata(node: int) -> Any:
    with flower_private.identity(1):
        return Message(RecordDict({"m": MetricRecord({})}), node, "train").metadata


class Slow(Passing):
    """An engine that hands nothing on for a while, and keeps what it was given."""

    def __init__(self, nodes: int) -> None:
        self.nodes, self.pushed = nodes, list[Message]()

    def get_node_ids(self) -> list[int]:
        return list(range(self.nodes))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        before = len(self.pushed)
        self.pushed += messages
        return [str(number) for number in range(before, len(self.pushed))]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return []


def test_what_no_worker_has_begun_stays_where_it_is() -> None:
    with flower_private.identity(1):
        below = Slow(16)
        grid = Packing(below, sites=20, workers=16)
        ids = grid.push_messages([to(FIRST_NODE, "query")])
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert grid.pull_messages(ids) == []
        assert len(below.pushed) == 1
        grid.close()


def test_what_a_bundle_borrows_stays_until_it_is_over() -> None:
    """Tasks given to another bundle take nothing with them: what that one borrows is its own."""
    library, first, second = Library(lambda _: None), Reader(BELL), Reader(BELL)
    with flower_private.identity(1):
        metadata = to(FIRST_NODE, "query").metadata
        flower_private.stamp(flower_private.compose(metadata, RecordDict()), "m")
        content = RecordDict({"arrays": ArrayRecord([np.arange(5000)])})
        task = Task(0, metadata, *frames.encode(content), 0.0, 0)
        _, one = bundle.pack([task], States(), library, first)
        made, two = bundle.pack([task], States(), library, second)
        library.release(one)  # the first bundle is over
        for number in range(400):  # and others want room
            library.release([library.borrow(bytes([number % 256]) * 200_000)])
        (order,) = bundle.Bundle(made).orders()
        assert frames.encode(order.message.content) == frames.encode(content)
        library.release(two)
    forget_reached()
    library.close()
    first.close()
    second.close()
