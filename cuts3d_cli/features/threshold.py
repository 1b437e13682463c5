"""The threshold of the semantic graph that is in force: given, the backbone's own, or chosen by its affinities."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config import PseudoConfig, for_backbone
from cuts3d_cli.cut.threshold import affinity_profile
from cuts3d_cli.errors import Message, Setting, SettingError
from cuts3d_cli.features.base import BackboneSpec
from cuts3d_cli.wording import Say, counted

PHOTOS = 8
"""Photos that a threshold is chosen by. Not in the paper."""
AUTO = "auto"


def with_threshold(
    settings: PseudoConfig,
    *,
    spec: BackboneSpec,
    features: Callable[[], Iterable[NDArray[np.floating]]],
    say: Say | None = None,
) -> PseudoConfig:
    """Return the settings of the cut with a number for the threshold of the semantic graph.

    Args:
        settings: of the cut.
        spec: the backbone.
        features: gives those of some photos, (C, H, W) each; asked only where neither the settings nor the backbone
            have a number.
        say: prints a status line.

    Raises:
        SettingError: the threshold must be given; the line tells what cosines there are.
        SampleError: no photo can be used.
    """
    settings = for_backbone(settings, tau_ncut=spec.tau_ncut)
    if isinstance(settings.tau_ncut, float):
        return settings
    profile = affinity_profile(features())
    tau_ncut = profile.threshold(settings.edge_share)
    if settings.tau_ncut != AUTO:
        raise SettingError(
            "pseudo.tau_ncut",
            f"has no known value for {spec.name}: {profile}; give a number, or ",
            Setting("pseudo.tau_ncut", AUTO),
            f" takes {tau_ncut:g}",
        )
    if say is not None:
        share = f"keeps {100 * profile.share_above(tau_ncut):.0f} % of the edges of {counted(profile.photos, 'photo')}"
        say(Message(Setting("pseudo.tau_ncut", AUTO), " is ", Setting("pseudo.tau_ncut", tau_ncut), f", which {share}"))
    return replace(settings, tau_ncut=tau_ncut)
