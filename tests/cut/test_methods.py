"""The table of methods, and what it takes to add one: a module and a line in the table, as in `fake_methods`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cuts3d_cli.config import PAPER
from cuts3d_cli.cut.affinity import cosine_affinity
from cuts3d_cli.cut.methods import METHODS, Method, get_method
from cuts3d_cli.errors import UsageError
from cuts3d_cli.shards.names import sidecar
from tests.support.clouds import GRID, cut_settings, touching_blobs, two_class_features
from tests.support.photos import pack_photos, records
from tests.support.running import Ran

ROOT = Path(__file__).resolve().parents[2]


# ---------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("name", METHODS)
def test_every_entry_names_a_method(name: str):
    assert isinstance(get_method(name), Method)


def test_an_unknown_name_is_a_usage_error_that_lists_the_others():
    with pytest.raises(UsageError, match=r"pseudo\.method is 'cut3d': choose one of cuts3d, maskcut"):
        get_method("cut3d")


@pytest.mark.parametrize(
    ("change", "needs_depth", "cuts_in_3d", "title"),
    [
        ({}, True, True, "CutS3D (sharpened, LocalCut)"),
        ({"sharpen": False}, True, True, "CutS3D (LocalCut)"),
        ({"cut": "component"}, True, False, "CutS3D (sharpened, 2D component)"),
        ({"sharpen": False, "cut": "component"}, False, False, "Normalized Cut in 2D"),
        ({"method": "maskcut"}, False, False, "MaskCut"),
    ],
)
def test_what_a_method_says_of_its_settings(change: dict[str, Any], needs_depth: bool, cuts_in_3d: bool, title: str):
    settings = replace(PAPER.pseudo, **change)
    method = get_method(settings.method)
    assert method.needs_depth(settings) is needs_depth
    assert method.cuts_in_3d(settings) is cuts_in_3d
    assert method.title(settings) == title


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("sharpen", [False, True])
def test_the_graph_is_the_same_in_batches(name: str, sharpen: bool):
    left, right = touching_blobs()
    affinity = cosine_affinity(two_class_features(left | right, noise=0.1))
    depth = np.where(left, 0.2, np.where(right, 0.6, 0.9)).astype(np.float32)
    method, settings = get_method(name), cut_settings(sharpen=sharpen, tau_ncut=0.3)
    importance = method.importance(depth, settings=settings)
    edges = method.edges(affinity, importance, settings=settings)
    batched = method.batched_edges(
        torch.from_numpy(affinity)[None],
        None if importance is None else torch.from_numpy(importance)[None],
        settings=settings,
    )
    assert edges.shape == (GRID[0] * GRID[1],) * 2
    assert 0 < edges.mean() < 1
    np.testing.assert_array_equal(edges, batched[0].numpy())


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_sharpened_without_depth(name: str):
    assert get_method(name).importance(None, settings=PAPER.pseudo) is None


def test_a_threshold_that_is_left_to_the_backbone_is_no_threshold_of_a_graph():
    with pytest.raises(ValueError, match="tau_ncut is not set"):
        get_method("maskcut").edges(np.eye(4, dtype=np.float32), None, settings=PAPER.pseudo)


# ---------------------------------------------------------------------------------------------- one more


def cuts3d_with_fakes(*lines: Sequence[object]) -> list[Ran]:
    """Runs commands of a command line that has the methods "halves" and "layers", too."""
    command = json.dumps([[str(word) for word in line] for line in lines])
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.fake_methods", command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stderr
    return [Ran(**item) for item in json.loads(ran.stdout)]


@pytest.fixture
def base(alone: Path) -> Path:
    (base,) = pack_photos(alone, 3)
    return base


def arguments(weights: Path) -> list[object]:
    return ["--backbone", "dino-vits16", "--size", 224, "--weights", weights, "--crf-size", 160, "--device", "cpu"]


def test_a_new_method_cuts_in_workers_and_in_batches(base: Path, weights: Path):
    lines, tars = [], {}
    for name in ("halves", "layers"):
        for place, how in enumerate((["-j", 0], ["-j", 2], ["-j", 0, "--set", "graphs=device"])):
            folder = base.parent / f"{name}-{place}"
            folder.mkdir()
            for path in base.parent.glob("s-000.*"):
                shutil.copy(path, folder)
            tars.setdefault(name, []).append(sidecar(folder / base.name, "pseudo"))
            lines.append(["pseudo", folder / base.name, *arguments(weights), "--method", name, *how])
    for ran in cuts3d_with_fakes(*lines):
        assert ran.code == 0, ran.err
    for name, made in tars.items():
        assert made[0].read_bytes() == made[1].read_bytes() == made[2].read_bytes()
        found = records(made[0], "pseudo.json").values()
        assert [record["method"] for record in found] == [name] * 3
        assert all(len(record["instances"]) == 1 if name == "halves" else record["instances"] for record in found)


def test_a_new_method_is_drawn_listed_and_scored_where_it_cuts_in_3d(base: Path, weights: Path):
    photo = base.parent / "source/photos/p0.jpg"
    depth = base.parent / "source/maps/p0.png"
    cut = ["pseudo", base, *arguments(weights), "-j", 0, "--if-exists", "overwrite", "--method"]
    draw = ["viz", photo, *arguments(weights), "--method"]
    score = ["confidence", base, "-j", 0, "--tau-knn-min", 0.11]
    helped, wrong, flat, drawn, stored, refused, by_crf, deep, sharpened, unknown_depth, scored = cuts3d_with_fakes(
        ["pseudo", "--help"],
        ["pseudo", base, "--method", "nothing"],
        [*cut, "halves"],
        [*draw, "halves", "--out", "halves.png"],
        ["viz", "--shards", base, "--key", "p0", "--out", "stored.png"],
        score,
        [*score, "--source", "crf"],
        [*cut, "layers"],
        [*draw, "layers", "--depth", depth, "--out", "layers.png"],
        [*draw, "layers", "--backend", "sensor", "--out", "layers-2d.png"],
        [*score, "--if-exists", "overwrite"],
    )
    # The command line lists it.
    assert "cuts3d|maskcut|halves|layers" in helped.out
    assert wrong.code == 2
    assert "halves, layers" in wrong.err
    # It is drawn, from a photo and from shards.
    for ran in (flat, drawn, stored, by_crf, deep, sharpened, unknown_depth, scored):
        assert ran.code == 0, ran.err
    for name in ("halves.png", "stored.png", "layers.png", "layers-2d.png"):
        assert Path(name).stat().st_size > 10_000
    # Confidence repeats LocalCuts: it refuses masks of a method that makes none, unless the CRF is the source.
    assert refused.code == 1
    assert "cut in 2D" in refused.err


def test_masks_of_a_method_that_is_not_there_any_more_can_be_drawn_and_are_not_scored(
    cuts3d: Callable[..., Ran], base: Path, weights: Path
):
    (cut,) = cuts3d_with_fakes(["pseudo", base, *arguments(weights), "-j", 0, "--method", "layers"])
    assert cut.code == 0, cut.err
    assert cuts3d("viz", "--shards", base, "--key", "p0").code == 0
    assert Path("p0.cuts3d.png").is_file()
    scored = cuts3d("confidence", base, "-j", 0)
    assert scored.code == 1
    assert "masks of the method 'layers', which is not installed" in scored.line
