"""Checkpoints that hold objects of classes which no reader can import."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import torch


def save_with_foreign_object(path: Path, checkpoint: dict[str, Any]) -> None:
    """`torch.save` it with `hyper_parameters` that hold an object of a class that no reader can import."""
    module = types.ModuleType("their_config_package")
    for name, base in (("CfgNode", dict), ("Box", object)):
        cls = type(name, (base,), {"__module__": module.__name__})
        setattr(module, name, cls)
    config = module.CfgNode(net=module.CfgNode(depth=module.CfgNode(enc_name="convnext_base")))
    config.box = module.Box()
    config.box.values = [1, 2]
    sys.modules[module.__name__] = module
    try:
        torch.save({**checkpoint, "hyper_parameters": {"cfg": config}}, path)
    finally:
        del sys.modules[module.__name__]
