"""Many sites on few nodes: what holds for a grid of processes holds for bundles too, and what is theirs alone."""

import os
import random
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_distill.runtime import bundle, flower_private, frames, shared
from fl_distill.runtime.balance import Balance
from fl_distill.runtime.carrier import FIRST_NODE, UNREACHABLE, carrier
from fl_distill.runtime.ledger import Reader, Writer
from fl_distill.runtime.packing import Packing, carriers
from fl_distill.runtime.process_grid import ProcessGrid
from fl_distill.runtime.shared import Library, Region
from fl_distill.runtime.tasks import States, Task

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


def packed(sites: int, workers: int, shared: bool = True) -> Iterator[Packing]:
    with ProcessGrid(carrier(app, sites), nodes=carriers(workers), workers=workers) as below:
        packing = Packing(below, sites=sites, workers=workers, shared=shared)
        yield packing
    packing.close()


@pytest.fixture(params=[(1, True), (2, True), (2, False)], ids=lambda p: f"workers={p[0]}-shared={p[1]}")
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
        known(grid, "query", "query.die")  # from now on each kind is one bundle
        nodes = grid.get_node_ids()
        kinds = ["query"] * 12
        kinds[5] = "query.die"
        replies = grid.send_and_receive([to(n, kind) for n, kind in zip(nodes, kinds, strict=True)], timeout=60)
        failed = [reply.metadata.src_node_id for reply in replies if reply.has_error()]
        assert failed == [nodes[5]]
        counts = [metric(reply, "n") for reply in replies if not reply.has_error()]
        if memory:  # what was ready before the death was there, and was not done again
            assert counts == [2] * 11


def test_a_site_that_hangs_in_a_bundle_costs_its_own_round_only() -> None:
    for grid in packed(6, 1):
        nodes = grid.get_node_ids()
        for _ in range(2):
            known(grid, "query")
        grid._balance._costs |= {("query.sleep", node): 0.001 for node in nodes}
        messages = [to(node, "query", ttl=20) for node in nodes]
        messages[2] = to(nodes[2], "query.sleep", ttl=1.0)
        started = time.monotonic()
        replies = grid.send_and_receive(messages, timeout=15)
        assert time.monotonic() - started < 8
        assert [reply.metadata.src_node_id for reply in replies if reply.has_error()] == [nodes[2]]
        assert [r.error.reason for r in replies if r.has_error()] == ["no reply within 1 s"]
        assert len(replies) == 6


def test_memory_out_of_reach_is_given_up_once_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "borrowed", lambda *place: None)  # as on another machine
    for grid in packed(5, 2):
        content = model(3, 40_000)
        for _ in range(2):
            replies = grid.send_and_receive([to(node, "train", content) for node in grid.get_node_ids()])
            for partition, reply in enumerate(replies):
                expected = np.arange(40_000, dtype=np.float32) * 2 + partition
                np.testing.assert_array_equal(received(reply)["1"], expected)
        assert not grid._shared


def test_a_file_with_the_same_numbers_on_another_machine_is_not_taken_for_ours() -> None:
    reader = Reader()
    inode = os.fstat(reader.descriptor).st_ino
    assert shared.borrowed(os.getpid(), reader.descriptor, inode + 1) is None
    assert shared.borrowed(2**22 + 5, reader.descriptor, inode) is None
    reader.close()


# ------------------------------------------------------------------ the parts


entries = st.lists(st.tuples(st.binary(max_size=50), st.lists(st.binary(max_size=300), max_size=4)), max_size=30)


@given(entries, st.integers(100, 2000))
@settings(deadline=None)
def test_a_ledger_gives_back_what_was_written_however_little_room_there_is(
    given_entries: list[tuple[bytes, list[bytes]]], room: int
) -> None:
    reader = Reader()
    for _ in range(2):  # the memory serves one writer after the other
        reader.begin()
        writer = Writer(Region(os.dup(reader.descriptor), writable=True), room)
        thread = threading.Thread(target=lambda w=writer: [w.put(*entry) for entry in given_entries])  # type: ignore[misc]
        thread.start()
        seen = []
        until = time.monotonic() + 20
        while len(seen) < len(given_entries) and time.monotonic() < until:
            seen += [(head, read(0, _size(given_entries[len(seen) + i][1]))) for i, (head, read) in _each(reader)]
        thread.join(5)
        assert seen == [(head, b"".join(body)) for head, body in given_entries]
        writer._region.close()
    reader.close()


