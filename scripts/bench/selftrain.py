"""Benchmark of self-training: what a round adds to a detector, over several seeds, on held-out rendered scenes.

Everything runs by the commands, as a user would run them. Scenes and pseudo-masks are the same for all seeds; a seed
sets the initial weights, the order of the images, and the augmentation.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import executable
from bench.common import FIGURES, BenchError, Report, Row, Table, log, write_json
from cuts3d_cli.config import PRESETS, TrainConfig
from executable import FINAL_WEIGHTS
from scenes import write_scenes
from scenes.shards import FIRST_TEST, FIRST_TRAIN, HEIGHT, WIDTH, cut_masks, evaluate

INITIAL, CONTROL = "initial", "initial, trained longer"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of the benchmark.

    Attributes:
        train_scenes: number of rendered scenes to train on.
        test_scenes: number of held-out scenes.
        height: of a scene, pixels.
        width: of a scene, pixels.
        iterations: of the first detector.
        further: iterations of each round, and of the control.
        rounds: of self-training.
    """

    train_scenes: int
    test_scenes: int
    height: int = HEIGHT
    width: int = WIDTH
    iterations: int
    further: int
    rounds: int = 1


def selftrain(*, out: Path, seeds: Sequence[int], plan: Plan) -> Report:
    """Train, self-train and evaluate with several seeds.

    Args:
        out: keeps scenes, shards, detectors and the result of each seed; another run resumes.
        seeds: one training each.
        plan: sizes.

    Returns:
        Mean and spread of each generation, what each round and the control add to `initial` of the same seed, and
        the training data of each round.

    Raises:
        BenchError: the folder holds results of other sizes.
        CommandError: a command failed.
    """
    shards = {name: _prepare(out, name, plan=plan) for name in ("train", "test")}
    masks = _evaluate(shards["test"], out)
    results = {seed: _one_seed(out, seed, plan=plan, shards=shards) for seed in seeds}
    return Report(
        name="selftrain",
        tables=[
            Table("AP in percent on held-out scenes", _generations(results, masks)),
            Table("change against initial, points of AP, pairs of the same seed", _changes(results)),
            Table("training data of each round", _training_data(results)),
        ],
        notes=[
            f"{plan.train_scenes} rendered scenes of {plan.width}x{plan.height} to train on, {plan.test_scenes}"
            f" held-out ones; preset tiny, {plan.iterations} iterations, then {plan.further} per round; seeds"
            f" {', '.join(map(str, seeds))}. Spread is the standard deviation over the seeds.",
            f"'{CONTROL}' continues from `initial` as the first round does, with the same settings and iterations, but"
            " on the pseudo-masks: the difference between the two is what the round's masks add.",
            "The pseudo-masks are evaluated on the same scenes; they use depth, the detectors do not.",
        ],
    )


def _prepare(out: Path, name: str, *, plan: Plan) -> Path:
    """Make scenes, shards, pseudo-masks and their confidence; skip what is finished."""
    folder, shards = out / name, out / f"{name}-shards"
    if not (folder / "annotations.json").is_file():  # written last
        count, seed = (plan.train_scenes, FIRST_TRAIN) if name == "train" else (plan.test_scenes, FIRST_TEST)
        log(f"selftrain: rendering {count} scenes")
        write_scenes(folder, count=count, seed=seed, kind="both", height=plan.height, width=plan.width, workers=1)
    cuts3d("pack", folder / "images", "--out", shards, "--name", name, "--depth-dir", folder / "depth")
    cut_masks(shards, cuts3d=cuts3d)
    return shards


