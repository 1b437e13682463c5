"""Evaluation while a detector is trained."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cuts3d_cli.detector.card import _last_step
from cuts3d_cli.detector.checkpoints import checkpoint_path, find_checkpoints
from cuts3d_cli.detector.evaluating import Evaluation, Results, Share, deciding_figure
from cuts3d_cli.detector.inference import Detector
from cuts3d_cli.detector.run_log import RunLog, Scores
from cuts3d_cli.detector.training import train
from cuts3d_cli.evaluation.training import evaluation_of
from cuts3d_cli.wording import Say
from tests.support.running import Ran
from tests.support.training_data import make_shards
from tests.support.trainings import LINE, Noted, ground_truth, same, small, task, weights


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_shards(tmp_path_factory.mktemp("shards"), images=8, shard_size=5)


def photos_of(bases: list[Path]) -> Path:
    return bases[0].parent.parent / "photos"


class Counting:
    """An evaluation that counts, and does something before it is done."""

    def __init__(self, evaluation: Evaluation, *, before: Callable[[], None] = lambda: None) -> None:
        self.count, self._evaluation, self._before = 0, evaluation, before

    def check(self, *, say: Say) -> None:
        self._evaluation.check(say=say)

    def __call__(self, detector: Detector, *, share: Share, say: Say) -> Results:
        self.count += 1
        self._before()
        return self._evaluation(detector, share=share, say=say)


def counting(bases: list[Path], folder: Path, **named: Any) -> Counting:
    truth = ground_truth(folder)
    config = small(eval_every=2, eval_dataset=(str(truth),), eval_images=photos_of(bases), eval_limit=3)
    evaluation = evaluation_of(config, root=None)
    assert evaluation is not None
    return Counting(evaluation, **named)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_detector_is_evaluated_while_it_learns_and_the_best_is_kept(bases: list[Path], tmp_path: Path):
    plain = train(task(bases, tmp_path / "plain", max_iter=3), Noted())
    out = tmp_path / "out"
    evaluation, noted = counting(bases, tmp_path), Noted()
    final = train(task(bases, out, max_iter=3, eval_every=2, evaluation=evaluation), noted)
    # After two iterations, and at the end; what is learned is the same to the byte.
    scores = [line for line in lines_of(out) if "results" in line]
    assert [line["iteration"] for line in scores] == [2, 3]
    assert final.read_bytes() == plain.read_bytes()
    result = scores[0]["results"]["gt"]
    assert (result["images"], result["failed"]) == (3, 0)
    assert scores[0]["score"] == result["mask"]["ap"]
    assert scores[0]["best"]
    said = [line for line in noted.said if "mask AP" in line]
    assert said[0].startswith("iteration 2: gt box AP")
    assert said[0].endswith("(best so far: model-best.safetensors)")
    # The best weights are those of their checkpoint, apart from the statistics of batch norm, which are settled.
    best = weights(out / "model-best.safetensors")
    last = weights(checkpoint_path(out, max(line["iteration"] for line in scores if line["best"])))
    assert all(torch.equal(best[name], last[name]) for name in last if "running" not in name and "num_b" not in name)
    assert list(out.glob("events.*"))
    assert _last_step(out / "metrics.jsonl")["iteration"] == 3

    # A run that resumes evaluates what it has not evaluated before.
    train(task(bases, out, max_iter=3, eval_every=2, evaluation=evaluation, resume=True), Noted())
    assert evaluation.count == 2
    lines = [json.dumps(line) + "\n" for line in lines_of(out) if not (line["iteration"] == 2 and "results" in line)]
    (out / "metrics.jsonl").write_text("".join(lines[:2]))
    checkpoint_path(out, 3).unlink()
    again = train(task(bases, out, max_iter=3, eval_every=2, evaluation=evaluation, resume=True), Noted())
    assert evaluation.count == 4
    assert [line for line in lines_of(out) if "results" in line] == scores
    assert again.read_bytes() == plain.read_bytes()


def test_a_signal_ends_an_evaluation_and_it_is_done_again(bases: list[Path], tmp_path: Path):
    out = tmp_path / "out"
    stopped = counting(bases, tmp_path, before=lambda: signal.raise_signal(signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    noted = Noted()
    try:
        with pytest.raises(SystemExit):
            train(task(bases, out, max_iter=3, checkpoint_every=50, eval_every=2, evaluation=stopped), noted)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert noted.said[-1] == "stopped after iteration 2, which is saved: resume from there"
    assert [path.name for path in find_checkpoints(out)] == ["checkpoint-0000002.pth"]
    assert not [line for line in lines_of(out) if "results" in line]
    evaluation = counting(bases, tmp_path)
    settings: dict[str, Any] = {"max_iter": 3, "checkpoint_every": 50, "eval_every": 2, "evaluation": evaluation}
    resumed = train(task(bases, out, resume=True, **settings), Noted())
    assert [line["iteration"] for line in lines_of(out) if "results" in line] == [2, 3]
    assert same(weights(resumed), weights(train(task(bases, tmp_path / "plain", max_iter=3), Noted())))


def figures(box: float | None, mask: float | None) -> dict[str, Any]:
    return {"box": {"ap": box, "ap50": box}, "mask": None if mask is None else {"ap": mask, "ap50": mask}}


def test_detectors_are_compared_by_mask_ap_or_box_ap_where_there_are_no_masks(tmp_path: Path):
    assert deciding_figure({"coco": figures(0.5, 0.25), "voc": figures(0.75, None)}) == 0.5
    assert deciding_figure({"coco": figures(None, None), "voc": figures(0.75, None)}) is None
    log = RunLog(tmp_path, start=0)
    for iteration, mask in enumerate((0.25, 0.125, None, 0.5, 0.5), start=1):
        log.write_scores(Scores.of(iteration, {"coco": figures(None, mask)}, best=log.best))
    log.close()
    assert [line["best"] for line in lines_of(tmp_path)] == [True, False, False, True, False]
    resumed = RunLog(tmp_path, start=3)
    assert (resumed.best, resumed.scored) == (0.25, {1, 2, 3})
    resumed.close()


def test_settings_without_effect_are_refused(bases: list[Path], cuts3d: Callable[..., Ran]):
    shards = ("train", "--shards", bases[0].parent, *LINE)
    line = cuts3d(*shards, "--eval-every", "2").line
    assert line == "cuts3d: --eval-every needs a data set to evaluate on: name it by --eval-dataset"
    line = cuts3d(*shards, "--eval-dataset", "coco").line
    assert line == "cuts3d: --eval-dataset has no effect: also set --eval-every to iterations"
    line = cuts3d(*shards, "--eval-limit", "5", "--round", "1").line
    assert line == "cuts3d: --eval-limit has no effect: also set --eval-every to iterations"
    line = cuts3d(*shards, "--eval-every", "2", "--eval-dataset", "cocoa").line
    assert line.startswith("cuts3d: there is no dataset 'cocoa', nor a file of that name")
    line = cuts3d(*shards, "--eval-every", "2", "--eval-dataset", "coco", "--root", "nowhere").line
    assert "nowhere is not a folder" in line


def test_the_command_evaluates_while_it_trains(bases: list[Path], tmp_path: Path, cuts3d: Callable[..., Ran]):
    evaluation = ("--eval-every", "1", "--eval-dataset", ground_truth(tmp_path), "--eval-images", photos_of(bases))
    shards = ("--shards", bases[0].parent)
    ran = cuts3d("train", *shards, *LINE, "--set", "max_iter=1", "--out", tmp_path / "out", *evaluation)
    assert ran.code == 0, ran.err
    assert "iteration 1: gt box AP " in ran.err
    assert (tmp_path / "out" / "model-best.safetensors").read_bytes() == (
        tmp_path / "out" / "model-final.safetensors"
    ).read_bytes()
