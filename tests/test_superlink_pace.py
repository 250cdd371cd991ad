"""When the processes of a federation look for what nobody announces."""

import pytest

from fl_distill.runtime.pace import LATE, NEAR, REMEMBERED, Pace


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
    assert found.pause() == 1.0, "it may be another kind of message, that comes at once"
    clock.now += 40.0
    assert found.pause() == 1.0
    clock.now += 7.7
    assert found.pause() == pytest.approx(0.3), "from then on it may be there"
    clock.now += 100.0
    assert found.pause() == 3.0, "the run may be over"


@pytest.mark.parametrize("regular", [1.0, 7.0, 60.0, 900.0])
def test_what_comes_as_regularly_as_before_is_found_at_once(clock: Clock, regular: float) -> None:
    found = pace(clock)
    waited(found, clock, *[regular] * 3)
    for late in (0.85, 0.999, 1.1, LATE - 0.01):
        due = clock.now + late * regular
        while clock.now < due:
            clock.now += found.pause()
        assert clock.now - due <= NEAR
        found.came()
        found.expect()


def test_the_last_of_many_is_found_as_quickly_as_the_first(clock: Clock) -> None:
    """The answers of a round: one site is always half a minute later than the other."""
    found = pace(clock)
    for _ in range(2):
        found.expect()
        for wait in (10.0, 30.0):
            clock.now += wait
            found.came()
    found.expect()
    clock.now += 10.0
    found.came()
    clock.now += 30.0
    assert found.pause() <= NEAR


def test_a_superlink_that_has_much_to_do_is_asked_less_at_any_time(clock: Clock) -> None:
    found = pace(clock)
    waited(found, clock, 60.0)
    clock.now += 60.0
    assert found.pause(took=0.4) == pytest.approx(0.8)
    assert found.pause(took=4.0) == 1.0


def test_a_new_run_is_not_expected_to_be_like_the_last(clock: Clock) -> None:
    found = pace(clock)
    found.expect()
    for run, wait in ((1, 5000.0), (1, 60.0), (2, 5000.0)):
        clock.now += wait
        found.came(run)
        found.expect()
    assert found.pause() == 0.05
    clock.now += 2.0
    found.came(2)
    found.expect()
    assert found.pause() == pytest.approx(1.0), "half of the only wait of this run"


def test_after_something_came_more_is_looked_for_at_once(clock: Clock) -> None:
    found = pace(clock)
    waited(found, clock, 10.0)
    clock.now += 10.0
    found.came()
    assert found.pause() == 0.05


def test_a_long_pause_of_long_ago_is_forgotten(clock: Clock) -> None:
    found = pace(clock)
    waited(found, clock, 0.2, *[1.6] * REMEMBERED)
    assert found.pause() == pytest.approx(0.8)


def test_who_answers_slowly_is_asked_less(clock: Clock) -> None:
    found = pace(clock)
    found.expect()
    assert found.pause(took=0.2) == pytest.approx(0.4)
