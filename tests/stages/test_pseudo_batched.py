"""`pseudo` with its graphs in batches on a device. On a CPU too, where both ways can be compared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cuts3d_cli.config import PAPER, Config
from cuts3d_cli.cut.image import IterationTask, RefinementTask
from cuts3d_cli.cut.ncut import Eigenpair
from cuts3d_cli.engine.batch_size import BatchSize
from cuts3d_cli.engine.pool import WorkerPool
from cuts3d_cli.errors import ShardError, UsageError
from cuts3d_cli.features.catalogue import OFFLINE_BACKBONE
from cuts3d_cli.features.extractor import FeatureExtractor
from cuts3d_cli.shards.manifest import load_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.stages import depth, features
from cuts3d_cli.stages import pseudo as stage
from cuts3d_cli.stages import pseudo_batched as batched
from cuts3d_cli.stages.pseudo_batched import BatchedCutter
from cuts3d_cli.stages.reading import Loaded
from tests.stages.test_pseudo import bad_members
from tests.support.clouds import GRID, touching_blobs, two_class_features
from tests.support.photos import pack_photos, packed, records, settings, write_shard


def config(weights: Path | None, *, run: dict[str, Any] | None = None, **changes: Any) -> Config:
    return settings(
        {
            "pseudo": {"crf_size": 160, **changes},
            "features": {"backbone": "dino-vits16", "size": 224, "weights": weights},
            "run": {"device": "cpu", "workers": 0, "graphs": "device", "if_exists": "overwrite", **(run or {})},
        }
    )


def bytes_of(bases: Sequence[Path]) -> list[bytes]:
    return [sidecar(base, "pseudo").read_bytes() for base in bases]


def manifest_of(base: Path) -> Any:
    return load_manifest(manifest_path(sidecar(base, "pseudo")))


# ---------------------------------------------------------------------------------------------- the same masks


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "maskcut"},
        {"sharpen": False, "sink": "background"},
        {"cut": "component", "sharpen": False},
        {"eigensolver": "dense"},
        {"retries": 3, "min_area": 0.2, "source": "core"},
        {"cloud": "perspective", "tau_knn": "auto", "concavity": 0.03, "planes": 0.15, "parts": 2, "source": "core"},
        {
            "instances": "all",
            "cloud": "perspective",
            "tau_knn": "auto",
            "min_area": 0.02,
            "after_small": "continue",
            "measured": 0.5,
            "specks": 0.1,
        },
    ],
    ids=lambda changes: " ".join(map(str, changes.values())) or "paper",
)
def test_masks_are_those_of_the_workers(alone: Path, weights: Path, changes: dict[str, Any]):
    bases = pack_photos(alone, 5, shard_size=3)
    stage.run(bases, config=config(weights, run={"graphs": "workers"}, **changes))
    expected = bytes_of(bases)
    counts = [manifest_of(base).counts for base in bases]
    assert sum(item["masks"] for item in counts) >= 5
    stage.run(bases, config=config(weights, run={"batch_size": 2}, **changes))
    assert bytes_of(bases) == expected
    assert [manifest_of(base).counts for base in bases] == counts


def test_batches_workers_and_stored_features_change_nothing(alone: Path, weights: Path):
    bases = pack_photos(alone, 5, shard_size=3)
    stage.run(bases, config=config(weights))
    expected = bytes_of(bases)
    for run in ({"batch_size": 1}, {"batch_size": 2, "workers": 2}, {"batch_size": 100}):
        stage.run(bases, config=config(weights, run=run))
        assert bytes_of(bases) == expected
    features.run(bases, config=config(weights))
    stage.run(bases, config=config(weights, run={"workers": 1, "batch_size": 2}))
    assert bytes_of(bases) == expected
    assert "features" in manifest_of(bases[0]).inputs


@pytest.mark.parametrize("graphs", ["workers", "device"])
def test_readers_change_nothing(alone: Path, weights: Path, graphs: str):
    """Photos and depth are read in other processes, too: the same bytes in the same order, the same failures."""
    (good,) = pack_photos(alone, 4)
    samples = {sample.key: dict(sample.members) for sample in read_shard(good)}
    samples["p1"]["jpg"] = samples["p1"]["jpg"][:200]
    base = write_shard(alone / "t.tar", samples)
    depth.run([base], config=settings({"depth": {"backend": "sensor"}}))
    found = []
    for workers in (0, 2):
        stage.run([base], config=config(weights, run={"graphs": graphs, "workers": workers, "batch_size": 3}))
        manifest = manifest_of(base)
        found.append((bytes_of([base]), manifest.failed, manifest.counts))
        assert manifest.seconds["read"] > 0
    assert found[0] == found[1]
    assert [item["key"] for item in found[0][1]] == ["p1"]


def test_the_crf_in_batches_gives_the_masks_of_the_workers(alone: Path, weights: Path, monkeypatch: pytest.MonkeyPatch):
    bases = pack_photos(alone, 5, shard_size=3)
    stage.run(bases, config=config(weights, run={"graphs": "workers"}))
    expected = bytes_of(bases)
    on_device = []

    def always(config: Any, *, device: str) -> bool:
        on_device.append(device)
        return True

    monkeypatch.setattr(batched, "crf_on_device", always)
    for run in ({"batch_size": 2}, {"batch_size": 4, "workers": 2}):
        stage.run(bases, config=config(weights, run=run))
        assert bytes_of(bases) == expected
        assert manifest_of(bases[0]).seconds["crf"] > 0
    assert set(on_device) == {"cpu"}


def test_a_crf_that_fails_fails_its_image_alone(alone: Path, weights: Path, monkeypatch: pytest.MonkeyPatch):
    (base,) = pack_photos(alone, 3)
    monkeypatch.setattr(batched, "crf_on_device", lambda config, *, device: True)
    real, seen = batched.foreground, []

    def fails(images: Any, masks: Any, **more: Any) -> Any:
        seen.append(len(images))
        if len(seen) in (1, 3, 4):  # the batch, then the second image, also when it is tried again
            raise torch.OutOfMemoryError("no room")
        return real(images, masks, **more)

    monkeypatch.setattr(batched, "foreground", fails)
    stage.run([base], config=config(weights, instances=1))
    assert seen == [3, 1, 1, 1, 1]
    assert manifest_of(base).failed == [{"key": "p1", "reason": "the CRF failed: OutOfMemoryError: no room"}]


@pytest.mark.parametrize(
    ("changes", "device", "expected"),
    [
        ({}, "cuda:1", True),
        ({}, "cpu", False),
        ({"crf_backend": "lattice"}, "cpu", False),
        ({"crf_backend": "lattice"}, "cuda", True),
        ({"crf_backend": "pydensecrf"}, "cuda", False),
        ({"crf": False}, "cuda", False),
    ],
)
def test_where_the_crf_runs(changes: dict[str, Any], device: str, expected: bool):
    assert batched.crf_on_device(replace(PAPER.pseudo, **changes), device=device) is expected


def test_a_named_crf_is_another_setting_and_the_default_is_none(alone: Path, weights: Path):
    (base,) = pack_photos(alone, 2)
    stage.run([base], config=config(weights, run={"graphs": "workers"}))
    usual = manifest_of(base)
    expected = bytes_of([base])
    assert "crf_backend" not in usual.config["pseudo"]
    stage.run([base], config=config(weights, run={"graphs": "workers"}, crf_backend="lattice"))
    assert manifest_of(base).config["pseudo"]["crf_backend"] == "lattice"
    assert manifest_of(base).config_hash != usual.config_hash
    assert bytes_of([base]) == expected


def test_where_graphs_are_solved_makes_no_shard_stale(alone: Path, weights: Path):
    (base,) = pack_photos(alone, 2)
    stage.run([base], config=config(weights, run={"graphs": "workers"}))
    result = stage.run([base], config=config(weights, run={"graphs": "device", "if_exists": "resume"}))
    assert result.shards[0].status == "skipped"


def test_the_manifest_has_the_seconds_of_every_step_and_says_where(alone: Path, weights: Path):
    (base,) = pack_photos(alone, 2)
    stage.run([base], config=config(weights))
    manifest = manifest_of(base)
    assert {"read", "features", "affinity", "sharpen", "eigen", "cut", "crf", "encode", "total"} == set(
        manifest.seconds
    )
    assert manifest.info["graphs"] == "cpu"
    stage.run([base], config=config(weights, run={"graphs": "workers"}))
    assert manifest_of(base).info["graphs"] == "workers"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco", "mosd"])
def test_masks_of_real_photos_are_those_of_the_workers(test_data: Path, offline_weights: Path, alone: Path, name: str):
    maps = test_data / name / "depth"
    with_depth = maps.is_dir()
    (result,) = packed(test_data / name / "images", alone, depth_dir=maps if with_depth else None).shards
    base = result.shard
    chosen: dict[str, dict[str, Any]] = {
        "depth": {"backend": "sensor"},
        "features": {"backbone": OFFLINE_BACKBONE, "size": 322, "weights": offline_weights},
        "pseudo": {"crf": False, "tau_knn": 0.07, "method": "cuts3d" if with_depth else "maskcut"},
        "run": {"device": "cpu", "workers": 0, "if_exists": "overwrite"},
    }
    if with_depth:
        depth.run([base], config=settings(chosen))
    features.run([base], config=settings(chosen))
    found = {}
    for graphs in ("workers", "device"):
        chosen["run"]["graphs"] = graphs
        stage.run([base], config=settings(chosen))
        found[graphs] = records(sidecar(base, "pseudo"), "pseudo.json")
    assert len(found["workers"]) > 10
    assert [key for key, record in found["device"].items() if record != found["workers"][key]] == []


@pytest.mark.usefixtures("gpu")
def test_a_gpu_finds_the_same_masks(alone: Path, weights: Path):
    bases = pack_photos(alone, 5, shard_size=3)
    features.run(bases, config=config(weights))  # on the CPU, so that only the cutting differs
    stage.run(bases, config=config(weights, run={"graphs": "workers"}))
    expected = bytes_of(bases)
    stage.run(bases, config=config(weights, run={"graphs": "auto", "device": "cuda", "batch_size": 2, "workers": 2}))
    assert manifest_of(bases[0]).info["graphs"] == "cuda"
    assert bytes_of(bases) == expected


@pytest.mark.usefixtures("gpu")
def test_two_runs_on_a_gpu_give_the_same_bytes(alone: Path, weights: Path):
    bases = pack_photos(alone, 5, shard_size=3)
    runs = []
    for workers in (0, 2):
        stage.run(bases, config=config(weights, run={"device": "cuda", "batch_size": 2, "workers": workers}))
        runs.append(bytes_of(bases))
    assert runs[0] == runs[1]


# ---------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("stored", [False, True])
def test_bad_photos_fail_with_the_same_reasons_in_the_same_order(alone: Path, weights: Path, stored: bool):
    base = write_shard(alone / "bad.tar", bad_members())
    depth.run([base], config=settings({"depth": {"backend": "sensor"}}))
    if stored:
        features.run([base], config=config(weights))
    stage.run([base], config=config(weights, run={"graphs": "workers"}))
    expected, failed = bytes_of([base]), manifest_of(base).failed
    assert [item["key"] for item in failed] == ["empty", "point", "torn"]
    stage.run([base], config=config(weights, run={"batch_size": 2}))
    assert bytes_of([base]) == expected
    assert manifest_of(base).failed == failed


def test_an_image_without_depth_fails_with_the_depth_stages_reason(alone: Path, weights: Path):
    members = bad_members()
    del members["plain"]["sensor.png"]
    base = write_shard(alone / "s.tar", {key: members[key] for key in ("cmyk", "plain")})
    depth.run([base], config=settings({"depth": {"backend": "sensor"}}))
    result = stage.run([base], config=config(weights))
    assert [(item["key"], item["reason"]) for item in result.failed] == [
        ("plain", "it has no depth: no sensor map is packed with the image")
    ]


def test_a_network_that_breaks_on_an_image_loses_that_image_alone(
    alone: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    (base,) = pack_photos(alone, 3)
    original = FeatureExtractor.extract_on_device
    broken: list[NDArray[np.uint8]] = []

    def extract(self: FeatureExtractor, squares: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
        if not broken:
            broken.append(squares[1])
        if any(square is broken[0] for square in squares):
            raise RuntimeError("the second image")
        return original(self, squares)

    monkeypatch.setattr(FeatureExtractor, "extract_on_device", extract)
    result = stage.run([base], config=config(weights))
    assert [(item["key"], item["reason"]) for item in result.failed] == [
        ("p1", "the network failed: RuntimeError: the second image")
    ]
    assert list(records(sidecar(base, "pseudo"), "pseudo.json")) == ["p0", "p2"]


@pytest.mark.parametrize("step", ["cut_iteration", "refine_image"])
def test_an_image_that_workers_die_of_fails_alone(
    alone: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    """A worker is killed by one of the images, in the middle of its cuts or after them."""
    (base,) = pack_photos(alone, 5)
    whole = config(weights, run={"workers": 2, "batch_size": 2})
    stage.run([base], config=whole)
    before = records(sidecar(base, "pseudo"), "pseudo.json")

    start, begun = WorkerPool.start, []

    def deadly(self: WorkerPool, function: Any, argument: Any) -> Any:
        begun.append(function.__name__)
        if function.__name__ == step and begun.count(step) == 2:
            return start(self, os._exit, 9)
        return start(self, function, argument)

    monkeypatch.setattr(WorkerPool, "start", deadly)
    result = stage.run([base], config=replace(whole, run=replace(whole.run, if_exists="overwrite")))
    (failed,) = result.failed
    assert "the worker process died of it, 2 times of 2: it ended with exit code 9" in failed["reason"]
    after = records(sidecar(base, "pseudo"), "pseudo.json")
    assert after == {key: value for key, value in before.items() if key != failed["key"]}


def test_damaged_shards_are_one_line(alone: Path, weights: Path):
    (base,) = pack_photos(alone, 2)
    data = base.read_bytes()
    base.write_bytes(data[: len(data) // 2])
    with pytest.raises(ShardError, match=r"s-000\."):
        stage.run([base], config=config(weights, method="maskcut"))
    assert not sidecar(base, "pseudo").exists()


# ---------------------------------------------------------------------------------------------- the batches alone

PLAIN = replace(PAPER.pseudo, sharpen=False, crf=False, tau_ncut=0.5, tau_knn=0.2, knn=8, min_area=0.0, crf_size=120)


def made(number: int, **changes: Any) -> Loaded:
    """Two touching blobs that look alike, at two depths."""
    left, right = touching_blobs()
    depth = np.where(left, 0.2, np.where(right, 0.6, 1.0)).astype(np.float32)
    fields: dict[str, Any] = {
        "key": f"p{number}",
        "size": (90, 60),
        "features": two_class_features(left | right, noise=0.01, seed=number).astype(np.float16),
        "crf_image": np.zeros((120, 120, 3), dtype=np.uint8),
        "depth": depth,
    }
    return Loaded(**{**fields, **changes})


def cutter(pool: WorkerPool, *, batch_size: int = 2, **changes: Any) -> BatchedCutter:
    return BatchedCutter(
        config=replace(PLAIN, **changes),
        extract=lambda squares: [torch.from_numpy(two_class_features(touching_blobs()[0])) for _ in squares],
        device="cpu",
        batch_size=BatchSize(batch_size),
        pool=pool,
    )


def test_both_blobs_are_found_in_every_image():
    left, right = touching_blobs()
    with WorkerPool(0) as pool:
        found = list(cutter(pool).cut(made(number) for number in range(5)))
    assert [item.key for item in found] == [f"p{number}" for number in range(5)]
    for item in found:
        assert item.result is not None
        masks = [instance.patch_mask for instance in item.result.instances[:2]]
        assert {mask.tobytes() for mask in masks} == {left.tobytes(), right.tobytes()}


def test_no_more_images_are_taken_than_are_bounded():
    taken = 0

    def images() -> Iterator[Loaded]:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield made(number)

    with WorkerPool(1) as pool:
        cutting = cutter(pool, batch_size=3, instances=1)
        assert cutting.in_flight == 2 + 1  # two tasks for the worker are one batch
        given = 0
        for _ in cutting.cut(images()):
            given += 1
            assert taken - given < cutting.in_flight * 3
    assert given == 40


def test_unusable_features_are_that_images_failure_alone():
    bad = made(1).features
    assert bad is not None
    images = [
        made(0),
        made(1, features=np.full_like(bad, np.nan)),
        Loaded(key="p2", failure="it was torn"),
        made(3, features=np.zeros_like(bad)),
        made(4, depth=made(4).depth[:-1]),  # type: ignore[index]
        made(5),
    ]
    with WorkerPool(0) as pool:
        found = list(cutter(pool, batch_size=4).cut(images))
    assert [item.failure for item in found] == [
        None,
        "the features contain NaN or infinite values",
        "it was torn",
        "the features are all zero",
        "it could not be computed: ValueError: depth must be (12, 12) and within [0, 1], it is (11, 12)",
        None,
    ]
    assert all((item.result is None) == (item.failure is not None) for item in found)


def test_an_eigenproblem_that_breaks_is_that_images_failure_alone(monkeypatch: pytest.MonkeyPatch):
    original = batched.second_eigenvectors

    def solve(edges: Tensor, removed: Tensor, **options: Any) -> list[Eigenpair]:
        if any(not one.diagonal()[0] for one in edges):  # a patch that is similar to nothing
            raise RuntimeError("out of memory\nin the end")
        return original(edges, removed, **options)

    monkeypatch.setattr(batched, "second_eigenvectors", solve)
    features = made(1).features
    assert features is not None
    features[:, 0, 0] = 0
    with WorkerPool(0) as pool:
        found = list(cutter(pool, batch_size=4).cut([made(0), made(1, features=features), made(2)]))
    assert [item.failure for item in found] == [None, "the eigensolver failed: RuntimeError: out of memory", None]


@pytest.mark.parametrize("where", ["cut_iteration", "refine_image"])
def test_what_breaks_in_a_worker_is_that_images_failure_alone(where: str, monkeypatch: pytest.MonkeyPatch):
    original = getattr(batched, where)
    seen: list[object] = []

    def work(task: IterationTask | RefinementTask) -> object:
        seen.append(task)
        if len(seen) == 2:
            raise np.linalg.LinAlgError("singular matrix")
        return original(task)

    monkeypatch.setattr(batched, where, work)
    with WorkerPool(0) as pool:
        found = list(cutter(pool, batch_size=3).cut(made(number) for number in range(3)))
    assert sorted(item.failure or "" for item in found) == [
        "",
        "",
        "it could not be computed: LinAlgError: singular matrix",
    ]


def test_an_image_of_one_colour_has_no_mask():
    with WorkerPool(0) as pool:
        (found,) = cutter(pool).cut([made(0, features=np.ones((3, *GRID), dtype=np.float16))])
    assert found.result is not None
    assert found.result.instances == []
    assert found.result.extraction.stopped == "the semantic graph has no structure to cut"


def test_what_concerns_the_whole_run_ends_it():
    with WorkerPool(0) as pool, pytest.raises(UsageError, match="take every object apart"):
        list(cutter(pool, tau_knn=0.1).cut([made(0)]))


def test_a_photo_goes_through_the_network_on_the_way():
    with WorkerPool(0) as pool:
        (found,) = cutter(pool).cut([made(0, features=None, square=np.zeros((24, 24, 3), dtype=np.uint8))])
    assert found.result is not None
    np.testing.assert_array_equal(found.result.instances[0].patch_mask, touching_blobs()[0])
