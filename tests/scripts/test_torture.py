"""Commands that are interrupted: short forms of the script, and that it sees what is broken."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from stress import torture
from stress.forks import HungError, fork, start, wait_for
from stress.moments import FileOperations, Moment, Note
from stress.torture import Figures
from stress.torture_runs import Ended, Undisturbed, content, unfinished
from stress.torture_stages import STAGES
from stress.troubles import Trouble, draw

SCRIPTS = Path(torture.__file__).parents[1]
KILL = Trouble(kind="SIGKILL", moment=Moment(point=1))


def run_torture(*arguments: str) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-m", "stress", "torture", "--json", *arguments],
        cwd=SCRIPTS,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SCRIPTS.parent)},
    )
    figures: dict[str, Any] = json.loads(ran.stdout)
    assert figures["kept"], ran.stderr
    return figures


@pytest.mark.slow
def test_what_is_interrupted_while_it_writes_ends_as_if_it_never_was():
    """The short form; `scripts/stress.sh torture --kills 1000` is the long one."""
    figures = run_torture("--kills", "8", "--stages", "pack,depth")
    assert (figures["kills"], set(figures["kills_by_stage"])) == (8, {"pack", "depth"})
    assert figures["comparisons"] >= 4


@pytest.mark.slow
def test_a_training_that_is_interrupted_ends_as_one_that_never_was():
    pytest.importorskip("detectron2", reason="detectron2 is not installed (see scripts/detectron2)")
    figures = run_torture("--kills", "1", "--stages", "train")
    assert figures["kills_by_stage"] == {"train": 1}


# The runs.


def strike_at(folder: Path, moment: Moment) -> tuple[Note, int]:
    """A fork that writes two files in the way of the package, struck by SIGKILL at a moment."""
    note = Note()

    def work() -> int:
        os.chdir(folder)
        operations = FileOperations(folder, note, moment)
        operations.deed = lambda: os.kill(os.getpid(), signal.SIGKILL) is None
        operations.watch()
        for name in ("a", "b"):
            with open(folder / f".{name}.tmp", "xb") as file:
                file.write(name.encode() * 1000)
            os.replace(f".{name}.tmp", name)
        Path("b").unlink()
        return 0

    return note, fork(work).wait()


@pytest.mark.parametrize(
    ("point", "struck", "left"),
    [
        (1, "open .a.tmp", []),
        (2, "write .a.tmp", [(".a.tmp", 500)]),
        (3, "rename .a.tmp", [(".a.tmp", 1000)]),
        (4, "open .b.tmp", [("a", 1000)]),
        (7, "remove b", [("a", 1000), ("b", 1000)]),
    ],
)
def test_a_fork_is_struck_at_each_of_its_operations(
    point: int, struck: str, left: list[tuple[str, int]], tmp_path: Path
):
    note, code = strike_at(tmp_path, Moment(point=point, share=0.5))
    assert (note.struck, note.number, code) == (struck, point, -signal.SIGKILL)
    assert sorted((path.name, path.stat().st_size) for path in tmp_path.iterdir()) == left


def test_a_fork_that_is_not_struck_is_counted(tmp_path: Path):
    note, code = strike_at(tmp_path, Moment(point=8))
    assert (note.struck, note.number, code) == ("", 7, 0)


def test_a_fork_that_hangs_is_killed():
    hung = fork(lambda: time.sleep(60) or 0)
    with pytest.raises(HungError, match="not ended"):
        hung.wait(0.05)
    assert hung.wait() == -signal.SIGKILL
    assert hung.group_ends()


def test_a_command_runs_in_a_fork_as_the_executable_does(tmp_path: Path):
    (tmp_path / "cuts3d.toml").write_text("[pseudo]\nbeta = 7\n")
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as modules:
        code = start(["config", "show"], folder=tmp_path, errors=errors, modules=modules).wait()
        errors.seek(0)
        modules.seek(0)
        assert (code, errors.read().decode().count("\n")) == (2, 1)
        assert "cuts3d_cli.config" in modules.read().decode().splitlines()


def test_the_processes_of_a_run_are_known(tmp_path: Path):
    """Those that it has started, and those that these have; the process that keeps account of semaphores is none."""
    sleep = "import time; time.sleep(60)"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleep!r}])"

    def work() -> int:
        tracker = subprocess.Popen([sys.executable, "-c", sleep, "resource_tracker"])
        subprocess.run([sys.executable, "-c", nested], check=False)
        return tracker.wait()

    run = fork(work)
    try:
        wait_for(lambda: len(run.descendants()) == 2)
        assert [kind for _, kind in run.descendants()] == ["a process of the first", "a process of another one"]
    finally:
        run.send(signal.SIGKILL)
        run.wait()


# What happens to them.


def test_every_kind_of_trouble_is_drawn_within_its_limits():
    chance = random.Random(0)
    found = [draw(chance, points=40, seconds=2.0, workers=True, shared=True) for _ in range(500)]
    assert {trouble.kind for trouble in found} == {
        *("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "full disk", "dead worker", "dead process", "clock jump")
    }
    assert all(1 <= trouble.moment.point <= 40 for trouble in found if trouble.moment)
    assert any(trouble.elsewhere for trouble in found)
    assert all(trouble.jump and trouble.beside for trouble in found if trouble.kind == "clock jump")
    alone = [draw(chance, points=40, seconds=2.0, workers=False, shared=False) for _ in range(500)]
    assert not any(trouble.kind.startswith("dead") or trouble.beside or trouble.elsewhere for trouble in alone)
    team = [draw(chance, points=4, seconds=2.0, workers=False, shared=True, team=True) for _ in range(500)]
    assert {trouble.kind for trouble in team} == {"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "dead process"}
    assert all(trouble.moment is None and 0 <= (trouble.after or 0) <= 2.2 for trouble in team)
    assert str(found[0]).startswith(found[0].kind)


# The judge.


def ended(kind: str = "SIGINT", **changes: Any) -> Ended:
    trouble = Trouble(kind=kind, moment=Moment(point=1))  # type: ignore[arg-type]
    return Ended(**({"stage": "depth", "trouble": trouble, "code": 130, "struck": "rename a"} | changes))


def judged(run: Ended) -> Figures:
    figures = Figures()
    torture.note(run, figures)
    return figures


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (ended(code=1), "exit code 1, not 130"),
        (ended(complaints=["Traceback"]), "Traceback"),
        (ended(left=[".s.tmp"]), "left .s.tmp"),
        (ended("SIGTERM"), "exit code 130, not 143"),
        (ended("SIGHUP"), "exit code 130, not 129"),
        (ended("full disk"), "exit code 130, not 1"),
        (ended("dead worker", code=1), "exit code 1, not 0"),
        (ended("clock jump", code=1), "exit code 1, not 0"),
        (ended(latency=2.1), "2.10 s"),
        (ended(stage="train", iterations=3), "3 iterations, and no checkpoint"),
    ],
)
def test_guarantees_that_are_broken_are_told(run: Ended, words: str):
    figures = judged(run)
    assert len(figures.broken) == 1
    assert words in figures.broken[0]
    assert not figures.kept


@pytest.mark.parametrize(
    "run",
    [
        ended(),
        ended("SIGKILL", code=-9, left=[".s.tmp"]),
        ended("full disk", code=1),
        ended("dead worker", code=0),
        ended(stage="train", iterations=3, checkpoints=1, latency=9.0),
    ],
)
def test_guarantees_that_are_kept_are_counted(run: Ended):
    figures = judged(run)
    assert figures.kept
    assert (figures.kills.total(), dict(figures.operations), figures.missed) == (1, {"rename": 1}, 0)


def test_a_run_that_ends_before_it_is_struck_is_none_that_was_killed():
    for run in (ended(code=0), ended(code=0, struck="")):
        figures = judged(run)
        assert (figures.kills.total(), figures.missed, figures.kept) == (0, 1, True)


class MadeBench:
    """Stages that are killed once and then finish, and what is found in the end."""

    def __init__(self, folder: Path, *, differing: list[str], problem: str, code: int) -> None:
        self.folder = folder
        self.undisturbed = {"depth": Undisturbed(points=5, seconds=1.0)}
        self._differing, self._problem, self._code = differing, problem, code

    def reset(self, stage: str) -> None:
        pass

    def run(self, stage: str, trouble: Trouble | None = None, *, impatient: bool = False) -> Ended:
        if trouble is None:
            return Ended(stage=stage, code=self._code)
        codes = {"SIGKILL": -9, "SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "full disk": 1}
        return Ended(stage=stage, trouble=trouble, code=codes.get(trouble.kind, 0), struck="write a")

    def differences(self, stage: str) -> list[str]:
        return self._differing

    def verify(self) -> str:
        return self._problem


@pytest.mark.parametrize(
    ("differing", "problem", "code", "left", "kept"),
    [
        ([], "", 0, 0, True),
        (["s-000.depth.tar"], "", 0, 0, False),
        ([], "verify ends with 1", 0, 0, False),
        ([], "", 1, 0, False),
        ([], "", 0, 1, False),
    ],
)
def test_what_is_found_in_the_end_counts(
    differing: list[str], problem: str, code: int, left: int, kept: bool, tmp_path: Path
):
    for number in range(left):
        (tmp_path / f".{number}.tmp").touch()
    bench: Any = MadeBench(tmp_path, differing=differing, problem=problem, code=code)
    figures = torture.torture(bench, ["depth"], kills=6, chance=random.Random(1), log=lambda line: None)
    assert (figures.kept, figures.kills.total()) == (kept, 6)
    assert figures.comparisons >= 1
    assert figures.to_json()["kept"] == kept


def test_times_make_no_difference_and_half_a_line_is_no_iteration(tmp_path: Path):
    for name, seconds in (("a", 1.5), ("b", 2.5)):
        folder = tmp_path / name
        folder.mkdir()
        facts = {"config": {}, "seconds": {"total": seconds}, "inputs": {"base": {"sha256": "0", "mtime_ns": seconds}}}
        (folder / "s.json").write_text(json.dumps(facts))
        line = {"iteration": 1, "losses": {"total": 2}, "seconds_left": seconds}
        (folder / "metrics.jsonl").write_text(f'{json.dumps(line)}\n{{"iteration": 2')
    for name in ("s.json", "metrics.jsonl"):
        assert content(tmp_path / "a" / name) == content(tmp_path / "b" / name)
    assert content(tmp_path / "a" / "metrics.jsonl") == b'[[1, {"total": 2}]]'
    (tmp_path / "a" / "s.tar").touch()
    (tmp_path / "b" / ".s.tar.0.claim").touch()
    (tmp_path / "b" / "t.tar").touch()
    assert unfinished(tmp_path / "a") == []
    assert unfinished(tmp_path / "b") == [".s.tar.0.claim", "t.tar"]


def test_stages_follow_one_another():
    assert STAGES["selftrain"].before[-2:] == ("confidence", "train")
    assert all(stage.after in (None, *STAGES) for stage in STAGES.values())
