"""0.6 and a current detectron2 both call themselves 0.6 and differ in places. Training keeps to what they share."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage

from cuts3d_cli.detector import schedule
from cuts3d_cli.detector.checkpoints import find_checkpoints, load_checkpoint
from cuts3d_cli.detector.training import train
from tests.detector.test_training import Noted, same, task, weights
from tests.support.training_data import make_shards

PACKAGE = Path(schedule.__file__).parents[1]
DIFFERING = {
    "DefaultTrainer": "0.6 does not save the optimizer",
    "SimpleTrainer": "`_data_loader_iter` is read-only, and `write_metrics` gains `cur_iter`",
    "AMPTrainer": "its fourth argument differs",
    "build_detection_train_loader": "0.6 takes other datasets",
    "DatasetCatalog": "an iterable dataset fails in 0.6",
    "COCOEvaluator": "compiled in one, not in the other",
    "paste_masks_in_image": "takes tensors or boxes",
    "model_zoo": "0.6 and a current one need `pkg_resources`",
    "_C": "is not there in pure Python",
}
"""What the two do not share, and why it is left alone."""


def names_used(path: Path) -> set[str]:
    """Names that a module imports from detectron2, or reaches through it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "detectron2":
            found |= {*(alias.name for alias in node.names), *(node.module or "").split(".")}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "detectron2":
                    found |= set(alias.name.split("."))
    return found


def test_what_differs_is_not_used():
    used = {path: names_used(path) for path in PACKAGE.rglob("*.py")}
    assert {"Instances", "EventStorage"} <= set().union(*used.values())  # it does look
    assert {path.name: names & set(DIFFERING) for path, names in used.items() if names & set(DIFFERING)} == {}
    # Both call themselves 0.6, so nothing may ask.
    assert not [path for path in PACKAGE.rglob("*.py") if "detectron2.__version__" in path.read_text(encoding="utf-8")]


def current(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make what training touches behave as in a current detectron2."""
    import detectron2.engine.train_loop as loop
    from detectron2.solver import build

    def refused(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("training goes through a trainer of detectron2")

    for name in ("TrainerBase", "SimpleTrainer", "AMPTrainer"):
        monkeypatch.setattr(getattr(loop, name), "__init__", refused)
    put, default_params = EventStorage.put_scalar, build.get_default_optimizer_params

    def put_scalar(self: Any, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        put(self, name, value, smoothing_hint)

    def optimizer_params(
        model: torch.nn.Module, base_lr: float | None = None, *rest: Any, lr_factor_func: Any = None, **named: Any
    ) -> Any:
        assert not rest, "arguments after the second are not in the same order"
        return default_params(model, base_lr, **named)

    monkeypatch.setattr(EventStorage, "put_scalar", put_scalar)
    monkeypatch.setattr(build, "get_default_optimizer_params", optimizer_params)


def test_a_run_goes_on_under_the_other_detectron2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Begun under one and gone on with under the other, it ends with the weights of a run under one alone."""
    bases = make_shards(tmp_path / "made", images=4, shard_size=4)
    whole = train(task(bases, tmp_path / "whole"), Noted())
    train(task(bases, tmp_path / "both", max_iter=2), Noted())
    kept = load_checkpoint(find_checkpoints(tmp_path / "both")[-1])
    momenta = [state["momentum_buffer"] for state in kept["optimizer"]["state"].values()]
    assert any(bool(values.any()) for values in momenta)  # which a trainer of 0.6 would leave out
    assert {"scaler", "iteration", "processes"} <= kept.keys()
    current(monkeypatch)
    both = train(task(bases, tmp_path / "both", resume=True), Noted())
    assert same(weights(whole), weights(both))
