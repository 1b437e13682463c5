from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cuts3d_cli.config import PAPER, Config
from cuts3d_cli.engine.replacing import OtherSettingsError
from cuts3d_cli.errors import ShardError, UsageError, WeightsError
from cuts3d_cli.features.catalogue import load_backbone
from cuts3d_cli.features.extractor import FeatureExtractor
from cuts3d_cli.images import decode_image, resize_square
from cuts3d_cli.shards.manifest import Manifest, load_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars.features import read_features
from cuts3d_cli.stages import features as stage
from cuts3d_cli.stages.features import stored_features
from tests.support.photos import encoded, pack_photos, records, settings, two_boxes, write_shard
from tests.support.running import Ran


def config(weights: Path | None, **changes: Any) -> Config:
    features = {"backbone": "dino-vits16", "size": 64, "weights": weights, **changes}
    return settings({"features": features, "run": {"device": "cpu"}})


def arrays(base: Path) -> dict[str, NDArray[np.float16]]:
    return {sample.key: read_features(sample, None) for sample in read_shard(sidecar(base, "features"))}


def test_a_sidecar_holds_what_the_backbone_gives_in_half_precision(alone: Path, weights: Path):
    (base,) = pack_photos(alone, 3, with_depth=False)
    result = stage.run([base], config=config(weights))
    assert result.failed == []
    backbone = load_backbone("dino-vits16", size=64, weights=weights, device="cpu", precision="float32")
    stored = arrays(base)
    assert list(stored) == ["p0", "p1", "p2"]
    for sample in read_shard(base):
        image = resize_square(decode_image(sample.members["jpg"]), 64)
        expected = backbone.extract(image[None])[0].astype(np.float16)
        assert (stored[sample.key].shape, stored[sample.key].dtype) == ((384, 4, 4), np.float16)
        np.testing.assert_array_equal(stored[sample.key], expected)
    assert records(sidecar(base, "features"), "features.json")["p0"] == {
        "backbone": "dino-vits16",
        "size": 64,
        "tensor": "keys",
    }


def test_a_precision_that_was_chosen_is_recorded_and_makes_nothing_stale(alone: Path, weights: Path):
    (base,) = pack_photos(alone, 2, with_depth=False)
    plain, full, rough = (
        replace(config(weights), run=replace(config(weights).run, precision=precision))
        for precision in ("auto", "float32", "bfloat16")
    )
    features = sidecar(base, "features")

    def overwritten(chosen: Config) -> tuple[bytes, Manifest]:
        stage.run([base], config=replace(chosen, run=replace(chosen.run, if_exists="overwrite")))
        return features.read_bytes(), load_manifest(manifest_path(features))

    (at_first, manifest), (in_full, full_manifest), (rounded, rough_manifest) = map(overwritten, (plain, full, rough))
    assert at_first == in_full != rounded
    assert manifest.config_hash == full_manifest.config_hash == rough_manifest.config_hash
    assert manifest.info == {"device": "cpu"}
    assert full_manifest.info == {"device": "cpu", "precision": "float32"}
    assert rough_manifest.info == {"device": "cpu", "precision": "bfloat16"}
    assert [shard.status for shard in stage.run([base], config=plain).shards] == ["skipped"]
    assert features.read_bytes() == rounded


@pytest.mark.parametrize("command", ["features", "depth --backend midas-small", "pseudo --method maskcut"])
@pytest.mark.parametrize("precision", ["tf32", "float16"])
def test_a_precision_for_cuda_is_refused_on_a_cpu(
    cuts3d: Callable[..., Ran], alone: Path, weights: Path, command: str, precision: str
):
    (base,) = pack_photos(alone, 1, with_depth=False)
    of_network = ("--backbone", "dino-vits16", "--weights", weights) if command != "depth --backend midas-small" else ()
    ran = cuts3d(*command.split(), "--shards", base, *of_network, "--device", "cpu", "--precision", precision)
    assert ran.code == 2
    assert ran.err.splitlines()[-1] == (
        f"cuts3d: --precision is {precision}, which is for CUDA: on cpu take float32 or bfloat16"
    )
    assert sorted(path.name for path in base.parent.glob("*.tar")) == [base.name]