def _each(reader: Reader) -> Iterator[tuple[int, Any]]:
    yield from enumerate(reader.entries())


def _size(body: list[bytes]) -> int:
    return sum(map(len, body))


def test_a_writer_that_waits_for_room_can_give_up() -> None:
    reader = Reader()
    writer = Writer(Region(os.dup(reader.descriptor), writable=True), room=200)
    writer.put(b"a", [b"x" * 150])

    def check() -> None:
        if writer.stopped:
            raise InterruptedError

    reader.stop()
    with pytest.raises(InterruptedError):
        writer.put(b"b", [b"x" * 150], check)
    assert [head for head, _ in reader.entries()] == [b"a"]
    writer._region.close()
    reader.close()


values = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=5), st.binary(max_size=700))
records = st.dictionaries(st.text(max_size=4), values, max_size=4).map(ConfigRecord)  # type: ignore[arg-type]
contents = st.dictionaries(st.text(min_size=1, max_size=5), records, max_size=3)


@given(st.lists(st.tuples(contents, contents, st.booleans()), min_size=1, max_size=6))
@settings(deadline=None, max_examples=50)
def test_bundles_and_entries_carry_messages_and_states_exactly(sites: list[tuple[Any, Any, bool]]) -> None:
    for memory in (True, False):
        library, reader, states = Library(lambda _: None), Reader(), States()
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
            made = bundle.pack(tasks, states, library, reader if memory else None)
            arrived = bundle.Bundle(made)
            written = []
            for at, order in enumerate(arrived.orders()):
                assert frames.encode(order.message.content) == frames.encode(shown[at][0])
                assert frames.encode(order.state) == frames.encode(shown[at][1])
                body: Any = Error(7, "no") if shown[at][2] else order.message.content
                reply = Message(body, reply_to=order.message)
                written.append(bundle.entry(at, reply, order.state if at % 2 else None, 0.5))
            for at, (head, read) in enumerate(bundle.entries_of(bundle.entries_as_records(written))):
                answer = bundle.read_entry(head, read)
                assert (answer.number, answer.seconds, answer.reply.has_error()) == (at, 0.5, shown[at][2])
                if not shown[at][2]:
                    assert frames.encode(answer.reply.content) == frames.encode(shown[at][0])
                assert (answer.state is None) == (at % 2 == 0)
        library.close()
        reader.close()
    for region in shared._borrowed.values():
        region.close()
    shared._borrowed.clear()


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=60), st.integers(1, 8))
def test_bundles_are_balanced_and_lose_nobody(costs: list[float], workers: int) -> None:
    metadata = [to_metadata(FIRST_NODE + at) for at in range(len(costs))]
    tasks = [Task(at, metadata[at], b"", [], 0.0, 0) for at in range(len(costs))]
    balance = Balance(workers)
    assert len(balance.split(tasks)) == min(len(tasks), 4 * workers)  # nothing is known yet
    for task, cost in zip(tasks, costs, strict=True):
        balance.note(task, cost)
    bundles = balance.split(tasks)
    assert sorted(task.number for some in bundles for task in some) == list(range(len(costs)))
    loads = [sum(costs[task.number] for task in some) for some in bundles]
    # Graham's bound for the longest first.
    assert max(loads) <= (4 / 3) * max(sum(costs) / len(bundles), max(costs)) + 1e-6
    assert all([task.number for task in some] == sorted(task.number for task in some) for some in bundles)


def to_metadata(node: int) -> Any:
    with flower_private.identity(1):
        return Message(RecordDict({"m": MetricRecord({})}), node, "train").metadata


def test_the_code_of_unreachable_memory_is_no_other_error() -> None:
    assert UNREACHABLE not in {flower_private.APP_CRASHED, flower_private.NO_REPLY, flower_private.RAISED}
    assert Array(np.zeros(1)).stype != bundle.BUNDLE
