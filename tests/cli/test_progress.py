from __future__ import annotations

import io
import multiprocessing
import re
from pathlib import Path

import pytest
from rich.console import Console

from cuts3d_cli.cli import (
    app,  # noqa: F401 - which names the commands
    progress,
)
from cuts3d_cli.cli.pace import Pace
from cuts3d_cli.cli.progress import StageProgress, TrainingProgress
from cuts3d_cli.cli.spelling import set_running
from cuts3d_cli.errors import Message, Setting


def lines_of(monkeypatch: pytest.MonkeyPatch, *, quiet: float, unit: str = "shard") -> list[str]:
    """What is printed where there is no terminal, without rates: one that is done before, and one of two images."""
    monkeypatch.setattr(progress, "_QUIET_SECONDS", quiet)
    text = io.StringIO()
    with StageProgress(Console(file=text, width=40), name="eval", unit=unit) as watcher:
        watcher.begin([(Path("x/a.tar"), 0), (Path("x/b.tar"), 2)])
        watcher.skip(Path("x/a.tar"))
        watcher.start(Path("x/b.tar"), why="")
        watcher.advance(failed=True)
        watcher.advance(failed=False)
        watcher.finish(Path("x/b.tar"))
    return text.getvalue().splitlines()


def test_without_a_terminal_there_is_a_line_a_shard(monkeypatch: pytest.MonkeyPatch):
    first, last = lines_of(monkeypatch, quiet=1e9)
    assert first == "a.tar: finished before, skipped"
    assert last.startswith("b.tar: 2 images, ")
    assert last.endswith(" images/s, 1 failed")
    said = lines_of(monkeypatch, quiet=-1.0, unit="dataset")
    assert "1 dataset to go, 1 failed" in said[1]


def test_a_long_shard_is_spoken_of_now_and_then(monkeypatch: pytest.MonkeyPatch):
    _, first, second, _ = lines_of(monkeypatch, quiet=-1.0)
    how_fast = r"\d+\.\d\d images/s, 0:00:00 left"
    assert re.fullmatch(rf"b\.tar: 1 of 2 images so far, {how_fast}, 1 shard to go, 1 failed", first)
    assert re.fullmatch(rf"b\.tar: 2 of 2 images so far, {how_fast}, 1 shard to go, 1 failed", second)


def test_a_terminal_shows_a_rate_after_the_first_image(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(progress, "Pace", lambda: Pace(clock=lambda: now[0]))
    text = io.StringIO()
    with StageProgress(Console(file=text, width=200, force_terminal=True), name="pseudo") as watcher:
        watcher.begin([(Path("x/a.tar"), 3)])
        watcher.start(Path("x/a.tar"), why="")
        watcher._bars.refresh()
        before = text.getvalue()
        now[0] += 50
        watcher.advance(failed=False)
        watcher._bars.refresh()
    after = text.getvalue()[len(before) :]
    assert "- images/s" in before
    assert "0.02 images/s" in after
    assert "0:01:40" in after


def warn(watcher: TrainingProgress) -> None:
    watcher.say(Message("raise ", Setting("train.images_per_batch")))


def test_another_process_names_the_options_of_the_same_command(capfd: pytest.CaptureFixture[str]):
    set_running("train")
    try:
        process = multiprocessing.get_context("spawn").Process(target=warn, args=(TrainingProgress(),))
        process.start()
        process.join()
    finally:
        set_running(None)
    assert (process.exitcode, capfd.readouterr().err) == (0, "raise --images-per-batch\n")


def test_several_shards_at_once_are_one_progress():
    """Each has its own count and rate; what is given up is taken back; a terminal shows the bar of all."""
    a, b = Path("x/a.tar"), Path("x/b.tar")
    text = io.StringIO()
    with StageProgress(Console(file=text, width=200), name="pseudo") as watcher:
        watcher.begin([(a, 2), (b, 3)])
        watcher.start(a, why="")
        watcher.start(b, why="redone, input changed")
        for shard, failed in ((a, True), (b, False), (a, False), (b, True)):
            watcher.advance(failed=failed, shard=shard)
        watcher.finish(a)
        watcher.give_up(b, why="its process has ended")
        watcher.start(b, why="")
        for _ in range(3):
            watcher.advance(failed=False, shard=b)
        watcher.finish(b)
    lines = [re.sub(r"\d+\.\d\d images/s", "", line) for line in text.getvalue().splitlines()]
    assert lines == [
        "b.tar: redone, input changed",
        "a.tar: 2 images, , 1 shard to go, 2 failed",
        "its process has ended",
        "b.tar: 3 images, , 1 failed",
    ]
    text = io.StringIO()
    with StageProgress(Console(file=text, width=200, force_terminal=True), name="pseudo") as watcher:
        watcher.begin([(a, 2), (b, 3)])
        for shard in (a, b):
            watcher.start(shard, why="")
        watcher.advance(failed=False, shard=a)
        assert watcher._bars.tasks[1].fields["note"] == "2 shards to go, 2 at once"
        watcher.give_up(a, why="its process has ended")
        watcher.advance(failed=False, shard=b)
        (everything,) = [task for task in watcher._bars.tasks if task.visible]
        assert (everything.description, everything.completed, everything.total) == ("pseudo: all", 1, 5)
        assert everything.fields["note"] == "2 shards to go"
