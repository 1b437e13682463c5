"""All networks whose weights the cache can hold: the tables of their owners, joined."""

from __future__ import annotations

from cuts3d_cli.detector.resnet import RESNETS
from cuts3d_cli.errors import UsageError
from cuts3d_cli.features.catalogue import BACKBONES
from cuts3d_cli.weights.specs import WeightsSpec
from cuts3d_cli.wording import choose_one


def all_weights() -> dict[str, WeightsSpec]:
    """Return all that the cache can hold, by name: feature backbones, and what the detector may start from."""
    return {**BACKBONES, **RESNETS}


def weights_spec(name: str) -> WeightsSpec:
    """Return what the cache may hold under a name.

    Raises:
        UsageError: nothing; the error lists the names.
    """
    known = all_weights()
    try:
        return known[name]
    except KeyError:
        raise UsageError(f"unknown backbone {name!r}: {choose_one(name, known)}") from None
