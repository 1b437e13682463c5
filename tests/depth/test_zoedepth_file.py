"""Files of ZoeDepth's own code: every tensor lies in its place, and what is not read is refused by what it lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cuts3d_cli.depth import zoedepth_file
from cuts3d_cli.errors import WeightsError
from tests.support.depth_networks import State, saved, zoedepth_names, zoedepth_of

transformers = pytest.importorskip("transformers", reason="the extra `depth` is not installed")


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_tensor_lies_in_its_place(
    heads: int, prefix: str, zoedepth_folder: Path, load: Any, tmp_path: Path, images: list[np.ndarray]
) -> None:
    model = zoedepth_of(zoedepth_folder, heads=heads)
    state = saved(model, tmp_path / "theirs")
    own = zoedepth_names(state)
    assert "core.core.pretrained.model.blocks.3.attn.q_bias" in own
    assert ("attractors.kitti.3._net.2.weight" if heads == 2 else "attractors.3._net.2.weight") in own
    named = {prefix + name: tensor for name, tensor in own.items()}
    torch.save({"model": named, "optimizer": None, "epoch": -1}, tmp_path / "ZoeD.pt")
    network = load("zoedepth", tmp_path / "ZoeD.pt")
    assert (network.spec.direction, network.spec.unit, network.spec.model) == (
        "distance",
        "metre",
        "ZoeDepth from ZoeD.pt",
    )
    loaded = saved(network.model, tmp_path / "ours")
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    # What the tensors say of the network is what it was built of.
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(network.model(pixels).predicted_depth, model(pixels).predicted_depth)
    assert network.prepare(np.zeros((480, 640, 3), np.uint8)).shape == (3, 384, 512)
    assert network.predict(images[:1], max_side=64)[0].shape == (38, 64)


def test_what_does_not_fit_is_refused(zoedepth_folder: Path, load: Any, tmp_path: Path) -> None:
    model = zoedepth_of(zoedepth_folder, heads=1)
    own = zoedepth_names(saved(model, tmp_path / "theirs"))

    def refusal(changed: State) -> str:
        torch.save({"model": changed}, tmp_path / "ZoeD.pt")
        with pytest.raises(WeightsError) as told:
            load("zoedepth", tmp_path / "ZoeD.pt")
        return str(told.value).removeprefix(f"{tmp_path / 'ZoeD.pt'} ")

    lacking = {name: tensor for name, tensor in own.items() if name != "conv2.weight"}
    assert refusal(lacking) == "does not fit zoedepth: it lacks conv2.weight"
    lacking = {name: tensor for name, tensor in own.items() if name != "projectors.1._net.0.bias"}
    assert refusal(lacking).startswith("does not hold zoedepth: 1 parameters are missing or of another shape")
    more = {**own, "another.weight": torch.ones(1)}
    assert refusal(more) == "does not hold zoedepth: 1 tensors are unknown, such as metric_head.another.weight"
    bounded = {**own, "attractors.3._net.2.weight": torch.zeros(2, 16, 1, 1)}
    assert "a network like ZoeD_M12_K, whose range no file tells: take ZoeD_M12_NK.pt" in refusal(bounded)
    assert "it holds no core.core.pretrained.model.cls_token" in refusal({"a": torch.ones(1)})


def tuple_of(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def test_the_released_networks_are_described() -> None:
    """By shapes alone, as the official code makes them."""
    shapes = {
        "core.core.pretrained.model.cls_token": (1, 1, 1024),
        "core.core.pretrained.model.patch_embed.proj.weight": (1024, 3, 16, 16),
        **{f"core.core.pretrained.model.blocks.{n}.norm1.weight": (1024,) for n in range(24)},
        "core.core.pretrained.model.blocks.0.attn.relative_position_bias_table": (47 * 47 + 3, 16),
        "core.core.pretrained.model.blocks.0.mlp.fc1.weight": (4096, 1024),
        **{
            f"core.core.pretrained.act_postprocess{level}.3.weight": (width, 1024, 1, 1)
            for level, width in enumerate((256, 512, 1024, 1024), start=1)
        },
        "core.core.scratch.layer1_rn.weight": (256, 256, 3, 3),
        "core.core.scratch.output_conv.2.weight": (32, 128, 3, 3),
        "conv2.weight": (256, 256, 1, 1),
        "seed_projector._net.2.weight": (128, 64, 1, 1),
        "seed_bin_regressors.nyu._net.2.weight": (64, 64, 1, 1),
        "patch_transformer.embedding_convPxP.weight": (128, 256, 1, 1),
        **{f"patch_transformer.transformer_encoder.layers.{n}.linear1.weight": (1024, 128) for n in range(4)},
    }
    facts, of_vit = zoedepth_file.describe({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    # The defaults of transformers are the authors' network, but for the neck and the two heads.
    default = transformers.ZoeDepthConfig(**facts)
    plain = transformers.ZoeDepthConfig()
    assert {name for name in facts if tuple_of(getattr(default, name)) != tuple_of(getattr(plain, name))} == {
        "neck_hidden_sizes",
        "bin_configurations",
        "num_patch_transformer_layers",
        "patch_transformer_hidden_size",
        "patch_transformer_intermediate_size",
        "patch_transformer_num_attention_heads",
    }
    assert all(getattr(plain.backbone_config, name) == value for name, value in of_vit.items())
    assert [head["max_depth"] for head in facts["bin_configurations"]] == [10.0, 80.0]