def test_a_network_that_breaks_on_an_image_loses_that_image_alone(
    alone: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    (base,) = pack_photos(alone, 4, with_depth=False)
    original = FeatureExtractor.extract_squares
    sizes = []

    def extract(self: FeatureExtractor, squares: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float16]]:
        sizes.append(len(squares))
        if any(np.array_equal(square, third) for square in squares):
            raise RuntimeError("out of memory\nwhile convolving")
        return original(self, squares)

    third = resize_square(decode_image(list(read_shard(base))[2].members["jpg"]), 64)
    monkeypatch.setattr(FeatureExtractor, "extract_squares", extract)
    result = stage.run([base], config=config(weights))
    assert result.failed == [
        {"shard": str(base), "key": "p2", "reason": "the network failed: RuntimeError: out of memory"}
    ]
    assert list(arrays(base)) == ["p0", "p1", "p3"]
    assert sizes == [4, 1, 1, 1, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_not_stored(
    alone: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, value: float
):
    (base,) = pack_photos(alone, 3, with_depth=False)
    original = FeatureExtractor.extract_squares

    def extract(self: FeatureExtractor, squares: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float16]]:
        found = original(self, squares)
        found[1] = found[1].copy()
        found[1][0, 0, 0] = value
        return found

    monkeypatch.setattr(FeatureExtractor, "extract_squares", extract)
    result = stage.run([base], config=config(weights))
    reason = "its features are NaN, or too large for float16"
    assert result.failed == [{"shard": str(base), "key": "p1", "reason": reason}]
    assert list(arrays(base)) == ["p0", "p2"]


def test_readers_change_nothing(alone: Path, weights: Path):
    """Photos are read in other processes: the same bytes in the same order, the same failures."""
    whole = encoded(two_boxes().image)
    samples = {f"p{number}": {"jpg": whole} for number in range(6)} | {"p2": {"jpg": b""}, "p4": {"txt": b"no photo"}}
    base = write_shard(alone / "s.tar", samples)
    found = []
    for workers in (None, 0, 2):
        run = {"device": "cpu", "workers": workers, "if_exists": "overwrite"}
        result = stage.run([base], config=replace(config(weights), run=replace(PAPER.run, **run)))
        found.append((sidecar(base, "features").read_bytes(), result.failed))
    assert found[0] == found[1] == found[2]
    assert [item["key"] for item in found[0][1]] == ["p2", "p4"]


def test_broken_photos_fail_and_the_others_do_not_mind(alone: Path, weights: Path):
    whole = encoded(two_boxes().image)
    base = write_shard(alone / "s.tar", {"a": {"jpg": b""}, "b": {"jpg": whole}, "c": {"txt": b"no photo"}})
    alone_base = write_shard(alone / "t.tar", {"b": {"jpg": whole}})
    result = stage.run([base, alone_base], config=config(weights))
    assert [(item["key"], item["reason"]) for item in result.failed] == [
        ("a", "the image file is empty"),
        ("c", "the sample has no image, only txt"),
    ]
    np.testing.assert_array_equal(arrays(base)["b"], arrays(alone_base)["b"])


def test_stored_features_of_other_kinds_are_refused(alone: Path, weights: Path):
    (base,) = pack_photos(alone, 1, with_depth=False)
    assert stored_features(base, FeatureExtractor(config(weights))) is None
    stage.run([base], config=config(weights))
    for asked in (config(weights), config(None)):
        found = stored_features(base, FeatureExtractor(asked))
        assert found is not None
        assert found[0] == sidecar(base, "features")
    with pytest.raises(ShardError, match=r"of dino-vits16 at 64, this run asks for dino-vits16 at 80: .* delete"):
        stored_features(base, FeatureExtractor(config(weights, size=80)))
    with pytest.raises(ShardError, match="asks for dino-vits8 at 64"):
        stored_features(base, FeatureExtractor(config(None, backbone="dino-vits8")))
    other = alone / "other.pth"
    other.write_bytes(b"other")
    with pytest.raises(ShardError, match=r"other weights than .*other\.pth"):
        stored_features(base, FeatureExtractor(config(other)))


def test_a_changed_file_of_weights_is_redone_where_that_is_asked_for(alone: Path, weights: Path):
    import torch

    (base,) = pack_photos(alone, 1, with_depth=False)
    stage.run([base], config=config(weights))
    state = torch.load(weights, weights_only=True)
    state["cls_token"] += 1.0
    torch.save(state, alone / "w.pth")
    assert stage.run([base], config=config(weights)).shards[0].status == "skipped"
    with pytest.raises(OtherSettingsError, match=r"features\.weights .* -> w\.pth"):
        stage.run([base], config=config(alone / "w.pth"))
    asked = config(alone / "w.pth")
    anew = replace(asked, run=replace(asked.run, if_exists="replace"))
    assert stage.run([base], config=anew).shards[0].status == "done"


def test_the_extractor_checks_names_before_it_loads_anything(alone: Path):
    with pytest.raises(UsageError, match="unknown backbone 'vit'"):
        FeatureExtractor(config(None, backbone="vit"))
    with pytest.raises(UsageError, match="size 100 is not a multiple"):
        FeatureExtractor(config(None, size=100))
    extractor = FeatureExtractor(config(None))
    assert (extractor.size, extractor.grid) == (64, (4, 4))
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        _ = extractor.weights
