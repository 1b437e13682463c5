"""Numbers that are none, or say nothing: what becomes of an image that has them, and where the manifest says so."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import LinAlgError
from scipy.sparse.linalg import ArpackNoConvergence

from cuts3d_cli.cut import ncut
from cuts3d_cli.cut.iterations import NO_STRUCTURE_REASON
from cuts3d_cli.shards.manifest import Manifest, load_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from tests.support.photos import encoded, pack_photos, records, two_boxes, write_shard
from tests.support.running import Ran
from tests.support.stored import GRID, PSEUDO, boxes, store_depth, store_features


def manifest_of(base: Path, stage: str = "pseudo") -> Manifest:
    return load_manifest(manifest_path(sidecar(base, stage)))


def with_value(value: float) -> NDArray[np.float16]:
    features = boxes()
    features[3, 2, 1] = value
    return features


@pytest.fixture
def base(alone: Path) -> Path:
    """One photo with its depth and good features."""
    (base,) = pack_photos(alone, 1)
    store_features(base, boxes())
    return base


def test_good_numbers_give_a_mask(cuts3d: Callable[..., Ran], base: Path):
    assert cuts3d(*PSEUDO, base).code == 0
    assert manifest_of(base).counts["masks"] >= 1


FEATURES: Mapping[str, tuple[NDArray[np.float16], str]] = {
    "NaN": (with_value(np.nan), "features.npy: it holds NaN or infinite values"),
    "infinity": (with_value(np.inf), "features.npy: it holds NaN or infinite values"),
    "all zero": (np.zeros((8, GRID, GRID), np.float16), "the features are all zero"),
    "of another shape": (np.zeros((8, GRID), np.float16), "features.npy: it holds float16 of shape (8, 14)"),
    "none": (np.zeros((0, GRID, GRID), np.float16), "features.npy: it holds float16 of shape (0, 14, 14)"),
}


@pytest.mark.parametrize("method", ["cuts3d", "maskcut"])
@pytest.mark.parametrize("name", FEATURES)
def test_features_that_are_no_numbers_are_a_failure_with_its_reason(
    cuts3d: Callable[..., Ran], base: Path, name: str, method: str
):
    features, reason = FEATURES[name]
    store_features(base, features)
    ran = cuts3d(*PSEUDO, base, "--method", method)
    assert ran.code == 3, ran
    manifest = manifest_of(base)
    assert [item["key"] for item in manifest.failed] == ["p0"]
    assert reason in manifest.failed[0]["reason"]
    assert (manifest.counts["samples_out"], manifest.counts["failed"]) == (0, 1)


@pytest.mark.parametrize("method", ["cuts3d", "maskcut"])
def test_features_without_structure_give_no_mask_and_say_so(cuts3d: Callable[..., Ran], base: Path, method: str):
    store_features(base, np.ones((8, GRID, GRID), np.float16))
    ran = cuts3d(*PSEUDO, base, "--method", method)
    assert ran.code == 0, ran
    (record,) = records(sidecar(base, "pseudo"), "pseudo.json").values()
    assert (record["instances"], record["stopped"]) == ([], NO_STRUCTURE_REASON)
    counts = manifest_of(base).counts
    assert (counts["without_mask"], counts["no_structure"], counts["stopped_early"], counts["masks"]) == (1, 1, 1, 0)
    assert "without structure to cut" in ran.out
    # An image without a mask goes through all that follows.
    if method == "cuts3d":
        assert cuts3d("confidence", base, "--tau-knn-min", "0.11", "-j", 0).code == 0
        assert manifest_of(base, "confidence").counts["masks"] == 0


@pytest.mark.parametrize("method", ["cuts3d", "maskcut"])
def test_a_graph_without_edges_drops_every_cut_with_its_reason(cuts3d: Callable[..., Ran], base: Path, method: str):
    store_features(base, np.eye(GRID * GRID, dtype=np.float16).reshape(-1, GRID, GRID))
    assert cuts3d(*PSEUDO, base, "--method", method).code == 0
    (record,) = records(sidecar(base, "pseudo"), "pseudo.json").values()
    assert len(record["instances"]) + len(record["dropped"]) == 3 or record["stopped"]
    assert manifest_of(base).dropped == [{"key": "p0", **item} for item in record["dropped"]]


def test_a_graph_that_falls_apart_is_cut_along_its_parts(cuts3d: Callable[..., Ran], base: Path):
    features = np.zeros((2, GRID, GRID), np.float16)
    features[0] = 1
    features[:, 4:10, 4:10] = np.array([0, 1], np.float16)[:, None, None]  # at right angles: no edge between the two
    store_features(base, features)
    assert cuts3d(*PSEUDO, base, "--cut", "component", "--no-sharpen").code == 0
    (record,) = records(sidecar(base, "pseudo"), "pseudo.json").values()
    assert record["instances"][0]["area"] == pytest.approx(60 * 80 * 36 / 196, rel=0.1)
    assert manifest_of(base).counts["failed"] == 0


def test_a_constant_depth_leaves_the_cut_to_the_features(cuts3d: Callable[..., Ran], base: Path):
    store_depth(base, np.full((60, 80), 0.25, np.float32))
    assert cuts3d(*PSEUDO, base).code == 0
    counts = manifest_of(base).counts
    assert (counts["failed"], counts["samples_out"]) == (0, 1)
    assert counts["masks"] + counts["dropped"] >= 1
    assert cuts3d("confidence", base, "--tau-knn-min", "0.11", "-j", 0).code == 0


def test_a_depth_without_a_measurement_is_a_failure_with_its_reason(cuts3d: Callable[..., Ran], base: Path):
    store_depth(base, np.full((60, 80), np.nan, np.float32))
    assert cuts3d(*PSEUDO, base).code == 3
    assert manifest_of(base).failed == [{"key": "p0", "reason": "the depth map has no valid pixel"}]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -1.0])
def test_a_sensor_that_measured_nothing_is_a_failure_with_its_reason(
    cuts3d: Callable[..., Ran], alone: Path, value: float
):
    buffer = io.BytesIO()
    np.save(buffer, np.full((60, 80), value, np.float32))
    members = {"jpg": encoded(two_boxes().image), "sensor.npy": buffer.getvalue()}
    base = write_shard(alone / "s-000.tar", {"a": members})
    assert cuts3d("depth", "--backend", "sensor", base).code == 3
    assert manifest_of(base, "depth").failed == [{"key": "a", "reason": "the depth map has no valid pixel"}]


def test_where_lanczos_does_not_converge_the_dense_solver_does_and_is_counted(
    cuts3d: Callable[..., Ran], base: Path, monkeypatch: pytest.MonkeyPatch
):
    def diverge(*_: Any, **__: Any) -> None:
        raise ArpackNoConvergence("no convergence", np.empty(0), np.empty((0, 0)))

    monkeypatch.setattr(ncut, "eigsh", diverge)
    ran = cuts3d(*PSEUDO, base)
    assert ran.code == 0
    assert manifest_of(base).counts["dense_fallbacks"] >= 1
    assert "eigenproblems solved densely" in ran.out

    def break_down(*_: Any, **__: Any) -> None:
        raise LinAlgError("the leading minor is not positive definite")

    monkeypatch.setattr(ncut.linalg, "eigh", break_down)
    assert cuts3d(*PSEUDO, base, "--if-exists", "overwrite").code == 3
    assert "it could not be computed: LinAlgError: the leading minor" in manifest_of(base).failed[0]["reason"]


def test_an_image_whose_masks_are_all_dropped_says_why(cuts3d: Callable[..., Ran], base: Path):
    assert cuts3d(*PSEUDO, base, "--min-area", "1").code == 0
    manifest = manifest_of(base)
    assert (manifest.counts["masks"], manifest.counts["without_mask"]) == (0, 1)
    assert {item["reason"] for item in manifest.dropped} == {"too small"}
    assert json.loads(cuts3d("pseudo", base, *PSEUDO[1:], "--min-area", "1", "--json").out)["dropped"]["too small"] >= 1
