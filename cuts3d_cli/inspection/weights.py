"""All networks whose weights the cache can hold: the tables of their owners, joined."""

from __future__ import annotations

from cuts3d_cli.detector.resnet import RESNETS
from cuts3d_cli.errors import UsageError
from cuts3d_cli.features.catalogue import ANY_BACKBONES, BACKBONES, backbone_spec, is_backbone
from cuts3d_cli.weights.cache import cached_names
from cuts3d_cli.weights.specs import WeightsSpec
from cuts3d_cli.wording import choose_one


def all_weights() -> dict[str, WeightsSpec]:
    """Return all that the tables name and all that is in the cache, by name.

    These are feature backbones, those beside the table where they are cached, and what the detector may start from.

    Raises:
        WeightsError: the index of the cache is damaged.
    """
    known: dict[str, WeightsSpec] = {**BACKBONES, **RESNETS}
    return known | {name: backbone_spec(name) for name in cached_names() if name not in known and is_backbone(name)}


def weights_spec(name: str) -> WeightsSpec:
    """Return what the cache may hold under a name.

    Raises:
        UsageError: nothing; the error lists the names.
        WeightsError: a repository of the hub cannot be read, or holds no backbone.
    """
    if name in RESNETS:
        return RESNETS[name]
    if not is_backbone(name):
        known = (*all_weights(), *ANY_BACKBONES)
        raise UsageError(f"unknown backbone {name!r}: {choose_one(name, known)}")
    return backbone_spec(name)
