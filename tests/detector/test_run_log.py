from __future__ import annotations

from cuts3d_cli.detector.run_log import DataWatch, Step


def step(*, seconds: float, waited: float) -> Step:
    return Step(
        iteration=1,
        losses={},
        metrics={},
        learning_rate=0.1,
        images_per_second=1.0,
        seconds=seconds,
        data_seconds=waited,
        memory_mb=1.0,
        seconds_left=1.0,
    )


def told(*shares: float) -> list[float | None]:
    watch = DataWatch()
    return [watch.limit(step(seconds=2.0, waited=2.0 * share)) for share in shares]


def test_three_slow_steps_in_a_row_are_told_once():
    assert told(0.1, 0.5, 0.5, 0.25, 0.5, 0.5, 0.5) == [None, None, None, 0.25, None, None, None]


def test_the_start_of_the_loaders_and_single_steps_are_not():
    assert told(0.9, 0.5, 0.5) == [None] * 3
    assert told(0.1, 0.5, 0.5, 0.1, 0.5, 0.5, 0.2) == [None] * 7
