"""Runs the official code of a depth network: writes a file of random weights as its authors save it, and maps.

    python official_depth.py NETWORK CHECKOUT PHOTOS.npz OUT

writes OUT/weights.pt and OUT/found.npz: NAME.input, what the network sees of a photo, and NAME, its map.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

Found = dict[str, Any]


def liven(module: nn.Module) -> None:
    """Random weights whose maps vary."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, 0.0, 1.3 / parameter[0].numel() ** 0.5)


def depth_anything(checkout: Path, photos: Found, out: Path) -> Found:
    sys.path.insert(0, str(checkout))
    from depth_anything_v2.dpt import DepthAnythingV2

    net = DepthAnythingV2(encoder="vits", features=64, out_channels=[48, 96, 192, 384]).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        net.pretrained.pos_embed.normal_(0.0, 0.5)
        for block in net.pretrained.blocks:  # they begin at almost nothing
            block.ls1.gamma.fill_(0.3)
            block.ls2.gamma.fill_(0.3)
        net.depth_head.scratch.output_conv2[2].bias.fill_(1.0)
    torch.save(net.state_dict(), out / "weights.pt")
    found: Found = {}
    for name, photo in photos.items():
        bgr = np.ascontiguousarray(photo[:, :, ::-1])
        found[f"{name}.input"] = net.image2tensor(bgr)[0][0].numpy()
        with torch.no_grad():
            found[name] = net.infer_image(bgr)
    return found


def midas(checkout: Path, photos: Found, out: Path) -> Found:
    sys.path.insert(0, str(checkout))
    import cv2
    import timm

    def load(repository: str, name: str, **_: Any) -> Any:
        # The package that their code asks the hub for is timm's ancestor, with the activation as a module of its own.
        encoder: Any = timm.create_model(name, pretrained=False)
        encoder.act1 = nn.Identity()
        return encoder

    torch.hub.load = load  # type: ignore[assignment]
    from midas.midas_net_custom import MidasNet_small
    from midas.transforms import NormalizeImage, PrepareForNet, Resize

    net = MidasNet_small(None, features=64, backbone="efficientnet_lite3", exportable=True, blocks={"expand": True})
    net.eval()
    liven(net.scratch)
    with torch.no_grad():
        net.scratch.output_conv[4].weight.abs_()
        net.scratch.output_conv[4].bias.fill_(0.1)
    torch.save({f"module.{name}": tensor for name, tensor in net.state_dict().items()}, out / "weights.pt")
    steps = (
        Resize(
            256,
            256,
            resize_target=None,
            keep_aspect_ratio=True,
            ensure_multiple_of=32,
            resize_method="upper_bound",
            image_interpolation_method=cv2.INTER_CUBIC,
        ),
        NormalizeImage(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        PrepareForNet(),
    )
    found: Found = {}
    for name, photo in photos.items():
        sample = {"image": photo / 255.0}
        for step in steps:
            sample = step(sample)
        found[f"{name}.input"] = sample["image"]
        with torch.no_grad():
            found[name] = net(torch.from_numpy(sample["image"])[None])[0].numpy()
    return found


def kbr(checkout: Path, photos: Found, out: Path) -> Found:
    sys.path.insert(0, str(checkout))
    # Without what the packages import at their top: data sets, and their dependencies.
    for name in ("src", "src.tools", "src.utils", "src.networks", "src.networks.decoders"):
        package: Any = types.ModuleType(name)
        package.__path__ = [str(checkout / Path(*name.split(".")))]
        sys.modules[name] = package
    decoders: dict[str, Any] = {}

    def register(name: str, **_: Any) -> Callable[[Any], Any]:
        return lambda cls: decoders.setdefault(name, cls)

    source: Any = sys.modules["src"]
    source.register, source.DEC_REG = register, decoders
    kinds: Any = types.ModuleType("src.typing")
    kinds.__getattr__ = any_type
    sys.modules["src.typing"] = source.typing = kinds
    tools: Any = sys.modules["src.tools"]
    tools.blend_stereo = None
    utils: Any = sys.modules["src.utils"]
    utils.sort_dict = lambda items: dict(sorted(items.items()))
    importlib.import_module("src.networks.decoders.monodepth")
    from src.networks.depth import DepthNet

    net = DepthNet(enc_name="convnext_base", pretrained=False, out_scales=[0, 1, 2, 3]).eval()
    liven(net.decoders)
    state = {f"nets.depth.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 1, "hyper_parameters": argparse.Namespace(lr=1)}, out / "weights.pt")
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    found: Found = {}
    for name, photo in photos.items():
        image = torch.from_numpy(photo.transpose(2, 0, 1).astype(np.float32)) / 255
        # Width 640 (landscape) or height 384 (portrait), the aspect kept, multiples of 32.
        height, width = photo.shape[:2]
        size = (640 * height // width, 640) if width >= height else (384, 384 * width // height)
        size = (round(size[0] / 32) * 32, round(size[1] / 32) * 32)
        image = nn.functional.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
        image = (image - mean) / std
        found[f"{name}.input"] = image.numpy()
        with torch.no_grad():
            found[name] = net(image[None])["disp"][0][0, 0].numpy()
    return found


class Anything:
    """A type that an annotation may name."""

    def __class_getitem__(cls, item: Any) -> Any:
        return Any


def any_type(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return Anything


def zoedepth(checkout: Path, photos: Found, out: Path, *, config_name: str) -> Found:
    """With the smaller of the two BEiTs that MiDaS has: the code is the same."""
    sys.path.insert(0, str(checkout))
    sys.path.insert(0, str(checkout.parent / "MiDaS"))
    import timm.models.beit

    def load(repository: str, name: str, **_: Any) -> Any:
        import hubconf  # of MiDaS

        return getattr(hubconf, name)(pretrained=False)

    torch.hub.load = load  # type: ignore[assignment]
    beit: Any = timm.models.beit
    if hasattr(beit, "Block"):
        beit.Block.drop_path = nn.Identity()  # its name in the timm that MiDaS was written for
    from zoedepth.models.builder import build_model
    from zoedepth.utils.config import get_config

    config = get_config(config_name, "infer")
    config.pretrained_resource = None
    config.midas_model_type = "DPT_BEiT_B_384"
    net: Any = build_model(config).eval()
    liven(net)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "relative_position_bias_table" in name or "q_bias" in name or "v_bias" in name:
                parameter.normal_()
    torch.save({"model": net.state_dict(), "optimizer": None, "epoch": -1}, out / "weights.pt")
    from PIL import Image

    found: Found = {}
    for name, photo in photos.items():
        found[name] = net.infer_pil(Image.fromarray(photo), with_flip_aug=False)
        found[f"{name}.flipped"] = net.infer_pil(Image.fromarray(photo), with_flip_aug=True)
    return found


NETWORKS: dict[str, Callable[..., Found]] = {
    "depth-anything-v2-small": depth_anything,
    "midas-small": midas,
    "kbr": kbr,
    "zoedepth": lambda *given: zoedepth(*given, config_name="zoedepth_nk"),
    "zoedepth, one head": lambda *given: zoedepth(*given, config_name="zoedepth"),
}


def main(network: str, checkout: str, photos: str, out: str) -> None:
    found = NETWORKS[network](Path(checkout), dict(np.load(photos)), Path(out))
    np.savez(Path(out) / "found.npz", **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
