"""Runs the official code of a backbone: writes files of random weights as its authors save them, and features.

    python official_backbones.py NETWORK CODE PHOTO.npy OUT SIZE...

writes files into OUT, and OUT/found.npz: SIZE, the features of the photo at that size, (C, H, W). CODE is the folder
of all clones.
"""

from __future__ import annotations

import os
import pickle
import runpy
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Features = Callable[[Tensor], Tensor]
"""(1, 3, S, S), normalised, to (C, H, W)."""


def liven(net: nn.Module) -> nn.Module:
    """Random weights that all differ and all matter."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if "token" in name or "pos_embed" in name:
                value.normal_(0.0, 0.5)
            elif value.dim() > 1:
                value.normal_(0.0, 1.0 / value[0].numel() ** 0.5)
            elif name.endswith("bias"):
                value.normal_(0.0, 0.1)
            else:  # of norms and of layer scales
                value.normal_(0.6, 0.1)
        for name, value in net.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                value.uniform_(0.5, 1.5)
    return net.eval()


def as_map(tokens: Tensor) -> Tensor:
    """(1, K, C) to (C, H, W)."""
    side = round(tokens.shape[1] ** 0.5)
    return tokens[0].T.reshape(-1, side, side)


def patch_tokens(net: Any) -> Features:
    """What DINOv2 and DINOv3 call the features of the patches."""
    return lambda pixels: as_map(net.forward_features(pixels)["x_norm_patchtokens"])


def keys_by_hook(net: Any, *, prefix: int) -> Features:
    """The keys of the last block, before any rotation, without the tokens of no patch."""

    def features(pixels: Tensor) -> Tensor:
        seen: list[Tensor] = []
        handle = net.blocks[-1].attn.qkv.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        net.forward_features(pixels) if hasattr(net, "forward_features") else net(pixels)
        handle.remove()
        return as_map(seen[0].chunk(3, dim=-1)[1][:, prefix:])

    return features


def cutler_keys(code: Path, path: Path, *, arch: str, patch: int, dim: int) -> Features:
    """CutLER's reader of DINO's files, and its features."""
    sys.path.insert(0, str(code / "CutLER" / "maskcut"))
    import dino

    os.environ["TORCH_HOME"] = str(path.parent / "torch")
    net = dino.ViTFeat(path.as_uri(), dim, arch, "k", patch).eval()

    def features(pixels: Tensor) -> Tensor:
        side = pixels.shape[-1] // patch
        found: Tensor = net(pixels)
        return found.reshape(dim, side, side)

    return features


def dino_vit(code: Path, out: Path, *, arch: str, patch: int) -> Features:
    sys.path.insert(0, str(code / "dino"))
    import vision_transformer

    net = liven(getattr(vision_transformer, f"vit_{arch}")(patch_size=patch))
    torch.save(net.state_dict(), out / "released.pth")
    if arch == "small" and patch == 16:
        save_as_transformers(net, out / "transformers", kind="vit")
    return cutler_keys(code, out / "released.pth", arch=arch, patch=patch, dim=net.embed_dim)


def dino_training(code: Path, out: Path, *, arch: str) -> Features:
    """Let DINO's own training run for two epochs of a few photos, on the CPU; it writes checkpoint.pth."""
    sys.path.insert(0, str(code / "dino"))
    torch.hub.list = lambda *_, **__: []  # type: ignore[assignment]
    import main_dino
    import utils
    import vision_transformer

    # One process with a CPU in the place of its GPU.
    nn.Module.cuda = torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign,assignment]
    torch.cuda.set_device = torch.cuda.synchronize = lambda *_: None
    begin, wrapper = torch.distributed.init_process_group, nn.parallel.DistributedDataParallel
    torch.distributed.init_process_group = lambda **given: begin(**{**given, "backend": "gloo"})
    nn.parallel.DistributedDataParallel = lambda net, **_: wrapper(net)  # type: ignore[misc,assignment]
    nn.SyncBatchNorm.convert_sync_batchnorm = lambda net: net  # type: ignore[method-assign,assignment]
    utils.SmoothedValue.synchronize_between_processes = lambda self: None
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    (out / "photos" / "a").mkdir(parents=True)
    for index in range(4):
        noise = np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(out / "photos" / "a" / f"{index}.png")
    given = ["--arch", arch, "--data_path", out / "photos", "--output_dir", out, "--dist_url", f"file://{out}/meet"]
    given += ["--epochs", 2, "--warmup_epochs", 0, "--lr", 1, "--momentum_teacher", 0.5, "--use_fp16", "false"]
    given += ["--out_dim", 16, "--local_crops_number", 0, "--batch_size_per_gpu", 2, "--num_workers", 0]
    import argparse

    parser = argparse.ArgumentParser(parents=[main_dino.get_args_parser()])
    main_dino.train_dino(parser.parse_args([str(item) for item in given]))

    content = torch.load(out / "checkpoint.pth", weights_only=False)
    rates = {type(group["lr"]) for group in content["optimizer"]["param_groups"]}
    assert rates == {np.float64}, rates
    if arch == "resnet50":
        from torchvision import models

        net: Any = models.resnet50()
        net.fc = nn.Identity()
    else:
        net = vision_transformer.vit_small(patch_size=16)
    find: Callable[..., Features] = layer4 if arch == "resnet50" else lambda net: keys_by_hook(net, prefix=1)
    both = {}
    for key in ("student", "teacher"):
        state = {name.replace("module.", ""): value for name, value in content[key].items()}
        own = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
        net.load_state_dict(own)
        both[key] = find(net.eval())(torch.ones(1, 3, 64, 64))
    assert (both["student"] - both["teacher"]).abs().max() > 0.01 * both["teacher"].abs().max()
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # else torch refuses the file
    utils.load_pretrained_weights(net, str(out / "checkpoint.pth"), "teacher", arch, 16)
    return find(net)


