from __future__ import annotations

import contextlib
import errno
import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cuts3d_cli.detector.run_log import DataWatch, RunLog, Step
from cuts3d_cli.errors import FileError


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


@pytest.mark.parametrize("full", ["metrics.jsonl", "events"])
def test_a_full_disk_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str):
    """TensorBoard writes in a thread of its own, which must not print a traceback."""
    printed: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", printed.append)
    log = RunLog(tmp_path, start=0)
    refused = OSError(errno.ENOSPC, "No space left on device")

    def write(self: Any, data: Any) -> None:
        raise refused

    if full == "events":
        monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", write)
    else:
        monkeypatch.setattr(log, "_file", Refusing())

    def write_on() -> None:
        for _ in range(500):  # until the thread has come to it
            log.write(step(seconds=1.0, waited=0.0))
            time.sleep(0.01)

    with pytest.raises(FileError, match=r"cannot be written: No space left on device"):
        write_on()
    with contextlib.suppress(FileError):
        log.close()
    assert printed == []
    assert threading.excepthook == printed.append


class Refusing(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def told(*shares: float) -> list[float | None]:
    watch = DataWatch()
    return [watch.limit(step(seconds=2.0, waited=2.0 * share)) for share in shares]


def test_three_slow_steps_in_a_row_are_told_once():
    assert told(0.1, 0.5, 0.5, 0.25, 0.5, 0.5, 0.5) == [None, None, None, 0.25, None, None, None]


def test_the_start_of_the_loaders_and_single_steps_are_not():
    assert told(0.9, 0.5, 0.5) == [None] * 3
    assert told(0.1, 0.5, 0.5, 0.1, 0.5, 0.5, 0.2) == [None] * 7
