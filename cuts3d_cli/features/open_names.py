"""Backbones beside the table: any network of timm by its name, and any of the model hub by its repository."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from cuts3d_cli.errors import Command, Parts, Setting, UsageError, WeightsError
from cuts3d_cli.features.base import ANY_HUB, ANY_TIMM
from cuts3d_cli.images import IMAGENET_MEAN, IMAGENET_STD
from cuts3d_cli.weights.hub import HubFileMissingError, hub_file
from cuts3d_cli.weights.specs import HubSource, UrlSource
from cuts3d_cli.wording import cause

_USUAL_SIDE, _COARSE_GRID = 480, 30
"""Side of the input if none is asked for, pixels, or the least number of patches a side. Not in the paper."""
_WORDS = {192: "tiny", 384: "small", 768: "base", 1024: "large"}
"""Width of a ViT -> its word in timm."""
_CONVNEXTS = {(96, 3, 9): "tiny", (96, 3, 27): "small", (128, 3, 27): "base", (192, 3, 27): "large"}
"""Width of the first stage, blocks of the first and of the third -> a ConvNeXt's word in timm."""


Described = tuple[str, dict[str, Any]]
"""The name of a network in timm, and the fields of `BackboneSpec` that are its own."""


@functools.cache
def timm_backbone(name: str) -> Described:
    """Describe a network of timm.

    Args:
        name: "timm:" and the network's name in timm, with the tag of its weights or without: then its usual ones.

    Raises:
        UsageError: timm has no such network or weights, or the network gives no feature map.
    """
    asked = name.removeprefix(ANY_TIMM)
    architecture, _, tag = asked.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        raise UsageError(
            f"timm has no network {architecture!r}" + (f": did you mean {' or '.join(near)}?" if near else "")
        )
    tags = [item.partition(".")[2] for item in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise UsageError(f"timm has no weights {tag!r} of {architecture}: it has {', '.join(tags) or 'none'}")
    facts = timm.get_pretrained_cfg(asked)
    return _described(name, whole_name(facts, architecture), facts.to_dict() if facts else {}, model_args={})


@functools.cache
def hub_backbone(name: str) -> Described:
    """Describe the backbone in a repository of the model hub: one for timm, or a ViT or ConvNeXt for transformers.

    Args:
        name: "hf-hub:" and OWNER/NAME.

    Raises:
        HubUnreachableError: its configuration is not cached, and the hub does not answer.
        WeightsError: there is no such repository, or it describes no network that is known here.
    """
    repo = name.removeprefix(ANY_HUB)
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise UsageError(f"{name!r} names no repository: write it as {ANY_HUB}OWNER/NAME")
    config = _hub_json(name, repo, "config.json")
    source = HubSource(repo=repo, filename="model.safetensors", otherwise="pytorch_model.bin")
    # timm's own repositories say which of its networks they hold.
    if isinstance(config.get("architecture"), str):
        facts = {**config, **_mapping(config.get("pretrained_cfg"))}
        # The description comes from a stranger: it may choose what the network looks like, and nothing else.
        reserved = inspect.signature(timm.create_model).parameters
        given = {key: value for key, value in _mapping(config.get("model_args")).items() if key not in reserved}
        return _described(name, config["architecture"], facts, model_args=given, source=source)
    architecture = architecture_of(config)
    if architecture is None:
        kind = config.get("model_type") or "no kind that it names"
        raise WeightsError(f"{repo} holds a network of {kind}, which is no backbone that timm has")
    return _described(name, architecture, {**config, **_processor(name, repo)}, model_args={}, source=source)


def architecture_of(config: Mapping[str, Any]) -> str | None:
    """Return the name in timm of the network that a configuration of transformers describes; None for another.

    Args:
        config: the content of its config.json.
    """
    kind, patch = config.get("model_type"), config.get("patch_size")
    if kind == "dinov3_convnext":
        widths, depths = config.get("hidden_sizes"), config.get("depths")
        if not (isinstance(widths, list) and isinstance(depths, list) and len(widths) == len(depths) == 4):
            return None
        word = _CONVNEXTS.get((widths[0], depths[0], depths[2]))
        return f"convnext_{word}.dinov3_lvd1689m" if word else None
    word = _WORDS.get(config.get("hidden_size", 0))
    names = {
        "vit": f"vit_{word}_patch{patch}_224.dino",
        "dinov2": f"vit_{word}_patch{patch}_dinov2.lvd142m",
        "dinov2_with_registers": f"vit_{word}_patch{patch}_reg4_dinov2.lvd142m",
        "dinov3_vit": f"vit_{word}_patch{patch}_dinov3_qkvb.lvd1689m",
    }
    name = names.get(str(kind))
    return name if word and name and timm.is_model(name.partition(".")[0]) else None


def whole_name(facts: Any, architecture: str) -> str:
    """Return the name of a network of timm with the tag of its weights, where it has any."""
    tag = getattr(facts, "tag", None)
    return f"{architecture}.{tag}" if tag else architecture


def _described(
    name: str, architecture: str, facts: Mapping[str, Any], *, model_args: Mapping[str, Any], source: Any = None
) -> Described:
    """Describe a network of timm; `facts` are as timm has them beside weights."""
    fixed = bool(facts.get("fixed_input_size", architecture.startswith("vit_")))
    stride, channels = _map_of(name, architecture, model_args)
    mean, std = _rgb(facts, "mean", "image_mean"), _rgb(facts, "std", "image_std")
    usual = mean is None or std is None or (mean, std) == (IMAGENET_MEAN, IMAGENET_STD)
    side = _USUAL_SIDE // stride * stride if _USUAL_SIDE // stride >= _COARSE_GRID // 2 + 1 else _COARSE_GRID * stride
    return architecture, {
        "model_args": dict(model_args),
        "fixed_size": fixed,
        "patch": stride,
        "dim": channels,
        "size": side,
        "normalisation": None if usual or mean is None or std is None else (mean, std),
        "source": source or _source(facts),
        "licence": str(facts.get("license") or "see the model's card"),
        "note": "Not in the paper.",
        "way_out": _way_out(name),
    }


def _map_of(name: str, architecture: str, model_args: Mapping[str, Any]) -> tuple[int, int]:
    """Return stride, pixels, and channels of a network's last feature map.

    Raises:
        UsageError: it has none.
    """
    try:
        with torch.device("meta"):
            model: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0, **model_args)
    except Exception as error:  # The arguments are a stranger's.
        raise UsageError(f"{name} cannot be built: {cause(error)}") from error
    maps: Any = getattr(model, "feature_info", None)
    last = maps[-1] if isinstance(maps, list) and maps else {}
    if not hasattr(model, "forward_intermediates") or not {"reduction", "num_chs"} <= last.keys():
        raise UsageError(f"{name} gives no feature map: take a ViT or a network of stages")
    return int(last["reduction"]), int(last["num_chs"])