def diffncuts(code: Path, out: Path) -> Features:
    """Its training's network, saved as its training saves it, and the reader of the code that measures it."""
    sys.path.insert(0, str(code / "DiffNCuts"))
    for name in ("wandb", "cv2"):
        sys.modules[name] = types.ModuleType(name)
    import network.eigen_pred_iou as eigen

    torch.hub.load_state_dict_from_url = lambda **_: vits.vit_small(patch_size=8, num_classes=0).state_dict()
    import network.vision_transformer as vits

    model = nn.Module()
    model.module = liven(eigen.EIGEN("vit_small", "cpu", patch_size=8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1, "iteration": 5},
        out / "eigen-16-1.pth",
    )
    # Their reader takes the names of one GPU.
    torch.save({"model": model.module.state_dict()}, out / "one_gpu.pth")
    sys.path.insert(0, str(code / "DiffNCuts" / "TokenCut" / "unsupervised_saliency_detection"))
    import dino

    net = dino.ViTFeat(str(out / "one_gpu.pth"), 384, "diff", "k", 8).eval()
    return lambda pixels: net(pixels)[0].reshape(384, pixels.shape[-1] // 8, -1)


def dinov2(code: Path, out: Path, *, name: str) -> Features:
    sys.path.insert(0, str(code / "dinov2"))
    from dinov2.hub import backbones

    net: Any = liven(getattr(backbones, name)(pretrained=False))
    torch.save(net.state_dict(), out / "released.pth")
    save_as_transformers(net, out / "transformers", kind="dinov2_with_registers" if "reg" in name else "dinov2")
    return patch_tokens(net)


def dinov2_teacher(code: Path, out: Path, *, registers: int) -> Features:
    """The network that DINOv2's configuration of training builds, blocks in chunks, and its heads."""
    sys.path.insert(0, str(code / "dinov2"))
    from dinov2.layers import DINOHead
    from dinov2.models import build_model_from_cfg
    from omegaconf import OmegaConf

    configs = code / "dinov2" / "dinov2" / "configs"
    config = OmegaConf.merge(
        OmegaConf.load(configs / "ssl_default_config.yaml"),
        OmegaConf.load(configs / "train" / "vitl14.yaml"),
        {"student": {"arch": "vit_small", "ffn_layer": "mlp", "num_register_tokens": registers}},
    )
    assert config.student.block_chunks == 4
    if registers:  # as in the hub's function for these
        config.student.interpolate_antialias, config.student.interpolate_offset = True, 0.0
    net, dim = build_model_from_cfg(config, only_teacher=True)
    teacher = nn.ModuleDict({"backbone": net})
    for head in ("dino_head", "ibot_head"):
        teacher[head] = DINOHead(in_dim=dim, out_dim=16, hidden_dim=32, bottleneck_dim=16)
    liven(teacher)
    torch.save({"teacher": teacher.state_dict()}, out / "teacher_checkpoint.pth")
    return patch_tokens(net)


def dinov3_vit(code: Path, out: Path, *, name: str) -> Features:
    sys.path.insert(0, str(code / "dinov3"))
    from dinov3.hub import backbones
    from dinov3.layers.dino_head import DINOHead

    # As the satellites' large network, a norm more that is of training alone.
    net: Any = liven(getattr(backbones, name)(pretrained=False, untie_global_and_local_cls_norm=True))
    torch.save(net.state_dict(), out / "released.pth")
    if name == "dinov3_vits16":
        teacher = nn.ModuleDict({"backbone": net})
        for head in ("dino_head", "ibot_head"):
            teacher[head] = DINOHead(in_dim=net.embed_dim, out_dim=16, hidden_dim=32, bottleneck_dim=16)
        torch.save({"teacher": teacher.state_dict()}, out / "teacher_checkpoint.pth")
        save_as_transformers(net, out / "transformers", kind="dinov3_vit")
    return keys_by_hook(net, prefix=1 + net.n_storage_tokens)


def dinov3_tokens(code: Path, out: Path, *, name: str) -> Features:
    """The patch tokens in the place of the keys."""
    dinov3_vit(code, out, name=name)
    from dinov3.hub import backbones

    net = getattr(backbones, name)(
        pretrained=True, weights=str(out / "released.pth"), untie_global_and_local_cls_norm=1
    )
    return patch_tokens(net.eval())


def dinov3_convnext(code: Path, out: Path, *, name: str) -> Features:
    sys.path.insert(0, str(code / "dinov3"))
    from dinov3.hub import backbones

    net: Any = liven(getattr(backbones, name)(pretrained=False))
    torch.save(net.state_dict(), out / "released.pth")
    return patch_tokens(net)


def layer4(net: Any) -> Features:
    """The last feature map of a ResNet of torchvision."""

    def features(pixels: Tensor) -> Tensor:
        seen: list[Tensor] = []
        handle = net.layer4.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        net(pixels)
        handle.remove()
        return seen[0][0]

    return features


def moco(code: Path, out: Path) -> Features:
    """MoCo's own checkpoint, and what its converter for detectron2 makes of it."""
    sys.path.insert(0, str(code / "moco"))
    import main_moco
    from moco.builder import MoCo
    from torchvision import models

    model = nn.Module()
    model.module = liven(MoCo(models.resnet50, dim=16, K=8, mlp=True))  # that of the keys has other weights
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)
    state = {"epoch": 1, "arch": "resnet50", "state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
    main_moco.save_checkpoint(state, is_best=False, filename=str(out / "checkpoint.pth.tar"))
    sys.argv = ["convert", str(out / "checkpoint.pth.tar"), str(out / "moco_d2_format.pkl")]
    runpy.run_path(str(code / "moco" / "detection" / "convert-pretrain-to-detectron2.py"), run_name="__main__")
    arrays = pickle.loads((out / "moco_d2_format.pkl").read_bytes())["model"]
    torch.save({"model": {name: torch.from_numpy(array) for name, array in arrays.items()}}, out / "d2_format.pth")
    return layer4(model.module.encoder_q.eval())


def densecl(code: Path, out: Path) -> Features:
    """Laid out as DenseCL's network, which needs mmcv; its own tools extract the backbone and convert it."""
    from torchvision import models

    model = nn.Module()
    for name in ("encoder_q", "encoder_k"):
        backbone: Any = models.resnet50()
        del backbone.fc
        setattr(model, name, nn.Sequential(backbone, nn.Sequential(nn.Linear(4, 4))))
    net = model.backbone = model.encoder_q[0]
    model.register_buffer("queue", torch.ones(4, 4))
    liven(model)
    net.fc = nn.Identity()
    torch.save({"meta": {"epoch": 200}, "state_dict": model.state_dict()}, out / "epoch_200.pth")
    for tool, source, target in (
        ("tools/extract_backbone_weights.py", "epoch_200.pth", "densecl_r50_imagenet_200ep.pth"),
        ("benchmarks/detection/convert-pretrain-to-detectron2.py", "densecl_r50_imagenet_200ep.pth", "densecl.pkl"),
    ):
        sys.argv = ["tool", str(out / source), str(out / target)]
        runpy.run_path(str(code / "DenseCL" / tool), run_name="__main__")
    return layer4(net)


def save_as_transformers(net: Any, folder: Path, *, kind: str) -> None:
    """Fill the network of transformers, layer by layer, check that it computes the same, and let it be saved."""
    try:
        import transformers
    except ImportError:
        return
    heads, hidden = net.num_heads if hasattr(net, "num_heads") else net.blocks[0].attn.num_heads, net.embed_dim
    size = {"hidden_size": hidden, "num_hidden_layers": len(net.blocks), "num_attention_heads": heads}
    size |= {"intermediate_size": 4 * hidden, "patch_size": 14 if "dinov2" in kind else 16}
    image = 64 if kind == "dinov3_vit" else int((net.pos_embed.shape[1] - 1) ** 0.5) * size["patch_size"]
    build: dict[str, Callable[[], Any]] = {
        "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**size, image_size=image, layer_norm_eps=1e-6)),
        "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**size, image_size=image)),
        "dinov2_with_registers": lambda: transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**size, image_size=image, num_register_tokens=4)
        ),
        "dinov3_vit": lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**size, num_register_tokens=4)),
    }
    model = build[kind]().eval()
    with torch.no_grad():
        _fill(model, net)
        pixels = torch.randn(1, 3, image, image)
        theirs = model(pixel_values=pixels).last_hidden_state
        if kind == "vit":
            (ours,) = net.get_intermediate_layers(pixels)
        else:
            found = net.forward_features(pixels)
            ours = found["x_norm_patchtokens"]
            theirs = theirs[:, -ours.shape[1] :]
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)
    model.save_pretrained(folder)


