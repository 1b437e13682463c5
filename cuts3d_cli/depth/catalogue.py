"""Every depth source by name. Importing this imports no network: torch comes with `load_depth`."""

from __future__ import annotations

from pathlib import Path

from cuts3d_cli.depth.base import DepthBackend, DepthSpec
from cuts3d_cli.errors import UsageError, WeightsError

MIDAS_URL = "https://github.com/isl-org/MiDaS/releases/download/v2_1/midas_v21_small_256.pt"


def _folder_hint(repo: str) -> str:
    return f"where the hub is reachable, `hf download {repo} --local-dir FOLDER`, then pass --weights FOLDER"


_ALL = (
    DepthSpec(
        name="zoedepth",
        model="Intel/zoedepth-nyu-kitti",
        direction="distance",
        unit="metre",
        input_size="384x512, aspect kept, multiples of 32",
        licence="MIT",
        extra="depth",
        weights_hint=_folder_hint("Intel/zoedepth-nyu-kitti"),
    ),
    DepthSpec(
        name="depth-anything-v2-small",
        model="depth-anything/Depth-Anything-V2-Small-hf",
        direction="disparity",
        unit="relative",
        input_size="518, aspect kept, multiples of 14",
        licence="Apache-2.0",
        extra="depth",
        weights_hint=_folder_hint("depth-anything/Depth-Anything-V2-Small-hf"),
    ),
    DepthSpec(
        name="midas-small",
        model="MiDaS v2.1 small (EfficientNet-Lite3)",
        direction="disparity",
        unit="relative",
        input_size="longer side 256, aspect kept, multiples of 32",
        licence="MIT",
        extra=None,
        weights_hint=f"`curl -LO {MIDAS_URL}` and pass --weights {MIDAS_URL.rsplit('/', 1)[1]}",
    ),
    DepthSpec(
        name="marigold",
        model="prs-eth/marigold-depth-v1-1",
        direction="distance",
        unit="relative",
        input_size="longer side 768, aspect kept",
        licence="see the model's card",
        extra="marigold",
        weights_hint=_folder_hint("prs-eth/marigold-depth-v1-1"),
    ),
    DepthSpec(
        name="kbr",
        model="Kick Back & Relax (ConvNeXt-B encoder, Monodepth2 decoder)",
        direction="disparity",
        unit="relative",
        input_size="width 640 (landscape) or height 384 (portrait), aspect kept, multiples of 32",
        licence="the weights' own, with the Commons Clause: no sale",
        extra=None,
        weights_hint="get kbr.ckpt from its authors and pass --weights kbr.ckpt",
    ),
    DepthSpec(
        name="sensor",
        model="maps packed with the images",
        direction="distance",
        unit="metre",
        input_size="the map's own",
        licence="-",
        extra=None,
        weights_hint="it has none",
    ),
)
DEPTHS: dict[str, DepthSpec] = {spec.name: spec for spec in _ALL}
"""Name -> what the source gives. `sensor` is the only one that `load_depth` cannot load: its maps lie in the
shards."""


def load_depth(
    name: str,
    *,
    weights: Path | None,
    device: str,
    half: bool,
    seed: int,
    marigold_steps: int,
    marigold_ensemble: int,
) -> DepthBackend:
    """Load a depth network.

    Args:
        name: a key of `DEPTHS`, except `sensor`.
        weights: a file (midas-small, kbr) or a folder as `save_pretrained` writes it (the others); None takes
            the cache of the hub's client, then the hub.
        device: of torch, such as "cpu" or "cuda:0".
        half: compute in half precision where the device is CUDA. Ignored elsewhere.
        seed: of marigold's noise; the other networks have none.
        marigold_steps: denoising steps, at least 1.
        marigold_ensemble: predictions to merge, at least 1.

    Returns:
        The network, ready to predict. Its `spec` can differ from `DEPTHS[name]` where the weights in the
        folder say that they give another direction or unit.

    Raises:
        UsageError: there is no such network, or a setting is out of range.
        WeightsError: the weights are missing, damaged or another network's, or a package is not installed.
        HubUnreachableError: the weights are not in the cache and the hub does not answer.
    """
    if name not in DEPTHS:
        raise UsageError(f"no depth source is named {name!r}: take one of {', '.join(DEPTHS)}")
    if min(marigold_steps, marigold_ensemble) < 1:
        raise UsageError(
            f"marigold needs at least 1 step and 1 prediction, not {marigold_steps} and {marigold_ensemble}"
        )
    spec = DEPTHS[name]
    if weights is not None and not weights.exists():
        raise WeightsError(f"{weights}: no such file or folder; for {name}: {spec.weights_hint}")
    half = half and device.startswith("cuda")
    if name == "zoedepth":
        from cuts3d_cli.depth.zoedepth import load_zoedepth

        return load_zoedepth(spec, weights=weights, device=device, half=half)
    if name == "depth-anything-v2-small":
        from cuts3d_cli.depth.depth_anything import load_depth_anything

        return load_depth_anything(spec, weights=weights, device=device, half=half)
    if name == "midas-small":
        from cuts3d_cli.depth.midas import load_midas

        return load_midas(spec, weights=weights, device=device, half=half)
    if name == "marigold":
        from cuts3d_cli.depth.marigold import load_marigold

        return load_marigold(
            spec,
            weights=weights,
            device=device,
            half=half,
            seed=seed,
            steps=marigold_steps,
            ensemble=marigold_ensemble,
        )
    if name == "kbr":
        from cuts3d_cli.depth.kbr import load_kbr

        return load_kbr(spec, weights=weights, device=device, half=half)
    raise UsageError("sensor is no network: its maps are packed with the images (cuts3d pack --depth-dir)")
