"""The benchmarks of training on tiny inputs: averages, resuming, and that both ways compute the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import train
from bench.common import BenchError
from bench.train import ROWS, Size
from cuts3d_cli.config import PRESETS, Config, resolve
from executable import CommandError

SIZE = Size(scenes=4, test_scenes=2, iterations=10)


def run_of(row: str, seed: int, mask_ap: float) -> dict[str, Any]:
    return {"row": row, "seed": seed, "box AP": 1.0, "box AP50": 2.0, "mask AP": mask_ap, "mask AP50": 4.0}


def test_rows_are_means_over_seeds_and_gains_are_of_equal_seeds():
    better = "+ soft loss"
    runs = [run_of("none", 0, 10.0), run_of(better, 0, 11.0), run_of("none", 1, 20.0), run_of(better, 1, 24.0)]
    base, other = train.summarise(runs)
    assert (base["row"], base["runs"], base["mask AP"]) == ("none", 2, 15.0)
    assert base["std mask AP"] == pytest.approx(50**0.5)  # of the sample: sqrt((5^2 + 5^2) / 1)
    assert base["mask AP over none"] is None
    assert (other["mask AP"], other["mask AP over none"]) == (17.5, 2.5)
    assert other["std mask AP over none"] == pytest.approx(4.5**0.5)
    assert other["std box AP"] == 0.0
    alone = train.summarise([run_of(better, 2, 11.0)])[0]  # there is no base with its seed
    assert (alone["std mask AP"], alone["mask AP over none"]) == (None, None)


def test_each_row_adds_one_part_and_the_first_uses_no_confidence():
    def parts(words: tuple[str, ...]) -> tuple[str, str, bool]:
        return words[words.index("--copy-paste-select") + 1], words[words.index("--alpha") + 1], "--soft-loss" in words

    assert [parts(words) for words in ROWS.values()] == [
        ("random", "none", False),
        ("confident", "none", False),
        ("confident", "spatial", False),
        ("confident", "spatial", True),
    ]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the executable is asked for; it does nothing, and the fifth training fails."""
    made: list[list[str]] = []

    def run(self: Any, *arguments: object) -> str:
        made.append([str(word) for word in arguments])
        if arguments[0] == "train" and sum(words[0] == "train" for words in made) == 5:
            raise CommandError("stopped")
        return ""

    monkeypatch.setattr(train._Commands, "__call__", run)
    monkeypatch.setattr(train, "write_shards", lambda out, name, **rest: out / f"{name}-shards")
    monkeypatch.setattr(train, "cut_masks", lambda shards, **rest: None)
    monkeypatch.setattr(train, "masks_row", lambda train: {"masks": 3})
    kinds = {kind: {"ap": 0.25, "ap50": 0.5} for kind in ("box", "mask")}
    monkeypatch.setattr(train, "evaluate", lambda *arguments, **options: kinds)
    return made


def test_it_goes_on_where_it_was_stopped(calls: list[list[str]], tmp_path: Path):
    with pytest.raises(CommandError, match="stopped"):
        train.ablation(tmp_path, size=SIZE, seeds=range(2))
    report = train.ablation(tmp_path, size=SIZE, seeds=range(2))
    trainings = [words for words in calls if words[0] == "train"]
    assert len(trainings) == 9  # eight, of which one was stopped
    assert trainings[4] == trainings[5]
    assert all(words[words.index("--max-iter") + 1] == "10" for words in trainings)
    assert "--set=decay_steps=8" in trainings[0]
    rows = report.tables[0].rows
    assert [(row["row"], row["runs"], row["mask AP"], row["mask AP50"]) for row in rows] == [
        (name, 2, 25.0, 50.0) for name in ROWS
    ]
    assert [row["seed"] for row in report.tables[2].rows] == [0] * 4 + [1] * 4
    json.dumps(report.to_json())
    with pytest.raises(BenchError, match=r"results of another size \(iterations 10\)"):
        train.ablation(tmp_path, size=replace(SIZE, iterations=20), seeds=range(2))


def test_a_training_that_was_killed_goes_on_from_its_checkpoint(calls: list[list[str]], tmp_path: Path):
    train._claim(tmp_path, SIZE)
    (tmp_path / "0-seed0").mkdir()
    (tmp_path / "0-seed0" / "checkpoint-0000200.pth").touch()
    (tmp_path / "1-seed0").mkdir()
    (tmp_path / "1-seed0" / "metrics.jsonl").touch()
    train.ablation(tmp_path, size=SIZE, seeds=range(1))
    trainings = [words for words in calls if words[0] == "train"]
    assert ["--resume" in words for words in trainings] == [True, False, False, False]
    assert not (tmp_path / "1-seed0").exists()  # started again


def test_other_folders_are_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(BenchError, match="holds no results of this benchmark"):
        train.ablation(tmp_path, size=SIZE, seeds=range(1))


def small() -> Config:
    changes = {"images_per_batch": 2, "min_sizes": (64,), "max_size": 96, "rpn_pre_nms": 50, "rpn_post_nms": 20}
    changes |= {"roi_batch": 16, "fpn_channels": 16, "box_head_width": 16, "mask_head_width": 16}
    return resolve(preset="tiny", overrides={"train": changes}, environment={}, folder=Path("/dev/null"))


def test_a_step_without_the_parts_is_detectron2s():
    pytest.importorskip("detectron2.modeling")
    from bench import step

    report = step.step_overhead(small().train, device="cpu", batches=1, repeats=1, threads=1)
    rows = {row["step"]: row for row in report.tables[0].rows}
    assert list(rows) == [step.PLAIN, *step.OWN]
    assert all(row["seconds"] > 0 for row in rows.values())
    plain, *own = (row["loss"] for row in rows.values())
    assert own[0] == pytest.approx(plain, rel=1e-6)
    assert all(loss != pytest.approx(plain, rel=1e-3) for loss in own[1:])
    assert rows[step.PLAIN]["ratio"] == 1.0


def test_further_ways_compute_the_same_step():
    pytest.importorskip("detectron2.modeling")
    from bench import step

    report = step.step_overhead(
        small().train, device="cpu", batches=1, repeats=1, threads=1, further=("channels-last",)
    )
    rows = {row["step"]: row for row in report.tables[0].rows}
    assert rows[f"{step.ALL}, channels-last"]["loss"] == pytest.approx(rows[step.ALL]["loss"], rel=1e-4)
    for further, problem in ((("x",), "there is no way x"), (("graphs",), "need a GPU")):
        with pytest.raises(BenchError, match=problem):
            step.step_overhead(small().train, device="cpu", batches=1, repeats=1, threads=1, further=further)


def test_the_plain_model_has_the_weights_of_ours():
    pytest.importorskip("detectron2.modeling")
    from bench import step
    from cuts3d_cli.detector.model import build_model

    config = PRESETS["tiny"].train
    plain = step.plain_model(config, device=torch.device("cpu"))
    assert type(plain.roi_heads).__module__.startswith("detectron2.")
    assert type(plain.roi_heads.mask_head).__module__.startswith("detectron2.")
    assert plain.state_dict().keys() == build_model(config, device="cpu").state_dict().keys()
