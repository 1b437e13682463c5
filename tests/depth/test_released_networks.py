"""Depth networks of transformers that its hub has: Depth Pro, DPT, GLPN and Prompt Depth Anything, small and random.

Each against what its own classes of transformers give, by the way that their documentation shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cuts3d_cli.errors import SampleError
from tests.depth.conftest import liven

transformers = pytest.importorskip("transformers", reason="the extra `depth` is not installed")

VIT: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
NECK: dict[str, Any] = {"neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16}


def dinov2(**settings: Any) -> Any:
    return transformers.Dinov2Config(**VIT, patch_size=14, image_size=70, **settings)


def depth_pro() -> tuple[Any, Any]:
    encoder = {"model_type": "dinov2", **VIT, "patch_size": 16, "image_size": 32}
    config = transformers.DepthProConfig(
        patch_size=32,
        image_model_config=encoder,
        patch_model_config=encoder,
        fov_model_config=encoder,
        fusion_hidden_size=16,
        intermediate_hook_ids=[2, 1],
        intermediate_feature_dims=[16, 16],
        scaled_images_feature_dims=[16, 16, 16],
        merge_padding_value=0,
        num_fov_head_layers=1,
        use_fov_model=True,
    )
    processor = transformers.DepthProImageProcessor(size={"height": 128, "width": 128})
    return transformers.DepthProForDepthEstimation(config), processor


def dpt(**settings: Any) -> tuple[Any, Any]:
    config = transformers.DPTConfig(**VIT, **NECK, image_size=64, patch_size=16, backbone_out_indices=[0, 1, 2, 3])
    processor = transformers.DPTImageProcessor(
        size={"height": 64, "width": 64}, ensure_multiple_of=16, keep_aspect_ratio=False
    )
    return transformers.DPTForDepthEstimation(config), processor


def dpt_of_dinov2() -> tuple[Any, Any]:
    """With the projection that tells its kind, which has the width of the released ones."""
    backbone = dinov2(out_indices=[1, 2, 3, 4], reshape_hidden_states=False)
    config = transformers.DPTConfig(
        backbone_config=backbone, neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=256, add_projection=True
    )
    processor = transformers.DPTImageProcessor(size={"height": 70, "width": 70}, ensure_multiple_of=14, size_divisor=14)
    return transformers.DPTForDepthEstimation(config), processor


def glpn() -> tuple[Any, Any]:
    config = transformers.GLPNConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 16, 32], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=8
    )
    return transformers.GLPNForDepthEstimation(config), transformers.GLPNImageProcessor()


def prompt_depth_anything() -> tuple[Any, Any]:
    backbone = dinov2(out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False)
    config = transformers.PromptDepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=32, head_hidden_size=8, **NECK
    )
    processor = transformers.PromptDepthAnythingImageProcessor(
        size={"height": 70, "width": 70}, ensure_multiple_of=14, keep_aspect_ratio=True
    )
    return transformers.PromptDepthAnythingForDepthEstimation(config), processor


NETWORKS = {
    "DepthPro": (depth_pro, ("distance", "metre")),
    "DPT": (dpt, ("disparity", "relative")),
    "DPT of DINOv2": (dpt_of_dinov2, ("distance", "metre")),
    "GLPN": (glpn, ("distance", "metre")),
    "PromptDA": (prompt_depth_anything, ("distance", "metre")),
}


def saved(name: str, folder: Path) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model, processor = NETWORKS[name][0]()
    liven(model)
    with torch.no_grad():  # Heads end in a ReLU: keep the random net on its positive side.
        for parameter in model.head.parameters():
            if parameter.shape == (1,):
                parameter.fill_(1.0)
        if name == "DepthPro":  # a field of view of about 50 degrees
            *_, weight, bias = model.fov_model.head.parameters()
            weight *= 0.1
            bias.fill_(50.0)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_those_of_its_own_classes(name: str, load: Any, images: list[np.ndarray], tmp_path: Path) -> None:
    model, processor = saved(name, tmp_path)
    network = load(f"hf:{tmp_path}", None)
    assert (network.spec.direction, network.spec.unit) == NETWORKS[name][1]
    prompted = name == "PromptDA"
    assert network.spec.prompted is prompted
    sensor = np.linspace(0.5, 3.0, 12 * 20, dtype=np.float32).reshape(12, 20)
    for image in images[:2]:
        (ours,) = network.predict([image], max_side=1000, prompts=[sensor] if prompted else None)
        prompts = {"prompt_depth": sensor, "prompt_scale_to_meter": 1.0} if prompted else {}
        inputs = processor(images=image, return_tensors="pt", **prompts)
        with torch.no_grad():
            outputs = model(**inputs)
        (theirs,) = processor.post_process_depth_estimation(outputs, target_sizes=[image.shape[:2]])
        assert ours.shape == image.shape[:2]
        # Depth Pro's focal length is computed in another order.
        np.testing.assert_allclose(ours, theirs["predicted_depth"].numpy(), rtol=1e-6 if name == "DepthPro" else 0)
        assert ours.std() > 0.001 * abs(ours.mean())


def test_a_sensor_that_measured_nothing_is_no_prompt(load: Any, images: list[np.ndarray], tmp_path: Path) -> None:
    saved("PromptDA", tmp_path)
    network = load(f"hf:{tmp_path}", None)
    with pytest.raises(SampleError, match="the sensor map has no valid pixel"):
        network.predict(images[:1], max_side=64, prompts=[np.zeros((12, 20), np.float32)])
    # One value everywhere is a measurement, too.
    (flat,) = network.predict(images[:1], max_side=64, prompts=[np.ones((12, 20), np.float32)])
    assert np.isfinite(flat).all()
