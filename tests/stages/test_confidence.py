from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds

from cuts3d_cli.config import Config
from cuts3d_cli.cut.confidence import Thresholds, confidence_counts
from cuts3d_cli.cut.grid import depth_to_grid, fill_holes
from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.engine.replacing import OtherSettingsError
from cuts3d_cli.errors import ShardError, UsageError
from cuts3d_cli.shards.names import sidecar
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars.confidence import current_confidence, decode
from cuts3d_cli.sidecars.depth import decode_depth_png
from cuts3d_cli.stages import confidence as stage
from cuts3d_cli.stages import pseudo
from tests.support.clouds import surface
from tests.support.photos import pack_photos, records, settings, write_shard
from tests.support.running import Ran


def config(weights: Path, *, confidence: dict[str, Any] | None = None, **changes: Any) -> Config:
    return settings(
        {
            "pseudo": {"crf_size": 160, "tau_knn": 0.2, **changes},
            "features": {"backbone": "dino-vits16", "size": 224, "weights": weights},
            "confidence": {"tau_knn_min": 0.12, **(confidence or {})},
            "run": {"device": "cpu", "workers": 0},
        }
    )


def anew(config: Config) -> Config:
    """The same, in place of results of other settings."""
    return replace(config, run=replace(config.run, if_exists="replace"))


@pytest.fixture
def cut(alone: Path, weights: Path) -> Path:
    """A shard of three photos with depth and masks."""
    (base,) = pack_photos(alone, 3)
    pseudo.run([base], config=config(weights))
    return base


def test_every_mask_has_a_map_and_a_score(cut: Path, weights: Path):
    result = stage.run([cut], config=config(weights))
    masks = records(sidecar(cut, "pseudo"), "pseudo.json")
    depths = {item.key: item.members["depth.png"] for item in read_shard(sidecar(cut, "depth"))}
    found = {item.key: item for item in read_shard(sidecar(cut, "confidence"))}
    assert list(found) == list(masks)
    assert result.count("masks") == sum(len(record["instances"]) for record in masks.values()) > 0
    for key, sample in found.items():
        stored = decode(sample)
        for values, score, item in zip(stored.maps, stored.scores, masks[key]["instances"], strict=True):
            assert values.min() >= 0.5
            assert set(np.round(np.unique(values) * 6, 4)) <= {3.0, 4.0, 5.0, 6.0}
            assert score == pytest.approx(values[decode_rle(item["patch_mask"])].mean(), abs=1e-6)
            # as if it were computed in one go, from the arrays
            depth = depth_to_grid(fill_holes(decode_depth_png(depths[key])), (14, 14), sampling="nearest")
            row, column = item["source"]
            counts = confidence_counts(
                surface(depth),
                decode_rle(item["bipartition"]),
                source=row * 14 + column,
                sink=item["sink"][0] * 14 + item["sink"][1],
                thresholds=[Thresholds(tau_knn=tau) for tau in np.linspace(0.12, 0.2, 6)],
                k=16,
                capacity="gaussian",
            )
            np.testing.assert_array_equal(values, np.maximum(counts / np.float32(6), np.float32(0.5)))
            assert values[row, column] == 1.0


def test_the_cut_at_the_highest_threshold_is_the_mask_itself(cut: Path, weights: Path):
    stage.run([cut], config=config(weights, confidence={"tau_knn_min": 0.2, "cuts": 1}))
    masks = records(sidecar(cut, "pseudo"), "pseudo.json")
    for sample in read_shard(sidecar(cut, "confidence")):
        stored = decode(sample)
        for values, item in zip(stored.maps, masks[sample.key]["instances"], strict=True):
            np.testing.assert_array_equal(values == 1.0, decode_rle(item["patch_mask"]))
        assert set(stored.scores) <= {1.0}


def test_masks_of_several_sources_are_scored_with_them(cut: Path, weights: Path):
    pseudo.run([cut], config=anew(config(weights, source="core", core_share=0.5)))
    masks = records(sidecar(cut, "pseudo"), "pseudo.json")
    assert any(decode_rle(item["core"]).sum() > 1 for record in masks.values() for item in record["instances"])
    stage.run([cut], config=config(weights, confidence={"tau_knn_min": 0.2, "cuts": 1}))
    for sample in read_shard(sidecar(cut, "confidence")):
        stored = decode(sample)
        for values, item in zip(stored.maps, masks[sample.key]["instances"], strict=True):
            np.testing.assert_array_equal(values == 1.0, decode_rle(item["patch_mask"]))


