"""Benchmark of training: what each use of Spatial Confidence adds, on rendered scenes (a small version of Table 6)."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from bench.common import FIGURES, BenchError, Report, Row, Table, log, write_json
from cuts3d_cli.cut.masks import decode_rle, mask_iou
from cuts3d_cli.shards.reader import read_shard
from executable import FINAL_WEIGHTS, CommandError, cuts3d
from scenes.shards import FIRST_TEST, FIRST_TRAIN, cut_masks, evaluate, write_shards

ROWS: dict[str, tuple[str, ...]] = {
    "none": ("--copy-paste-select", "random", "--alpha", "none", "--no-soft-loss"),
    "+ confident copy-paste": ("--copy-paste-select", "confident", "--alpha", "none", "--no-soft-loss"),
    "+ alpha blend": ("--copy-paste-select", "confident", "--alpha", "spatial", "--no-soft-loss"),
    "+ soft loss": ("--copy-paste-select", "confident", "--alpha", "spatial", "--soft-loss"),
}
"""The rows of Table 6; each adds to the one before. "none" uses no Spatial Confidence but is not a bare detector: as
Sec. 3.4 contrasts confident selection with "randomly choosing which masks to copy", it pastes random instances, without
blending, and has DropLoss. The paper's ablations without confidence have batch 8 instead of 4 (Sec. E.2); here all rows
have the same batch, so that nothing else differs."""
BASE = "none"
BLUR = 4.0
"""Sigma of a Gaussian over the depth of the training scenes, pixels of 240x320. Rendered depth has edges as sharp as
the photo's, where most cuts agree and confidence is near 1; with edges smeared as by a depth network they do not."""
TAU_KNN = 0.115
"""The paper's; the thresholds of the confidence run from the paper's 0.05 to this."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Size of the benchmark.

    Attributes:
        scenes: number of rendered scenes to train on.
        test_scenes: number of held-out scenes.
        iterations: of each training; the learning rate drops after four fifths of them.
        clip: whose gradient is clipped: "parameter" or "model".
    """

    scenes: int
    test_scenes: int
    iterations: int
    clip: str = "parameter"

    def to_json(self) -> dict[str, Any]:
        """Return all that determines the result of a run, except its row and seed."""
        return {
            "scenes": self.scenes,
            "test_scenes": self.test_scenes,
            "iterations": self.iterations,
            "clip": self.clip,
            "blur": BLUR,
            "tau_knn": TAU_KNN,
        }


def ablation(
    out: Path, *, size: Size, seeds: Sequence[int], rows: Sequence[str] = tuple(ROWS), threads: int = 1
) -> Report:
    """Train preset `tiny` with the parts of each row and each seed, and evaluate it on held-out scenes.

    The scenes, their masks by `cuts3d pseudo` and `cuts3d confidence`, and the result of every finished run are kept in
    a folder, so that another call resumes.

    Args:
        out: the folder.
        size: of the benchmark.
        seeds: of the trainings; each row is trained with each.
        rows: names of some of `ROWS`.
        threads: of a training; another number may change the last digits.

    Returns:
        Mean and spread of AP for each row, the figures of each run, and quality and confidence of the masks.

    Raises:
        BenchError: the folder holds results of another size.
        CommandError: a command failed; its output is in the folder.
    """
    _claim(out, size)
    commands = _Commands(out / "log.txt", threads=threads)
    train, test = _data(out / "data", size, commands)
    runs: list[Row] = []
    for seed in seeds:  # all rows of a seed first, so that the results so far can be compared after an interruption
        for row in rows:
            runs.append(_run(out, row, seed, size=size, train=train, test=test, commands=commands))
    return _report(runs, masks_row(train), size=size)


def masks_row(train: Path) -> Row:
    """Measure the quality of the training masks, and how it relates to their confidence.

    Args:
        train: NAME-shards, beside the folder NAME with the scenes.
    """
    # Read the true masks of each scene.
    truth = train.with_name(train.name.removesuffix("-shards")) / "annotations.json"
    content = json.loads(truth.read_text(encoding="utf-8"))
    names = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    true: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in names.values()}
    for item in content["annotations"]:
        true[names[item["image_id"]]].append(decode_rle(item["segmentation"]))

    # Compare each pseudo-mask with the best true one, and with its confidence.
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
    figures = evaluate(train, truth, cuts3d=cuts3d)
    return {
        "masks": len(scores),
        "objects": len(content["annotations"]),
        **{name: 100 * figures[kind][item] for name, (kind, item) in FIGURES.items()},
        "mean confidence": mean(scores),
        "least": min(scores),
        "masks under 1": mean(score < 1 for score in scores),
        "patches under 1": mean(unsure),
        "rank correlation of confidence and IoU": float(spearmanr(scores, ious).statistic),
    }


