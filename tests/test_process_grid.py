"""The grid of processes, with real processes."""

import gc
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fl_distill.errors import FlDistillError
from fl_distill.runtime import flower_private
from fl_distill.runtime.process_grid import ProcessGrid

from .conftest import Launch

app = ClientApp()


def reply_with(message: Message, arrays: dict[str, Any] | None = None, **metrics: float | list[int]) -> Message:
    content = RecordDict({"metrics": MetricRecord({"num-examples": 1, **metrics})})
    if arrays is not None:
        content["arrays"] = ArrayRecord({k: Array(np.asarray(v)) for k, v in arrays.items()})
    return Message(content, reply_to=message)


def received(message: Message) -> dict[str, Any]:
    return {key: array.numpy() for key, array in message.content["arrays"].items()}  # type: ignore[union-attr]


@app.train()
def train(message: Message, context: Context) -> Message:
    partition = int(context.node_config["partition-id"])
    return reply_with(message, {k: v * 2 + partition for k, v in received(message).items()})


@app.train("distill")
def distill(message: Message, context: Context) -> Message:
    return reply_with(message, partition=int(context.node_config["partition-id"]), run=context.run_id)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    return reply_with(message, total=float(sum(v.sum() for v in received(message).values())))


@app.query()
def count(message: Message, context: Context) -> Message:
    seen = context.state.get("seen", ConfigRecord({"n": 0, "pids": []}))
    seen["n"] += 1  # type: ignore[operator, assignment, index]
    context.state["seen"] = seen
    context.state["memory"] = ArrayRecord([np.full(5000, seen["n"])])  # type: ignore[index]
    return reply_with(message, n=seen["n"])  # type: ignore[index, arg-type]


@app.query("forget")
def forget(message: Message, context: Context) -> Message:
    held = len(context.state)
    context.state.clear()
    return reply_with(message, held=held)


@app.query("draw")
def draw(message: Message, context: Context) -> Message:
    return reply_with(
        message, x=[int(torch.randint(1 << 30, ())), int(np.random.randint(1 << 30)), random.getrandbits(30)]
    )


@app.query("env")
def env(message: Message, context: Context) -> Message:
    content = RecordDict(
        {"c": ConfigRecord({"threads": torch.get_num_threads(), "pid": os.getpid(), **context.run_config})}
    )
    return Message(content, reply_to=message)


@app.query("fail")
def fail(message: Message, context: Context) -> Message:
    context.state["junk"] = ConfigRecord({"a": 1})
    raise ValueError("the disk is on fire")


@app.query("leave")
def leave(message: Message, context: Context) -> Message:
    sys.exit(3)


@app.query("nonsense")
def nonsense(message: Message, context: Context) -> Any:
    return 7


@app.query("mutate")
def mutate(message: Message, context: Context) -> Message:
    before = received(message)["0"]
    arrays = message.content["arrays"]
    arrays["0"].data = b""  # type: ignore[union-attr, index]
    arrays["1"] = Array(np.zeros(1))  # type: ignore[index, assignment]
    return reply_with(message, total=float(before.sum()), n=len(before))


@app.query("die")
def die(message: Message, context: Context) -> Message:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@app.query("sleep")
def sleep(message: Message, context: Context) -> Message:
    time.sleep(30)
    raise AssertionError


@app.query("linger")
def linger(message: Message, context: Context) -> Message:
    time.sleep(5)
    return reply_with(message)


@app.query("pause")
def pause(message: Message, context: Context) -> Message:
    time.sleep(0.15)
    return reply_with(message)


def to(node: int, kind: str, content: RecordDict | None = None, ttl: float | None = None) -> Message:
    return Message(content or RecordDict(), node, kind, ttl=ttl)


def model(*sizes: int) -> RecordDict:
    return RecordDict({"arrays": ArrayRecord([np.arange(size, dtype=np.float32) for size in sizes])})


def metric(reply: Message, name: str) -> Any:
    assert not reply.has_error(), reply.error
    return reply.content["metrics"][name]  # type: ignore[index]


@pytest.fixture(params=[0, 1, 2], ids=lambda n: f"workers={n}")
def grid(request: pytest.FixtureRequest) -> Iterator[ProcessGrid]:
    with ProcessGrid(app, nodes=5, workers=request.param) as grid:
        yield grid


