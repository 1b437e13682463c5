from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cuts3d_cli import Detector, SampleError, Segmentation, SettingError, WeightsError, draw, to_coco
from cuts3d_cli.cut.masks import decode_rle
from tests.support.photos import scene_of


def test_it_finds_what_the_network_finds(tiny_detector: Path):
    from cuts3d_cli.detector.inference import Detector as Network

    images = [scene_of(number).image for number in range(3)]
    detector = Detector(tiny_detector, device="cpu")
    network = Network.load(tiny_detector, device="cpu")
    expected = [network.detect([image])[0] for image in images]
    assert sum(len(found.scores) for found in expected) > 0
    together = list(detector.batch(images, batch_size=1))
    for image, found, other in zip(images, expected, together, strict=True):
        result = detector(image)
        assert result.masks.shape == (len(found.scores), *image.shape[:2])
        assert np.array_equal(result.boxes, found.boxes)
        assert np.array_equal(result.scores, found.scores)
        assert all(np.array_equal(mask, decode_rle(code)) for mask, code in zip(result.masks, found.masks, strict=True))
        assert np.array_equal(result.scores, other.scores)
        assert len(to_coco(result, image_id=3, first_id=5)) == len(result)
        assert draw(result).mode == "RGB"


def test_the_unsure_can_be_left_out(tiny_detector: Path):
    image = scene_of(0).image
    every = Detector(tiny_detector, device="cpu")(image)
    bound = float(np.median(every.scores))
    sure = Detector(tiny_detector, device="cpu", min_score=bound)(image)
    assert len(sure) == int((every.scores > bound).sum()) > 0


def test_precision(tiny_detector: Path):
    image = scene_of(0).image
    plain, full, switched, rough = (
        Detector(tiny_detector, device="cpu", **given)(image)
        for given in ({}, {"precision": "float32"}, {"half": False}, {"precision": "bfloat16"})
    )
    for same in (full, switched):
        assert np.array_equal(same.scores, plain.scores)
        assert np.array_equal(same.masks, plain.masks)
    assert not np.array_equal(rough.scores, plain.scores)
    with pytest.raises(SettingError, match=r"^precision is 'half': choose one of auto, float32"):
        Detector(tiny_detector, precision="half")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"^half is now precision: leave it out"):
        Detector(tiny_detector, precision="float32", half=False)
    with pytest.raises(SettingError, match=r"^precision is tf32, which is for CUDA: on cpu take float32 or bfloat16"):
        Detector(tiny_detector, device="cpu", precision="tf32")(image)


def test_its_settings_stay_as_they_are(tiny_detector: Path):
    detector = Detector(tiny_detector, device="cpu", min_score=0.5)
    problem = (
        r"^min_score cannot be changed once a Detector is made: make a new one, Detector\(\.\.\., min_score=0\.1\)"
    )
    with pytest.raises(SettingError, match=problem):
        detector.min_score = 0.1  # type: ignore[attr-defined]
    with pytest.raises(SettingError, match="checkpoint cannot be changed"):
        detector.checkpoint = tiny_detector  # type: ignore[misc]
    assert repr(Detector("a.pth", device="cpu", min_score=0.5)) == (
        "<Detector checkpoint='a.pth', min_score=0.5, device cpu>"
    )


def test_seconds_are_of_all_steps(tiny_detector: Path):
    detector = Detector(tiny_detector, device="cpu")
    first, second = (detector(scene_of(0).image).seconds for _ in range(2))
    assert list(first) == ["read", "load", "detect"]
    assert list(second) == ["read", "detect"]
    for found in detector.batch([scene_of(0).image] * 2):
        assert list(found.seconds) == ["read", "detect"]
        assert found._repr_png_() is not None


def test_a_photo_that_cannot_be_used_stops_no_other(tiny_detector: Path, tmp_path: Path):
    """Whatever batch it falls into, and first in it too: what is before it is given, what is after it as if alone."""
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"\xff\xd8\xff damaged")
    detector = Detector(tiny_detector, device="cpu")
    photos = [scene_of(number).image for number in range(2)]
    alone = [detector(photo) for photo in photos]
    for batch_size in (1, 2, 3, 8):
        images = [damaged, photos[0], damaged, photos[1], damaged]
        found = list(detector.batch(images, batch_size=batch_size, errors="return"))
        assert [isinstance(item, SampleError) for item in found] == [True, False, True, False, True]
        for item, expected in zip(found[1::2], alone, strict=True):
            assert isinstance(item, Segmentation)
            assert np.array_equal(item.image, expected.image)
            assert np.array_equal(item.scores, expected.scores)
        assert "damaged.jpg" in str(found[0])
        assert found[0].__traceback__ is None  # type: ignore[union-attr]
        # Without it, the first such photo ends the loop, after the results of those before it.
        results = detector.batch([photos[0], damaged, photos[1]], batch_size=batch_size)
        assert np.array_equal(next(results).scores, alone[0].scores)
        with pytest.raises(SampleError, match=r"damaged\.jpg"):
            next(results)
    with pytest.raises(SampleError, match=r"damaged\.jpg"):
        detector(damaged)
    with pytest.raises(SettingError, match=r"^errors is 'ignore': choose one of raise, return"):
        list(detector.batch(photos, errors="ignore"))  # type: ignore[call-overload]


def test_wrong_arguments(tiny_detector: Path, tmp_path: Path):
    with pytest.raises(SettingError, match="min_score is 2"):
        Detector(tiny_detector, min_score=2)
    with pytest.raises(SettingError, match="score is no setting: it is min_score here"):
        Detector(tiny_detector, score=0.5)
    with pytest.raises(SettingError, match="image is a list"):
        Detector(tiny_detector, device="cpu")([1])  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="batch_size"):
        list(Detector(tiny_detector, device="cpu").batch([scene_of(0).image], batch_size=0))
    with pytest.raises(WeightsError, match=r"missing\.pth"):
        Detector(tmp_path / "missing.pth", device="cpu")(scene_of(0).image)
