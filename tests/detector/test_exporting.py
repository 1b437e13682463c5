"""What a detector becomes for other programs, run by these."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cuts3d_cli.config import PredictConfig
from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.detector import exporting
from cuts3d_cli.detector.exporting import Comparison, export_detector
from cuts3d_cli.detector.inference import Detector
from cuts3d_cli.detector.loading import StoredDetector, load_detector
from cuts3d_cli.errors import Cuts3dError
from tests.support.photos import scene_of
from tests.support.released import MANY, official_config, official_network, official_predictions, write_config
from tests.support.running import Ran

IMAGES = [scene_of(number).image for number in range(2)]


def quiet(line: object) -> None:
    pass


@pytest.fixture(scope="module")
def lively(tiny_detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of ours whose detections differ from one another."""
    from cuts3d_cli.detector.checkpoints import read_trained, save_weights

    state, config = read_trained(tiny_detector)
    assert config is not None
    changed = {
        name: tensor * 30 if any(part in name for part in ("cls_score.weight", "bbox_pred.weight")) else tensor
        for name, tensor in state.items()
    }
    path = tmp_path_factory.mktemp("lively") / "model-final.safetensors"
    save_weights(path, changed, config=config)
    return path


def stored(path: Path, **settings: Any) -> StoredDetector:
    return load_detector(path, PredictConfig(**settings), say=quiet)


def plain_config(folder: Path) -> Any:
    """The configuration of an export, read by detectron2 itself."""
    from detectron2.config import get_cfg

    config = get_cfg()
    config.merge_from_file(str(folder / "config.yaml"))
    config.MODEL.DEVICE = "cpu"
    return config


def again_of(export: Path, out: Path) -> bytes:
    """The configuration of an export that is exported once more, with the file of weights that the first one names."""
    export_detector(stored(export / "model.pth"), to="detectron2", out=out, overwrite=False, say=quiet)
    return (out / "config.yaml").read_bytes().replace(str(out).encode(), str(export).encode())


def test_plain_detectron2_finds_the_same(lively: Path, tmp_path: Path):
    exported = export_detector(stored(lively), to="detectron2", out=tmp_path, overwrite=False, say=quiet)
    assert [path.name for path in exported.files] == ["model.pth", "config.yaml"]
    assert str(exported.comparison).startswith("equal to the bit in ")
    config = plain_config(tmp_path)
    assert (config.INPUT.MIN_SIZE_TEST, config.TEST.DETECTIONS_PER_IMAGE) == (96, 30)
    found = Detector.load(lively, device="cpu").detect(IMAGES)
    for ours, theirs in zip(found, official_predictions(config, config.MODEL.WEIGHTS, IMAGES), strict=True):
        assert len(ours.scores) > 10
        assert np.array_equal(ours.boxes, theirs.pred_boxes.tensor.numpy())
        assert np.array_equal(ours.scores, theirs.scores.numpy())
        masks = [decode_rle(code) for code in ours.masks]
        assert all(np.array_equal(mask, other) for mask, other in zip(masks, theirs.pred_masks.numpy(), strict=True))
    # It comes back as it went.
    back = stored(tmp_path / "model.pth")
    assert (back.architecture, back.inference) == (stored(lively).architecture, stored(lively).inference)
    assert all(torch.equal(tensor, back.weights[name]) for name, tensor in stored(lively).weights.items())
    assert (tmp_path / "config.yaml").read_bytes() == again_of(tmp_path, tmp_path / "again")


def test_the_round_trip_of_a_released_detector_is_exact(tmp_path: Path):
    network = official_network(official_config(MANY.tree()))
    torch.save({"model": network.state_dict()}, tmp_path / "theirs.pth")
    write_config(tmp_path / "theirs.yaml", MANY.tree())
    out = tmp_path / "again"
    export_detector(stored(tmp_path / "theirs.pth"), to="detectron2", out=out, overwrite=False, say=quiet)
    state = torch.load(out / "model.pth", weights_only=True)["model"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    config = plain_config(out)
    (before,) = official_predictions(official_config(MANY.tree()), tmp_path / "theirs.pth", IMAGES[:1])
    (after,) = official_predictions(config, config.MODEL.WEIGHTS, IMAGES[:1])
    assert len(before) > 10
    assert all(torch.equal(before.get(name), after.get(name)) for name in ("scores", "pred_classes", "pred_masks"))
    assert torch.equal(before.pred_boxes.tensor, after.pred_boxes.tensor)


@pytest.mark.parametrize("target", ["torchscript", "onnx"])
def test_a_traced_network_finds_the_same(target: Any, lively: Path, tmp_path: Path):
    said: list[str] = []
    say = lambda line: said.append(str(line))  # noqa: E731
    exported = export_detector(stored(lively), to=target, out=tmp_path, overwrite=False, say=say)
    assert said[-1].startswith("not in the file: resizing the photo, and pasting the masks into it; ")
    comparison = exported.comparison
    assert comparison is not None
    assert comparison.same == comparison.detections > 20
    assert max(comparison.score, comparison.mask) < 1e-4
    # An image of a size that it has not seen.
    image = exporting._image((130, 200))
    network = stored(lively).build()
    expected = exporting._reference(network)(image)
    if target == "torchscript":
        with torch.no_grad():
            found = torch.jit.load(tmp_path / "model.torchscript")(image)
    else:
        session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "model.onnx")
        found = [torch.from_numpy(item) for item in session.run(None, {"image": image.numpy()})]
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
    described = json.loads((tmp_path / "model.json").read_bytes())
    assert list(described["outputs"]) == ["boxes", "scores", "classes", "masks"]
    assert (described["input"]["shorter side"], described["most detections"]) == (96, 30)


