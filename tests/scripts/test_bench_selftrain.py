"""The benchmark of self-training without any training: seeds are paired, and results are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from bench import selftrain
from bench.common import BenchError


class MadeExecutable:
    """Says what the commands would say: AP grows by a tenth a round, more with the second seed; no process runs."""

    def __init__(self) -> None:
        self.lines: list[list[str]] = []
        self.detector = ""

    def __call__(self, *arguments: object) -> str:
        words = [str(argument) for argument in arguments]
        self.lines.append(words)
        options = dict(pairwise(words))
        if words[0] == "train":
            Path(options["--out"]).mkdir(parents=True)
            (Path(options["--out"]) / "model-final.safetensors").touch()
        if words[0] == "selftrain":
            weights = f"{options['--out']}/detector-st1/model-final.safetensors"
            return json.dumps(
                [{"name": "st1", "weights": weights, "images": 4, "masks": 8, "predicted": 3, "failed": 0}]
            )
        if words[0] == "predict":
            self.detector = options["--checkpoint"]
        if words[0] == "eval":
            ap = 0.9
            if "--predicted" in words:
                ap = 0.5 if "initial" in self.detector else 0.55 if "longer" in self.detector else 0.6
                ap += 0.1 * ("seed-1" in self.detector and "st1" in self.detector)
            return json.dumps({kind: {"ap": ap, "ap50": ap, "ap75": ap} for kind in ("box", "mask")})
        return ""


def test_seeds_are_paired_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = MadeExecutable()
    monkeypatch.setattr(selftrain, "cuts3d", made)
    plan = selftrain.Plan(train_scenes=2, test_scenes=1, height=64, width=80, iterations=10, further=5)
    first = selftrain.selftrain(out=tmp_path, seeds=[0], plan=plan)
    assert first.tables[0].rows[1]["box AP spread"] is None
    trained = len([line for line in made.lines if line[0] == "train"])
    report = selftrain.selftrain(out=tmp_path, seeds=[0, 1], plan=plan)
    assert [line[0] for line in made.lines].count("train") == 2 * trained == 4  # the first seed is not trained again
    means = {row[""]: row["mask AP"] for row in report.tables[0].rows}
    assert means == pytest.approx({"pseudo-masks": 90, "initial": 50, "initial, trained longer": 55, "st1": 65})
    assert report.tables[0].rows[-1]["mask AP spread"] == pytest.approx(50**0.5)
    change = report.tables[1].rows[-1]
    assert [change[name] for name in ("box AP", "box AP least", "box AP most")] == pytest.approx([15, 10, 20])
    assert [row["predicted"] for row in report.tables[2].rows] == [3, 3]
    # The control is the first round on the pseudo-masks: its settings, its iterations, its start.
    control = next(line for line in made.lines if line[0] == "train" and "longer" in line[line.index("--out") + 1])
    assert control[control.index("--max-iter") + 1] == "5"
    assert control[control.index("--init") + 1].endswith("seed-0/detector-initial/model-final.safetensors")
    assert {"--set=alpha=none", "--set=soft_loss=False", "--set=learning_rate=0.002", "--set=decay_steps="} <= set(
        control
    )
    with pytest.raises(BenchError, match="is of other sizes"):
        selftrain.selftrain(out=tmp_path, seeds=[0], plan=replace(plan, further=6))
