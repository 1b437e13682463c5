from __future__ import annotations

import typing

import numpy as np
import pytest
import torch

from cuts3d_cli.config import Precision, TrainConfig
from cuts3d_cli.detector.inference import Detector
from cuts3d_cli.detector.inference_settings import InferenceSettings
from cuts3d_cli.detector.model import build_model
from cuts3d_cli.errors import SettingError


def test_detections_do_not_depend_on_the_other_photos_of_the_batch():
    config = TrainConfig(test_min_size=64, test_max_size=128, rpn_test_proposals=50)
    torch.manual_seed(0)
    settings = InferenceSettings.of_training(config)
    detector = Detector(build_model(config, device="cpu"), settings=settings, device="cpu")
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((60, 80, 3), (50, 100, 3), (60, 80, 3))]
    together = detector.detect(images)
    for image, found in zip(images, together, strict=True):
        (alone,) = detector.detect([image])
        assert len(found.scores) == len(alone.scores) > 0
        np.testing.assert_allclose(found.scores, alone.scores, rtol=0, atol=1e-4)
        assert all(code["size"] == list(image.shape[:2]) for code in found.masks)
    assert detector.detect([]) == []


def test_precisions_on_a_cpu():
    config = TrainConfig(test_min_size=64, test_max_size=128, rpn_test_proposals=50)
    torch.manual_seed(0)
    settings = InferenceSettings.of_training(config)
    model = build_model(config, device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    detectors = {
        name: Detector(model, settings=settings, device="cpu", precision=name)
        for name in typing.get_args(Precision)
        if name not in ("tf32", "float16")
    }
    dtypes = []
    model.backbone.register_forward_hook(lambda _, __, maps: dtypes.append({value.dtype for value in maps.values()}))
    found = {name: detector.detect([image])[0] for name, detector in detectors.items()}
    assert dtypes == [{torch.float32}, {torch.float32}, {torch.bfloat16}]
    assert len(found["bfloat16"].scores) > 0
    np.testing.assert_array_equal(found["auto"].scores, found["float32"].scores)
    np.testing.assert_array_equal(found["auto"].boxes, found["float32"].boxes)
    assert abs(found["bfloat16"].scores[0] - found["float32"].scores[0]) < 0.05
    for name in ("tf32", "float16"):
        with pytest.raises(SettingError, match=f"run.precision is {name}, which is for CUDA"):
            Detector(model, settings=settings, device="cpu", precision=name)
