"""Trainings of several processes: started by torchrun, or here, on CPUs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cuts3d_cli.detector.checkpoints import find_checkpoints, is_intact, load_checkpoint
from cuts3d_cli.detector.order import Position, redistribute
from cuts3d_cli.detector.processes import _start
from cuts3d_cli.detector.task import TrainingError
from cuts3d_cli.detector.training import train
from cuts3d_cli.errors import UsageError, WeightsError
from tests.support.training_data import make_shards
from tests.support.trainings import LINE, Killing, Noted, same, task, trained_config

PATIENCE = 300.0
"""Seconds after which a training without a checkpoint is considered broken."""
TORCHRUN = [
    *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"),
    *("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"),
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_shards(tmp_path_factory.mktemp("shards"), images=8, shard_size=5)


@pytest.mark.parametrize("now", [1, 2, 3, 5])
@pytest.mark.parametrize("before", [1, 2, 4])
def test_other_processes_see_what_is_left_once(before: int, now: int):
    rng = np.random.default_rng(before * 10 + now)
    for _ in range(20):
        positions = []
        for _ in range(before):
            taken = int(rng.integers(0, 30))
            waiting = rng.choice(taken, size=min(taken, int(rng.integers(0, 4))), replace=False)
            positions.append(Position(taken=taken, waiting=sorted(map(int, waiting))))
        seen = {
            place * before + rank
            for rank, position in enumerate(positions)
            for place in set(range(position.taken)) - set(position.waiting)
        }
        again = [
            place * now + rank
            for rank, position in enumerate(redistribute(positions, now))
            for place in (*position.waiting, *range(position.taken, 200))
        ]
        assert len(again) == len(set(again))
        assert not seen & set(again)
        assert set(range(200)) <= seen | set(again)
    if now == before == 1:
        assert redistribute(positions, now) == positions


SCRIPT = """
import sys
from pathlib import Path
import torch
from cuts3d_cli.cli.app import exit_code
from cuts3d_cli.detector.training import _Training

out, arguments = Path(sys.argv[1]), sys.argv[2:]
run, following = _Training.run, _Training._pasted
keys, pasted, met, left = [], [], [], []

def noted(self, batches, **named):
    batch = following(self, batches, **named)
    keys.extend(sample["key"] for sample in batch)
    pasted.extend(int(sample["instances"].gt_pasted.sum()) for sample in batch)
    return batch

def statistics(model):
    return torch.cat([value.flatten() for name, value in model.named_buffers() if name.endswith("running_mean")])

def kept(self):
    # Called right before and after the network computes, when what the processes share has been shared.
    self.model.register_forward_pre_hook(lambda model, _: met.append(statistics(model)))
    self.model.register_forward_hook(lambda model, *_: left.append(statistics(model)))
    final = run(self)
    parameters = {name: value.detach() for name, value in self.model.named_parameters()}
    found = {"parameters": parameters, "keys": keys, "pasted": pasted, "met": met, "left": left}
    torch.save(found, out / f"rank{self.team.rank}.pth")
    return final

_Training.run, _Training._pasted = kept, noted
sys.exit(exit_code(arguments))
"""


def test_two_processes_hold_the_same_weights(bases: list[Path], tmp_path: Path):
    """Under torchrun: what one has learned the other has too, each image was seen by one of them, and one prints."""
    script, out = tmp_path / "two.py", tmp_path / "two"
    script.write_text(SCRIPT)
    line = [*TORCHRUN, str(script), str(tmp_path), "train", "--shards", str(bases[0].parent), *LINE]
    # Four iterations of two images are the eight images of an epoch.
    line += ["--out", str(out), "--device", "cpu", "--set=precise_bn=0", "--set=group_by_aspect=no"]
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pth", weights_only=True) for rank in (0, 1))
    assert same(first["parameters"], second["parameters"])
    assert len(first["keys"]) == len(second["keys"]) == 4
    assert sorted(first["keys"] + second["keys"]) == [f"{number:03d}" for number in range(8)]
    # The one image of a process gets instances of the other's.
    assert sum(first["pasted"]) > 0
    assert sum(second["pasted"]) > 0
    # Batch norm's statistics are those of a process's own images: nobody writes over them between two batches.
    assert len(first["met"]) == len(first["left"]) == 4
    for rank in (first, second):
        for after, before in zip(rank["left"], rank["met"][1:], strict=False):
            assert torch.equal(after, before)
    assert not torch.equal(first["left"][0], second["left"][0])
    content = load_checkpoint(find_checkpoints(out)[-1])
    assert [item["position"]["taken"] for item in content["processes"]] == [4, 4]
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(item)["iteration"] for item in lines] == [1, 2, 3, 4]
    # The first process alone prints.
    assert done.stdout.split() == [str(out / "model-final.safetensors")]
    assert done.stderr.count("8 images, batch 2") == 1
    assert done.stderr.count("iteration 4: loss") == 1

    # One process resumes what two have begun, where batch norm sees as many images at a time.
    changes: dict[str, Any] = {"precise_bn": 0, "group_by_aspect": False, "max_iter": 5, "resume": True}
    with pytest.raises(UsageError, match=r"over 1 image at a time, now it would be 2, .* set train.accumulate=2"):
        train(task(bases, out, **changes), Noted())
    noted = Noted()
    resumed = train(task(bases, out, accumulate=2, **changes), noted)
    assert "the batch was shared by 2 processes, and is by 1 process, in 2 parts each now" in noted.said[1]
    assert "the same in expectation, but no longer to the bit" in noted.said[1]
    assert noted.begun == (4, 5)
    assert trained_config(resumed).accumulate == 2


def wait_for_checkpoint(process: subprocess.Popen[str], out: Path) -> None:
    until = time.monotonic() + PATIENCE
    while not find_checkpoints(out) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)


def test_torchrun_is_terminated_after_a_checkpoint(bases: list[Path], tmp_path: Path):
    out = tmp_path / "out"
    longer = [item for item in LINE if not item.startswith(("--set=max_iter=", "--set=checkpoint_every="))]
    line = [*TORCHRUN, "-m", "cuts3d_cli", "train", "--shards", str(bases[0].parent), *longer, "--out", str(out)]
    line += ["--device", "cpu", "--max-iter", "500", "--checkpoint-every", "1", "--loader-workers", "1"]
    process = subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_checkpoint(process, out)
    process.terminate()
    said = process.communicate(timeout=PATIENCE)[1]
    assert said.count("which is saved: resume from there") == 1, said
    assert said.count("cuts3d: terminated; ") == 1, said
    last = find_checkpoints(out)[-1]
    assert is_intact(last)
    assert f"stopped after iteration {load_checkpoint(last)['iteration']}," in said
    assert not (out / "model-final.safetensors").exists()
    # The traceback of torchrun itself is not ours.
    assert not [row for row in said.splitlines() if "File" in row and "cuts3d_cli" in row]


STARTER = """
import sys
from pathlib import Path
from cuts3d_cli import interrupts
from cuts3d_cli.cli.progress import TrainingProgress
from cuts3d_cli.detector.processes import _start
from tests.support.trainings import task

