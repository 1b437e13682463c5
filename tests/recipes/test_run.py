"""A whole recipe on tiny scenes: what it makes, what it skips, and that no interruption changes the outcome."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cuts3d_cli.cli.progress import StageProgress, TrainingProgress
from cuts3d_cli.cut.masks import encode_rle, rle_area, rle_box
from cuts3d_cli.recipes import run as recipe
from tests.support.photos import scene_of, write_photos
from tests.support.running import Ran

pytest.importorskip("detectron2")

RECIPE = """
preset = "tiny"

[recipe]
photos = "photos"
depth_dir = "maps"
name = "boxes"
out = "out"

[recipe.evaluate.val]
ground_truth = "truth.json"
photos = "photos"
depth_dir = "maps"

[pack]
shard_size = 3

[depth]
backend = "sensor"

[features]
backbone = "dino-vits16"
size = 224
weights = "{weights}"

[pseudo]
tau_knn = 0.15
crf = false

[confidence]
tau_knn_min = 0.11

[train]
{training}

[selftrain]
score_thresholds = [0.0]
{training}

[run]
workers = 0
device = "cpu"
"""
TRAINING = """
max_iter = 3
images_per_batch = 2
min_sizes = [48, 64]
max_size = 96
precise_bn = 1
fpn_channels = 16
box_head_width = 16
mask_head_width = 16
roi_batch = 16
test_min_size = 64
rpn_post_nms = 20
rpn_test_proposals = 20
checkpoint_every = 1
log_every = 1
eval_every = 3
"""
PHOTOS = 5


def write_recipe(folder: Path, weights: Path, *, photos: int = PHOTOS) -> Path:
    """Photos, maps, the truth, and a recipe."""
    write_photos(folder, photos)
    images, annotations = [], []
    for number in range(2):
        scene = scene_of(number)
        height, width = scene.depth.shape
        images.append({"id": number + 1, "file_name": f"p{number}.jpg", "height": height, "width": width})
        for box in scene.boxes:
            code = encode_rle(box)
            facts = {"bbox": rle_box(code), "area": rle_area(code), "segmentation": code, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": number + 1, "category_id": 1, **facts})
    truth = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "fg"}]}
    (folder / "truth.json").write_text(json.dumps(truth))
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(weights=weights, training=TRAINING))
    return path


def outcome(folder: Path) -> dict[str, bytes]:
    """All that must be the same whatever happened on the way: every tar, the detectors, the evaluation."""
    files = [*folder.rglob("*.tar"), *folder.rglob("model-final.safetensors"), folder / "out" / "results.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


def card(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "model-card.json").read_text())
    return content


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """A recipe that was followed without an interruption, by the real executable."""
    folder = tmp_path_factory.mktemp("straight")
    done = subprocess.run(command(write_recipe(folder, weights).name), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "said.txt").write_text(done.stderr)
    (folder / "printed.json").write_text(done.stdout)
    return folder


def command(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).with_name("cuts3d")), "run", *map(str, arguments), "--json"]


def test_a_recipe_leads_from_photos_to_evaluated_detectors(straight: Path):
    printed = json.loads((straight / "printed.json").read_text())
    assert printed == json.loads((straight / "out" / "results.json").read_text())
    assert printed["generations"] == {
        name: f"out/detector-{name}/model-final.safetensors" for name in ("initial", "st1")
    }
    (found,) = printed["results"].values()
    assert list(found) == ["pseudo-masks", "initial", "st1"]
    assert found["pseudo-masks"]["scores"] == "confidence"
    assert found["pseudo-masks"]["box"]["recall50"] > 0.5
    assert {result["images"] for result in found.values()} == {2}
    assert {result["instances"] for result in found.values()} == {4}
    for name in ("boxes-000", "boxes-001"):
        for stage in ("depth", "pseudo", "confidence", "predict.initial", "pseudo.st1"):
            assert (straight / "out" / "shards" / f"{name}.{stage}.tar").is_file()
    assert "to do" in (straight / "said.txt").read_text()


def test_cards_say_what_a_detector_learned_from_and_how_good_it_is(straight: Path):
    out = straight / "out"
    initial, st1 = card(out / "detector-initial"), card(out / "detector-st1")
    manifests = [json.loads((out / "shards" / f"boxes-{n:03d}.pseudo.json").read_text()) for n in range(2)]
    learned = initial["learned_from"]
    assert (learned["stage"], learned["images"], learned["predicted"]) == ("pseudo", PHOTOS, None)
    assert learned["masks"] == sum(manifest["counts"]["masks"] for manifest in manifests)
    assert [item["masks_sha256"] for item in learned["shards"]] == [manifest["sha256"] for manifest in manifests]
    assert learned["how"][0]["pseudo"]["tau_knn"] == 0.15
    assert initial["began_with"] == {"backbone": "random"}
    assert st1["began_with"]["detector"] == initial["weights"]
    assert st1["learned_from"]["stage"] == "pseudo.st1"
    assert 0 < st1["learned_from"]["predicted"] <= st1["learned_from"]["masks"]
    assert st1["config"]["max_iter"] == st1["training"]["iterations"] == 3
    printed = json.loads((straight / "printed.json").read_text())["results"]["val"]
    *_, last, scores = (json.loads(line) for line in (out / "detector-st1" / "metrics.jsonl").read_text().splitlines())
    assert st1["training"]["losses"] == last["losses"]
    # The evaluation while training is on the recipe's own set.
    assert scores["results"]["val"]["mask"] == printed["st1"]["mask"]
    assert (out / "detector-st1" / "model-best.safetensors").is_file()
    for name, one in (("initial", initial), ("st1", st1)):
        assert one["results"]["val"]["box"] == printed[name]["box"]
        assert one["results"]["val"]["ground_truth"]["file"] == "truth.json"
        text = (out / f"detector-{name}" / "model-card.md").read_text()
        assert text.startswith(f"# Detector {name}\n")
        assert "| val | 2 | mask |" in text
        assert one["weights"]["sha256"] in text


def test_a_finished_recipe_does_nothing_and_says_so(straight: Path, alone: Path, cuts3d: Callable[..., Ran]):
    os.chdir(straight)
    before = {path: path.stat().st_mtime_ns for path in (straight / "out").rglob("*") if path.name != "results.json"}
    plan = json.loads(cuts3d("run", "recipe.toml", "--dry-run", "--json").out)
    assert {(part["shards"] - part["finished"], part["note"]) for part in plan["parts"]} == {(0, "")}
    assert plan["disk"]["needed"] == 0
    again = cuts3d("run", "recipe.toml", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out) == json.loads((straight / "printed.json").read_text())
    after = {path: path.stat().st_mtime_ns for path in (straight / "out").rglob("*") if path.name != "results.json"}
    assert before == after

    # What is to be done again, and what has to wait for it.
    line = ("run", "recipe.toml", "--dry-run", "--json", "--set", "pseudo.beta=0.5")
    refused = cuts3d(*line)
    assert refused.code == 2
    assert "pseudo.beta 0.45 -> 0.5: --set run.if_exists=replace replaces them" in refused.err
    line = (*line, "--set", "run.if_exists=replace")
    changed = {part["name"]: part for part in json.loads(cuts3d(*line).out)["parts"]}
    assert (changed["depth"]["finished"], changed["val: depth"]["finished"]) == (2, 1)
    assert changed["pseudo"]["finished"] == 0
    assert "pseudo.beta 0.45 -> 0.5" in changed["pseudo"]["note"]
    assert changed["confidence"]["note"] == changed["st1: masks"]["note"] == "after pseudo"
    assert changed["initial"]["note"] == "there are results of other settings"
    assert changed["val: predictions of st1"]["note"] == "after st1"
    assert "detector-initial learned from masks that would be replaced: train into another" in cuts3d(*line).err
    assert after == {
        path: path.stat().st_mtime_ns for path in (straight / "out").rglob("*") if path.name != "results.json"
    }


def test_a_dry_run_touches_nothing(alone: Path, weights: Path, cuts3d: Callable[..., Ran]):
    write_recipe(alone, weights)
    ran = cuts3d("run", "recipe.toml", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    plan = json.loads(ran.out)
    assert [part["name"] for part in plan["parts"]] == [
        *("pack", "depth", "pseudo", "confidence", "initial", "st1: predictions", "st1: masks", "st1"),
        *("val: pack", "val: depth", "val: pseudo", "val: confidence"),
        *("val: predictions of initial", "val: predictions of st1"),
    ]
    assert {part["finished"] for part in plan["parts"]} == {0}
    assert all(part["bytes"] > 0 for part in plan["parts"])
    assert plan["disk"]["needed"] == sum(part["bytes"] for part in plan["parts"])
    assert not (alone / "out").exists()
    shown = cuts3d("run", "recipe.toml", "--dry-run")
    assert "not there yet" in shown.out
    assert "free" in shown.out
    assert shown.err == ""


class Interruptions:
    """Ends a run at each place where it has not ended one before: at the start of every step, and in its middle."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.met: list[str] = []
        self.part = ""
        init = recipe.RecipeRun.__init__

        def told(said: object) -> None:
            line = str(said)
            if line.startswith("== "):
                self.part = line
                self.at(f"{line} begins")

        def made(whole: recipe.RecipeRun, *arguments: Any, **named: Any) -> None:
            init(whole, *arguments, **{**named, "say": told})

        def advanced(bar: StageProgress, *, failed: bool) -> None:
            self.at(f"{self.part}: {bar._name}, in the middle of a shard")

        def trained(watcher: TrainingProgress, iteration: int) -> None:
            if iteration > 1:
                self.at(f"{self.part}: iteration {iteration}")

        monkeypatch.setattr(recipe.RecipeRun, "__init__", made)
        monkeypatch.setattr(StageProgress, "advance", advanced)
        monkeypatch.setattr(TrainingProgress, "advance", trained)

    def at(self, place: str) -> None:
        if place not in self.met:
            self.met.append(place)
            raise KeyboardInterrupt