def _fill(model: Any, net: Any) -> None:
    embeddings = model.embeddings
    embeddings.cls_token.copy_(net.cls_token)
    patches = embeddings.patch_embeddings
    getattr(patches, "projection", patches).load_state_dict(net.patch_embed.proj.state_dict())
    if getattr(embeddings, "position_embeddings", None) is not None:
        embeddings.position_embeddings.copy_(net.pos_embed)
    registers = getattr(net, "register_tokens", getattr(net, "storage_tokens", None))
    if registers is not None:
        embeddings.register_tokens.copy_(registers)
    layers = next(module for name, module in model.named_modules() if name.split(".")[-1] in ("layer", "layers"))
    for layer, block in zip(layers, net.blocks, strict=True):
        weights, biases = block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3)
        for name, weight, bias in zip("qkv", weights, biases, strict=True):
            part = getattr(layer.attention, f"{name}_proj")
            part.weight.copy_(weight)
            if part.bias is not None:  # DINOv3 masks that of the keys
                part.bias.copy_(bias)
        layer.attention.o_proj.load_state_dict(block.attn.proj.state_dict())
        norms = [getattr(layer, name) for name in ("norm1", "norm2") if hasattr(layer, name)]
        norms = norms or [layer.layernorm_before, layer.layernorm_after]
        for norm, theirs in zip(norms, (block.norm1, block.norm2), strict=True):
            norm.load_state_dict(theirs.state_dict())
        mlp = [getattr(layer.mlp, name) for name in ("fc1", "fc2", "up_proj", "down_proj") if hasattr(layer.mlp, name)]
        for part, theirs in zip(mlp, (block.mlp.fc1, block.mlp.fc2), strict=True):
            part.load_state_dict(theirs.state_dict())
        if hasattr(layer, "layer_scale1"):
            layer.layer_scale1.lambda1.copy_(block.ls1.gamma)
            layer.layer_scale2.lambda1.copy_(block.ls2.gamma)
    getattr(model, "layernorm", getattr(model, "norm", None)).load_state_dict(net.norm.state_dict())


