"""Shards as tasks of a Ray cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cuts3d_cli.shards.names import sidecar
from tests.support.photos import pack_photos
from tests.support.running import Ran

ROOT = Path(__file__).resolve().parents[2]
NETWORK = ("--backbone", "dino-vits16", "--size", "224", "--crf-size", "240")


def test_without_ray_there_is_one_line(cuts3d: Callable[..., Ran], alone: Path, monkeypatch: pytest.MonkeyPatch):
    (base,) = pack_photos(alone, 1, with_depth=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    ran = cuts3d("depth", base, "--backend", "sensor", "--engine", "ray")
    assert (ran.code, ran.line) == (2, "cuts3d: --engine ray needs Ray: pip install 'cuts3d[ray]'")


def test_pack_needs_no_cluster(cuts3d: Callable[..., Ran], alone: Path):
    ran = cuts3d("pack", ".", "--out", "out", "--engine", "ray")
    assert ran.code == 2
    assert "pack does not run on a cluster" in ran.line


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cuts3d_cli", *map(str, arguments), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_cluster_gives_the_same_bytes_though_a_worker_is_killed(alone: Path, weights: Path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'cuts3d[ray]'")
    bases = pack_photos(alone, 12, shard_size=3)
    arguments = ("pseudo", "--shards", ".", *NETWORK, "--weights", weights, "-j", 1)
    out, said = start(*arguments).communicate(timeout=300)
    expected = [sidecar(base, "pseudo").read_bytes() for base in bases]
    for base in bases:
        sidecar(base, "pseudo").unlink()

    cluster = start(*arguments, "--engine", "ray")
    killed, end = 0, time.monotonic() + 300
    while not killed:
        assert time.monotonic() < end
        assert cluster.poll() is None, cluster.communicate()
        for path in alone.glob(".*.claim"):
            try:
                killed = int(json.loads(path.read_text())["owner"].split("-")[1])
            except (OSError, ValueError):
                continue  # just released, or just being written
            assert killed != cluster.pid
            os.kill(killed, signal.SIGKILL)
            break
        time.sleep(0.005)
    out, said = cluster.communicate(timeout=300)
    assert cluster.returncode == 0, said
    result = json.loads(out)
    assert [(Path(item["shard"]).name, item["counts"]["samples_in"]) for item in result["shards"]] == [
        (base.name, 3) for base in bases
    ]
    assert [sidecar(base, "pseudo").read_bytes() for base in bases] == expected
    assert [path.name for path in alone.iterdir() if path.name.startswith(".")] == []


def test_an_error_of_a_task_is_one_line(alone: Path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'cuts3d[ray]'")
    (base,) = pack_photos(alone, 2, with_depth=False)
    base.write_bytes(base.read_bytes()[:2000])
    running = start("depth", "--shards", base, "--backend", "sensor", "--engine", "ray")
    _, said = running.communicate(timeout=300)
    assert running.returncode == 1
    (line,) = [line for line in said.splitlines() if line.startswith("cuts3d: ")]
    assert f"{base}" in line
    assert "Traceback" not in said
