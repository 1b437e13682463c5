"""Benchmark of training: what each use of Spatial Confidence adds, on rendered scenes (the paper's Table 6, small)."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from bench.common import FIGURES, Report, Row, Table, say
from cuts3d_cli.cut.masks import decode_rle, mask_iou
from cuts3d_cli.detector import FINAL_WEIGHTS
from cuts3d_cli.errors import Cuts3dError, UsageError
from cuts3d_cli.files import atomic_write_bytes, to_json_bytes
from cuts3d_cli.shards.reader import read_shard
from demo.train import FIRST_TEST, FIRST_TRAIN, evaluated, masks_of_scenes, write_shards

ROWS: dict[str, tuple[str, ...]] = {
    "none": ("--copy-paste-select", "random", "--alpha", "none", "--no-soft-loss"),
    "+ confident copy-paste": ("--copy-paste-select", "confident", "--alpha", "none", "--no-soft-loss"),
    "+ alpha blend": ("--copy-paste-select", "confident", "--alpha", "spatial", "--no-soft-loss"),
    "+ soft loss": ("--copy-paste-select", "confident", "--alpha", "spatial", "--soft-loss"),
}
"""The rows of Table 6, each with what the one before has. "none" uses no Spatial Confidence but is no bare detector: as
Sec. 3.4 sets confident selection against "randomly choosing which masks to copy", it pastes instances at random, not
blended, and has DropLoss. The paper's ablations without confidence have batch 8 instead of 4 (Sec. E.2); here all rows
have the same, so that nothing else differs."""
BASE = "none"
BLUR = 4.0
"""Sigma over the depth of the training scenes, pixels of 240x320. A renderer's depth has edges as sharp as the photo's,
where most cuts agree and confidence is near 1; where edges are smeared, as networks smear them, they do not."""
TAU_KNN = 0.115
"""The paper's; thresholds of the confidence run from its 0.05 to this."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the benchmark is.

    Attributes:
        scenes: rendered scenes that are learned from.
        test_scenes: others, on which the detectors are tried.
        iterations: of each training, with the learning rate going down after four fifths of them.
    """

    scenes: int
    test_scenes: int
    iterations: int

    def to_json(self) -> dict[str, Any]:
        """All that decides on the result of a run, but its row and seed."""
        return {
            "scenes": self.scenes,
            "test_scenes": self.test_scenes,
            "iterations": self.iterations,
            "blur": BLUR,
            "tau_knn": TAU_KNN,
        }


def ablation(out: Path, *, size: Size, seeds: Sequence[int], threads: int = 1) -> Report:
    """Train preset `tiny` with each row's parts and each seed, and try it on scenes that were not learned from.

    The scenes, their masks by `cuts3d pseudo` and `cuts3d confidence`, and the result of every finished run are kept in
    a folder: called again, it goes on where it was stopped.

    Args:
        out: the folder.
        size: how large it is.
        seeds: of the trainings; each row is trained with each.
        threads: that a training computes with; another number may give other last digits.

    Returns:
        Mean and spread of AP for each row, each run's figures, and how good and how sure the masks are.

    Raises:
        UsageError: the folder holds results of another size.
        Cuts3dError: a command failed; its output is in the folder.
    """
    _claim(out, size)
    commands = _Commands(out / "log.txt", threads=threads)
    train, test = _data(out / "data", size, commands)
    runs: list[Row] = []
    for seed in seeds:  # all rows of a seed first: what is there after an interruption can be compared
        for row in ROWS:
            runs.append(_run(out, row, seed, size=size, train=train, test=test, commands=commands))
    return _report(runs, masks_row(train), size=size)


def masks_row(train: Path) -> Row:
    """How good the masks are that are learned from, and what their confidence says.

    Args:
        train: NAME-shards, beside the folder NAME with the scenes.
    """
    truth = train.with_name(train.name.removesuffix("-shards")) / "annotations.json"
    content = json.loads(truth.read_text(encoding="utf-8"))
    names = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    true: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in names.values()}
    for item in content["annotations"]:
        true[names[item["image_id"]]].append(decode_rle(item["segmentation"]))
    scores: list[float] = []
    unsure: list[float] = []
    ious: list[float] = []
    for tar in sorted(train.glob("*.pseudo.tar")):
        sure = {sample.key: sample.members for sample in read_shard(_beside(tar, "confidence"))}
        for sample in read_shard(tar):
            facts = json.loads(sure[sample.key]["confidence.json"])
            counts = np.load(io.BytesIO(sure[sample.key]["confidence.npy"]), allow_pickle=False)
            instances = json.loads(sample.members["pseudo.json"])["instances"]
            for item, score, found in zip(instances, facts["scores"], counts, strict=True):
                patch, mask = decode_rle(item["patch_mask"]), decode_rle(item["segmentation"])
                scores.append(score)
                unsure.append(float((found[patch] < facts["levels"]).mean()))
                ious.append(max((mask_iou(mask, other) for other in true[sample.key]), default=0.0))
    figures = evaluated("--shards", train, "--gt", truth)
    return {
        "masks": len(scores),
        "objects": len(content["annotations"]),
        **{name: 100 * figures[kind][item] for name, (kind, item) in FIGURES.items()},
        "mean confidence": mean(scores),
        "least": min(scores),
        "masks under 1": mean(score < 1 for score in scores),
        "patches under 1": mean(unsure),
        "confidence to IoU, rank correlation": float(spearmanr(scores, ious).statistic),
    }


def summarise(runs: Sequence[Row]) -> list[Row]:
    """Mean and standard deviation over the seeds, a row for each row of Table 6.

    Args:
        runs: "row", "seed" and the figures.

    Returns:
        Also how far mask AP is above the base's, in pairs of equal seeds; spreads are None where there is one run.
    """
    base = {run["seed"]: run for run in runs if run["row"] == BASE}
    found: list[Row] = []
    for name in dict.fromkeys(run["row"] for run in runs):
        mine = [run for run in runs if run["row"] == name]
        cells: Row = {"row": name, "runs": len(mine)}
        for figure in FIGURES:
            cells |= _spread(figure, [run[figure] for run in mine])
        gains = [run["mask AP"] - base[run["seed"]]["mask AP"] for run in mine if run["seed"] in base]
        none = {"mask AP over none": None, "std mask AP over none": None}
        found.append(cells | (_spread("mask AP over none", gains) if gains and name != BASE else none))
    return found


def _spread(name: str, values: Sequence[float]) -> Row:
    return {name: mean(values), f"std {name}": stdev(values) if len(values) > 1 else None}


def _report(runs: Sequence[Row], masks: Row, *, size: Size) -> Report:
    return Report(
        name="train",
        tables=[
            Table("what each use of Spatial Confidence adds, percent", summarise(runs)),
            Table("the masks that were learned from, on their own scenes", [masks]),
            Table("each run, percent", runs),
        ],
        notes=[
            f"Preset tiny, {size.iterations} iterations, masks of {size.scenes} rendered scenes by `pseudo` and"
            f" `confidence`, depth blurred by {BLUR:g} pixels; tried on {size.test_scenes} other scenes.",
            "Rows as in the paper's Table 6, each with what the one before has; 'none' pastes at random. std is the"
            " sample's, over seeds; 'over none' is of pairs with the same seed.",
        ],
    )


def _claim(out: Path, size: Size) -> None:
    """Make the folder, or see to it that its results are of this size."""
    path, wanted = out / "settings.json", size.to_json()
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != wanted:
            differing = ", ".join(f"{name} {found.get(name)}" for name in wanted if found.get(name) != wanted[name])
            raise UsageError(
                f"{out} holds results of another size ({differing}): ask for the same, or take another --out"
            )
        return
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty and holds no results of this benchmark: take another --out")
    out.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, to_json_bytes(wanted))


@dataclass(frozen=True)
class _Commands:
    """Runs commands of the executable; what they say goes to a file."""

    log: Path
    threads: int = 1

    def __call__(self, *arguments: object) -> None:
        words = [str(Path(sys.executable).with_name("cuts3d")), *map(str, arguments)]
        with self.log.open("a", encoding="utf-8") as file:
            environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
            code = subprocess.run(words, stdout=file, stderr=file, env=environment, check=False).returncode
        if code != 0:
            raise Cuts3dError(f"`cuts3d {arguments[0]}` ended with exit code {code}: see {self.log}")


def _data(folder: Path, size: Size, commands: _Commands) -> tuple[Path, Path]:
    """The shards to learn from and those to be tried on; made once."""
    done = folder / "made.json"
    if not done.is_file():
        say(f"train: {size.scenes} scenes to learn from and {size.test_scenes} others")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        train = write_shards(folder, "train", count=size.scenes, seed=FIRST_TRAIN, cuts3d=commands, blur=BLUR)
        masks_of_scenes(train, cuts3d=commands, tau_knn=TAU_KNN)
        write_shards(folder, "test", count=size.test_scenes, seed=FIRST_TEST, cuts3d=commands)
        atomic_write_bytes(done, to_json_bytes(size.to_json()))
    return folder / "train-shards", folder / "test-shards"


def _run(out: Path, row: str, seed: int, *, size: Size, train: Path, test: Path, commands: _Commands) -> Row:
    """One training and its figures, in percent; taken from the folder where it was finished before."""
    name = f"{list(ROWS).index(row)}-seed{seed}"
    done, folder = out / f"{name}.json", out / name
    if not done.is_file():
        say(f"train: {row}, seed {seed}")
        begun = time.perf_counter()
        resumed = any(folder.glob("checkpoint-*.pth"))
        if not resumed:
            shutil.rmtree(folder, ignore_errors=True)
        commands(
            *("train", "--shards", train, "--preset", "tiny", "--out", folder, "--seed", seed, *ROWS[row]),
            *("--device", "cpu", "--max-iter", size.iterations, f"--set=decay_steps={size.iterations * 4 // 5}"),
            *(["--resume"] if resumed else []),
        )
        commands("predict", "--shards", test, "--checkpoint", folder / FINAL_WEIGHTS, "--if-exists", "overwrite")
        figures = evaluated("--shards", test, "--gt", out / "data" / "test" / "annotations.json", "--predicted")
        found = {figure: 100 * figures[kind][item] for figure, (kind, item) in FIGURES.items()}
        minutes = None if resumed else (time.perf_counter() - begun) / 60
        atomic_write_bytes(done, to_json_bytes({"row": row, "seed": seed, **found, "minutes": minutes}))
    result: Mapping[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return {column: result[column] for column in ("row", "seed", *FIGURES, "minutes")}


def _beside(pseudo: Path, stage: str) -> Path:
    return pseudo.with_name(pseudo.name.replace(".pseudo.", f".{stage}."))