def summarise(runs: Sequence[Row]) -> list[Row]:
    """Compute mean and standard deviation over the seeds, for each row of Table 6.

    Args:
        runs: "row", "seed" and the figures.

    Returns:
        The rows, with the gain in mask AP over the base in pairs of equal seeds; spreads are None for a single run.
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
            Table("the training masks, on their own scenes", [masks]),
            Table("each run, percent", runs),
        ],
        notes=[
            f"Preset tiny, {size.iterations} iterations, --clip {size.clip}, masks of {size.scenes} rendered scenes by"
            f" `pseudo` and `confidence`, depth blurred by {BLUR:g} pixels; evaluated on {size.test_scenes} held-out"
            " scenes.",
            "Rows as in the paper's Table 6, each adding to the one before; 'none' pastes at random. std is that of the"
            " sample, over seeds; 'over none' is of pairs with the same seed.",
        ],
    )


def _claim(out: Path, size: Size) -> None:
    """Create the folder, or check that its results are of this size."""
    path, wanted = out / "settings.json", size.to_json()
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != wanted:
            differing = ", ".join(f"{name} {found.get(name)}" for name in wanted if found.get(name) != wanted[name])
            raise BenchError(
                f"{out} holds results of another size ({differing}): choose the same size, or another --out"
            )
        return
    if out.exists() and any(out.iterdir()):
        raise BenchError(f"{out} is not empty and holds no results of this benchmark: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, wanted)


@dataclass(frozen=True)
class _Commands:
    """Runs commands; their output goes to a file.

    Attributes:
        log: the file.
        threads: that they compute with.
    """

    log: Path
    threads: int = 1

    def __call__(self, *arguments: object) -> str:
        """Run one command. Returns what it prints on stdout."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        with self.log.open("a", encoding="utf-8") as file:
            try:
                printed = cuts3d(*arguments, environment=environment, stderr=file)
            except CommandError as error:
                raise CommandError(f"{error}: see {self.log}") from error
            file.write(printed)
        return printed


def _data(folder: Path, size: Size, commands: _Commands) -> tuple[Path, Path]:
    """Make the shards to train on and those to evaluate on, unless they are finished. Returns their folders."""
    done = folder / "made.json"
    if not done.is_file():
        log(f"train: {size.scenes} scenes to train on and {size.test_scenes} held-out ones")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        train = write_shards(folder, "train", count=size.scenes, seed=FIRST_TRAIN, cuts3d=commands, blur=BLUR)
        cut_masks(train, cuts3d=commands, tau_knn=TAU_KNN)
        write_shards(folder, "test", count=size.test_scenes, seed=FIRST_TEST, cuts3d=commands)
        write_json(done, size.to_json())
    return folder / "train-shards", folder / "test-shards"


def _run(out: Path, row: str, seed: int, *, size: Size, train: Path, test: Path, commands: _Commands) -> Row:
    """Train once and evaluate, unless the folder holds the result. Returns the figures, in percent."""
    name = f"{list(ROWS).index(row)}-seed{seed}"
    done, folder = out / f"{name}.json", out / name
    if not done.is_file():
        log(f"train: {row}, seed {seed}")
        begun = time.perf_counter()
        resumed = any(folder.glob("checkpoint-*.pth"))
        if not resumed:
            shutil.rmtree(folder, ignore_errors=True)
        commands(
            *("train", "--shards", train, "--preset", "tiny", "--out", folder, "--seed", seed, *ROWS[row]),
            *("--device", "cpu", "--max-iter", size.iterations, f"--set=decay_steps={size.iterations * 4 // 5}"),
            *("--clip", size.clip),
            *(["--resume"] if resumed else []),
        )
        commands("predict", "--shards", test, "--checkpoint", folder / FINAL_WEIGHTS, "--if-exists", "overwrite")
        figures = evaluate(test, out / "data" / "test" / "annotations.json", cuts3d=commands, predicted=True)
        found = {figure: 100 * figures[kind][item] for figure, (kind, item) in FIGURES.items()}
        minutes = None if resumed else (time.perf_counter() - begun) / 60
        write_json(done, {"row": row, "seed": seed, **found, "minutes": minutes})
    result: Mapping[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return {column: result[column] for column in ("row", "seed", *FIGURES, "minutes")}


def _beside(pseudo: Path, stage: str) -> Path:
    return pseudo.with_name(pseudo.name.replace(".pseudo.", f".{stage}."))
