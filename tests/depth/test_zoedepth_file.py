"""Files of ZoeDepth's own code: every tensor lies in its place, and what is not read is refused by what it lacks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cuts3d_cli.depth import zoedepth_file
from cuts3d_cli.errors import WeightsError

transformers = pytest.importorskip("transformers", reason="the extra `depth` is not installed")

State = dict[str, torch.Tensor]
Rename = str | Callable[["re.Match[str]"], str]
PAIRS: tuple[tuple[str, Rename], ...] = (
    (r"^backbone\.encoder\.layer\.", "core.core.pretrained.model.blocks."),
    (r"^backbone\.embeddings\.patch_embeddings\.projection", "core.core.pretrained.model.patch_embed.proj"),
    (r"^backbone\.embeddings\.", "core.core.pretrained.model."),
    (r"lambda_(\d)", r"gamma_\1"),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"attention\.output\.dense", "attn.proj"),
    (r"(blocks\.\d+)\.output\.dense", r"\1.mlp.fc2"),
    (r"attention\.attention\.(query|value)\.bias", lambda found: f"attn.{found[1][0]}_bias"),
    (r"attention\.attention\.relative_position_bias\.", "attn."),
    (
        r"^neck\.reassemble_stage\.readout_projects\.(\d)\.0",
        lambda found: f"core.core.pretrained.act_postprocess{int(found[1]) + 1}.0.project.0",
    ),
    (
        r"^neck\.reassemble_stage\.layers\.(\d)\.(projection|resize)",
        lambda found: f"core.core.pretrained.act_postprocess{int(found[1]) + 1}.{3 if found[2] == 'projection' else 4}",
    ),
    (r"^neck\.convs\.(\d)", lambda found: f"core.core.scratch.layer{int(found[1]) + 1}_rn"),
    (r"^neck\.fusion_stage\.layers\.(\d)", lambda found: f"core.core.scratch.refinenet{4 - int(found[1])}"),
    (r"(refinenet\d)\.projection", r"\1.out_conv"),
    (r"residual_layer(\d)\.convolution(\d)", r"resConfUnit\1.conv\2"),
    (r"^relative_head\.conv(\d)", lambda found: f"core.core.scratch.output_conv.{2 * int(found[1]) - 2}"),
    (r"mlp_classifier\.linear1", "mlp_classifier.0"),
    (r"mlp_classifier\.linear2", "mlp_classifier.2"),
    (
        r"((?:seed_bin_regressors?|seed_projector|projectors|attractors)[\w.]*)\.conv([12])\.",
        lambda found: f"{found[1]}._net.{2 * int(found[2]) - 2}.",
    ),
    (r"transformer_encoder\.", "transformer_encoder.layers."),
    (r"^metric_head\.", ""),
)


def authors_names(state: State) -> State:
    """Name weights of transformers as ZoeDepth's files do, with the buffers that these hold, too."""
    renamed: State = {"core.core.pretrained.model.blocks.0.attn.relative_position_index": torch.zeros(3)}
    for name, tensor in state.items():
        # Each three are one tensor there.
        in_backbone = "backbone" in name and name.endswith(("query.weight", "value.weight"))
        if ".key." in name or in_backbone or "self_attn.value" in name:
            continue
        if "self_attn.query" in name:
            tensor = torch.cat([state[name.replace("query", part)] for part in ("query", "key", "value")])
            name = name.replace("query.", "in_proj_")
        for pattern, replacement in PAIRS:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    for name in state:
        if "backbone" in name and name.endswith("query.weight"):
            parts = [state[name.replace("query", part)] for part in ("query", "key", "value")]
            number = name.split(".")[3]
            renamed[f"core.core.pretrained.model.blocks.{number}.attn.qkv.weight"] = torch.cat(parts)
    return renamed


def random_network(folder: Path, *, heads: int) -> Any:
    """A network like that of `folder`, with so many heads."""
    config = transformers.ZoeDepthConfig.from_pretrained(folder)
    if heads == 1:
        config.bin_configurations = config.bin_configurations[:1]
        config.num_patch_transformer_layers = config.patch_transformer_hidden_size = None
        config.patch_transformer_intermediate_size = config.patch_transformer_num_attention_heads = None
    model = transformers.ZoeDepthForDepthEstimation(config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) / max(1, parameter[0].numel()) ** 0.5)
    return model


def saved(model: Any, folder: Path) -> State:
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_tensor_lies_in_its_place(
    heads: int, prefix: str, zoedepth_folder: Path, load: Any, tmp_path: Path, images: list[np.ndarray]
) -> None:
    model = random_network(zoedepth_folder, heads=heads)
    state = saved(model, tmp_path / "theirs")
    own = authors_names(state)
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
    model = random_network(zoedepth_folder, heads=1)
    own = authors_names(saved(model, tmp_path / "theirs"))

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
