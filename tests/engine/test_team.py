"""Several processes of one run, started by it: they share the shards, and are one to the user."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cuts3d_cli.config import PAPER, Config
from cuts3d_cli.engine import team
from cuts3d_cli.engine.results import StageResult
from cuts3d_cli.engine.team import run_in_team
from cuts3d_cli.errors import Message, OccupiedError, UsageError, WeightsError
from cuts3d_cli.shards.names import sidecar
from tests.engine.test_driver import Watcher
from tests.support import team_stage
from tests.support.photos import pack_photos, write_shard
from tests.support.running import Ran

SHARDS = 5
NETWORK = ("--backbone", "dino-vits16", "--device", "cpu")


class Told(Watcher):
    """Writes down the photos with their shards, too."""

    def advance(self, *, failed: bool, shard: Path | None = None) -> None:
        self.told.append(("photo", shard.name if shard else "", failed))


@pytest.fixture
def bases(tmp_path: Path) -> list[Path]:
    """Shards s-0.tar, ... of three photos each."""
    return [
        write_shard(tmp_path / f"s-{shard}.tar", {f"{name}{shard}": {"jpg": name.encode()} for name in "abc"})
        for shard in range(SHARDS)
    ]


def config(gpus: int, **run: Any) -> Config:
    return replace(PAPER, run=replace(PAPER.run, device="cpu", gpus=gpus, **run))


def go(
    bases: list[Path], gpus: int, *, run: Mapping[str, Any] | None = None, **arguments: Any
) -> tuple[StageResult, Told, list[str]]:
    told, said = Told(), []
    result = run_in_team(
        team_stage.run,
        bases,
        network=True,
        config=config(gpus, **(run or {})),
        progress=told,
        say=lambda line: said.append(str(line)),
        **arguments,
    )
    return result, told, said


def plain(result: StageResult) -> dict[str, Any]:
    """A result without its times."""
    return {name: value for name, value in result.to_json().items() if "seconds" not in name}


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.depth.tar"))}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def log(folder: Path) -> list[list[str]]:
    """Who did which shard: its name, the process, its device and workers."""
    return [line.split() for line in (folder / "LOG").read_text().splitlines()]


def begin_again(folder: Path) -> None:
    for path in [*folder.glob("*.depth.*"), *folder.glob("LOG"), *folder.glob("ACCIDENT")]:
        path.unlink()


def test_any_number_of_processes_is_one_to_the_user(bases: list[Path], tmp_path: Path):
    found = []
    for gpus in (1, 2, 3):
        begin_again(tmp_path)
        result, told, said = go(bases, gpus)
        found.append((plain(result), tars(tmp_path)))
        # Each shard is done once, by a process of its own where there are several, and told once.
        done = log(tmp_path)
        assert sorted(name for name, *_ in done) == [base.name for base in bases]
        assert (str(os.getpid()) in {process for _, process, *_ in done}) == (gpus == 1)
        assert told.told[0] == ("begin", [(base.name, None) for base in bases])
        events = Counter(event for event in told.told[1:] if event[0] in ("start", "finish"))
        assert events == Counter(event for base in bases for event in (("start", base.name, ""), ("finish", base.name)))
        assert sum(event[0] == "photo" for event in told.told) == 3 * SHARDS
        announced = [f"{gpus} processes share the shards, on the cores of this machine"] if gpus > 1 else []
        lines = ["the stage begins", *announced, "a line of each process"]
        assert list(dict.fromkeys(said)) == [*lines, f"{3 * SHARDS} photos in the end"]
        assert gpus == 1 or len(said) == len(set(said))
        assert hidden(tmp_path) == []
    assert found[0] == found[1] == found[2]
    assert found[0][0]["counts"] == {"failed": 5, "masks": 20, "samples_in": 15, "samples_out": 10}
    assert [item["key"] for item in found[0][0]["failed"]] == ["b0", "b1", "b2", "b3", "b4"]
    assert {item["status"] for item in found[0][0]["shards"]} == {"done"}


def test_what_is_finished_starts_no_process(bases: list[Path], tmp_path: Path):
    go(bases[:3], 1)
    (tmp_path / "LOG").unlink()
    result, told, said = go(bases[:3], 2)
    assert {shard.status for shard in result.shards} == {"skipped"}
    assert said == ["the stage begins", "9 photos in the end"]
    # A single shard is done by the process that would only wait.
    result, told, said = go(bases[:4], 3)
    assert said[1:3] == ["a single shard is left: one process does it", "a line of each process"]
    assert [shard.status for shard in result.shards] == ["skipped"] * 3 + ["done"]
    assert [event for event in told.told if event[0] == "skip"] == [("skip", base.name) for base in bases[:3]]
    assert [process for _, process, *_ in log(tmp_path)] == [str(os.getpid())]
    begin_again(tmp_path)
    said = go(bases[:2], 3)[2]
    few = ": more shards, which are smaller, would occupy all 3"
    assert said[1] == f"2 processes share the shards, on the cores of this machine{few}"


@pytest.mark.parametrize("if_exists", ["overwrite", "replace", "fail"])
def test_each_shard_is_written_once_whatever_exists(bases: list[Path], tmp_path: Path, if_exists: str):
    """A process may begin when others have finished shards already: these are not written, or refused, again."""
    if if_exists != "fail":
        go(bases, 1)
        expected = tars(tmp_path)
        (tmp_path / "LOG").unlink()
    result = go(bases, 2, run={"if_exists": if_exists})[0]
    status = "skipped" if if_exists == "replace" else "done"
    assert {shard.status for shard in result.shards} == {status}
    if if_exists == "overwrite":
        assert tars(tmp_path) == expected
    if status == "done":
        assert sorted(name for name, *_ in log(tmp_path)) == [base.name for base in bases]
    if if_exists == "fail":
        with pytest.raises(OccupiedError, match="exists"):
            go(bases, 2, run={"if_exists": if_exists})


def test_late_processes_leave_what_was_finished_since_the_leader_began(bases: list[Path], tmp_path: Path):
    before = {sidecar(base, "depth"): None for base in bases}
    go(bases, 1)  # the others, while this process still starts
    (tmp_path / "LOG").unlink()
    told: list[Any] = []
    own = team._config_of(0, 2, config=config(2, if_exists="overwrite"), device="cpu")
    team._take_part(lambda *message: told.append(message), team_stage.run, bases, own, {}, before)
    assert told == [("say", "the stage begins")]
    assert not (tmp_path / "LOG").exists()


@pytest.mark.parametrize("accident", ["killed", "killed again", "surprise"])
def test_a_process_that_dies_loses_nothing(bases: list[Path], tmp_path: Path, accident: str):
    expected = plain(go(bases, 1)[0]), tars(tmp_path)
    begin_again(tmp_path)
    result, told, said = go(bases, 2, accident=accident)
    assert (plain(result), tars(tmp_path), hidden(tmp_path)) == (*expected, [])
    why = {"surprise": "RuntimeError: CUDA error: an illegal memory access"}.get(
        accident, "killed by SIGKILL, as the system does for want of memory"
    )
    line = f"warning: a process on cpu has ended ({why}): s-1.tar will be done by another"
    # What it had counted is taken back; where each process dies of it, the leader does it.
    given_up = [event for event in told.told if event[0] == "give up"]
    assert given_up == [("give up", "s-1.tar", line)] * (2 if accident == "killed again" else 1)
    tries = [process for name, process, *_ in log(tmp_path) if name == "s-1.tar"]
    assert len(tries) == len(given_up) + 1
    assert tries[-1] == str(os.getpid()) or accident != "killed again"
    assert [event for event in told.told if event[0] == "finish"].count(("finish", "s-1.tar")) == 1
    assert said.count("15 photos in the end") == 1


def test_a_shard_is_done_though_its_process_could_not_tell(
    bases: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def killed_at_the_last_moment(function: Any, arguments: Any, *, devices: Any, heard: Any, died: Any) -> None:
        heard(0, "start", bases[1], "")
        function(lambda *_: None, *arguments[0])  # of all that it does, it tells nothing
        died(0, "killed by SIGKILL")

    monkeypatch.setattr(team, "run_processes", killed_at_the_last_moment)
    result, told, _ = go(bases, 2)
    assert [shard.status for shard in result.shards] == ["elsewhere", "done", "elsewhere", "elsewhere", "elsewhere"]
    assert [event[0] for event in told.told].count("give up") == 1


def test_an_error_of_a_process_is_that_of_the_run(bases: list[Path], tmp_path: Path):
    with pytest.raises(WeightsError, match=r"^the weights are damaged$"):
        go(bases, 2, accident="error")
    assert hidden(tmp_path) == []
    assert all((path.with_suffix(".json")).exists() for path in tmp_path.glob("*.depth.tar"))


def test_a_broken_shard_is_told_once_and_stops_no_other(bases: list[Path], tmp_path: Path):
    expected = plain(go(bases, 1, accident="broken")[0])
    begin_again(tmp_path)
    result, told, _ = go(bases, 2, accident="broken")
    assert plain(result) == expected
    assert [shard.status for shard in result.shards] == ["done", "broken", "done", "done", "done"]
    assert [event for event in told.told if event[0] == "broken"] == [("broken", "s-1.tar", f"{bases[1]} is damaged")]
    assert str(os.getpid()) not in {process for _, process, *_ in log(tmp_path)}


def test_workers_are_divided(bases: list[Path], tmp_path: Path):
    def parts(asked: int | None, count: int) -> list[int | None]:
        own = [
            team._config_of(number, count, config=config(count, workers=asked), device="cpu") for number in range(count)
        ]
        return [each.run.workers for each in own]

    assert parts(5, 2) == [3, 2]
    assert parts(8, 4) == [2, 2, 2, 2]
    assert parts(1, 3) == [1, 1, 1]
    assert parts(0, 2) == [0, 0]
    assert parts(None, 2) == [None, None]
    go(bases, 2, run={"workers": 5})
    assert {workers for *_, workers in log(tmp_path)} <= {"3", "2"}


def test_ray_and_a_team_exclude_each_other(bases: list[Path]):
    with pytest.raises(UsageError, match="is for one machine"):
        go(bases, 2, run={"engine": "ray"})


# ------------------------------------------------------------------------------------------------------- signals, kills

SCRIPT = """
import sys
from cuts3d_cli.__main__ import main
from cuts3d_cli.stages import STAGES, Imported, Stage