def test_interruptions_everywhere_change_nothing(
    straight: Path, alone: Path, weights: Path, cuts3d: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
):
    write_recipe(alone, weights)
    for name in ("photos", "maps"):  # the same files, so that their times are the same, too
        shutil.rmtree(alone / name)
        shutil.copytree(straight / name, alone / name)
    interruptions = Interruptions(monkeypatch)
    codes = []
    while not codes or codes[-1] != 0:
        before = len(interruptions.met)
        codes.append(cuts3d("run", "recipe.toml", "--json").code)
        assert codes[-1] == 0 or len(interruptions.met) == before + 1, codes
    assert set(codes[:-1]) == {130}
    met = "\n".join(interruptions.met)
    for step in ("pack", "depth", "pseudo", "confidence", "initial", "st1", "val: pack", "val: predictions of st1"):
        assert f"== {step} begins" in met
        assert f"== {step}: " in met
    assert "== st1: predict, initial, in the middle" in met
    assert "== st1: masks, st1, in the middle" in met
    assert "== st1: iteration 2" in met
    assert "== val: evaluation begins" in met
    assert outcome(alone) == outcome(straight)
    for name in ("initial", "st1"):
        mine, theirs = (card(folder / "out" / f"detector-{name}") for folder in (alone, straight))
        assert {**mine, "versions": {}} == {**theirs, "versions": {}}


