from __future__ import annotations

import numpy as np
import torch

from cuts3d_cli.config import TrainConfig
from cuts3d_cli.detector.inference import Detector
from cuts3d_cli.detector.inference_settings import InferenceSettings
from cuts3d_cli.detector.model import build_model


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
