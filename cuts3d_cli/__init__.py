"""CutS3D: unsupervised instance segmentation by cutting semantics in 3D.

    from cuts3d_cli import segment

    result = segment(image)  # a PIL image, a uint8 array or a path
    result.masks, result.boxes, result.scores

The names of `__all__` are public and follow Semantic Versioning; so are `decode` of each kind of sidecar in
`cuts3d_cli.sidecars`, and `cuts3d_cli.shards.reader.read_shard`. Everything else may change.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cuts3d_cli._version import __version__

if TYPE_CHECKING:
    from cuts3d_cli.api import Detector, Segmenter, coco_dataset, draw, segment, to_coco
    from cuts3d_cli.config import PRESETS, Config
    from cuts3d_cli.errors import (
        Cuts3dError,
        DepthMissingError,
        FileError,
        HubUnreachableError,
        SampleError,
        SettingError,
        ShardError,
        UsageError,
        WeightsError,
    )
    from cuts3d_cli.segmentation import Cut, Instance, Segmentation

_HOMES = {
    "Config": "config",
    "Cut": "segmentation",
    "Cuts3dError": "errors",
    "DepthMissingError": "errors",
    "Detector": "api",
    "FileError": "errors",
    "HubUnreachableError": "errors",
    "Instance": "segmentation",
    "PRESETS": "config",
    "SampleError": "errors",
    "Segmentation": "segmentation",
    "Segmenter": "api",
    "SettingError": "errors",
    "ShardError": "errors",
    "UsageError": "errors",
    "WeightsError": "errors",
    "coco_dataset": "api",
    "draw": "api",
    "segment": "api",
    "to_coco": "api",
}
"""Public name -> the module that it is loaded from when it is first asked for: importing the package stays quick."""

__all__ = [
    "Config",
    "Cut",
    "Cuts3dError",
    "DepthMissingError",
    "Detector",
    "FileError",
    "HubUnreachableError",
    "Instance",
    "PRESETS",
    "SampleError",
    "Segmentation",
    "Segmenter",
    "SettingError",
    "ShardError",
    "UsageError",
    "WeightsError",
    "__version__",
    "coco_dataset",
    "draw",
    "segment",
    "to_coco",
]


def __getattr__(name: str) -> Any:
    """Load a public name."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, and the modules loaded so far."""
    return sorted({*globals(), *__all__})
