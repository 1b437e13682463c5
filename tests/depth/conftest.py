"""Tiny networks with random weights, of the same classes as the real ones and saved as those are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cuts3d_cli.config import DepthConfig
from cuts3d_cli.depth.base import DepthBackend
from cuts3d_cli.depth.catalogue import load_depth
from tests.support.depth_networks import depth_anything, liven, midas, zoedepth
from tests.support.foreign import save_with_foreign_object

Load = Callable[..., DepthBackend]


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def images() -> list[np.ndarray]:
    """Two sizes and both orientations; two images share a size."""
    rng = np.random.default_rng(0)

    def photo(height: int, width: int) -> np.ndarray:
        rows, columns = np.mgrid[0:height, 0:width]
        base = np.stack([rows / height, columns / width, np.sin(rows / 7) * np.cos(columns / 9)], axis=-1)
        return np.clip(base * 200 + rng.normal(0, 12, base.shape), 0, 255).astype(np.uint8)

    return [photo(48, 80), photo(90, 60), photo(48, 80)]


@pytest.fixture(scope="session")
def load() -> Load:
    """`load_depth` with the settings that a test does not care about."""

    def call(
        name: str, weights: Path | None, *, device: str = "cpu", precision: Any = "auto", **settings: Any
    ) -> DepthBackend:
        config = DepthConfig(backend=name, weights=weights, **{"marigold_steps": 2, **settings})
        return load_depth(config, device=device, precision=precision)

    return call


@pytest.fixture(scope="session")
def zoedepth_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoedepth(tmp_path_factory.mktemp("zoedepth"))


@pytest.fixture(scope="session")
def depth_anything_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return depth_anything(tmp_path_factory.mktemp("depth-anything"))


@pytest.fixture(scope="session")
def metric_depth_anything_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("depth-anything-metric")
    return depth_anything(folder, depth_estimation_type="metric", max_depth=20)


@pytest.fixture(scope="session")
def marigold_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    diffusers = pytest.importorskip("diffusers", reason="the extra `marigold` is not installed")
    transformers = pytest.importorskip("transformers", reason="the extra `marigold` is not installed")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("marigold")
    words = tmp_path_factory.mktemp("words")
    (words / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    pipe = diffusers.MarigoldDepthPipeline(
        unet=diffusers.UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            out_channels=4,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=8,
            norm_num_groups=4,
        ),
        vae=diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=64,
        ),
        scheduler=diffusers.DDIMScheduler(
            prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing"
        ),
        text_encoder=transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=3,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=8,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        ),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(words, model_max_length=8),
        prediction_type="depth",
        default_denoising_steps=2,
        default_processing_resolution=64,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def midas_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return midas(tmp_path_factory.mktemp("midas") / "midas_v21_small_256.pt")


def kbr_state(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """With the names of a Lightning checkpoint: wrapped convolutions, and tensors of other networks beside them."""
    state = {"nets.pose.encoder.conv1.weight": torch.zeros(2, 2)}
    for key, tensor in net.state_dict().items():
        if key.startswith("decoder."):
            _, number, kind = key.split(".")
            wrapper = "conv.conv" if int(number) < 10 else "conv"
            key = f"decoders.disp.decoder.{number}.{wrapper}.{kind}"
        state[f"nets.depth.{key}"] = tensor
    return state


@pytest.fixture
def kbr_file(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a tiny encoder instead of ConvNeXt-B, and a configuration object of an unknown class in the pickle."""
    from cuts3d_cli.depth import kbr

    monkeypatch.setattr(kbr, "ENCODER", "test_convnext")
    torch.manual_seed(0)
    net = kbr.KbrNet(kbr.ENCODER)
    liven(net.decoder)
    path = tmp_path_factory.mktemp("kbr") / "kbr.ckpt"
    save_with_foreign_object(path, {"state_dict": kbr_state(net), "epoch": 3})
    return path
