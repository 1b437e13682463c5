from __future__ import annotations

from pathlib import Path

import pytest

from cuts3d_cli.inspection import viz_sample
from cuts3d_cli.shards.manifest import Manifest
from cuts3d_cli.sidecars.segmentation import settings_of, title_of
from tests.support.found import PLAIN, with_masks


def manifest(**changes: object) -> Manifest:
    values = {"stage": "pseudo", "config": {}, "inputs": {}, "counts": {}, "sha256": "", "size": 0}
    return Manifest(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "title"),
    [
        (
            {"pseudo": {"method": "cuts3d"}, "features": {"backbone": "dino-vitb8", "size": 480}},
            "CutS3D (sharpened, LocalCut), dino-vitb8 at 480",
        ),
        ({"pseudo": {"method": "maskcut"}, "features": {"backbone": "dino-vitb8"}}, "MaskCut, dino-vitb8"),
        ({"pseudo": {"method": "of the future"}, "features": {"backbone": "x"}}, "x"),
        ({}, ""),
    ],
)
def test_pictures_name_the_method_and_the_backbone_that_the_manifest_has(config: dict, title: str):
    found = manifest(config=config)
    assert title_of(found, settings_of(Path("s-000.pseudo.tar"), found)) == title


def test_the_title_of_a_sample_has_what_made_its_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (base,) = with_masks(tmp_path, {"a.jpg": [PLAIN]})
    titles: list[str] = []

    def save(segmentation: object, path: Path, *, title: str, notes: object) -> None:
        titles.append(title)

    monkeypatch.setattr(viz_sample, "save", save)
    monkeypatch.setattr(viz_sample, "title_of", lambda manifest, settings: "MaskCut, dino-vitb8 at 480")
    viz_sample.draw_sample([base], key="a", out=tmp_path / "a.png", say=lambda line: None)
    assert titles == ["s-000.tar: a: MaskCut, dino-vitb8 at 480"]
