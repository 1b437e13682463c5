"""Many processes on the same shards: real commands, some of them killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from cuts3d_cli.shards.names import sidecar
from tests.support.photos import pack_photos, write_photos

SHARDS = 8
NETWORK = ("--backbone", "dino-vits16", "--size", "224", "--crf-size", "240", "-j", "0")


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cuts3d_cli", *map(str, arguments), "--json"]
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )


def statuses(out: str) -> dict[str, str]:
    return {Path(item["shard"]).name: item["status"] for item in json.loads(out)["shards"]}


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_four_processes_of_which_two_are_killed(alone: Path, weights: Path):
    bases = pack_photos(alone, 3 * SHARDS, shard_size=3)
    arguments = ("pseudo", "--shards", ".", *NETWORK, "--weights", weights)
    single = start(*arguments)
    out, said = single.communicate(timeout=300)
    assert single.returncode == 0, said
    assert set(statuses(out).values()) == {"done"}
    expected = tars(alone)
    for base in bases:
        for path in (sidecar(base, "pseudo"), sidecar(base, "pseudo").with_suffix(".json")):
            path.unlink()

    four = [start(*arguments) for _ in range(4)]
    killed: dict[str, subprocess.Popen[str]] = {}
    end = time.monotonic() + 300
    while len(killed) < 2:
        assert time.monotonic() < end
        assert any(process.poll() is None for process in four), "they were through too soon"
        for path in alone.glob(".*.claim"):
            try:
                number = int(json.loads(path.read_text())["owner"].split("-")[1])
            except (OSError, ValueError):
                continue  # just released, or just being written
            process = next(process for process in four if process.pid == number)
            if len(killed) < 2 and process not in killed.values():
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed[path.name] = process
    ended = {process: process.communicate(timeout=300) for process in four}

    survivors = [process for process in four if process not in killed.values()]
    assert [process.returncode for process in survivors] == [0, 0], [ended[process][1] for process in survivors]
    assert tars(alone) == expected
    assert hidden(alone) == []
    done: Counter[str] = Counter()
    for process in survivors:
        found = statuses(ended[process][0])
        assert set(found) == {base.name for base in bases}
        assert set(found.values()) <= {"done", "elsewhere", "skipped"}
        done.update(name for name, status in found.items() if status == "done")
    for process in killed.values():
        done.update(line.split(":")[0] for line in ended[process][1].splitlines() if " images, " in line)
    # Each once; one whose process was killed right after it had finished it has no line that says so.
    assert set(done.values()) == {1}
    assert len(done) >= SHARDS - len(killed)


def test_two_processes_pack_one_folder(alone: Path):
    source = write_photos(alone / "source", 12)
    both = [
        start("pack", source / "photos", "--out", alone / "out", "--name", "s", "--shard-size", 2) for _ in range(2)
    ]
    results = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    done = Counter(name for out, _ in results for name, status in statuses(out).items() if status == "done")
    assert done == dict.fromkeys([f"s-00{n}.tar" for n in range(6)], 1)
    assert hidden(alone / "out") == []


def test_a_coco_file_needs_all_shards(alone: Path):
    pack_photos(alone, 2)
    process = start("pseudo", "--shards", ".", "--export-coco", "m.json", "--rank", 0, "--world-size", 2)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2
    assert said.startswith("cuts3d: --export-coco needs all shards")


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="a process cannot be stopped on this system")
def test_a_process_that_was_stopped_gives_up_what_was_taken_over(alone: Path, weights: Path):
    (base,) = pack_photos(alone, 6)
    arguments = ("pseudo", "--shards", ".", *NETWORK, "--weights", weights, "--claim-timeout", 2)
    slow = start(*arguments)
    end = time.monotonic() + 300
    while not (any(alone.glob(".*.claim")) and any(alone.glob(".*.tmp"))):  # a claim, too, begins as a .tmp
        assert time.monotonic() < end
        time.sleep(0.01)
    slow.send_signal(signal.SIGSTOP)
    rescuer = start(*arguments)
    out, said = rescuer.communicate(timeout=300)
    slow.send_signal(signal.SIGCONT)
    slow_out, slow_said = slow.communicate(timeout=300)
    assert (rescuer.returncode, slow.returncode) == (0, 0), said + slow_said
    assert (statuses(out), statuses(slow_out)) == ({base.name: "done"}, {base.name: "elsewhere"})
    assert "another process has taken it over" in slow_said
    assert hidden(alone) == []