def test_killed_processes_change_nothing(straight: Path, alone: Path, weights: Path):
    """Real processes: SIGKILL within a shard and before a training's first checkpoint, SIGTERM within a training."""
    write_recipe(alone, weights)
    out = alone / "out"
    places: list[tuple[signal.Signals, Callable[[], bool]]] = [
        (signal.SIGKILL, lambda: any(out.glob("shards/.boxes-*.pseudo.tar.*.tmp"))),
        (signal.SIGTERM, lambda: any(out.glob("detector-initial/checkpoint-*.pth"))),
        (signal.SIGKILL, lambda: (out / "detector-st1" / "metrics.jsonl").exists()),
    ]
    for how, reached in places:
        running = subprocess.Popen(
            command("recipe.toml"), cwd=alone, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        until = time.monotonic() + 120
        while not reached() and running.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        running.send_signal(how)
        said = running.communicate()[1]
        assert running.returncode in (130, 143, -9), said
        assert "Traceback" not in said
    done = subprocess.run(command("recipe.toml"), cwd=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert outcome(alone) == outcome(straight)


def test_a_photo_that_cannot_be_read_stops_nothing(alone: Path, weights: Path, cuts3d: Callable[..., Ran]):
    write_recipe(alone, weights)
    (alone / "photos" / "broken.jpg").write_bytes(b"no photo")
    ran = cuts3d("run", "recipe.toml", "--set", "train.max_iter=1", "--set", "selftrain.max_iter=1")
    assert ran.code == 3, ran.err
    assert "failed: out/shards/boxes-000.tar: broken: " in ran.err
    assert "failed in pack: 1" in ran.out
    assert "pseudo-masks" in ran.out


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('photos = "photos"\ndepth_dir = "maps"\nname', 'depth_dir = "maps"\nname', "recipe.photos is missing"),
        ('name = "boxes"', 'title = "boxes"', "recipe.title is no field: it has photos, images, depth_dir, name"),
        ('name = "boxes"', 'name = "../boxes"', "recipe.name '../boxes' cannot be a shard's name"),
        ('out = "out"', "gpus = 0", "recipe.gpus is 0: it must lie between 1 and 1024"),
        ('out = "out"', 'gpus = "two"', "recipe.gpus is 'two': it must be a whole number"),
        ('out = "out"', "gpus = 8", "train.images_per_batch is 2, which 8 processes cannot share equally: set it to 8"),
        ("[train]", "[train]\naccumulate = 4", "train.accumulate is 4, but a process has 2 images of the batch"),
        ("eval_every = 3", "eval_limit = 3", "train.eval_limit has no effect: also set train.eval_every"),
        ('depth_dir = "maps"\nname', 'depth_dir = "nowhere"\nname', "recipe.depth_dir is nowhere, which is no folder"),
        ('depth_dir = "maps"\nname', "name", "recipe.depth_dir is missing: depth.backend is 'sensor'"),
        ('ground_truth = "truth.json"', "", "recipe.evaluate.val.ground_truth is missing"),
        ("shard_size = 3", "shard_size = 0", "pack.shard_size is 0: it must lie between 1 and"),
        ("shard_size = 3", "shards = 3", "section 'pack' has no field 'shards'"),
        ("tau_knn = 0.15", "tau_knn = 0.01", "pseudo.tau_knn 0.01 is under the diagonal spacing"),
        ("[recipe.evaluate.val]", '[recipe.evaluate."a b"]', "recipe.evaluate.a b: use letters"),
        ("[run]", '[run]\nif_exists = "fail"', "run.if_exists is 'fail'"),
        ("[run]", '[run]\nengine = "ray"', "run.engine is 'ray': a recipe runs on this machine"),
        ('ground_truth = "truth.json"', 'ground_truth = "photos"', "photos, which is a folder: name a COCO JSON"),
        ('preset = "tiny"', 'preset = "huge"', "there is no preset 'huge'"),
        ('preset = "tiny"', "preset = ", "is not valid TOML"),
    ],
)
def test_errors_name_the_file_and_the_key(
    alone: Path, weights: Path, cuts3d: Callable[..., Ran], old: str, new: str, said: str
):
    path = write_recipe(alone, weights)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    ran = cuts3d("run", "recipe.toml", "--dry-run")
    assert ran.code == 2
    assert "recipe.toml" in ran.line
    assert said in ran.line


def test_a_detector_of_another_recipe_is_not_thrown_away(straight: Path, alone: Path, cuts3d: Callable[..., Ran]):
    os.chdir(straight)
    before = (straight / "out" / "detector-initial" / "model-final.safetensors").read_bytes()
    ran = cuts3d("run", "recipe.toml", "--set", "train.roi_batch=8")
    assert ran.code == 2
    assert "recipe.toml: recipe.out cannot be resumed" in ran.err
    assert "another configuration (roi_batch 16 -> 8)" in ran.err
    assert (straight / "out" / "detector-initial" / "model-final.safetensors").read_bytes() == before
    assert "does not exist: name a recipe" in cuts3d("run", "none.toml").line
    (alone / "empty.toml").write_text('preset = "tiny"')
    assert "empty.toml: the section [recipe] is missing" in cuts3d("run", alone / "empty.toml").line
    assert "write it as SECTION.FIELD=VALUE" in cuts3d("run", "recipe.toml", "--set", "beta=1").line