def test_an_export_that_computes_something_else_is_not_kept(
    lively: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    right = exporting._traced

    def wrong(*arguments: Any) -> Any:
        data, run = right(*arguments)
        return data, lambda image: run(image.flip(2))

    monkeypatch.setattr(exporting, "_traced", wrong)
    with pytest.raises(Cuts3dError, match=r"the export shares \d+ of 60 detections with the detector in a test"):
        export_detector(stored(lively), to="torchscript", out=tmp_path, overwrite=False, say=quiet)
    assert list(tmp_path.iterdir()) == []


def test_an_export_for_detectron2_that_computes_something_else_leaves_the_earlier_one(
    lively: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    export_detector(stored(lively), to="detectron2", out=tmp_path, overwrite=False, say=quiet)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    right = exporting._reference
    built: list[Any] = []

    def reference(network: Any) -> Any:
        built.append(network)
        flipped = len(built) == 2  # the one that detectron2 builds
        return lambda image: right(network)(image.flip(2) if flipped else image)

    monkeypatch.setattr(exporting, "_reference", reference)
    with pytest.raises(Cuts3dError, match=r"the export shares \d+ of 60 detections with the detector in a test"):
        export_detector(stored(lively), to="detectron2", out=tmp_path, overwrite=True, say=quiet)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_torch_cannot_convert_is_said(lively: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def gone(*arguments: Any, **named: Any) -> None:
        raise TypeError("export() got an unexpected keyword argument 'dynamo'")

    monkeypatch.setattr(torch.onnx, "export", gone)
    with pytest.raises(Cuts3dError, match=r"torch .* cannot convert this detector: export\(\) got an unexpected"):
        export_detector(stored(lively), to="onnx", out=tmp_path, overwrite=False, say=quiet)
    assert list(tmp_path.iterdir()) == []


def test_without_onnxruntime_it_is_said_that_nothing_was_compared(
    lively: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said: list[str] = []
    exported = export_detector(
        stored(lively), to="onnx", out=tmp_path, overwrite=False, say=lambda line: said.append(str(line))
    )
    assert exported.comparison is None
    assert said[0] == "the export is not compared with the detector: onnxruntime is not installed"
    assert (tmp_path / "model.onnx").stat().st_size > 10_000


def test_detections_are_compared_whatever_their_order():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    one = (boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]), torch.zeros(2, 4, 4))
    other = (boxes.flip(0) + 1e-4, torch.tensor([0.8, 0.9]), torch.tensor([0, 0]), torch.zeros(2, 4, 4))
    found = exporting._compare(lambda image: one, lambda image: other, [torch.zeros(3, 4, 4)])
    assert (found.detections, found.same, found.score) == (2, 2, 0)
    assert 0 < found.box < 1e-3
    assert str(found).startswith("2 of 2 detections are the same, and differ by at most: boxes by 0.0001 pixels")
    assert str(Comparison(detections=3, same=3, box=0, score=0, mask=0)) == "equal to the bit in 3 detections"


def test_a_comparison_of_nothing_says_so():
    nothing = (torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4, 4))
    found = exporting._compare(lambda image: nothing, lambda image: nothing, [torch.zeros(3, 4, 4)])
    assert str(found).startswith("no image of the test has a detection over the score")


def test_detections_that_only_the_export_has_count_against_it():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    both = (boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]), torch.zeros(2, 4, 4))
    first = tuple(item[:1] for item in both)
    with pytest.raises(Cuts3dError, match="shares 1 of 2 detections with the detector"):
        exporting._compare(lambda image: first, lambda image: both, [torch.zeros(3, 4, 4)])


def test_the_command_writes_and_does_not_replace(lively: Path, cuts3d: Callable[..., Ran], alone: Path):
    line = ("export-detector", lively, "--to", "detectron2", "--out", "d2")
    ran = cuts3d(*line, "--max-detections", "12", "--test-min-size", "64")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == ["d2/model.pth", "d2/config.yaml"]
    settings, compared = ran.err.splitlines()
    assert "photos at 64 pixels (at most 128)" in settings
    assert compared.startswith("compared with the detector: equal to the bit in ")
    assert plain_config(alone / "d2").TEST.DETECTIONS_PER_IMAGE == 12
    again = cuts3d(*line)
    assert again.code == 2
    assert again.err.splitlines()[-1] == "cuts3d: d2/model.pth already exists: choose another folder, or --overwrite"
    replaced = cuts3d(*line, "--overwrite", "--json")
    assert json.loads(replaced.out)["compared"]["box"] == 0
    assert plain_config(alone / "d2").TEST.DETECTIONS_PER_IMAGE == 30
