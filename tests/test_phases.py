"""Where the time of a round goes: parts that add up to the whole, of whatever the grid knows."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_distill import phases
from fl_distill.phases import Exchange, Tally, Work
from fl_distill.tracking.spent import PHASES, spent

from .conftest import Launch
from .nodes import Nodes


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(phases, "time", clock)
    return clock


class Crew(Nodes):
    """A grid of two workers."""

    def __init__(self) -> None:
        super().__init__(5, 6)
        self.tally = Tally(2)

    def worked(self) -> Work:
        return self.tally.take()


def test_each_part_is_what_it_says(clock: Clock) -> None:
    crew = Crew()
    crew.tally.add(1, 100.0)  # of an earlier round
    exchange = Exchange(crew)
    clock.now = 10.0  # messages were prepared

    def arriving() -> Iterator[int]:
        for now, worker, seconds in ((12.0, 1, 1.5), (13.0, 2, 2.5), (16.0, 2, 2.5)):
            clock.now = now
            crew.tally.add(worker, seconds)
            yield worker

    assert list(exchange.until(arriving())) == [1, 2, 2]
    clock.now = 19.0  # combined, scored from 17
    found = exchange.phases(began=8.0, scoring=17.0)
    # Worker 1 was at work for 1.5 of 6 seconds and idle for the last 4, worker 2 at work for 5.
    assert found == {
        "wall_s": 11.0,
        "compute_s": 3.25,
        "transport_s": 0.75,
        "idle_s": 2.0,
        "aggregation_s": 3.0,
        "evaluation_s": 2.0,
    }


def test_a_worker_without_work_is_idle_all_the_time(clock: Clock) -> None:
    crew = Crew()
    exchange = Exchange(crew)

    def arriving() -> Iterator[None]:
        clock.now = 4.0
        crew.tally.add(1, 4.0)
        yield

    list(exchange.until(arriving()))
    found = exchange.phases(0.0, 4.0)
    assert (found["compute_s"], found["idle_s"], found["transport_s"]) == (2.0, 2.0, 0.0)


def test_a_grid_that_knows_nothing_of_its_nodes_has_one_part_for_them(clock: Clock) -> None:
    exchange = Exchange(Nodes(5))

    def arriving() -> Iterator[None]:
        clock.now = 3.0
        yield

    list(exchange.until(arriving()))
    clock.now = 4.0
    assert exchange.phases(0.0, 4.0) == {"wall_s": 4.0, "sites_s": 3.0, "aggregation_s": 1.0, "evaluation_s": 0.0}


seconds = st.floats(0.0, 1e3)


@given(st.lists(st.tuples(st.integers(1, 3), seconds, seconds), max_size=9), seconds, st.integers(3, 5))
def test_parts_add_up_and_none_is_negative(told: list[tuple[int, float, float]], began: float, workers: int) -> None:
    ends = {worker: began + after for worker, after, _ in told}
    ended = max(ends.values(), default=began)
    found = phases._parts(Work(workers, sum(took for _, _, took in told), tuple(ends.values())), began, ended)
    assert sum(found.values()) == pytest.approx(ended - began, abs=1e-6)
    assert min(found.values()) >= -1e-6


def test_a_run_tells_where_its_time_went(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    done = launch("runtime.workers=2", "log=info")
    total = 0.0
    for line in done.timed:
        parts = [line[key] for key in PHASES if key in line]
        assert len(parts) == 5, "two workers are known"
        assert sum(parts) == pytest.approx(line["wall_s"], rel=1e-6)
        total += line["compute_s"]
    assert total > 0
    assert "where rounds spent their time: " in capsys.readouterr().out
    begun = time.monotonic()
    again = launch("runtime.workers=0", "evaluate.separately=true")
    assert sum(line["wall_s"] for line in again.timed) < time.monotonic() - begun
    for line in again.timed:
        assert line["sites_s"] + line["aggregation_s"] + line["evaluation_s"] == pytest.approx(line["wall_s"])


def test_the_largest_part_is_told_first_and_nothing_of_what_is_not_known() -> None:
    assert spent({"compute_s": 1.0, "idle_s": 3.0, "evaluation_s": 0.0}) == "idle 75 %, compute 25 %"
    assert spent({"wall_s": 1.0}) == ""
