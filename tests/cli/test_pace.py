from __future__ import annotations

import pytest

from cuts3d_cli.cli.pace import Pace


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_there_is_no_rate_before_the_first_sample_and_one_after_it(clock: Clock):
    pace = Pace(clock=clock)
    assert pace.rate is None
    assert pace.seconds_left(10) is None
    clock.now += 57
    pace.add()
    assert pace.rate == pytest.approx(1 / 57)
    assert pace.seconds_left(9) == pytest.approx(9 * 57)


def test_samples_that_are_finished_together_do_not_look_fast(clock: Clock):
    pace = Pace(clock=clock)
    for _ in range(10):
        clock.now += 40
        for _ in range(4):
            clock.now += 0.001
            pace.add()
            assert pace.rate is not None
            assert pace.rate < 0.11
    assert pace.rate == pytest.approx(0.1, rel=0.01)


def test_the_rate_follows_what_the_machine_does_now(clock: Clock):
    pace = Pace(clock=clock)
    for seconds in (10,) * 50 + (1,) * 100:
        clock.now += seconds
        pace.add()
    assert pace.rate == pytest.approx(1.0)


def test_time_runs_off_between_two_samples(clock: Clock):
    pace = Pace(clock=clock)
    clock.now += 10
    pace.add()
    clock.now += 4
    assert pace.seconds_left(2) == pytest.approx(16)
    clock.now += 100
    assert pace.seconds_left(2) == 0
    assert pace.seconds_left(0) == 0


def test_memory_is_bounded_by_the_window(clock: Clock):
    pace = Pace(clock=clock, window=5)
    for _ in range(1000):
        clock.now += 1
        pace.add()
    assert len(pace._ends) <= 7
