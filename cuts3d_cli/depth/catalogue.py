"""Every depth source by name. Importing this imports no network: torch comes with `load_depth`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from cuts3d_cli.config import DepthConfig, Precision
from cuts3d_cli.depth.base import DepthBackend, DepthSpec
from cuts3d_cli.depth.pretrained import can_complete, find_pretrained, missing_package, unusable
from cuts3d_cli.devices import NetworkPrecision, choose_precision
from cuts3d_cli.errors import Command, Parts, Setting, SettingError, UsageError, WeightsError
from cuts3d_cli.weights.hub import require_hub
from cuts3d_cli.wording import choose_one

EXTRAS = {"depth": ("transformers",), "marigold": ("diffusers", "transformers", "accelerate")}
"""An extra of ours -> the packages that it brings."""
MIDAS_URL = "https://github.com/isl-org/MiDaS/releases/download/v2_1/midas_v21_small_256.pt"


def _load_zoedepth(spec: DepthSpec, *, config: DepthConfig, device: str, precision: NetworkPrecision) -> DepthBackend:
    from cuts3d_cli.depth.zoedepth import load_zoedepth

    return load_zoedepth(spec, config=config, device=device, precision=precision)


def _load_depth_anything(
    spec: DepthSpec, *, config: DepthConfig, device: str, precision: NetworkPrecision
) -> DepthBackend:
    from cuts3d_cli.depth.depth_anything import load_depth_anything

    return load_depth_anything(spec, config=config, device=device, precision=precision)


def _load_any(spec: DepthSpec, *, config: DepthConfig, device: str, precision: NetworkPrecision) -> DepthBackend:
    from cuts3d_cli.depth.any_transformers import load_any

    return load_any(spec, config=config, device=device, precision=precision)


def _load_marigold(spec: DepthSpec, *, config: DepthConfig, device: str, precision: NetworkPrecision) -> DepthBackend:
    from cuts3d_cli.depth.marigold import load_marigold

    return load_marigold(spec, config=config, device=device, precision=precision)


def _load_kbr(spec: DepthSpec, *, config: DepthConfig, device: str, precision: NetworkPrecision) -> DepthBackend:
    from cuts3d_cli.depth.kbr import load_kbr

    return load_kbr(spec, config=config, device=device, precision=precision)


def _load_midas(spec: DepthSpec, *, config: DepthConfig, device: str, precision: NetworkPrecision) -> DepthBackend:
    from cuts3d_cli.depth.midas import load_midas

    return load_midas(spec, config=config, device=device, precision=precision)


def _find_midas(spec: DepthSpec) -> Path | None:
    from cuts3d_cli.depth.midas import find_midas

    return find_midas()


def _folder_hint(repo: str) -> Parts:
    download = f"`hf download {repo} --local-dir FOLDER`"
    return (f"where the hub is reachable, {download}, then give ", Setting("depth.weights", "FOLDER", command="depth"))


def _pull(name: str, source: str = "FOLDER") -> Command:
    return Command("weights pull", arguments=(name, "--from", source))


_NON_COMMERCIAL = "CC-BY-NC-4.0"


def _depth_anything(name: str, *, repo: str, **facts: Any) -> DepthSpec:
    return DepthSpec(
        name=name,
        model=f"depth-anything/{repo}",
        input_size="shorter side 518, aspect kept, multiples of 14",
        extra="depth",
        weights_hint=_folder_hint(f"depth-anything/{repo}"),
        pull=_pull(name),
        from_hub=True,
        find=find_pretrained,
        load=_load_depth_anything,
        **{"direction": "disparity", "unit": "relative", **facts},
    )


_ALL = (
    DepthSpec(
        name="zoedepth",
        model="Intel/zoedepth-nyu-kitti",
        direction="distance",
        unit="metre",
        input_size="384x512, aspect kept, multiples of 32",
        licence="MIT",
        extra="depth",
        settings=("zoedepth_flip",),
        weights_hint=_folder_hint("Intel/zoedepth-nyu-kitti"),
        pull=_pull("zoedepth"),
        from_hub=True,
        find=find_pretrained,
        load=_load_zoedepth,
    ),
    *(
        _depth_anything(f"depth-anything-v2-{size.lower()}", repo=f"Depth-Anything-V2-{size}-hf", licence=licence)
        for size, licence in (("Small", "Apache-2.0"), ("Base", _NON_COMMERCIAL), ("Large", _NON_COMMERCIAL))
    ),
    *(
        _depth_anything(
            f"depth-anything-v2-metric-{place.lower()}",
            repo=f"Depth-Anything-V2-Metric-{place}-Large-hf",
            licence=_NON_COMMERCIAL,
            direction="distance",
            unit="metre",
            max_depth=farthest,
        )
        for place, farthest in (("Indoor", 20), ("Outdoor", 80))
    ),
    DepthSpec(
        name="midas-small",
        model="MiDaS v2.1 small (EfficientNet-Lite3)",
        direction="disparity",
        unit="relative",
        input_size="longer side 256, aspect kept, multiples of 32",
        licence="MIT",
        extra=None,
        weights_hint=(
            f"`curl -LO {MIDAS_URL}` and give ",
            Setting("depth.weights", MIDAS_URL.rsplit("/", 1)[1], command="depth"),
        ),
        pull=_pull("midas-small", "FILE"),
        url=MIDAS_URL,
        find=_find_midas,
        load=_load_midas,
    ),
    DepthSpec(
        name="marigold",
        model="prs-eth/marigold-depth-v1-1",
        direction="distance",
        unit="relative",
        input_size="longer side 768, aspect kept",
        licence="see the model's card",
        extra="marigold",
        settings=("marigold_steps", "marigold_ensemble", "seed"),
        weights_hint=_folder_hint("prs-eth/marigold-depth-v1-1"),
        pull=_pull("marigold"),
        from_hub=True,
        find=find_pretrained,
        load=_load_marigold,
    ),
    DepthSpec(
        name="kbr",
        model="Kick Back & Relax (ConvNeXt-B encoder, Monodepth2 decoder)",
        direction="disparity",
        unit="relative",
        input_size="width 640 (landscape) or height 384 (portrait), aspect kept, multiples of 32",
        licence="the weights' own, with the Commons Clause: no sale",
        extra=None,
        weights_hint=("get kbr.ckpt from its authors and give ", Setting("depth.weights", "kbr.ckpt", command="depth")),
        load=_load_kbr,
    ),
    DepthSpec(
        name="sensor",
        model="maps packed with the images",
        direction="distance",
        unit="metre",
        input_size="the map's own",
        licence="-",
        extra=None,
        weights_hint=("it has none",),
        load=None,
    ),
)
DEPTHS: dict[str, DepthSpec] = {spec.name: spec for spec in _ALL}
"""Every depth source by name. To add a network, write it into a file of its own, and a function here that imports its
loader. What it needs to be told is in `DepthConfig`."""


ANY_TRANSFORMERS = "hf:"
"""What begins the names of further sources: any depth network of transformers, in a repository or a folder."""
_OF_ANY = ("gives", "zoedepth_flip")


def is_depth(name: str) -> bool:
    """Return whether a name is one of the table, or begins as those of further sources do."""
    return name in DEPTHS or name.startswith(ANY_TRANSFORMERS)


def depth_spec(name: str) -> DepthSpec:
    """Return what is fixed about the depth source of that name.

    Args:
        name: a key of `DEPTHS`, "hf:OWNER/NAME" or "hf:FOLDER". Of the latter two, what they give is known when they
            are loaded.

    Raises:
        UsageError: there is none; the error lists the names.
    """
    if name in DEPTHS:
        return DEPTHS[name]
    if not is_depth(name):
        further = f"{ANY_TRANSFORMERS}OWNER/NAME"
        raise UsageError(f"no depth source is named {name!r}: {choose_one(name, (*DEPTHS, further))}")
    place = name.removeprefix(ANY_TRANSFORMERS)
    folder = Path(place).expanduser()
    is_folder = place != "" and folder.is_dir()
    if not is_folder and (place.count("/") != 1 or not all(place.split("/"))):
        raise UsageError(f"{name!r} is no folder and names no repository: write it as {ANY_TRANSFORMERS}OWNER/NAME")
    return DepthSpec(
        # Where a folder lies says nothing about what is in it.
        name=f"{ANY_TRANSFORMERS}{folder.resolve().name}" if is_folder else name,
        model=folder.name if is_folder else place,
        direction="distance",
        unit="relative",
        input_size="the network's own",
        licence="see the model's card",
        extra="depth",
        settings=_OF_ANY,
        folder=folder if is_folder else None,
        weights_hint=_folder_hint(place),
        pull=_pull(name),
        from_hub=not is_folder,
        find=find_pretrained,
        load=_load_any,
    )


def unread(config: DepthConfig) -> dict[str, str]:
    """Return the fields of section `depth` that have no effect, each with the field that makes it so.

    Raises:
        UsageError: there is no such depth source.
    """
    spec = depth_spec(config.backend)
    of_networks = () if spec.load is not None else ("weights", "max_side")
    of_all = {*_OF_ANY, *(name for other in DEPTHS.values() for name in other.settings)}
    return dict.fromkeys((*of_networks, *sorted(of_all.difference(spec.settings))), "backend")


def check_available(config: DepthConfig) -> None:
    """Make sure that `load_depth` will find its packages and weights, as far as that is known without fetching any.

    Weights that are here are loaded, which takes as long as it takes a run. Where none are, nothing heavy is imported.

    Args:
        config: as for `load_depth`.

    Raises:
        UsageError: there is no such depth source, or a setting does not go with it.
        WeightsError: a package or the weights are missing, or the weights that are here are damaged or another
            network's.
        HubUnreachableError: the weights are not in the cache and the hub does not answer.
    """
    load_available(config, device="cpu", precision="float32")


def load_available(config: DepthConfig, *, device: str, precision: Precision = "auto") -> DepthBackend | None:
    """Load a depth network if its weights are here, to see that they fit; nothing is fetched.

    Args:
        config, device, precision: as for `load_depth`.

    Returns:
        The network, as `load_depth` returns it. None where it is no network, or its weights are still to be fetched.

    Raises:
        UsageError, WeightsError, HubUnreachableError: as `check_available`.
    """
    spec = depth_spec(config.backend)
    if spec.load is None:
        return None
    place = _look_for(spec, config)
    if place is None:
        return None
    if config.weights or spec.folder or not spec.from_hub or not can_complete(place):
        try:
            return load_depth(config, device=device, precision=precision)
        except WeightsError as error:
            if config.weights or spec.folder or spec.from_hub:  # the latter tells the way out by itself
                raise
            raise unusable(spec, error) from error
    return None


def _look_for(spec: DepthSpec, config: DepthConfig) -> Path | None:
    """Return where the weights of a network are, None where they are to be fetched. Nothing heavy is imported.

    Raises:
        WeightsError: a package or the weights are missing.
        HubUnreachableError: the weights are not in the cache and the hub does not answer.
    """
    check_packages(spec)
    given = config.weights or spec.folder
    if given is not None:
        _check_given(spec, given)
        return given
    found = spec.find(spec) if spec.find is not None else None
    if found is None:
        what = f"weights of {spec.name}"
        if not spec.from_hub:
            raise WeightsError(f"{what} are not here: ", *spec.way_out)
        require_hub(what, spec.way_out)
    return found


def _check_given(spec: DepthSpec, weights: Path) -> None:
    if spec.folder not in (None, weights):
        raise SettingError(
            "depth.weights", f"is {weights}, but {spec.name} is the network in {spec.folder}: leave one out"
        )
    if not weights.exists():
        raise WeightsError(f"{weights}: no such file or folder; for {spec.name}: ", *spec.way_out)


def check_packages(spec: DepthSpec) -> None:
    """Make sure that the packages are installed that a network needs; none is imported.

    Raises:
        WeightsError: one is not.
    """
    for package in EXTRAS.get(spec.extra or "", ()):
        if importlib.util.find_spec(package) is None:
            raise missing_package(spec, ImportError(f"no package {package}"))


def check_loads(spec: DepthSpec, config: DepthConfig) -> None:
    """Make sure that a network can be loaded from a file or folder: its tensors fit by name and shape, no file lacks.

    Args:
        spec: of the network.
        config: whose `weights` name the file or folder.

    Raises:
        UsageError: a setting does not go with the network.
        WeightsError: the weights are damaged or another network's, or a package is not installed.
    """
    if spec.load is not None:
        spec.load(spec, config=config, device="cpu", precision="float32")


def load_depth(config: DepthConfig, *, device: str, precision: Precision = "auto") -> DepthBackend:
    """Load a depth network.

    Args:
        config: `backend` names the network; `weights` is a file of its authors' (all but marigold and hf:), or a
            folder as `save_pretrained` writes it (all but midas-small and kbr), or None for those of the hub's cache,
            then of the hub. The rest are settings of the networks, each of which takes its own.
        device: of torch, such as "cpu" or "cuda:0".
        precision: what it computes in; "auto" and what a device can do are as for `choose_precision`.

    Returns:
        The network, ready to predict. Its `spec` can differ from `DEPTHS[config.backend]` where the weights say that
        they give another direction or unit.

    Raises:
        UsageError: there is no such network, a setting is out of range, or the precision does not go with the network.
        WeightsError: the weights are missing, damaged or another network's, or a package is not installed.
        HubUnreachableError: the weights are not in the cache and the hub does not answer.
    """
    spec = depth_spec(config.backend)
    if spec.load is None:
        raise UsageError(f"{spec.name} is no network: its maps are packed with the images")
    if config.weights is not None:
        _check_given(spec, config.weights)
    chosen = choose_precision(precision, device=device)
    backend = spec.load(spec, config=config, device=device, precision=chosen)
    if precision != "auto" and backend.precision not in (None, chosen):
        takes = f"{spec.name} from these weights computes in {backend.precision}: leave it out"
        raise SettingError("run.precision", f"is {precision}, but {takes}")
    return backend