@pytest.fixture
def crew() -> Iterator[ProcessGrid]:
    with ProcessGrid(app, nodes=5, workers=2) as grid:
        yield grid


@pytest.fixture(autouse=True, scope="module")
def quick_collections() -> Iterator[None]:
    """What is there before the first test is not looked at again each time that garbage is collected."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def in_shared_memory() -> list[str]:
    """Names of shared memory, but for that of Ray, with which other tests may be at work."""
    names = os.listdir("/dev/shm") if os.path.exists("/dev/shm") else []
    return sorted(name for name in names if not name.startswith("plasma"))


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    shared = in_shared_memory()
    yield
    assert psutil.Process().children(recursive=True) == []
    if descriptors:
        if len(os.listdir("/proc/self/fd")) > descriptors:
            gc.collect()  # what waits for it holds some, perhaps
        assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert in_shared_memory() == shared


# ------------------------------------------------------------------ what Flower promises


def test_train_evaluate_and_named_actions(grid: ProcessGrid) -> None:
    nodes = grid.get_node_ids()
    content = model(3, 40_000)
    replies = grid.send_and_receive([to(node, "train", content) for node in nodes])
    for partition, reply in enumerate(replies):
        for key, value in received(reply).items():
            np.testing.assert_array_equal(value, np.arange(len(value), dtype=np.float32) * 2 + partition)
            assert isinstance(reply.content["arrays"][key].data, bytes)  # type: ignore[index]
    (reply,) = grid.send_and_receive([to(nodes[1], "evaluate", content)])
    assert metric(reply, "total") == 3 + np.arange(40_000, dtype=np.float32).sum()
    (reply,) = grid.send_and_receive([to(nodes[3], "train.distill")])
    assert (metric(reply, "partition"), metric(reply, "run")) == (3, 1)


def test_replies_answer_their_messages(grid: ProcessGrid) -> None:
    messages = [to(node, "train.distill") for node in grid.get_node_ids()]
    ids = grid.push_messages(messages)
    assert all(isinstance(key, str) and key for key in ids)
    replies = []
    while len(replies) < len(ids):
        replies += grid.pull_messages(ids)
    by_id = {reply.metadata.reply_to_message_id: reply.metadata for reply in replies}
    assert set(by_id) == set(ids) == {message.metadata.message_id for message in messages}
    for message, key in zip(messages, ids, strict=True):
        assert by_id[key].src_node_id == message.metadata.dst_node_id
        assert by_id[key].dst_node_id == message.metadata.src_node_id
        assert by_id[key].message_id not in {"", key}
    assert grid.pull_messages(ids) == []
    assert grid.pull_messages(["nobody"]) == []
    assert grid.pull_messages([]) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_stock_strategy_gives_the_same_arrays_with_any_number_of_workers() -> None:
    results = []
    for workers in (0, 1, 2):
        random.seed(0)
        with ProcessGrid(app, nodes=6, workers=workers) as grid:
            strategy = FedAvg(fraction_train=0.5, fraction_evaluate=0.5, min_available_nodes=2)
            initial = model(10, 3000)["arrays"]
            result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=3)  # type: ignore[arg-type]
        results.append({key: array.data for key, array in result.arrays.items()})
        assert sorted(result.evaluate_metrics_clientapp) == [1, 2, 3]
    assert results[0] == results[1] == results[2]


def test_state_lasts_between_messages(grid: ProcessGrid) -> None:
    nodes = grid.get_node_ids()
    replies = grid.send_and_receive([to(node, "query") for node in [*nodes, *nodes, nodes[0], *nodes]])
    by_node: dict[int, list[int]] = {}
    for reply in replies:
        by_node.setdefault(reply.metadata.src_node_id, []).append(metric(reply, "n"))
    assert by_node[nodes[0]] == [1, 2, 3, 4]
    assert all(by_node[node] == [1, 2, 3] for node in nodes[1:])
    forgotten = grid.send_and_receive([to(nodes[0], "query.forget"), to(nodes[0], "query.forget")])
    assert [metric(reply, "held") for reply in forgotten] == [2, 0]


def test_an_exception_becomes_an_error_reply_and_leaves_the_state_alone(grid: ProcessGrid) -> None:
    node = grid.get_node_ids()[2]
    replies = grid.send_and_receive([to(node, f"query.{name}") for name in ("fail", "leave", "nonsense", "missing")])
    reasons = [reply.error.reason or "" for reply in replies]
    assert {reply.error.code for reply in replies} == {flower_private.RAISED}
    assert {reply.metadata.src_node_id for reply in replies} == {node}
    assert reasons[0].startswith("ValueError: the disk is on fire (test_process_grid.py:")
    assert reasons[1].startswith("SystemExit: 3")
    assert reasons[2].startswith("TypeError: Expected a Message from the ClientApp, got int.")
    assert "No query function registered with name 'missing'" in reasons[3]
    (reply,) = grid.send_and_receive([to(node, "query.forget")])
    assert metric(reply, "held") == 0


def test_an_app_may_change_what_it_received(grid: ProcessGrid) -> None:
    content = model(20_000)
    replies = grid.send_and_receive([to(node, "query.mutate", content) for node in grid.get_node_ids()])
    assert {(metric(r, "total"), metric(r, "n")) for r in replies} == {(np.arange(20_000.0, dtype="f").sum(), 20_000)}
    assert list(content["arrays"]) == ["0"]
    assert len(content["arrays"]["0"].data) > 80_000  # type: ignore[index]


def test_messages_are_as_they_were_when_pushed(grid: ProcessGrid) -> None:
    content = model(2000)
    ids = grid.push_messages([to(node, "evaluate", content) for node in grid.get_node_ids()])
    content["arrays"]["0"] = Array(np.zeros(1))  # type: ignore[index, assignment]
    replies: list[Message] = []
    while len(replies) < len(ids):
        replies += grid.pull_messages(set(ids))
    assert {metric(reply, "total") for reply in replies} == {np.arange(2000.0, dtype="f").sum()}


def test_bad_messages_are_refused(grid: ProcessGrid) -> None:
    (reply,) = grid.send_and_receive([to(42, "query")])
    assert reply.error.code == flower_private.UNAVAILABLE
    assert "there is no node 42; nodes are 1001 to 1005" in (reply.error.reason or "")
    with pytest.raises(ValueError, match="Expected an instruction"):
        grid.push_messages([to(1001, "query"), reply])
    (reply,) = grid.send_and_receive([to(1001, "query")])
    assert metric(reply, "n") == 1  # what came before the bad message was not pushed either


def test_timeout_returns_what_is_there(crew: ProcessGrid) -> None:
    nodes = crew.get_node_ids()
    started = time.monotonic()
    replies = crew.send_and_receive([to(nodes[0], "query.sleep"), to(nodes[1], "query")], timeout=0.4)
    assert 0.3 < time.monotonic() - started < 3
    assert [reply.metadata.src_node_id for reply in replies] == [nodes[1]]


def test_global_generators_depend_on_node_and_message_only() -> None:
    draws = []
    for workers in (0, 1, 2):
        torch.manual_seed(workers)
        before = torch.get_rng_state()
        with ProcessGrid(app, nodes=4, workers=workers) as grid:
            replies = grid.send_and_receive([to(n, "query.draw") for n in [*grid.get_node_ids()] * 3])
        draws.append([tuple(metric(reply, "x")) for reply in replies])
        assert torch.equal(torch.get_rng_state(), before)
    assert draws[0] == draws[1] == draws[2]
    assert len(set(draws[0])) == 12


def test_run_config_threads_and_run(crew: ProcessGrid) -> None:
    assert crew.run.run_id == 1
    crew.set_run(flower_private.empty_run(5))
    assert crew.run.run_id == 5
    with ProcessGrid(app, nodes=1, workers=1, threads=2, run_config={"lr": 0.5}) as grid:
        (reply,) = grid.send_and_receive([to(1001, "query.env")])
    config = reply.content["c"]
    assert (config["threads"], config["lr"]) == (2, 0.5)  # type: ignore[index]
    assert config["pid"] != os.getpid()  # type: ignore[index]


def test_impossible_sizes_are_refused() -> None:
    for sizes in (
        {"nodes": 0, "workers": 1},
        {"nodes": 1, "workers": -1},
        {"nodes": 1, "workers": 1, "threads": 0},
    ):
        with pytest.raises(ValueError, match="Expected nodes"):
            ProcessGrid(app, **sizes)


# ------------------------------------------------------------------ faults


def test_a_worker_that_dies_costs_one_message(crew: ProcessGrid) -> None:
    nodes = crew.get_node_ids()
    kinds = ["query.die", "query", "query", "query.die", "query"] * 3
    replies = crew.send_and_receive([to(nodes[i % 5], kind) for i, kind in enumerate(kinds)], timeout=30)
    failed = [reply.has_error() for reply in replies]
    assert failed == [kind == "query.die" for kind in kinds]
    for reply in replies:
        if reply.has_error():
            assert reply.error.code == flower_private.APP_CRASHED
            assert reply.error.reason == (
                "the worker process died (signal 9) while it worked on this message; it was replaced"
            )


def test_a_message_past_its_time_costs_its_worker_only(crew: ProcessGrid) -> None:
    nodes = crew.get_node_ids()
    started = time.monotonic()
    messages = [to(nodes[0], "query.sleep", ttl=0.6), *(to(node, "query") for node in nodes[1:])]
    messages.append(to(nodes[0], "query"))
    replies = crew.send_and_receive(messages, timeout=20)
    assert time.monotonic() - started < 5
    assert replies[0].error.reason == "no reply within 0.6 s; the worker was killed and replaced"
    assert replies[0].error.code == flower_private.NO_REPLY
    assert [metric(reply, "n") for reply in replies[1:]] == [1] * 5


def test_a_message_that_expires_in_the_queue_harms_nobody() -> None:
    with ProcessGrid(app, nodes=6, workers=1) as grid:
        nodes = grid.get_node_ids()
        grid.send_and_receive([to(nodes[0], "query.env")])
        (pid,) = [p.pid for p in psutil.Process().children(recursive=True) if p.ppid() != os.getpid()]
        messages = [to(nodes[0], "query.pause"), *(to(n, "query", ttl=0.05) for n in nodes[1:])]
        replies = grid.send_and_receive(messages, timeout=20)
        assert not replies[0].has_error()
        for reply in replies[1:]:
            assert reply.error.reason == "no reply within 0.05 s; the message was still in the queue"
        (reply,) = grid.send_and_receive([to(nodes[1], "query.env")])
        assert reply.content["c"]["pid"] == pid  # type: ignore[index]
        (reply,) = grid.send_and_receive([to(nodes[1], "query")])
        assert metric(reply, "n") == 1  # the expired message was never served


def test_an_idle_worker_that_dies_is_replaced(crew: ProcessGrid) -> None:
    crew.send_and_receive([to(node, "query") for node in crew.get_node_ids()])
    for child in psutil.Process().children(recursive=True):
        if child.ppid() != os.getpid():
            child.kill()
    time.sleep(0.1)
    replies = crew.send_and_receive([to(node, "query") for node in crew.get_node_ids()], timeout=20)
    assert sum(not reply.has_error() for reply in replies) >= 3
    replies = crew.send_and_receive([to(node, "query") for node in crew.get_node_ids()], timeout=20)
    assert not any(reply.has_error() for reply in replies)


def test_a_dead_zygote_is_reported() -> None:
    with ProcessGrid(app, nodes=2, workers=1) as grid:
        (zygote,) = psutil.Process().children()
        zygote.kill()
        with pytest.raises(FlDistillError, match="starts the workers died"):
            grid.send_and_receive([to(1001, "query.sleep")], timeout=10)


def test_a_zygote_that_dies_with_unread_orders_is_reported() -> None:
    with ProcessGrid(app, nodes=2, workers=1) as grid:
        ids = grid.push_messages([to(1001, "query.sleep")])
        grid.pull_messages(ids)
        (zygote,) = psutil.Process().children()
        zygote.suspend()
        grid.cancel(ids)
        zygote.kill()
        with pytest.raises(FlDistillError, match="starts the workers died"):
            grid.send_and_receive([to(1002, "query.sleep")], timeout=10)


def test_a_signal_to_the_whole_group_leaves_the_zygote_to_the_parent() -> None:
    with ProcessGrid(app, nodes=2, workers=1) as grid:
        for process in psutil.Process().children():
            process.terminate()
        assert metric(grid.send_and_receive([to(1001, "query")], timeout=10)[0], "n") == 1


# ------------------------------------------------------------------ messages nobody waits for


def test_cancelled_messages_free_their_workers(crew: ProcessGrid) -> None:
    nodes = crew.get_node_ids()
    messages = [to(nodes[0], "query.sleep"), to(nodes[1], "query.sleep"), *(to(node, "query") for node in nodes)]
    ids = crew.push_messages(messages)
    crew.pull_messages(ids)
    started = time.monotonic()
    crew.cancel(ids)
    replies = crew.send_and_receive([to(node, "query") for node in nodes], timeout=20)
    assert time.monotonic() - started < 3
    assert [metric(reply, "n") for reply in replies] == [1] * 5  # the cancelled ones were never served
    assert crew.pull_messages(ids) == []


def test_a_cancelled_message_behind_another_gives_way() -> None:
    with ProcessGrid(app, nodes=4, workers=1) as grid:
        nodes = grid.get_node_ids()
        kinds = ["query.pause", "query.sleep", "query", "query"]
        ids = grid.push_messages([to(node, kind) for node, kind in zip(nodes, kinds, strict=True)])
        grid.cancel([ids[1]])
        started, replies = time.monotonic(), []
        while len(replies) < 3 and time.monotonic() - started < 10:
            replies += grid.pull_messages(ids)
        assert [reply.metadata.src_node_id for reply in replies] == [nodes[0], nodes[2], nodes[3]]
        assert not any(reply.has_error() for reply in replies)


def test_cancelling_costs_no_other_message(grid: ProcessGrid) -> None:
    nodes = grid.get_node_ids()
    ids = grid.push_messages([to(node, "query.pause") for node in nodes])
    grid.cancel([*ids[3:], "nobody"])
    replies: list[Message] = []
    started = time.monotonic()
    while len(replies) < 3 and time.monotonic() - started < 10:
        replies += grid.pull_messages(ids)
    assert sorted(reply.metadata.src_node_id for reply in replies) == nodes[:3]
    assert grid.pull_messages(ids) == []
    grid.cancel(ids)
    grid.cancel([])
    assert metric(grid.send_and_receive([to(nodes[4], "query")])[0], "n") == 1


def test_a_cancelled_message_gets_no_late_error(crew: ProcessGrid) -> None:
    ids = crew.push_messages([to(crew.get_node_ids()[0], "query.sleep", ttl=0.2) for _ in range(3)])
    crew.cancel(ids)
    time.sleep(0.3)
    assert crew.pull_messages(ids) == []


def test_a_cancelled_reply_is_dropped(grid: ProcessGrid) -> None:
    first, second = grid.push_messages([to(1001, "query"), to(1001, "query")])
    while not grid.pull_messages([second]):
        pass
    grid.cancel([first])
    assert grid.pull_messages([first]) == []


def test_the_next_round_does_not_wait_for_what_the_last_one_gave_up(launch: Launch) -> None:
    started = time.monotonic()
    done = launch(
        *(f"per_site.site-{n}.steps=100000000" for n in (2, 3)),
        "collect.timeout_s=60",
        "collect.grace_s=0.5",
        "collect.min_results=2",
        "runtime.workers=2",
        "rounds=2",
        "evaluate.sites_every=0",
    )
    assert time.monotonic() - started < 40
    for row in done.rows:
        assert set(row["failures"]) == {"site-2", "site-3"}
        assert all("no reply within 0.5 s" in reason for reason in row["failures"].values())


# ------------------------------------------------------------------ load


def test_large_models_both_ways(crew: ProcessGrid) -> None:
    content = model(*[1_400_000] * 8)
    for _ in range(2):
        messages = [to(node, "train", content) for node in crew.get_node_ids()]
        for partition, reply in enumerate(crew.send_and_receive(messages, timeout=60)):
            for value in received(reply).values():
                assert value[-1] == np.float32(1_399_999) * 2 + partition


def test_where_there_are_no_memory_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)  # as on macOS
    with ProcessGrid(app, nodes=3, workers=2) as grid:
        content = model(3, 40_000)
        for partition, reply in enumerate(
            grid.send_and_receive([to(n, "train", content) for n in grid.get_node_ids()])
        ):
            np.testing.assert_array_equal(received(reply)["1"], np.arange(40_000, dtype=np.float32) * 2 + partition)


def test_each_message_its_own_large_content(crew: ProcessGrid) -> None:
    messages = [to(node, "evaluate", model(500_000 + node)) for node in crew.get_node_ids()]
    for node, reply in zip(crew.get_node_ids(), crew.send_and_receive(messages, timeout=60), strict=True):
        assert metric(reply, "total") == np.arange(500_000 + node, dtype=np.float32).sum()


def test_many_tiny_messages(crew: ProcessGrid) -> None:
    nodes = crew.get_node_ids()
    replies = crew.send_and_receive([to(nodes[i % 5], "query") for i in range(500)], timeout=60)
    assert [metric(reply, "n") for reply in replies] == [1 + i // 5 for i in range(500)]


# ------------------------------------------------------------------ life and death


def test_close_is_prompt_and_may_come_twice() -> None:
    grid = ProcessGrid(app, nodes=2, workers=2)
    ids = grid.push_messages([to(1001, "query.sleep"), to(1002, "query.sleep")])
    started = time.monotonic()
    grid.close()
    grid.close()
    assert time.monotonic() - started < 3
    assert grid.pull_messages(ids) == []
    with pytest.raises(FlDistillError, match="closed"):
        grid.push_messages([])


def test_an_older_grid_closes_promptly_while_a_newer_one_lives() -> None:
    older = ProcessGrid(app, nodes=2, workers=1)
    with ProcessGrid(app, nodes=2, workers=1) as newer:
        started = time.monotonic()
        older.close()
        assert time.monotonic() - started < 3
        assert metric(newer.send_and_receive([to(1001, "query")])[0], "n") == 1


def test_a_forgotten_grid_closes_itself() -> None:
    grid = ProcessGrid(app, nodes=2, workers=1)
    grid.send_and_receive([to(1001, "query")])
    del grid
    gc.collect()
    assert psutil.Process().children(recursive=True) == []


def test_two_grids_at_once_and_from_another_thread() -> None:
    seen: list[int] = []

    def other() -> None:
        with ProcessGrid(app, nodes=2, workers=1) as grid:
            seen.extend(metric(r, "n") for r in grid.send_and_receive([to(1001, "query")]))

    with ProcessGrid(app, nodes=2, workers=1) as grid:
        thread = threading.Thread(target=other)
        thread.start()
        seen.extend(metric(r, "n") for r in grid.send_and_receive([to(1001, "query")]))
        thread.join()
        assert metric(grid.send_and_receive([to(1001, "query")])[0], "n") == 2
    assert seen == [1, 1]


SCRIPT = textwrap.dedent(
    """
    import sys, time
    from flwr.app import Message, RecordDict
    from flwr.clientapp import ClientApp
    from fl_distill.runtime.process_grid import ProcessGrid

    app = ClientApp()

    @app.query()
    def query(message, context):
        time.sleep(60)

    def main():
        with ProcessGrid(app, nodes=4, workers=2) as grid:
            ids = grid.push_messages([Message(RecordDict(), node, "query") for node in grid.get_node_ids()])
            print("ready", flush=True)
            while True:
                grid.pull_messages(ids)

    main()
    """
)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_no_worker_outlives_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "serve.py").write_text(SCRIPT)
    root = Path(__file__).parents[1]
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "serve.py")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    time.sleep(0.2)
    family = psutil.Process(parent.pid).children(recursive=True)
    assert len(family) == 3
    os.killpg(parent.pid, number) if number == signal.SIGINT else parent.kill()
    _, errors = parent.communicate(timeout=20)
    assert parent.returncode == -number
    assert errors.count("KeyboardInterrupt") == (number == signal.SIGINT)
    _, alive = psutil.wait_procs(family, timeout=5)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
