"""When the processes of a federation look for what nobody announces."""

import pytest

from fl_distill.runtime.pace import REMEMBERED, Pace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pace(clock: Clock) -> Pace:
    return Pace(quick=0.05, soon=1.0, slow=3.0, share=0.1, clock=clock)


def waited(pace: Pace, clock: Clock, *seconds: float) -> None:
    for wait in seconds:
        pace.expect()
        clock.now += wait
        pace.came()
    pace.expect()


def test_pauses_grow_with_the_silence(clock: Clock) -> None:
    found = pace(clock)
    found.expect()
    assert found.pause() == 0.05
    for silent, pause in ((1.0, 0.1), (15.0, 1.5), (900.0, 3.0)):
        clock.now = 100.0 + silent
        assert found.pause() == pytest.approx(pause)


def test_nothing_is_looked_for_before_half_of_the_shortest_wait(clock: Clock) -> None:
    found = pace(clock)
    waited(found, clock, 4.0, 2.0)
    assert found.pause() == pytest.approx(1.0)
    clock.now += 0.75
    assert found.pause() == pytest.approx(0.25)
    clock.now += 0.25
    assert found.pause() == pytest.approx(0.1)


def test_around_a_known_wait_pauses_are_short_however_long_it_is(clock: Clock) -> None:
    found = pace(clock)
    waited(found, clock, 60.0)
    clock.now += 40.0
    assert found.pause() == 1.0
    clock.now += 100.0
    assert found.pause() == 3.0, "the run may be over"


def test_after_something_came_more_is_looked_for_at_once(clock: Clock) -> None:
    found = pace(clock)
    waited(found, clock, 10.0)
    clock.now += 10.0
    found.came()
    assert found.pause() == 0.05


def test_a_long_pause_of_long_ago_is_forgotten(clock: Clock) -> None:
    found = pace(clock)
    waited(found, clock, 0.2, *[4.0] * REMEMBERED)
    assert found.pause() == pytest.approx(2.0)


def test_who_answers_slowly_is_asked_less(clock: Clock) -> None:
    found = pace(clock)
    found.expect()
    assert found.pause(took=0.2) == pytest.approx(0.4)
