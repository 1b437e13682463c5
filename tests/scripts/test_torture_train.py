"""Trainings that are killed: a short form of the script, and that it sees what differs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from stress import torture_train
from stress.torture_train import Bench, Trial

pytest.importorskip("detectron2.modeling")
from tests.support.training_data import make_shards


@pytest.mark.slow
def test_a_killed_training_ends_as_one_that_never_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_shards(tmp_path / "made", images=6, shard_size=3)
    bench = Bench(tmp_path / "made" / "shards", tmp_path)
    (trial,) = torture_train.torture(bench, kills=1, chance=random.Random(1), log=lambda line: None)
    assert trial.good, trial
    assert trial.kills, "it ended before it could be killed"

    # The judge is no rubber stamp: other weights, another loss and a leftover are seen.
    final = bench.whole / "model-final.safetensors"
    final.write_bytes(final.read_bytes()[:-1] + b"\0")
    with (bench.whole / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 15, "losses": {}}\n')
    (tmp_path / "000" / ".checkpoint-0000003.pth.1-2.tmp").touch()
    again = bench.trial(0, kills=0, chance=random.Random(1))
    assert (again.same_weights, again.same_losses, again.good) == (False, False, False)
    assert again.left == [".checkpoint-0000003.pth.1-2.tmp"]


@pytest.mark.parametrize(
    "changes", [{"same_weights": False}, {"same_losses": False}, {"left": [".x.tmp"]}, {"problem": "stuck"}]
)
def test_each_difference_counts(changes: dict[str, object]):
    good: dict[str, object] = {"kills": [3], "same_weights": True, "same_losses": True}
    assert Trial(**good).good  # type: ignore[arg-type]
    assert not Trial(**{**good, **changes}).good  # type: ignore[arg-type]


def test_half_a_line_is_no_iteration(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1, "losses": {"total": 2}, "x": 1}\n{"iteration": 2')
    assert torture_train._losses(tmp_path) == [{"iteration": 1, "losses": {"total": 2}}]
    (tmp_path / "checkpoint-0000012.pth").touch()
    (tmp_path / "checkpoint-0000009.pth").touch()
    assert torture_train._newest_checkpoint(tmp_path) == 12
