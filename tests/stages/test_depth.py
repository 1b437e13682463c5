from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cuts3d_cli.config import Config
from cuts3d_cli.depth.base import DepthBackend
from cuts3d_cli.depth.catalogue import DEPTHS
from cuts3d_cli.engine.replacing import OtherSettingsError
from cuts3d_cli.errors import ShardError, WeightsError
from cuts3d_cli.shards.manifest import load_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars.depth import decode_depth_png
from cuts3d_cli.sidecars.photos import FACTS
from cuts3d_cli.stages import depth as stage
from tests.support import depth_networks
from tests.support.photos import encoded, pack_photos, records, scene_of, settings, two_boxes, write_shard
from tests.support.running import Ran

SENSOR = settings({"depth": {"backend": "sensor"}})


@pytest.fixture(scope="module")
def midas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiDaS small with random weights; a file of the kind that is released."""
    return depth_networks.midas(tmp_path_factory.mktemp("midas") / "midas.pt")


def network(weights: Path, **changes: Any) -> Config:
    return settings({"depth": {"backend": "midas-small", "weights": weights, **changes}, "run": {"device": "cpu"}})


def maps(base: Path) -> dict[str, NDArray[np.float32]]:
    return {sample.key: decode_depth_png(sample.members["depth.png"]) for sample in read_shard(sidecar(base, "depth"))}


def npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_a_sensors_map_is_stored_as_it_was_measured(alone: Path):
    (base,) = pack_photos(alone, 2)
    for number, (key, depth) in enumerate(maps(base).items()):
        millimetres = scene_of(number).depth
        assert key == f"p{number}"
        assert depth.shape == millimetres.shape
        np.testing.assert_array_equal(np.isnan(depth), millimetres == 0)
        valid = millimetres > 0
        np.testing.assert_allclose(depth[valid], (millimetres[valid] - 1000.0) / 1000.0, atol=1e-5)
    facts = records(sidecar(base, "depth"), "depth.json")["p0"]
    assert (facts["min"], facts["max"]) == pytest.approx((1.0, 2.0))
    assert {name: facts[name] for name in ("unit", "direction", "model", "backend", "height", "width")} == {
        "unit": "metre",
        "direction": "distance",
        "model": "sensor",
        "backend": "sensor",
        "height": 60,
        "width": 80,
    }


def test_what_a_sensor_did_not_give_fails_with_its_reason(alone: Path):
    image = {"jpg": encoded(two_boxes().image)}
    good = two_boxes().depth
    scale = json.dumps({"depth": {"scale": 0.001, "unit": "metre"}}).encode()
    base = write_shard(
        alone / "s.tar",
        {
            "blind": {**image, FACTS: scale, "sensor.png": encoded(np.zeros_like(good), "PNG")},
            "good": {**image, FACTS: scale, "sensor.png": encoded(good, "PNG")},
            "none": {**image, FACTS: scale},
            "npy": {**image, "sensor.npy": npy(good / 1000.0)},
            "torn": {**image, FACTS: scale, "sensor.png": encoded(good, "PNG")[:90]},
            "unscaled": {**image, "sensor.png": encoded(good, "PNG")},
        },
    )
    result = stage.run([base], config=SENSOR)
    reasons = {item["key"]: item["reason"] for item in result.failed}
    assert list(maps(base)) == ["good", "npy"]
    np.testing.assert_array_equal(maps(base)["good"], maps(base)["npy"])
    assert reasons.keys() == {"blind", "none", "torn", "unscaled"}
    assert "no valid pixel" in reasons["blind"]
    assert reasons["none"] == "no sensor map is packed with the image"
    assert "cannot be decoded" in reasons["torn"]
    assert "does not say what a unit" in reasons["unscaled"]


def test_a_network_gives_the_same_bytes_again_and_the_same_maps_in_any_batch(alone: Path, midas: Path):
    (base,) = pack_photos(alone, 3, with_depth=False)
    stage.run([base], config=network(midas))
    tar = sidecar(base, "depth")
    first, depths = tar.read_bytes(), maps(base)
    tar.unlink()
    stage.run([base], config=network(midas))
    assert tar.read_bytes() == first
    singly = {"device": "cpu", "batch_size": 1, "if_exists": "overwrite"}
    stage.run([base], config=settings({"depth": {"backend": "midas-small", "weights": midas}, "run": singly}))
    assert list(maps(base)) == ["p0", "p1", "p2"]
    for key, depth in maps(base).items():
        assert np.ptp(depth) == 1.0
        np.testing.assert_allclose(depth, depths[key], atol=1e-3)  # a library may add in another order
    facts = records(tar, "depth.json")["p0"]
    assert (facts["backend"], facts["direction"], facts["unit"]) == ("midas-small", "disparity", "relative")
    assert facts["conversion"].startswith("depth = 1 - ")


def test_readers_change_nothing(alone: Path, midas: Path):
    (base,) = pack_photos(alone, 3, with_depth=False)
    found = []
    for workers in (0, 2):
        run = {"device": "cpu", "workers": workers, "if_exists": "overwrite"}
        stage.run([base], config=settings({"depth": {"backend": "midas-small", "weights": midas}, "run": run}))
        found.append(sidecar(base, "depth").read_bytes())
    assert found[0] == found[1]


def test_the_content_of_the_weights_decides_not_their_place(alone: Path, midas: Path):
    import torch

    (base,) = pack_photos(alone, 1, with_depth=False)
    stage.run([base], config=network(midas))
    manifest = load_manifest(manifest_path(sidecar(base, "depth")))
    assert manifest.inputs["weights"].file == "midas.pt"
    moved = alone / "moved.pt"
    shutil.copy(midas, moved)
    assert stage.run([base], config=network(moved)).shards[0].status == "skipped"
    state = torch.load(moved, weights_only=True)
    state["scratch.output_conv.4.bias"] += 1.0
    torch.save(state, moved)
    with pytest.raises(OtherSettingsError, match=r"depth\.weights midas\.pt \([0-9a-f]{8}\) -> moved\.pt \("):
        stage.run([base], config=network(moved))
    anew = replace(network(moved), run=replace(network(moved).run, if_exists="replace"))
    assert stage.run([base], config=anew).shards[0].status == "done"


def test_the_files_of_a_folder_of_weights_are_inputs(tmp_path: Path):
    for name in ("model/b.safetensors", "config.json", ".cache/hub.metadata"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    files = stage._weight_files(settings({"depth": {"weights": tmp_path}}).depth, DEPTHS["zoedepth"])
    assert files == {
        "weights/config.json": tmp_path / "config.json",
        "weights/model/b.safetensors": tmp_path / "model/b.safetensors",
    }
    assert stage._weight_files(SENSOR.depth, DEPTHS["sensor"]) == {}


def test_missing_weights_are_told_before_anything_is_written(alone: Path):
    (base,) = pack_photos(alone, 1, with_depth=False)
    with pytest.raises(
        WeightsError, match=r"nowhere: no such file or folder; for zoedepth: .*give depth\.weights='FOLDER'"
    ):
        stage.run([base], config=settings({"depth": {"weights": alone / "nowhere"}}))
    assert not sidecar(base, "depth").exists()


class OneImageBreaksIt(DepthBackend):
    """A depth network that fails on any batch with an image 70 pixels wide."""

    spec = DEPTHS["midas-small"]

    def predict(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        max_side: int,
        prompts: Sequence[NDArray[np.float32]] | None = None,
    ) -> list[NDArray[np.float32]]:
        """Return the red channel."""
        if any(image.shape[1] == 70 for image in images):
            raise IndexError("index 70 is out of bounds")
        return [image[..., 0].astype(np.float32) for image in images]


def test_a_network_that_breaks_on_an_image_loses_that_image_alone(alone: Path, monkeypatch: pytest.MonkeyPatch):
    (base,) = pack_photos(alone, 3, with_depth=False)
    monkeypatch.setattr(stage, "load_depth", lambda *_, **__: OneImageBreaksIt())
    result = stage.run([base], config=settings({"depth": {"backend": "midas-small"}, "run": {"device": "cpu"}}))
    assert list(maps(base)) == ["p0", "p2"]
    assert result.failed == [
        {
            "shard": str(base),
            "key": "p1",
            "reason": "the network failed: IndexError: index 70 is out of bounds",
        }
    ]


def test_where_all_is_finished_no_network_is_loaded(alone: Path, monkeypatch: pytest.MonkeyPatch):
    (base,) = pack_photos(alone, 1, with_depth=False)
    config = settings({"depth": {"backend": "midas-small"}, "run": {"device": "cpu"}})
    monkeypatch.setattr(stage, "load_depth", lambda *_, **__: OneImageBreaksIt())
    stage.run([base], config=config)

    def refuse(*_: object, **__: object) -> None:
        raise WeightsError("no weights")

    monkeypatch.setattr(stage, "load_depth", refuse)
    assert stage.run([base], config=config).shards[0].status == "skipped"
    with pytest.raises(WeightsError, match="no weights"):
        stage.run(
            [base], config=settings({"depth": {"backend": "kbr"}, "run": {"device": "cpu", "if_exists": "replace"}})
        )


def test_broken_photos_fail_with_their_reason(alone: Path, midas: Path):
    whole = encoded(two_boxes().image)
    base = write_shard(alone / "s.tar", {"a": {"jpg": b""}, "b": {"jpg": whole[:300]}, "c": {"jpg": whole}})
    result = stage.run([base], config=network(midas))
    assert [item["key"] for item in result.failed] == ["a", "b"]
    assert "empty" in result.failed[0]["reason"]
    assert "cannot be decoded" in result.failed[1]["reason"]
    assert list(maps(base)) == ["c"]


def test_the_manifest_names_the_network_that_was_loaded(alone: Path, midas: Path):
    (base,) = pack_photos(alone, 1, with_depth=False)
    stage.run([base], config=network(midas))
    manifest = load_manifest(manifest_path(sidecar(base, "depth")))
    assert manifest.info["network"] == {
        "model": "midas-small from midas.pt",
        "direction": "disparity",
        "unit": "relative",
        "files": {"midas.pt": hashlib.sha256(midas.read_bytes()).hexdigest()},
    }
    # Settings that came later are recorded where they are set, so that older shards stay finished
    assert not {"gives", "zoedepth_flip", "weights"}.intersection(manifest.config["depth"])


def test_packed_maps_that_a_network_does_not_use_are_told(alone: Path, midas: Path):
    base = pack_photos(alone, 1)[0]
    for path in (sidecar(base, "depth"), manifest_path(sidecar(base, "depth"))):
        path.unlink()
    lines: list[str] = []

    def say(line: object) -> None:
        lines.append(str(line))

    line = "the photos have depth maps, which midas-small does not use: depth.backend='sensor' takes them"
    stage.run([base], config=network(midas), say=say)
    assert lines.count(line) == 1
    lines.clear()
    other = pack_photos(alone / "other", 1)
    stage.run(other, config=SENSOR, say=say)
    (alone / "plain").mkdir()
    without = write_shard(alone / "plain/s.tar", {"a": {"jpg": encoded(two_boxes().image)}})
    (alone / "plain/bad.tar").write_bytes(b"no tar")
    stage.run([without], config=network(midas), say=say)
    with pytest.raises(ShardError, match=r"bad\.tar is not an uncompressed tar"):
        stage.run([alone / "plain/bad.tar"], config=network(midas), say=say)
    assert line not in lines


def test_the_way_out_of_a_missing_hub_names_the_sensor(alone: Path, cuts3d: Callable[..., Ran]):
    pack_photos(alone, 1)
    ran = cuts3d("depth", "--shards", "s-000.tar", "--if-exists", "overwrite")
    assert ran.code == 1
    assert "which zoedepth does not use: --depth-backend sensor takes them" in ran.err
