"""Benchmark of self-training: what a round adds to a detector, over several seeds, on rendered scenes not learned from.

Everything goes through the executable, as a user would run it. Scenes and pseudo-masks are the same for all seeds; a
seed is that of the weights, the order of the images, and the augmentation.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bench.common import FIGURES, Report, Row, Table, say
from cuts3d_cli.config import PRESETS, TrainConfig
from cuts3d_cli.detector import FINAL_WEIGHTS
from cuts3d_cli.files import atomic_write_json
from demo.train import FIRST_TEST, FIRST_TRAIN, HEIGHT, WIDTH, masks_of_scenes
from scenes.layout import write_scenes

INITIAL, CONTROL = "initial", "initial, trained longer"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained.

    Attributes:
        train_scenes: rendered scenes to learn from.
        test_scenes: others, to evaluate on.
        height: of a scene, pixels.
        width: of a scene, pixels.
        iterations: of the first detector.
        further: iterations of each round, and of the control.
        rounds: of self-training.
    """

    train_scenes: int = 120
    test_scenes: int = 50
    height: int = HEIGHT
    width: int = WIDTH
    iterations: int = 300
    further: int = 150
    rounds: int = 1


def selftrain(*, out: Path, seeds: Sequence[int], plan: Plan) -> Report:
    """Train, self-train and evaluate with several seeds.

    Args:
        out: keeps scenes, shards, detectors and the result of each seed. What is there already is not done again.
        seeds: one training each.
        plan: sizes.

    Returns:
        Mean and spread of each generation, what each round and the control add to `initial` of the same seed, and
        what was learned from.

    Raises:
        SystemExit: a command failed.
    """
    shards = {name: _prepare(out, name, plan=plan) for name in ("train", "test")}
    masks = _evaluated(shards["test"], out)
    results = {seed: _one_seed(out, seed, plan=plan, shards=shards) for seed in seeds}
    return Report(
        name="selftrain",
        tables=[
            Table("AP in percent on scenes that were not learned from", _generations(results, masks)),
            Table("change against initial, points of AP, pairs of the same seed", _changes(results)),
            Table("what a round learns from", _learned(results)),
        ],
        notes=[
            f"{plan.train_scenes} rendered scenes of {plan.width}x{plan.height} to learn from, {plan.test_scenes}"
            f" others to evaluate on; preset tiny, {plan.iterations} iterations, then {plan.further} a round; seeds"
            f" {', '.join(map(str, seeds))}. Spread is the standard deviation over the seeds.",
            f"'{CONTROL}' goes on from `initial` as the first round does, with its settings and for as many iterations,"
            " but on the pseudo-masks: what the round's masks add is the difference between the two.",
            "The pseudo-masks' own figures are of the same scenes; they use depth, a detector sees none.",
        ],
    )


def _prepare(out: Path, name: str, *, plan: Plan) -> Path:
    """Scenes, shards, pseudo-masks and their confidence; every step is left out where it is done."""
    folder, shards = out / name, out / f"{name}-shards"
    if not (folder / "annotations.json").is_file():  # written last
        count, seed = (plan.train_scenes, FIRST_TRAIN) if name == "train" else (plan.test_scenes, FIRST_TEST)
        say(f"selftrain: rendering {count} scenes")
        write_scenes(folder, count=count, seed=seed, kind="both", height=plan.height, width=plan.width, workers=1)
    cuts3d("pack", folder / "images", "--out", shards, "--name", name, "--depth-dir", folder / "depth")
    masks_of_scenes(shards, cuts3d=cuts3d)
    return shards


def _one_seed(out: Path, seed: int, *, plan: Plan, shards: Mapping[str, Path]) -> dict[str, Any]:
    """The figures of one seed, from the file that keeps them or by training."""
    kept = out / f"seed-{seed}.json"
    if kept.is_file():
        content: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        if content["plan"] == asdict(plan):
            return content
        sys.exit(f"bench: {kept} is of other sizes ({content['plan']}): take another --out, or delete it")
    folder = out / f"seed-{seed}"
    tiny = PRESETS["tiny"]
    initial = ["--seed", seed, "--max-iter", plan.iterations, "--set", f"decay_steps={plan.iterations * 4 // 5}"]
    further = ["--seed", seed, "--max-iter", plan.further]
    common = ("--shards", shards["train"], "--preset", "tiny")

    def train(name: str, *arguments: object) -> Path:
        target = folder / name
        if not (target / FINAL_WEIGHTS).is_file():
            say(f"selftrain: seed {seed}, {name}")
            begun = ["--resume"] if list(target.glob("checkpoint-*.pth")) else ["--overwrite"]
            cuts3d("train", *common, "--out", target, *begun, *arguments)
        return target / FINAL_WEIGHTS

    weights = {INITIAL: train("detector-initial", *initial)}
    as_a_round = [
        f"--set={item.name}={_word(getattr(tiny.selftrain, item.name))}"
        for item in fields(TrainConfig)
        if item.name != "max_iter" and getattr(tiny.selftrain, item.name) != getattr(tiny.train, item.name)
    ]
    weights[CONTROL] = train("detector-longer", *as_a_round, *further, "--init", weights[INITIAL])
    say(f"selftrain: seed {seed}, {plan.rounds} rounds")
    words = ("selftrain", *common, "--out", folder, "--checkpoint", weights[INITIAL], "--rounds", plan.rounds)
    rounds = json.loads(cuts3d(*words, *further, "--json"))
    weights |= {item["name"]: Path(item["weights"]) for item in rounds}
    figures = {}
    for name, file in weights.items():
        cuts3d("predict", "--shards", shards["test"], "--checkpoint", file, "--preset", "tiny")
        figures[name] = _evaluated(shards["test"], out, "--predicted")
    content = {"plan": asdict(plan), "seed": seed, "figures": figures, "rounds": rounds}
    atomic_write_json(kept, content)
    return content


def _evaluated(shards: Path, out: Path, *arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        cuts3d("eval", "--shards", shards, "--gt", out / "test" / "annotations.json", *arguments, "--json")
    )
    return found


def cuts3d(*arguments: object) -> str:
    """Run one command of the executable; its progress goes to stderr.

    Returns:
        What it prints.

    Raises:
        SystemExit: it failed.
    """
    words = [str(argument) for argument in arguments]
    executable = Path(sys.executable).with_name("cuts3d")
    done = subprocess.run([executable, *words], check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"bench: cuts3d {' '.join(words)} ended with exit code {done.returncode}")
    return done.stdout


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
    """Mean and spread of each figure."""
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


def _learned(results: Mapping[int, Mapping[str, Any]]) -> list[Row]:
    return [
        {"seed": seed, "round": item["name"], **{name: item[name] for name in ("images", "masks", "predicted")}}
        for seed, result in results.items()
        for item in result["rounds"]
    ]