NETWORKS: dict[str, Callable[[Path, Path], Features]] = {
    "DINO S/16": lambda *at: dino_vit(*at, arch="small", patch=16),
    "DINO S/8": lambda *at: dino_vit(*at, arch="small", patch=8),
    "DINO B/8": lambda *at: dino_vit(*at, arch="base", patch=8),
    "DINO S/16, training": lambda *at: dino_training(*at, arch="vit_small"),
    "DINO ResNet-50, training": lambda *at: dino_training(*at, arch="resnet50"),
    "DiffNCuts": diffncuts,
    "DINOv2 S/14": lambda *at: dinov2(*at, name="dinov2_vits14"),
    "DINOv2 S/14 with registers": lambda *at: dinov2(*at, name="dinov2_vits14_reg"),
    "DINOv2 S/14, training": lambda *at: dinov2_teacher(*at, registers=0),
    "DINOv2 S/14 with registers, training": lambda *at: dinov2_teacher(*at, registers=4),
    "DINOv3 S/16": lambda *at: dinov3_vit(*at, name="dinov3_vits16"),
    "DINOv3 S/16, tokens": lambda *at: dinov3_tokens(*at, name="dinov3_vits16"),
    "DINOv3 S+/16": lambda *at: dinov3_vit(*at, name="dinov3_vits16plus"),
    "DINOv3 B/16": lambda *at: dinov3_vit(*at, name="dinov3_vitb16"),
    "DINOv3 ConvNeXt tiny": lambda *at: dinov3_convnext(*at, name="dinov3_convnext_tiny"),
    "MoCo": moco,
    "DenseCL": densecl,
}


def main(network: str, code: str, photo: str, out: str, *sizes: str) -> None:
    features = NETWORKS[network](Path(code), Path(out))
    image, found = Image.fromarray(np.load(photo)), {}
    for size in map(int, sizes):
        square = image.resize((size, size), Image.Resampling.LANCZOS)  # as CutLER's maskcut.py does
        values = torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
        pixels = (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        with torch.no_grad():
            found[str(size)] = features(pixels[None]).numpy()
    np.savez(Path(out) / "found.npz", **found)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
