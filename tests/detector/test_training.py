from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cuts3d_cli.config import output_dict
from cuts3d_cli.detector import train as stage
from cuts3d_cli.detector import training
from cuts3d_cli.detector.checkpoints import (
    checkpoint_path,
    config_of,
    digest_path,
    find_checkpoints,
    load_checkpoint,
    read_trained,
    save_checkpoint,
)
from cuts3d_cli.detector.inference import Detector
from cuts3d_cli.detector.schedule import learning_rate
from cuts3d_cli.detector.task import TrainingError
from cuts3d_cli.detector.team import Team
from cuts3d_cli.detector.training import train
from cuts3d_cli.errors import SettingError, ShardError, UsageError, WeightsError
from tests.support.running import Ran
from tests.support.training_data import make_shards, photo_of
from tests.support.trainings import LINE, Noted, command, ground_truth, same, small, task, trained_config, weights


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_shards(tmp_path_factory.mktemp("shards"), images=8, shard_size=5)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_run_that_goes_on_ends_as_one_that_never_stopped(bases: list[Path], tmp_path: Path):
    whole = Noted()
    straight = train(task(bases, tmp_path / "a"), whole)
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4]
    assert {"total", "loss_mask", "loss_cls_stage2", "loss_rpn_cls"} <= set(lines[0]["losses"])
    counted = {"stage2/fast_rcnn/cls_accuracy", "roi_head/num_fg_samples", "rpn/num_pos_anchors", "mask_rcnn/accuracy"}
    assert counted <= set(lines[0]["metrics"])
    assert 0 <= lines[0]["metrics"]["mask_rcnn/accuracy"] <= 1
    assert lines[0]["memory_mb"] > 10
    assert lines[0]["seconds"] > lines[0]["data_seconds"] > 0
    assert (tmp_path / "a" / "samples.png").stat().st_size > 1000
    assert list((tmp_path / "a").glob("events.*"))
    assert whole.begun == (0, 4)

    # Killed in the fourth iteration: what is there then is the checkpoint of the second one and a half line.
    train(task(bases, tmp_path / "b"), Noted())
    for path in find_checkpoints(tmp_path / "b"):
        if path != checkpoint_path(tmp_path / "b", 2):
            path.unlink()
    (tmp_path / "b" / "model-final.safetensors").unlink()
    with (tmp_path / "b" / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": ')
    noted = Noted()
    resumed = train(task(bases, tmp_path / "b", resume=True), noted)
    assert noted.begun == (2, 4)
    assert same(weights(straight), weights(resumed))
    again = [json.loads(line) for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in again] == [1, 2, 3, 4]
    assert [line["losses"] for line in again] == [line["losses"] for line in lines]


def test_a_run_goes_on_only_as_it_was(bases: list[Path], tmp_path: Path):
    train(task(bases, tmp_path, max_iter=2), Noted())
    with pytest.raises(UsageError, match=r"another configuration \(roi_batch 16 -> 8\)"):
        train(task(bases, tmp_path, resume=True, roi_batch=8), Noted())
    noted = Noted()
    train(task(bases, tmp_path, resume=True, max_iter=3, learning_rate=0.001, log_every=3), noted)
    assert "learning_rate 0.004 -> 0.001" in noted.said[0]
    assert noted.steps[-1].learning_rate == 0.001
    with pytest.raises(UsageError, match=r"trained on other masks \(a-001.tar\)"):
        train(task(bases[:1], tmp_path, resume=True), Noted())
    told = r"^train.max_iter is 2, but .*checkpoint-0000003.pth is after 3 iterations: set it to 3 or more"
    before = contents(tmp_path)
    with pytest.raises(SettingError, match=told):
        train(task(bases, tmp_path, resume=True, max_iter=2), Noted())
    assert contents(tmp_path) == before


def test_a_signal_while_batch_norm_is_recomputed_ends_the_run(bases: list[Path], tmp_path: Path):
    class Terminating(Noted):
        def say(self, line: str) -> None:
            super().say(line)
            if "batch norm" in line:
                signal.raise_signal(signal.SIGTERM)

    def end(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    noted = Terminating()
    try:
        with pytest.raises(SystemExit) as ended:
            train(task(bases, tmp_path / "a", max_iter=2), noted)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143
    assert noted.said[-1] == "stopped after iteration 2, which is saved: resume from there"
    assert not (tmp_path / "a" / "model-final.safetensors").exists()
    resumed = train(task(bases, tmp_path / "a", max_iter=2, resume=True), Noted())
    assert same(weights(resumed), weights(train(task(bases, tmp_path / "b", max_iter=2), Noted())))


def test_batch_norm_settles_on_photos_without_copy_paste(
    bases: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The training goes on with the same images and draws as if it had not been settled."""
    seen: list[list[dict[str, Any]]] = []
    settle = training.settle

    def noted(model: torch.nn.Module, batches: Any, **named: Any) -> None:
        kept = list(islice(batches, named["count"]))
        seen.extend(kept)
        settle(model, iter(kept), **named)

    monkeypatch.setattr(training, "settle", noted)
    straight = train(task(bases, tmp_path / "a", max_iter=3), Noted())
    assert [len(batch) for batch in seen] == [2, 2]
    assert not any(item["instances"].has("gt_pasted") for batch in seen for item in batch)
    train(task(bases, tmp_path / "b", max_iter=2), Noted())
    longer = train(task(bases, tmp_path / "b", max_iter=3, resume=True), Noted())
    assert same(weights(longer), weights(straight))
    again = train(task(bases, tmp_path / "b", max_iter=3, resume=True), Noted())  # nothing is left to do
    assert (len(seen), again.read_bytes()) == (6, longer.read_bytes())


def test_gradients_add_up_over_the_parts_of_a_batch(bases: list[Path], tmp_path: Path):
    changes = {"images_per_batch": 4, "norm": "FrozenBN", "group_by_aspect": False}
    run = training._Training(task(bases, tmp_path, accumulate=2, **changes), Noted(), Team(), lambda: None)
    run.model.train()
    run.state.join()
    batch = run._pasted(next(iter(run.batches)))
    # Every image has got something of another one, also of one in another part.
    assert all(item["instances"].gt_pasted.any() for item in batch)
    torch.manual_seed(1)
    losses, facts = run._losses(batch)
    found = {name: value.grad.clone() for name, value in run.model.named_parameters() if value.grad is not None}
    assert facts["roi_head/num_fg_samples"] > 0

    # The same by hand: the mean of the losses of both halves.
    run.model.zero_grad()
    torch.manual_seed(1)
    with training.EventStorage():
        halves = [torch.stack(list(run.model(batch[start : start + 2]).values())).sum() for start in (0, 2)]
    torch.stack(halves).mean().backward()
    assert float(losses["total"]) == pytest.approx(sum(float(half.detach()) for half in halves) / 2)
    assert found.keys() == {name for name, value in run.model.named_parameters() if value.grad is not None}
    for name, value in run.model.named_parameters():
        if value.grad is not None:
            assert torch.allclose(found[name], value.grad, rtol=1e-4, atol=1e-6), name


def test_a_checkpoint_of_an_earlier_version_goes_on_with_its_clipping(bases: list[Path], tmp_path: Path):
    """0.1.0 recorded neither how gradients are clipped nor how a batch is shared."""
    straight = train(task(bases, tmp_path / "a", clip="model"), Noted())
    train(task(bases, tmp_path / "b", clip="model", max_iter=2), Noted())
    path = checkpoint_path(tmp_path / "b", 2)
    content = load_checkpoint(path)
    del content["split"], content["settled"]
    for name in ("clip", "accumulate"):
        del content["fingerprint"]["config"][name]
    save_checkpoint(path, content)
    with pytest.raises(UsageError, match=r"another configuration \(clip model -> parameter\): set it back"):
        train(task(bases, tmp_path / "b", resume=True), Noted())
    resumed = train(task(bases, tmp_path / "b", clip="model", resume=True), Noted())
    assert same(weights(resumed), weights(straight))


def test_an_error_of_a_loader_process_is_a_line(bases: list[Path], tmp_path: Path):
    run = task(bases, tmp_path, loader_workers=1)
    wrong = [replace(shard, samples=shard.samples + 1) for shard in run.shards]
    with pytest.raises(ShardError, match=r"^.*pseudo.tar holds \d samples, but its manifest says \d: overwrite it by"):
        train(replace(run, shards=wrong), Noted())


def test_a_training_that_waits_for_its_data_says_what_to_raise(
    bases: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shares = iter([None, 0.456, None])
    monkeypatch.setattr(training.DataWatch, "limit", lambda self, step: next(shares))
    noted = Noted()
    train(task(bases, tmp_path, max_iter=3, log_every=1, loader_workers=0), noted)
    (line,) = [str(line) for line in noted.said if "waits for data" in str(line)]
    assert line.startswith("warning: the training waits for data 46% of the time: raise ")
    assert "loader_workers (0 for each of 1 process, on " in line


def test_only_the_last_checkpoints_are_kept(bases: list[Path], tmp_path: Path):
    train(task(bases, tmp_path, max_iter=5, checkpoint_every=1, checkpoints_kept=2), Noted())
    assert [path.name for path in find_checkpoints(tmp_path)] == ["checkpoint-0000004.pth", "checkpoint-0000005.pth"]
    assert not list(tmp_path.glob(".*"))


def flip_a_bit(path: Path) -> None:
    """Damage a file in its middle, so that it is as long as before."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_noticed_and_the_checkpoint_before_is_taken(bases: list[Path], tmp_path: Path):
    final = train(task(bases, tmp_path / "a"), Noted())
    again = train(task(bases, tmp_path / "b", max_iter=4), Noted())
    last = checkpoint_path(tmp_path / "b", 4)
    subprocess.run(
        ["sha256sum", "--check", "--quiet", *(digest_path(path).name for path in (last, again))],
        cwd=tmp_path / "b",
        check=True,
    )
    for path in (last, again):
        flip_a_bit(path)
        with pytest.raises(WeightsError, match=rf"{path.name} is damaged \(its SHA-256"):
            read_trained(path)
    assert stage.finished_weights(task(bases, tmp_path / "b")) is None
    noted = Noted()
    resumed = train(task(bases, tmp_path / "b", resume=True), noted)
    assert noted.begun == (2, 4)
    assert "resuming from" in str(noted.said[0])
    assert "checkpoint-0000002.pth" in str(noted.said[0])
    assert "checkpoint-0000004.pth is damaged" in str(noted.said[1])
    assert (tmp_path / "b" / "checkpoint-0000004.pth.damaged").exists()
    assert same(weights(resumed), weights(final))
    # Nothing is resumed where all are damaged; a checkpoint without a digest is taken as it is.
    for path in find_checkpoints(tmp_path / "b"):
        flip_a_bit(path)
    with pytest.raises(WeightsError, match="holds no sound checkpoint"):
        train(task(bases, tmp_path / "b", resume=True), Noted())
    digest_path(checkpoint_path(tmp_path / "a", 4)).unlink()
    assert stage.finished_weights(task(bases, tmp_path / "a")) == final


def test_a_loss_that_is_no_number_keeps_its_batch(bases: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from cuts3d_cli.detector import roi_heads

    calls: list[int] = []

    def broken(*arguments: Any, **named: Any) -> torch.Tensor:
        calls.append(1)
        return torch.tensor(float("nan") if len(calls) == 2 else 1.0, requires_grad=True)

    monkeypatch.setattr(roi_heads, "soft_mask_loss", broken)
    with pytest.raises(TrainingError, match=r"at iteration 1 .*nonfinite-0000001-rank0.pth: resume from the last"):
        train(task(bases, tmp_path), Noted())
    kept = torch.load(tmp_path / "nonfinite-0000001-rank0.pth", weights_only=True)
    assert len(kept["batch"]) == 2
    assert np.isnan(kept["losses"]["loss_mask"])
    assert kept["batch"][0]["image"].dtype == torch.uint8


def test_both_files_hold_the_same_detector(bases: list[Path], tmp_path: Path):
    final = train(task(bases, tmp_path), Noted())
    last = find_checkpoints(tmp_path)[-1]
    assert same(weights(final), weights(last))
    config = small()
    assert read_trained(last)[1] == config
    assert output_dict(trained_config(final)) == output_dict(config)
    shaping = {"loader_workers": 1, "log_every": 3, "checkpoint_every": 4}  # none of these shapes the result
    other = train(task(bases, tmp_path / "other", **shaping), Noted())
    assert other.read_bytes() == final.read_bytes()
    assert oct(final.stat().st_mode & 0o044) != "0o0"
    images = [photo_of(1, (48, 64)), photo_of(2, (64, 48))]
    for found, image in zip(Detector.load(final, device="cpu").detect(images), images, strict=True):
        assert len(found.scores) == len(found.masks) == len(found.boxes) > 0
        assert (np.diff(found.scores) <= 0).all()
        assert all(tuple(mask["size"]) == image.shape[:2] for mask in found.masks)


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path):
    with pytest.raises(WeightsError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pth")
    path = checkpoint_path(tmp_path, 5)
    save_checkpoint(checkpoint_path(tmp_path, 3), {"model": {}})
    save_checkpoint(path, {"model": {"a": torch.zeros(1000)}})
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(
        WeightsError, match=r"checkpoint-0000005.pth is damaged \(its SHA-256.*take checkpoint-0000003.pth in"
    ):
        load_checkpoint(path)

    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "owned"),))

    digest_path(path).unlink()
    torch.save({"format": 1, "model": Evil()}, path)
    with pytest.raises(WeightsError, match="no file of tensors alone"):
        load_checkpoint(path)
    assert not (tmp_path / "owned").exists()
    torch.save({"model": {}}, path)
    with pytest.raises(WeightsError, match="is no checkpoint of `cuts3d train`"):
        load_checkpoint(path)
    (tmp_path / "x.safetensors").write_bytes(b"junk")
    with pytest.raises(WeightsError, match=r"x.safetensors cannot be read: it is of an unknown kind"):
        read_trained(tmp_path / "x.safetensors")
    assert config_of({"max_iter": 7, "min_sizes": [48], "of_another_version": 1}, path=path).min_sizes == (48,)
    for hostile in ({"fpn_channels": 10**9}, {"min_sizes": 7}, {"norm": "x"}, {"max_iter": None}, {"amp": "perhaps"}):
        with pytest.raises(WeightsError, match="a configuration that no detector can have"):
            config_of(hostile, path=path)


def test_the_learning_rate_rises_and_falls():
    config = small(
        warmup_iter=10, warmup_factor=0.1, learning_rate=1.0, decay_steps=(20, 30), decay_factor=0.5, max_iter=40
    )
    rates = [learning_rate(iteration, config) for iteration in (0, 5, 10, 19, 20, 29, 30, 39)]
    assert rates == pytest.approx([0.1, 0.55, 1, 1, 0.5, 0.5, 0.25, 0.25])


def test_the_command_trains_and_predicts(
    bases: list[Path], tmp_path: Path, cuts3d: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(bases[0].parent)
    out = tmp_path / "out"
    ran = cuts3d("train", *LINE, "--set", "max_iter=2", "--out", out)  # one set of shards is here: it needs no name
    assert (ran.code, ran.out.strip()) == (0, str(out / "model-final.safetensors"))
    assert "8 images, batch 2, learning rate 0.004" in ran.err
    assert "warning: learning rate 0.004 is for a batch of 4, this one has 2" in ran.err
    assert "in proportion it would be learning_rate 0.002" in ran.err
    again = cuts3d("train", *LINE, "--out", out)
    assert again.code == 2
    assert "is not empty: resume the training in it, overwrite it, or choose another folder" in again.err
    resumed = cuts3d("train", *LINE, "--set", "max_iter=3", "--out", out, "--resume", "--json")
    assert json.loads(resumed.out) == {
        "weights": str(out / "model-final.safetensors"),
        "out": str(out),
        "images": 8,
    }

    found = cuts3d("predict", "-c", out / "model-final.safetensors", "--max-detections", "3", "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["counts"]["samples_out"] == 8
    shown = cuts3d("inspect", "a-000.predict.tar", "--json")
    assert shown.code == 0
    skipped = cuts3d("predict", "-c", out / "model-final.safetensors", "--max-detections", "3", "--json")
    assert {item["status"] for item in json.loads(skipped.out)["shards"]} == {"skipped"}
    evaluated = cuts3d("eval", "--shards", ".", "--gt", ground_truth(tmp_path), "--predicted", "--json")
    assert evaluated.code == 0, evaluated.err
    figures = json.loads(evaluated.out)
    assert (figures["scores"], figures["images"], figures["instances"]) == ("detector", 8, 8)
    assert 0 < figures["predictions"] <= 24
    for path in bases[0].parent.glob("*.predict.*"):
        path.unlink()
    missing = cuts3d("eval", "--shards", ".", "--gt", ground_truth(tmp_path), "--predicted")
    assert "run `cuts3d predict --shards" in missing.err

    photo = bases[0].parent.parent / "photos" / "001.png"
    drawn = cuts3d("viz", photo, "--checkpoint", out / "model-final.safetensors", "-o", tmp_path / "d.png", "--json")
    assert drawn.code == 0, drawn.err
    assert json.loads(drawn.out)["masks"] >= 1
    assert drawn.err.splitlines()[1].endswith("with a score of at least 0.5 is drawn: --min-score sets another")
    assert (tmp_path / "d.png").stat().st_size > 1000
    assert (
        "--checkpoint has no effect with --shards, which draws what is stored"
        in cuts3d("viz", "--shards", ".", "--key", "001", "-c", out).err
    )


def test_bad_folders_and_devices_are_told(bases: list[Path], tmp_path: Path, cuts3d: Callable[..., Ran]):
    shards = ("--shards", bases[0].parent)
    assert (
        "holds no checkpoint to resume from"
        in cuts3d("train", *shards, *LINE, "--out", tmp_path / "x", "--resume").line
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    line = cuts3d("train", *shards, *LINE, "--out", tmp_path / "mine", "--overwrite").line
    assert "holds no run of `cuts3d train`" in line
    assert (tmp_path / "mine" / "thesis.tex").exists()
    line = cuts3d("train", *shards, *LINE, "--gpus", "2", "--device", "cpu").line
    assert line == "cuts3d: --gpus is 2, which needs CUDA, but training is on cpu"
    line = cuts3d("train", *shards, *LINE, "--gpus", "8").line
    assert "--images-per-batch is 2, which 8 processes cannot share equally: set it to 8 and --learning-rate in" in line
    assert line.endswith("or start 2 processes (--gpus 2)")
    assert "does not exist" in cuts3d("predict", *shards, "-c", tmp_path / "none.pth").line


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_training_is_overwritten_only_by_one_that_can_begin(
    bases: list[Path], tmp_path: Path, cuts3d: Callable[..., Ran]
):
    out = tmp_path / "detector"
    train(task(bases, out), Noted())
    (out / "notes.txt").write_text("mine")
    (out / "notes.txt.sha256").write_text("mine, too")
    (out / ".model-best.safetensors.0-0-0.00000000.tmp").write_text("half of a file that a killed training left")
    before = {name: data for name, data in contents(out).items() if not name.endswith(".tmp")}
    line = ("train", "--shards", bases[0].parent, *LINE, "--device", "cpu", "--out", out, "--overwrite")
    (tmp_path / "page.pth").write_text("<html>")
    for arguments, why in (
        (("--init", tmp_path / "none.pth"), "none.pth does not exist"),
        (("--init", tmp_path), "is a folder"),
        (("--init", tmp_path / "page.pth"), "it is a web page"),
        (("--init", out / "model-final.safetensors", "--head", "standard"), "is to be overwritten"),
        (("--init", out / "model-final.safetensors"), "is to be overwritten: choose another folder"),
        (("--backbone-weights", tmp_path / "page.pth"), "it is a web page"),
        (("--backbone-weights", tmp_path / "none.pth"), "none.pth does not exist"),
    ):
        ran = cuts3d(*line, *arguments)
        assert ran.code in (1, 2), arguments
        assert why in ran.line, arguments
        left = contents(out)
        left.pop(".model-best.safetensors.0-0-0.00000000.tmp", None)
        assert left == before, arguments
    # One that can begin leaves what is no training's.
    ran = cuts3d(*line, "--backbone-weights", "random", "--seed", "5")
    assert ran.code == 0, ran.err
    after = contents(out)
    assert after["model-final.safetensors"] != before["model-final.safetensors"]
    assert [name for name in sorted(after) if name.startswith(("notes", "."))] == ["notes.txt", "notes.txt.sha256"]
    assert sum(name.startswith("events.out.tfevents.") for name in after) == 1


def test_a_killed_run_goes_on(bases: list[Path], tmp_path: Path):
    """Real processes: one is killed, interrupted or terminated in the middle, and resumed; another never is."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    rest = ("train", "--shards", bases[0].parent, *LINE, "--set", "max_iter=8")
    subprocess.run(command(*rest, "--out", tmp_path / "whole"), env=environment, check=True, capture_output=True)
    endings = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
    for how in (signal.SIGKILL, *endings):
        out = tmp_path / how.name
        running = subprocess.Popen(command(*rest, "--out", out), env=environment, stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 300
        while not find_checkpoints(out) and time.monotonic() < until:
            time.sleep(0.02)
        running.send_signal(how)
        said = running.communicate()[1]
        if how in endings:
            assert running.returncode == 128 + how, said
            assert "which is saved: resume from there" in said
            kept = "what is finished is kept, run the same command with --resume to go on"
            assert said.splitlines()[-1] == f"cuts3d: {endings[how]}; {kept}"
            assert "Traceback" not in said
        if how in (signal.SIGINT, signal.SIGHUP):
            continue  # they leave what SIGTERM leaves
        subprocess.run(command(*rest, "--out", out, "--resume"), env=environment, check=True, capture_output=True)
        final = "model-final.safetensors"
        assert same(weights(tmp_path / "whole" / final), weights(out / final))