if __name__ == "__main__":
    interrupts.install()
    shards = sorted(Path(sys.argv[1]).glob("a-*[0-9].tar"))
    wanted = task(shards, Path(sys.argv[2]), max_iter=500, checkpoint_every=1, loader_workers=1)
    try:
        _start(wanted, TrainingProgress(), count=2)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def test_ctrl_c_waits_for_the_checkpoint_of_the_processes(bases: list[Path], tmp_path: Path):
    """Ctrl-C reaches all processes of a terminal at once: the command, those of the GPUs, and their loaders."""
    script, out = tmp_path / "start.py", tmp_path / "out"
    script.write_text(STARTER)
    line = [sys.executable, str(script), str(bases[0].parent), str(out)]
    process = subprocess.Popen(line, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_checkpoint(process, out)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130, said
    last = find_checkpoints(out)[-1]
    assert is_intact(last)
    assert said.count("which is saved: resume from there") == 1, said
    assert f"stopped after iteration {load_checkpoint(last)['iteration']}," in said
    assert "Traceback" not in said


def test_an_error_in_a_process_is_the_users_error(bases: list[Path], tmp_path: Path):
    wanted = task(bases, tmp_path / "out", max_iter=1, backbone_weights=str(tmp_path / "none.pth"))
    with pytest.raises(WeightsError, match=r"none.pth") as told:
        _start(wanted, Noted(), count=1)
    assert told.value.exit_code == 1


def test_a_process_that_is_killed_is_told_in_a_line(bases: list[Path], tmp_path: Path):
    with pytest.raises(TrainingError, match=r"training ended unexpectedly: .*SIGKILL"):
        _start(task(bases, tmp_path / "out", max_iter=1), Killing(), count=1)


def test_a_training_of_torchrun_takes_no_gpus(
    bases: list[Path], tmp_path: Path, cuts3d: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = cuts3d("train", "--shards", bases[0].parent, *LINE, "--gpus", "2", "--out", tmp_path / "out").line
    assert line == "cuts3d: --gpus is 2, but torchrun has started 2 processes: leave it out"


@pytest.mark.parametrize("command", ["train", "selftrain"])
def test_gpus_of_a_training_are_counted(
    bases: list[Path], cuts3d: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, command: str
):
    words = (command, "--shards", bases[0].parent)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    none = "but this machine has 0 GPUs"
    assert cuts3d(*words, "--gpus", "all").line == f"cuts3d: --gpus is all, {none}: leave it out"
    ran = cuts3d(*words, "--device", "cuda:all", "--gpus", 3)
    warning = "warning: --gpus has no effect with --device cuda:all"
    assert (ran.code, ran.err) == (2, f"{warning}\ncuts3d: --device is cuda:all, {none}: take --device cpu\n")
    assert cuts3d(*words, "--gpus", 0).line == "cuts3d: --gpus is '0': it must be at least 1"
    wrong = cuts3d(*words, "--gpus", "some")
    assert (wrong.code, wrong.line) == (2, "cuts3d: --gpus is 'some': it must be a whole number, or all")


def test_other_processes_of_torchrun_say_nothing(cuts3d: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setenv("LOCAL_RANK", "1")
    ran = cuts3d("train", "--resume", "--overwrite")
    assert (ran.code, ran.out, ran.err) == (2, "", "")