if __name__ == "__main__":
    STAGES["depth"] = Stage(run=Imported("tests.support.team_stage"), network=True)
    main()
"""


def start(bases: list[Path], tmp_path: Path) -> subprocess.Popen[str]:
    """Two processes at work: `cuts3d depth`, as slow as can be."""
    folder = bases[0].parent
    script, source = tmp_path / "main.py", (Path(team_stage.__file__)).read_text()
    script.write_text(SCRIPT)
    # The same stage, with other patience.
    slow = tmp_path / "slow_stage.py"
    slow.write_text(source.replace("patience: float = 0.0", "patience: float = 0.5"))
    script.write_text(SCRIPT.replace("tests.support.team_stage", "slow_stage"))
    root = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen(
        [sys.executable, str(script), "depth", "--shards", str(folder), "--device", "cpu", "--gpus", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, str(tmp_path)])},
        start_new_session=True,
    )
    wait_for(lambda: len(list(folder.glob(".*.tmp"))) > 1, process)
    return process


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.01)


def running(group: int) -> list[str]:
    """The processes of a group that have not ended."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, own = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if own == str(group) and state not in "ZX":
            found.append(status.parent.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes cannot be listed on this system")
@pytest.mark.parametrize(
    ("number", "alone"),
    [(signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGTERM, False), (signal.SIGHUP, False)],
)
def test_a_signal_ends_all_and_leaves_nothing(bases: list[Path], tmp_path: Path, number: int, alone: bool):
    process = start(bases, tmp_path)
    (os.kill if alone else os.killpg)(process.pid, number)
    _, said = process.communicate(timeout=60)
    wait_for(lambda: not running(process.pid))
    assert process.returncode == 128 + number
    word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}[number]
    ends = [line for line in said.splitlines() if line.startswith("cuts3d: ")]
    assert ends == [f"cuts3d: {word}; what is finished is kept, run the same command again to go on"]
    assert "Traceback" not in said
    assert hidden(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes cannot be listed on this system")
def test_processes_end_with_the_one_that_leads(bases: list[Path], tmp_path: Path):
    process = start(bases, tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not running(process.pid))
    assert hidden(tmp_path) == []  # they have had the time to clear up
    process.communicate()
    result = go(bases, 2)[0]
    assert set(plain(result)["counts"].values()) == {5, 10, 15, 20}


# ------------------------------------------------------------------------------------------------------------ commands


@pytest.mark.parametrize("stage", ["features", "pseudo"])
def test_a_command_prints_and_writes_the_same(cuts3d: Callable[..., Ran], alone: Path, weights: Path, stage: str):
    """With a network, and with readers and cutters in processes of their own; photos that fail are told once."""
    pack_photos(alone, 6, shard_size=2)
    write_shard(alone / "t.tar", {"bad": {"jpg": b"no photo"}, "worse": {"jpg": b""}})
    shards = ("--shards", "s-<000..002>.tar") if stage == "pseudo" else ("--shards", ".")
    words = [stage, *shards, *NETWORK, "--weights", weights, "--json"]
    words += ["--size", 224, "--crf-size", 64, "--tau-knn", 0.2, "-j", 2] if stage == "pseudo" else ["--size", 64]
    found = []
    for gpus in (1, 2):
        ran = cuts3d(*words, "--gpus", gpus)
        assert ran.out, ran.err
        result = json.loads(ran.out)
        failures = [line for line in ran.err.splitlines() if line.startswith("failed: ")]
        written = {path.name: path.read_bytes() for path in alone.glob(f"*.{stage}.tar")}
        kept = {name: value for name, value in result.items() if "seconds" not in name}
        found.append((ran.code, kept, failures, written))
        assert ("2 processes share the shards" in ran.err) == (gpus == 2)
        for path in alone.glob(f"*.{stage}.*"):
            path.unlink()
    assert found[0] == found[1]
    assert found[0][0] == (3 if stage == "features" else 0)
    assert len(found[0][2]) == (2 if stage == "features" else 0)
    assert hidden(alone) == []


def test_too_many_gpus_are_refused_before_anything_is_done(
    cuts3d: Callable[..., Ran], alone: Path, monkeypatch: pytest.MonkeyPatch
):
    import torch

    pack_photos(alone, 2, shard_size=1, with_depth=False)
    before = sorted(alone.iterdir())
    words = ("features", "--shards", ".", "--backbone", "dino-vits16")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    none = "--gpus is {}, but this machine has 0 GPUs: take --device cpu{}"
    assert cuts3d(*words, "--gpus", 2).line == f"cuts3d: {none.format(2, ' for so many processes on the cores')}"
    assert cuts3d(*words, "--gpus", "all").line == f"cuts3d: {none.format('all', '')}"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    ran = cuts3d(*words, "--gpus", 3)
    assert ran.code == 2
    assert ran.line == (
        "cuts3d: --gpus is 3, but this machine has 2 GPUs: lower it, or take --device cpu for so many processes on the"
        " cores"
    )
    one = cuts3d(*words, "--gpus", 2, "--device", "cuda:1").line
    assert one == "cuts3d: --gpus is 2, but --device is cuda:1: take cuda, or cpu for its cores"
    of_cores = cuts3d(*words, "--gpus", "all", "--device", "cpu").line
    assert of_cores == "cuts3d: --gpus is all, which counts GPUs: with --device cpu name a number of processes"
    assert "--gpus" in cuts3d(*words, "--gpus", 2, "--device", "cpu", "--engine", "ray").line
    on_ray = cuts3d(*words, "--device", "cuda:all", "--engine", "ray").line
    assert on_ray.startswith("cuts3d: --device is cuda:all, which is for one machine: ")
    assert sorted(alone.iterdir()) == before


@pytest.mark.parametrize("stage", ["depth", "features", "pseudo", "confidence", "predict"])
def test_all_gpus_can_be_named_as_a_device(
    cuts3d: Callable[..., Ran], alone: Path, monkeypatch: pytest.MonkeyPatch, stage: str
):
    """`--device cuda:all` is `--gpus all`, also where a variable or a file says so."""
    import torch

    pack_photos(alone, 2, shard_size=1, with_depth=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    words = (stage, "--shards", ".", *(("--checkpoint", "none.pth") if stage == "predict" else ()))
    none = "is {}, but this machine has 0 GPUs: take --device cpu"
    assert cuts3d(*words, "--gpus", "all").line == f"cuts3d: --gpus {none.format('all')}"
    ran = cuts3d(*words, "--device", "cuda:all")
    assert (ran.code, ran.line) == (2, f"cuts3d: --device {none.format('cuda:all')}")
    assert "warning" not in ran.err
    told = cuts3d(*words, "--device", "cuda:all", "--gpus", 2).err
    assert "warning: --gpus has no effect with --device cuda:all\n" in told
    monkeypatch.setenv("CUTS3D_RUN_DEVICE", "cuda:all")
    assert cuts3d(*words).line == ran.line


@pytest.mark.parametrize("words", [("segment", "photo.jpg", "--out", "out"), ("viz", "photo.jpg")])
def test_a_command_of_one_process_refuses_all_gpus(cuts3d: Callable[..., Ran], alone: Path, words: tuple[str, ...]):
    Image.new("RGB", (64, 64)).save(alone / "photo.jpg")
    ran = cuts3d(*words, "--device", "cuda:all")
    assert (ran.code, ran.line) == (
        2,
        "cuts3d: --device is cuda:all, which is for what several GPUs do at once: here take auto, cuda, or cuda:0,"
        " cuda:1, ...",
    )
    assert not (alone / "out").exists()


def test_messages_keep_their_settings():
    """What a process says goes through a pipe, and is spelled by the one that prints."""
    said: list[Any] = []
    speaker = team._Speaker(said.append)
    for _ in range(2):
        speaker.once(Message("raise ", "it"))
    speaker("again")
    speaker("again")
    assert [str(line) for line in said] == ["raise it", "again", "again"]
