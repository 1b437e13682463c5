from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from cuts3d_cli.errors import UsageError, WeightsError
from cuts3d_cli.features.base import Backbone, BackboneSpec
from cuts3d_cli.features.catalogue import load_backbone
from cuts3d_cli.features.vit import TimmBackbone, interpolate_pos_embed
from cuts3d_cli.images import IMAGENET_MEAN, IMAGENET_STD

SIZE = 48


def noise(batch: int, size: int = SIZE, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)


def backbone(model: VisionTransformer, spec: BackboneSpec) -> Backbone:
    return TimmBackbone(spec=spec, model=model, size=SIZE, device="cpu", precision="float32")


def naive_features(model: VisionTransformer, images: NDArray[np.uint8], *, tensor: str) -> NDArray[np.float64]:
    """The same features in plain numpy, float64, from the weights alone: (B, C, H, W)."""
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    dim, heads, patch = 64, 2, 16

    def norm(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return 0.5 * x * (1 + torch.erf(torch.from_numpy(x) / 2**0.5).numpy())

    results = []
    for image in images:
        pixels = (image / 255.0 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
        grid = pixels.shape[0] // patch
        tokens = [w["cls_token"][0, 0]]
        for row in range(grid):
            for column in range(grid):
                part = pixels[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
                kernel = w["patch_embed.proj.weight"]
                tokens.append(np.einsum("yxc,dcyx->d", part, kernel) + w["patch_embed.proj.bias"])
        x = np.stack(tokens) + w["pos_embed"][0]
        for index in range(6):
            block = f"blocks.{index}"
            qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
            q, k, v = np.split(qkv, 3, axis=1)
            if tensor == "keys" and index == 5:
                results.append(k[1:].reshape(grid, grid, dim).transpose(2, 0, 1))
                break
            mixed = np.zeros_like(x)
            for head in range(heads):
                part = slice(head * dim // heads, (head + 1) * dim // heads)
                logits = q[:, part] @ k[:, part].T / np.sqrt(dim / heads)
                attention = np.exp(logits - logits.max(1, keepdims=True))
                mixed[:, part] = attention / attention.sum(1, keepdims=True) @ v[:, part]
            x = x + linear(mixed, f"{block}.attn.proj")
            x = x + linear(gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        else:
            results.append(norm(x, "norm")[1:].reshape(grid, grid, dim).transpose(2, 0, 1))
    return np.stack(results)


@pytest.mark.parametrize("tensor", ["keys", "tokens"])
def test_features_equal_a_naive_forward_pass(
    tiny: BackboneSpec, random_vit: Callable[..., VisionTransformer], tensor: str
) -> None:
    spec = dataclasses.replace(tiny, tensor=tensor)  # type: ignore[arg-type]
    model = random_vit(img_size=SIZE)
    images = noise(2)
    features = backbone(model, spec).extract(images)
    assert features.dtype == np.float32
    assert features.shape == (2, 64, 3, 3)
    assert features.flags.c_contiguous
    np.testing.assert_allclose(features, naive_features(model, images, tensor=tensor), rtol=1e-4, atol=1e-4)


def test_keys_are_what_the_last_qkv_layer_gives(
    tiny: BackboneSpec, random_vit: Callable[..., VisionTransformer]
) -> None:
    model = random_vit(img_size=SIZE)
    images = noise(1)
    seen: list[torch.Tensor] = []
    handle = model.blocks[-1].attn.qkv.register_forward_hook(lambda _m, _i, output: seen.append(output))
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    model(((torch.from_numpy(images) / 255.0 - mean) / std).permute(0, 3, 1, 2))
    handle.remove()
    qkv = seen[0].detach().reshape(1, 10, 3, 2, 32)  # tokens, (q, k, v), heads, head_dim
    keys = qkv[:, 1:, 1].reshape(1, 9, 64).transpose(1, 2).reshape(1, 64, 3, 3)
    np.testing.assert_allclose(backbone(model, tiny).extract(images), keys.numpy(), rtol=1e-4, atol=1e-4)


def test_the_grid_is_row_major(tiny: BackboneSpec) -> None:
    """Without blocks' influence, a feature depends on its own patch: the bright one shows where it lies."""
    model = VisionTransformer(patch_size=16, embed_dim=64, depth=2, num_heads=2, num_classes=0, img_size=SIZE)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        model.patch_embed.proj.weight[0] = 1.0
    image = np.zeros((1, SIZE, SIZE, 3), dtype=np.uint8)
    image[0, 16:32, 32:48] = 255  # row 1, column 2
    tokens = backbone(model.eval(), dataclasses.replace(tiny, tensor="tokens")).extract(image)[0, 0]
    assert np.unravel_index(tokens.argmax(), tokens.shape) == (1, 2)
    assert len(np.unique(np.delete(tokens.ravel(), 5))) == 1


@pytest.mark.parametrize("prefix", [{"reg_tokens": 4}, {"reg_tokens": 0}])
def test_prefix_tokens_are_dropped(
    tiny: BackboneSpec, random_vit: Callable[..., VisionTransformer], prefix: dict[str, int]
) -> None:
    features = backbone(random_vit(img_size=SIZE, **prefix), tiny).extract(noise(1))
    assert features.shape == (1, 64, 3, 3)


def test_features_do_not_depend_on_the_batch(tiny: BackboneSpec, random_vit: Callable[..., VisionTransformer]) -> None:
    bone = backbone(random_vit(img_size=SIZE), tiny)
    images = noise(3)
    single = np.concatenate([bone.extract(images[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(bone.extract(images), single, atol=1e-5, rtol=1e-5)


def test_extract_is_deterministic_and_leaves_no_hook(
    tiny: BackboneSpec, random_vit: Callable[..., VisionTransformer]
) -> None:
    model = random_vit(img_size=SIZE)
    bone = backbone(model, tiny)
    first = bone.extract(noise(2))
    assert bone.extract(noise(2)).tobytes() == first.tobytes()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, SIZE, SIZE, 3), np.float32),
        np.zeros((SIZE, SIZE, 3), np.uint8),
        np.zeros((1, 3, SIZE, SIZE), np.uint8),
        np.zeros((1, SIZE, 2 * SIZE, 3), np.uint8),
    ],
)
def test_wrong_arrays_are_refused(
    tiny: BackboneSpec, random_vit: Callable[..., VisionTransformer], images: NDArray[np.uint8]
) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        backbone(random_vit(img_size=SIZE), tiny).extract(images)


def test_read_only_images_are_taken_without_a_warning(
    tiny: BackboneSpec, random_vit: Callable[..., VisionTransformer], recwarn: pytest.WarningsRecorder
) -> None:
    images = noise(1)
    images.setflags(write=False)
    backbone(random_vit(img_size=SIZE), tiny).extract(images)
    assert not recwarn.list


def test_pos_embed_is_left_alone_at_its_own_grid() -> None:
    pos_embed = torch.randn(1, 1 + 9, 5)
    assert torch.equal(interpolate_pos_embed(pos_embed, grid=3), pos_embed)


def cubic_at(values: NDArray[np.float64], position: float) -> float:
    """Cubic convolution (A = -0.75, the ends repeated) through `values` at `position`."""
    left = int(np.floor(position))
    total = 0.0
    for index in range(left - 1, left + 3):
        d = abs(position - index)
        near = 1.25 * d**3 - 2.25 * d**2 + 1
        far = -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
        total += (near if d <= 1 else far) * values[np.clip(index, 0, len(values) - 1)]
    return total


def test_pos_embed_keeps_cls_constants_and_direction() -> None:
    ramp = torch.arange(8.0)
    ramp = torch.stack([ramp.repeat_interleave(8), ramp.repeat(8), torch.full((64,), 7.0)])
    pos_embed = torch.cat([torch.full((1, 1, 3), -5.0), ramp.T[None]], dim=1)
    resized = interpolate_pos_embed(pos_embed, grid=12)
    assert resized.shape == (1, 1 + 144, 3)
    assert torch.equal(resized[:, 0], pos_embed[:, 0])
    rows, columns, constant = resized[0, 1:].T.reshape(3, 12, 12)
    torch.testing.assert_close(constant, torch.full((12, 12), 7.0))
    torch.testing.assert_close(rows, columns.T)
    # The scale is 12.1 / 8, not 12 / 8: DINO's own rule.
    wanted = torch.tensor([cubic_at(np.arange(8.0), (row + 0.5) * 8 / 12.1 - 0.5) for row in range(12)])
    torch.testing.assert_close(rows[:, 0], wanted.float(), atol=1e-5, rtol=1e-5)


def load(
    name: str, path: Path, size: int | None = None, *, device: str = "cpu", precision: Any = "float32"
) -> Backbone:
    return load_backbone(name, size=size, weights=path, device=device, precision=precision)


def test_load_backbone_reads_weights_and_resamples(
    tiny: BackboneSpec,
    tiny_state: dict[str, torch.Tensor],
    random_vit: Callable[..., VisionTransformer],
    tmp_path: Path,
) -> None:
    save_file(tiny_state, tmp_path / "w.safetensors")
    before = torch.get_rng_state()
    at_home = load("tiny", tmp_path / "w.safetensors", 64)
    assert torch.equal(torch.get_rng_state(), before)
    model = random_vit(img_size=64)
    images = noise(1, 64)
    np.testing.assert_allclose(
        at_home.extract(images), naive_features(model, images, tensor="keys"), rtol=1e-4, atol=1e-4
    )
    default = load("tiny", tmp_path / "w.safetensors")
    assert (default.size, default.grid) == (48, 3)
    model = random_vit(img_size=48)
    model.load_state_dict({**tiny_state, "pos_embed": interpolate_pos_embed(tiny_state["pos_embed"], grid=3)})
    images = noise(1, 48)
    np.testing.assert_allclose(
        default.extract(images), naive_features(model, images, tensor="keys"), rtol=1e-4, atol=1e-4
    )


def test_load_backbone_refuses_bad_sizes_devices_and_half_on_cpu(tiny: BackboneSpec, tmp_path: Path) -> None:
    missing = tmp_path / "none.safetensors"
    with pytest.raises(UsageError, match="use 48 or 64"):
        load("tiny", missing, 50)
    with pytest.raises(UsageError, match=r"run\.device qpu cannot be used"):
        load("tiny", missing, device="qpu")
    with pytest.raises(UsageError, match=r"run\.precision is float16, which is for CUDA: on cpu take float32"):
        load("tiny", missing, precision="float16")
    with pytest.raises(WeightsError, match="does not exist"):
        load("tiny", missing)


def test_missing_cuda_is_one_line(tiny: BackboneSpec, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(UsageError, match=r"run\.device cuda cannot be used") as caught:
        load("tiny", tmp_path / "none.pth", device="cuda")
    assert "\n" not in str(caught.value)


def test_bfloat16_on_a_cpu_is_close(tiny: BackboneSpec, tiny_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(tiny_state, tmp_path / "w.safetensors")
    full = load("tiny", tmp_path / "w.safetensors").extract(noise(1))
    np.testing.assert_array_equal(load("tiny", tmp_path / "w.safetensors", precision="auto").extract(noise(1)), full)
    network = cast(TimmBackbone, load("tiny", tmp_path / "w.safetensors", precision="bfloat16"))
    assert {parameter.dtype for parameter in network.model.parameters()} == {torch.bfloat16}
    values = network.extract(noise(1))
    assert values.dtype == np.float32
    # What a bfloat16 holds, and no more
    np.testing.assert_array_equal(torch.from_numpy(values).bfloat16().float().numpy(), values)
    assert not np.array_equal(values, full)
    cosines = (values * full).sum(1) / np.linalg.norm(values, axis=1) / np.linalg.norm(full, axis=1)
    assert cosines.min() > 0.99


@pytest.mark.usefixtures("gpu")
def test_half_precision_on_cuda(tiny: BackboneSpec, tiny_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(tiny_state, tmp_path / "w.safetensors")
    half = load("tiny", tmp_path / "w.safetensors", device="cuda", precision="float16").extract(noise(1))
    full = load("tiny", tmp_path / "w.safetensors").extract(noise(1))
    assert half.dtype == np.float32
    cosines = (half * full).sum(1) / np.linalg.norm(half, axis=1) / np.linalg.norm(full, axis=1)
    assert cosines.min() > 0.99


def test_another_process_gives_the_same_bytes(
    tiny: BackboneSpec, tiny_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    save_file(tiny_state, path)
    code = (
        "import dataclasses, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from cuts3d_cli.features import catalogue\n"
        "spec = catalogue.BACKBONES['dino-vits16']\n"
        "catalogue.BACKBONES['tiny'] = dataclasses.replace(spec, name='tiny', architecture='test_vit', dim=64)\n"
        "bone = catalogue.load_backbone('tiny', size=48, weights=Path(sys.argv[1]), device='cpu')\n"
        "images = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)\n"
        "sys.stdout.buffer.write(bone.extract(images).tobytes())\n"
    )
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    elsewhere = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, check=True, env={**os.environ, **threads}
    )
    assert elsewhere.stdout == load("tiny", path).extract(noise(2)).tobytes()