def test_the_crf_as_a_source(cut: Path, weights: Path):
    stage.run([cut], config=config(weights, confidence={"source": "crf"}))
    for sample in read_shard(sidecar(cut, "confidence")):
        stored = decode(sample)
        assert stored.maps.shape[1:] == (14, 14) or len(stored.maps) == 0
        assert all(0.5 <= score <= 1.0 for score in stored.scores)


@pytest.mark.parametrize("source", ["depth", "crf"])
def test_two_runs_give_the_same_bytes(cut: Path, weights: Path, source: str):
    stage.run([cut], config=config(weights, confidence={"source": source}))
    first = sidecar(cut, "confidence").read_bytes()
    sidecar(cut, "confidence").unlink()
    stage.run([cut], config=settings({"confidence": {"tau_knn_min": 0.12, "source": source}, "run": {"workers": 2}}))
    assert sidecar(cut, "confidence").read_bytes() == first


def test_webdataset_reads_it(cut: Path, weights: Path):
    stage.run([cut], config=config(weights))
    samples = list(wds.WebDataset(str(sidecar(cut, "confidence")), shardshuffle=False).decode())
    assert [sorted(key for key in sample if not key.startswith("__")) for sample in samples] == [
        ["confidence.json", "confidence.npy"]
    ] * 3
    assert samples[0]["confidence.npy"].dtype == np.uint8


def test_masks_that_were_cut_anew_make_it_stale(cut: Path, weights: Path):
    stage.run([cut], config=config(weights))
    assert current_confidence(cut) is not None
    pseudo.run([cut], config=anew(config(weights, instances=1)))
    with pytest.raises(ShardError, match="scores other masks"):
        current_confidence(cut)
    result = stage.run([cut], config=config(weights))  # the run itself notices, and redoes it
    assert result.shards[0].status == "done"
    assert current_confidence(cut) is not None
    # A threshold that follows from the masks is no setting of the user's.
    pseudo.run([cut], config=anew(config(weights, tau_knn=0.21)))
    assert stage.run([cut], config=config(weights)).shards[0].status == "done"
    with pytest.raises(OtherSettingsError, match=r"confidence\.cuts 6 -> 3"):
        stage.run([cut], config=config(weights, confidence={"tau_knn_min": 0.12, "cuts": 3}))


def test_what_does_not_fit_is_one_line(cut: Path, weights: Path):
    with pytest.raises(UsageError, match=r"tau_knn_min 0\.25 must lie .* 0\.1088, and the highest threshold, 0\.2"):
        stage.run([cut], config=config(weights, confidence={"tau_knn_min": 0.25}))
    with pytest.raises(UsageError, match=r"tau_knn_min 0\.05 must lie between the diagonal spacing .* 0\.1088"):
        stage.run([cut], config=config(weights, confidence={"tau_knn_min": 0.05}))
    pseudo.run([cut], config=anew(config(weights, method="maskcut")))
    with pytest.raises(ShardError, match="cut in 2D"):
        stage.run([cut], config=config(weights))


def test_where_no_image_was_cut_it_ends_with_3(cuts3d: Callable[..., Ran], alone: Path):
    """A few are counted."""
    write_shard(alone / "bad-000.tar", {"a": {"jpg": b""}, "b": {"jpg": b"no photo"}})
    write_shard(alone / "empty-000.tar", {})
    cutting = ("pseudo", "--method", "maskcut", "--backbone", "dino-vits16", "-j", 0)
    for base, said in (
        ("bad-000.tar", "there was nothing to do: all 2 images failed in an earlier stage"),
        ("empty-000.tar", "the shards hold no images"),
    ):
        assert cuts3d("depth", base, "--backend", "sensor").code == 3
        (alone / "w.pth").write_bytes(b"never loaded")
        assert cuts3d(*cutting, base, "--weights", "w.pth").code == 3
        ran = cuts3d("confidence", base, "--source", "crf")
        assert ran.code == 3
        assert said in ran.err
    assert "failed before" in cuts3d("confidence", "bad-000.tar", "--source", "crf").out


def test_without_masks_it_says_what_to_run(cuts3d: Callable[..., Ran], shards: list[Path]):
    ran = cuts3d("confidence", "--shards", shards[0])
    assert ran.code == 1
    assert "cuts3d pseudo --shards" in ran.line
