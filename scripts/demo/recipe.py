"""The demo's recipe: `cuts3d run`, from rendered photos to a self-trained detector that is evaluated."""

from __future__ import annotations

from pathlib import Path

from scenes import write_scenes
from scenes.shards import FIRST_TEST, FIRST_TRAIN, HEIGHT, WIDTH, Command

TRAIN_SCENES, TEST_SCENES = 100, 40
RECIPE = """\
# From photos to an evaluated, self-trained detector: cuts3d run recipe.toml
# Paths are relative to the folder of this file. Fields left out have their defaults: cuts3d config show
preset = "tiny"                     # a small detector, for a CPU

[recipe]
photos = "train/images"             # to train on, without labels
depth_dir = "train/depth"           # 16-bit PNG, millimetres
name = "scenes"
out = "out"

[recipe.evaluate.held-out]          # used for evaluation only; there may be more sets
ground_truth = "test/annotations.json"
photos = "test/images"
depth_dir = "test/depth"            # to evaluate the pseudo-masks, too; the detectors see no depth

[depth]
backend = "sensor"                  # the maps of depth_dir instead of an estimator

[features]
backbone = "dinov2-vits14-pypi"     # from PyPI, no model hub
size = 518

[pseudo]
instances = 5                       # the most objects per photo
tau_knn = 0.06                      # objects on a table stand close; the paper's 0.115 is for whole scenes

[train]
max_iter = 400
decay_steps = [320]

[selftrain]
rounds = 1                          # detector-st1; the paper reports three
max_iter = 200
"""


def follow_recipe(out: Path, *, cuts3d: Command) -> None:
    """Render scenes, write the recipe, print its plan and run it.

    Args:
        out: folder for the scenes, the recipe, and all of its output.
        cuts3d: runs one command.
    """
    for name, count, seed in (("train", TRAIN_SCENES, FIRST_TRAIN), ("test", TEST_SCENES, FIRST_TEST)):
        write_scenes(out / name, count=count, seed=seed, kind="both", height=HEIGHT, width=WIDTH, workers=2)
    recipe = out / "recipe.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    cuts3d("run", recipe, "--dry-run")
    cuts3d("run", recipe)
    card = out / "out" / "detector-st1" / "model-card.md"
    print(f"\nRecipe: {recipe}. Model card: {card}. Another run of the recipe skips every step.")
