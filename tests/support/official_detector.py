"""Runs the official code of a released detector: makes a file of random weights, and predictions from that file.

    python official_detector.py REPOSITORY CHECKOUT CONFIG PHOTOS.npz OUT

writes OUT/final.pth, as detectron2's checkpointer writes it, and OUT/found.npz.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

CODE = {
    "CutLER": ("cutler", "", "add_cutler_config"),
    "CuVLER": ("cad", "cad", "add_cuvler_config"),
    "s2d": ("model_training/cutler", "cutler", "add_cutler_config"),
}
"""Repository -> the folder of the code, the package that it is, if any, and the function of its configuration."""


def official_module(repository: str, name: str) -> Any:
    package = CODE[repository][1]
    return importlib.import_module(f"{package}.{name}" if package else name)


def official_config(repository: str, path: Path) -> Any:
    """The configuration, read as the official programs read it."""
    from detectron2.config import get_cfg

    config = get_cfg()
    getattr(official_module(repository, "config"), CODE[repository][2])(config)
    config.merge_from_file(str(path))
    config.MODEL.DEVICE = "cpu"
    return config


SPREAD = {
    "objectness_logits": 1.0,
    "anchor_deltas": 0.2,
    "cls_score": 1.0,
    "bbox_pred": 1.0,
    "mask_head.predictor": 1.0,
}
"""The ends of the names of layers -> the deviation of what they give."""


def random_weights(network: Any, photo: Any) -> None:
    """Weights that find many different things in a photo: layer by layer, by what each layer is given."""
    torch.manual_seed(0)
    hooks = []
    for name, module in network.named_modules():
        spread = next((value for end, value in SPREAD.items() if name.endswith(end) or f"{end}." in name), None)
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
            hooks.append(module.register_forward_pre_hook(take_statistics))
        elif spread is not None and isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            hooks.append(module.register_forward_hook(functools.partial(stretch, spread)))
    image = torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1))).float()
    with torch.no_grad():
        network([{"image": image, "height": photo.shape[0], "width": photo.shape[1]}])
    for hook in hooks:
        hook.remove()


def take_statistics(module: Any, given: Any) -> None:
    (features,) = given
    module.running_mean.copy_(features.mean(dim=(0, 2, 3)))
    module.running_var.copy_(features.var(dim=(0, 2, 3)))


def stretch(spread: float, module: Any, given: Any, result: Any) -> Any:
    """Give a layer's results a deviation; the pyramid's levels share a layer, and the first one decides."""
    if not hasattr(module, "stretched"):
        factor = spread / result.std()
        module.weight *= factor
        module.bias.copy_(-result.mean() * factor)
        module.stretched = True
        return result * factor + module.bias.reshape(-1, *[1] * (result.dim() - 2))
    return result


def main(repository: str, checkout: str, config_file: str, photos: str, out: str) -> None:
    folder, package, _ = CODE[repository]
    code = Path(checkout) / folder
    sys.path.insert(0, str(code))
    if package:
        # Without what its __init__ imports: programs, data sets and their dependencies.
        bare = types.ModuleType(package)
        bare.__path__ = [str(code)]
        sys.modules[package] = bare
    # Their code was written against a detectron2 after 0.6, of which Python files are enough.
    newer = Path(checkout).parent / "detectron2"
    if newer.is_dir():
        sys.path.insert(0, str(newer))
    # Coloured text of a package that their modelling code asks for colours.
    colored: Any = types.ModuleType("colored")
    colored.fg = str
    sys.modules.setdefault("colored", colored)

    from detectron2.checkpoint import DetectionCheckpointer

    config = official_config(repository, Path(config_file))
    # Their predictors are copies of detectron2's that build the network with their own function.
    defaults: Any = importlib.import_module("detectron2.engine.defaults")
    defaults.build_model = official_module(repository, "modeling").build_model
    network = defaults.build_model(config).eval()
    examples = dict(np.load(photos))
    random_weights(network, next(iter(examples.values())))
    DetectionCheckpointer(network, out).save("final", iteration=159_999)

    config.MODEL.WEIGHTS = str(Path(out) / "final.pth")
    predictor = defaults.DefaultPredictor(config)
    found: dict[str, Any] = {}
    for name, photo in examples.items():
        instances = predictor(photo[:, :, ::-1])["instances"]
        found[f"{name}.boxes"] = instances.pred_boxes.tensor.numpy()
        found[f"{name}.scores"] = instances.scores.numpy()
        found[f"{name}.masks"] = instances.pred_masks.numpy()
        found[f"{name}.classes"] = instances.pred_classes.numpy()
    np.savez(Path(out) / "found.npz", **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