def _one_seed(out: Path, seed: int, *, plan: Plan, shards: Mapping[str, Path]) -> dict[str, Any]:
    """Return the figures of one seed, from the file that keeps them or by training."""
    # Use the result of an earlier run.
    kept = out / f"seed-{seed}.json"
    if kept.is_file():
        content: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        if content["plan"] == asdict(plan):
            return content
        raise BenchError(f"{kept} is of other sizes ({content['plan']}): choose another --out, or delete it")

    # Train the first detector.
    folder = out / f"seed-{seed}"
    tiny = PRESETS["tiny"]
    initial = ["--seed", seed, "--max-iter", plan.iterations, "--set", f"decay_steps={plan.iterations * 4 // 5}"]
    further = ["--seed", seed, "--max-iter", plan.further]
    common = ("--shards", shards["train"], "--preset", "tiny")

    def train(name: str, *arguments: object) -> Path:
        target = folder / name
        if not (target / FINAL_WEIGHTS).is_file():
            log(f"selftrain: seed {seed}, {name}")
            begun = ["--resume"] if list(target.glob("checkpoint-*.pth")) else ["--overwrite"]
            cuts3d("train", *common, "--out", target, *begun, *arguments)
        return target / FINAL_WEIGHTS

    weights = {INITIAL: train("detector-initial", *initial)}

    # Train the control with the settings of a round, on the pseudo-masks.
    as_a_round = [
        f"--set={item.name}={_word(getattr(tiny.selftrain, item.name))}"
        for item in fields(TrainConfig)
        if item.name != "max_iter" and getattr(tiny.selftrain, item.name) != getattr(tiny.train, item.name)
    ]
    weights[CONTROL] = train("detector-longer", *as_a_round, *further, "--init", weights[INITIAL])

    # Self-train, and evaluate all detectors on the held-out scenes.
    log(f"selftrain: seed {seed}, {plan.rounds} rounds")
    words = ("selftrain", *common, "--out", folder, "--checkpoint", weights[INITIAL], "--rounds", plan.rounds)
    rounds = json.loads(cuts3d(*words, *further, "--json"))
    weights |= {item["name"]: Path(item["weights"]) for item in rounds}
    figures = {}
    for name, file in weights.items():
        cuts3d("predict", "--shards", shards["test"], "--checkpoint", file, "--if-exists", "replace")
        figures[name] = _evaluate(shards["test"], out, predicted=True)
    content = {"plan": asdict(plan), "seed": seed, "figures": figures, "rounds": rounds}
    write_json(kept, content)
    return content


def _evaluate(shards: Path, out: Path, *, predicted: bool = False) -> dict[str, Any]:
    return evaluate(shards, out / "test" / "annotations.json", cuts3d=cuts3d, predicted=predicted)


def cuts3d(*arguments: object) -> str:
    """Run one command; its progress goes to stderr.

    Returns:
        What it prints on stdout.

    Raises:
        CommandError: it failed.
    """
    return executable.cuts3d(*arguments, stderr=sys.stderr)


def _word(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _percent(result: Mapping[str, Any], figure: str) -> float:
    kind, field = FIGURES[figure]
    return 100 * float(result[kind][field])


def _generations(results: Mapping[int, Mapping[str, Any]], masks: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = [{"": "pseudo-masks", "seeds": None, **_cells([masks])}]
    for name in next(iter(results.values()))["figures"]:
        found = [result["figures"][name] for result in results.values()]
        rows.append({"": name, "seeds": len(found), **_cells(found)})
    return rows


def _cells(found: Sequence[Mapping[str, Any]]) -> Row:
    """Return the mean and the spread of each figure."""
    cells: Row = {}
    for figure in FIGURES:
        values = [_percent(result, figure) for result in found]
        cells |= {figure: mean(values), f"{figure} spread": stdev(values) if len(values) > 1 else None}
    return cells


def _changes(results: Mapping[int, Mapping[str, Any]]) -> list[Row]:
    rows: list[Row] = []
    for name in next(iter(results.values()))["figures"]:
        if name == INITIAL:
            continue
        row: Row = {"": name}
        for figure in FIGURES:
            changes = [
                _percent(result["figures"][name], figure) - _percent(result["figures"][INITIAL], figure)
                for result in results.values()
            ]
            row |= {figure: mean(changes), f"{figure} least": min(changes), f"{figure} most": max(changes)}
        rows.append(row)
    return rows


def _training_data(results: Mapping[int, Mapping[str, Any]]) -> list[Row]:
    return [
        {"seed": seed, "round": item["name"], **{name: item[name] for name in ("images", "masks", "predicted")}}
        for seed, result in results.items()
        for item in result["rounds"]
    ]
