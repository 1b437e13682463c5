"""The benchmarks on tiny inputs: what is paired with what, what a ratio means, and that both ways cut the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from bench import common, data, device, peer, precision, pseudo, scale, speed
from bench.__main__ import main
from bench.common import BenchError
from bench.data import Photo
from cuts3d_cli.config import PRESETS, Config
from cuts3d_cli.cut.ncut import solve_ncut
from tests.support.benchmarks import photo_of, write_set

SIDE = 16
"""Of the grid."""


class MadeFeatures(data.Features):
    """Features by colour, on a small grid whatever the size asked for: boxes are alike, and unlike what is behind."""

    def extractor(self, config: Config) -> Any:
        return SimpleNamespace(
            spec=SimpleNamespace(tau_ncut=0.5), grid=(SIDE, SIDE), extract=lambda images: [vectors_of(images[0])]
        )

    def of(self, photos: Sequence[Photo], config: Config) -> Iterator[NDArray[np.float16]]:
        yield from (vectors_of(photo.image) for photo in photos)


def vectors_of(image: Image.Image) -> NDArray[np.float16]:
    """(3, SIDE, SIDE): the average colour of each patch, centred so that red and blue point in opposite directions."""
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
    return np.moveaxis(small - 100.0, -1, 0).astype(np.float16)


@pytest.fixture(scope="module")
def features() -> MadeFeatures:
    return MadeFeatures()


def test_actions_run_in_turn_and_their_figures_stay_paired():
    calls: list[str] = []

    def action(name: str) -> Any:
        return lambda: calls.append(name) or len(calls)

    timed = common.interleaved({"a": action("A"), "b": action("B")}, repeats=3)
    assert "".join(calls) == "ABABAB"
    assert timed.results == {"a": [1, 3, 5], "b": [2, 4, 6]}
    assert [len(seconds) for seconds in timed.seconds.values()] == [3, 3]


def test_a_ratio_is_the_median_over_the_pairs_not_the_ratio_of_medians():
    # pairs 2, 10, 3; medians 10 and 2 would give 5
    found = common.ratios([2.0, 10.0, 30.0], [1.0, 1.0, 10.0])
    assert found == {"ratio": 3.0, "lowest": 2.0, "highest": 10.0}
    with pytest.raises(ValueError, match="zip"):
        common.ratios([1.0, 2.0], [1.0])


def test_the_peer_is_given_the_faster_of_its_two_ways_in_each_round():
    assert common.faster([3.0, 1.0], [2.0, 5.0]) == [2.0, 1.0]


def test_two_empty_masks_agree():
    empty, full = np.zeros((4, 4), dtype=bool), np.ones((4, 4), dtype=bool)
    assert common.agreement(empty, empty) == 1.0
    assert common.agreement(empty, full) == 0.0
    assert common.agreement(full, full) == 1.0


def test_a_report_prints_and_is_plain_json():
    rows = [{"what": "x", "seconds": 1234.5678901, "share": None, "good": True, "count": 3}]
    report = common.Report(name="n", tables=[common.Table("t", rows)], notes=["[note]"], skipped=["s"])
    assert json.loads(json.dumps(report.to_json()))["tables"]["t"] == [{**rows[0], "seconds": 1234.57}]
    console = Console(width=120)
    with console.capture() as captured:
        common.print_report(report, console)
        common.print_machine(common.machine(load_before=0.5), console)
    text = captured.get()
    for part in ("n: t", "1235", "yes", "[note]", "skipped: s", "cores", f"python {sys.version.split()[0]}"):
        assert part in text


def test_the_dense_solver_of_the_peer_and_ours_agree_with_and_without_nodes():
    edges = peer.semantic_edges(vectors_of(photo_of(0).image).astype(np.float32), tau_ncut=0.5)
    assert np.array_equal(edges, edges.T)
    for removed in (np.zeros(SIDE**2, dtype=bool), np.arange(SIDE**2) < 40):
        left = edges & ~removed[:, None] & ~removed[None, :]
        dense, ours = peer.dense_ncut(left), solve_ncut(edges, removed=removed).vector
        assert dense[~removed] == pytest.approx(ours[~removed], abs=1e-6)


def test_ncut_pairs_both_solvers_at_every_stage(features: MadeFeatures):
    report = speed.ncut([photo_of(0), photo_of(1)], sizes=(490,), features=features, repeats=2)
    rows = report.tables[0].rows
    assert [row["stage"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[0]["removed"] == 0
    for row in rows:
        assert row["K"] == SIDE**2
        assert row["IoU least"] == 1.0
        assert row["same seed"] == row["graphs"]
        assert 0 < row["lowest"] <= row["ratio"] <= row["highest"]


def test_crf_compares_the_same_masks(features: MadeFeatures):
    report = speed.crf([photo_of(0)], features=features, repeats=1)
    one, every = report.tables[0].rows
    assert one["masks"] == every["masks"] >= 1
    assert one["IoU least"] > 0.98
    assert {**one, "photo": "all"} == every


def test_pseudo_gives_every_method_its_steps_and_the_peer_finds_what_our_maskcut_finds(features: MadeFeatures):
    report = pseudo.pseudo([photo_of(0)], features=features, repeats=2)
    steps, figures, shares, counts = (table.rows for table in report.tables)
    by_step = {row["step"]: row for row in steps}
    assert {"features", "affinity", "eigen", "cut", "crf", "encode", "confidence", "all but features"} <= set(by_step)
    assert by_step["features"]["peer, all threads"] == by_step["features"]["cuts3d"]
    assert by_step["eigen"]["peer, one thread"] > 0
    assert by_step["confidence"]["maskcut"] is None
    assert by_step["sharpen"]["maskcut"] is None
    assert by_step["sharpen"]["cuts3d"] > 0
    assert all(row["lowest"] <= row["ratio"] <= row["highest"] for row in figures)
    assert shares[-1]["step"] == "all"
    assert shares[-1]["seconds"] == pytest.approx(sum(row["seconds"] for row in shares[:-1]))
    by_method = {row["method"]: row for row in counts}
    assert by_method["peer"]["masks per image"] == by_method["maskcut"]["masks per image"] >= 1
    assert by_method["maskcut"]["IoU with the peer least"] > 0.99
    assert by_method["cuts3d"]["masks per image"] >= 1


def test_throughput_says_how_busy_each_part_was(weights: Path):
    config = data.offline(
        {
            "pseudo": {"tau_knn": 0.2, "crf_size": 160},
            "features": {"backbone": "dino-vits16", "size": 224, "weights": weights},
            "run": {"workers": 0, "batch_size": 2},
        }
    )
    table = device.throughput([photo_of(0), photo_of(1)], config=config, device="cpu", images=3, repeats=1)
    on_device, by_workers = table.rows
    assert (on_device["graphs"], by_workers["graphs"]) == ("device", "workers")
    assert on_device["masks"] == by_workers["masks"] >= 3
    for row in table.rows:
        assert row["images per second"] > 0
        shares = {name: row[f"{name} busy"] for name in ("device", "workers", "reader")}
        assert all(0 < share < 1.5 for share in shares.values())
        assert shares[row["bottleneck"]] == max(shares.values())
        assert row["peak device memory, MB"] is None


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["ncut", "--repeats", "0"], ["ncut", "--sizes", "14,x"]])
def test_impossible_arguments_are_refused(arguments: list[str]):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


def test_a_set_is_read_with_depth_as_the_depth_stage_stores_it(tmp_path: Path):
    write_set(tmp_path, "mosd", 2)
    photos = data.read_set(tmp_path, "mosd")
    assert photos is not None
    assert [photo.name for photo in photos] == ["mosd/p1", "mosd/p2"]
    found = photos[0].depth_map()
    assert found is not None
    depth = found.depth
    assert photos[0].size == depth.shape == (60, 80)
    assert np.isnan(depth[0, 0])
    assert depth[30, 20] == 0.0  # the left box, at 1 m, is nearest
    assert depth[30, 50] == pytest.approx(0.5, abs=1e-4)
    assert depth[59, 79] == 1.0
    assert len(photos[0].instances) == 2


def test_some_photos_come_from_all_sets_and_from_all_over_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data, "rendered", lambda seed: photo_of(seed, name="rendered"))
    write_set(tmp_path, "mosd", 4)
    write_set(tmp_path, "coco", 2, with_depth=False)
    assert data.read_set(tmp_path, "voc") is None
    names = [photo.name for photo in data.some_photos(tmp_path, 3, sets=("mosd", "coco"))]
    assert names == ["mosd/p1", "coco/p1", "mosd/p3"]
    names = [photo.name for photo in data.some_photos(tmp_path, 2, sets=("voc",))]
    assert names == ["rendered/0", "rendered/1"]


def test_features_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    weights = tmp_path / "weights"
    weights.write_bytes(b"12345")
    seen: list[int] = []

    def extract(images: Sequence[Image.Image]) -> list[NDArray[np.float16]]:
        seen.append(len(images))
        return [vectors_of(images[0])]

    fake = SimpleNamespace(spec=SimpleNamespace(name="made"), size=14, weights=weights, extract=extract)
    config = data.offline({})
    photos = [photo_of(0), photo_of(1), replace(photo_of(0), name="other")]
    for _ in range(2):
        features = data.Features(tmp_path / "cache")
        monkeypatch.setattr(features, "extractor", lambda config: fake)
        found = list(features.of(photos, config))
        assert np.array_equal(found[0], vectors_of(photos[0].image))
        assert np.array_equal(found[0], found[2])
    assert seen == [1, 1]


def test_damaged_annotations_are_refused(tmp_path: Path):
    (tmp_path / "mosd").mkdir()
    (tmp_path / "mosd/annotations.json").write_text("{}")
    with pytest.raises(BenchError, match=r"annotations\.json"):
        data.read_set(tmp_path, "mosd")


@pytest.mark.slow
def test_scale_runs_the_executable_on_made_images(tmp_path: Path):
    shards = scale.synthetic_shards(tmp_path, 3, size=scale.SMALL)
    run = scale.pseudo(shards, workers=1, size=scale.SMALL)
    assert run.seconds > 0
    assert run.masks >= 3
    if Path("/proc/self/status").is_file():
        assert run.main > 10
        assert run.worker > 10
    with pytest.raises(RuntimeError, match="nowhere"):
        scale.pseudo(tmp_path / "nowhere.tar", workers=1, size=scale.SMALL)


@pytest.mark.slow
def test_loader_reads_one_shard_and_many(monkeypatch: pytest.MonkeyPatch):
    loader = pytest.importorskip("bench.loader", exc_type=ModuleNotFoundError)
    monkeypatch.setattr(loader, "PHOTOS", 4)
    monkeypatch.setattr(loader, "STEP_SECONDS", 0.0)
    report = loader.loader(PRESETS["tiny"].train, processes=(0, 1), images=4, repeats=1)
    (table,) = report.tables
    assert [(row["processes"], row["shards"]) for row in table.rows] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert all(row["images per second"] > 0 for row in table.rows)


def test_scale_rows_say_how_memory_grows(monkeypatch: pytest.MonkeyPatch):
    made = iter([(10, 100.0, 50.0), (40, 103.0, 49.0)])

    def run(shards: Path, *, workers: int, size: scale.Size) -> scale.Run:
        seconds, main, worker = next(made)
        return scale.Run(seconds=seconds, masks=7, main=main, worker=worker)

    def synthetic_shard(folder: Path, images: int, *, size: scale.Size) -> Path:
        folder.mkdir()
        return folder / "made-000.tar"

    monkeypatch.setattr(scale, "pseudo", run)
    monkeypatch.setattr(scale, "synthetic_shards", synthetic_shard)
    monkeypatch.setattr(scale, "_speed", lambda *arguments, **options: [])
    report = scale.scale(counts=(100, 800), workers=(1, 2), repeats=1, speed_images=1)
    if report.skipped:
        pytest.skip("no /proc here")
    rows = report.tables[1].rows
    assert [row["growth, MB"] for row in rows] == [0.0, 3.0]
    assert [row["growth of worker, MB"] for row in rows] == [0.0, -1.0]
    assert [row["images per second"] for row in rows] == [10.0, 20.0]
    assert {row["workers"] for row in rows} == {2}


def test_precision_counts_masks_that_stay(features: MadeFeatures, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[str, str]] = []

    class Extractor:
        """Gives exact features in float32, and none that tell anything in another precision."""

        def __init__(self, config: Config) -> None:
            seen.append((config.run.device, config.run.precision))
            self.blind = config.run.precision != "float32"

        def extract(self, images: Sequence[Image.Image]) -> list[NDArray[np.float16]]:
            vectors = vectors_of(images[0])
            return [np.ones_like(vectors) if self.blind else vectors]

    monkeypatch.setattr(precision, "FeatureExtractor", Extractor)
    report = precision.precision([photo_of(seed) for seed in (0, 1)], device="cpu", features=features, size=SIDE)
    assert seen == [("cpu", "float32"), ("cpu", "bfloat16")]
    full, rough = report.tables[0].rows
    assert full["masks"] == full["same masks"] > 0
    assert (full["share"], full["least IoU"]) == (1.0, 1.0)
    assert full["cosine"] == pytest.approx(1.0)
    assert rough["share"] < 1
    assert rough["cosine"] < 0.9
