"""The demo's recipe: `cuts3d run` leads from rendered photos to a self-trained detector that is evaluated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from demo.train import FIRST_TEST, FIRST_TRAIN, HEIGHT, WIDTH
from scenes.layout import write_scenes

TRAIN_SCENES, TEST_SCENES = 100, 40
RECIPE = """\
# From photos to an evaluated, self-trained detector: cuts3d run recipe.toml
# Paths start from the folder of this file. What is left out has its default: cuts3d config show
preset = "tiny"                     # a small detector, for a CPU

[recipe]
photos = "train/images"             # what is learned from: no labels are
depth_dir = "train/depth"           # 16-bit PNG, millimetres
name = "scenes"
out = "out"

[recipe.evaluate.held-out]          # only looked at to evaluate; there may be more sets
ground_truth = "test/annotations.json"
photos = "test/images"
depth_dir = "test/depth"            # lets the pseudo-masks be evaluated, too; the detectors see no depth

[depth]
backend = "sensor"                  # the maps of depth_dir, in place of an estimator

[features]
backbone = "dinov2-vits14-pypi"     # from PyPI, no model hub
size = 518

[pseudo]
instances = 5                       # at most so many objects a photo
tau_knn = 0.06                      # things on a table stand close; the paper's 0.115 is for whole scenes

[train]
max_iter = 400
decay_steps = [320]

[selftrain]
rounds = 1                          # detector-st1; the paper's tables show three
max_iter = 200
"""


def follow_recipe(out: Path, *, cuts3d: Callable[..., None]) -> None:
    """Render scenes, write the recipe, look at its plan and follow it.

    Args:
        out: folder for scenes, the recipe, and all that it makes.
        cuts3d: runs one command of the executable.
    """
    for name, count, seed in (("train", TRAIN_SCENES, FIRST_TRAIN), ("test", TEST_SCENES, FIRST_TEST)):
        write_scenes(out / name, count=count, seed=seed, kind="both", height=HEIGHT, width=WIDTH, workers=2)
    recipe = out / "recipe.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    cuts3d("run", recipe, "--dry-run")
    cuts3d("run", recipe)
    card = out / "out" / "detector-st1" / "model-card.md"
    print(f"\nThe recipe: {recipe}. What the detector is: {card}. Run it again, and all is skipped.")