def _source(facts: Mapping[str, Any]) -> HubSource | UrlSource | None:
    """Return where timm's weights lie, by what it has beside them."""
    if repo := facts.get("hf_hub_id"):
        return HubSource(repo=str(repo), filename=str(facts.get("hf_hub_filename") or "model.safetensors"))
    return UrlSource(url=str(facts["url"])) if facts.get("url") else None


def _way_out(name: str) -> Parts:
    return (
        "give ",
        Setting("features.weights", "FILE", command="features"),
        ", or run ",
        Command("weights pull", arguments=(name, "--from", "FILE")),
    )


def _processor(name: str, repo: str) -> dict[str, Any]:
    """Return how images are normalised, as a repository of transformers says; nothing where it does not."""
    try:
        return _hub_json(name, repo, "preprocessor_config.json")
    except HubFileMissingError:
        return {}


def _hub_json(name: str, repo: str, filename: str) -> dict[str, Any]:
    by_timm = Command("weights pull", arguments=(f"{ANY_TIMM}NAME", "--from", "FILE"))
    otherwise: Parts = ("where timm has this network, run ", by_timm, f" and take {ANY_TIMM}NAME as the backbone")
    path: Path = hub_file(repo, filename, what=f"the settings of {name}", way_out=otherwise)
    try:
        return _mapping(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON: {cause(error)}") from error


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _rgb(facts: Mapping[str, Any], *names: str) -> tuple[float, float, float] | None:
    """Return three numbers, one a channel, under the first of some names."""
    for name in names:
        value = facts.get(name)
        if (
            isinstance(value, (list, tuple))
            and len(value) == 3
            and all(isinstance(item, (int, float)) for item in value)
        ):
            return (float(value[0]), float(value[1]), float(value[2]))
    return None
