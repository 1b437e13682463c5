"""Which settings have an effect: what a manifest records does not depend on the others."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from cuts3d_cli.config import PAPER, CutSettings, section_types
from cuts3d_cli.cut.methods import METHODS
from cuts3d_cli.depth.catalogue import DEPTHS
from cuts3d_cli.effects import recorded, unread

CASES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("pseudo", {}, {"core_share", "edge_share", "focal", "measured", "planes", "parts"}),
    ("pseudo", {"source": "core", "cloud": "perspective", "tau_ncut": "auto"}, set()),
    (
        "pseudo",
        {"sharpen": False},
        {"beta", "sigma", "pairing", "core_share", "edge_share", "focal", "measured", "planes", "parts"},
    ),
    (
        "pseudo",
        {"crf": False},
        {
            "crf_backend",
            "crf_iterations",
            "crf_min_iou",
            "crf_failed",
            "core_share",
            "edge_share",
            "focal",
            "measured",
            "planes",
            "parts",
        },
    ),
    ("pseudo", {"instances": "all"}, {"retries", "core_share", "edge_share", "focal", "measured", "planes", "parts"}),
    ("confidence", {}, set()),
    ("confidence", {"source": "crf"}, {"tau_knn_min", "tau_knn", "cuts"}),
    ("depth", {}, {"marigold_steps", "marigold_ensemble", "seed", "gives"}),
    ("depth", {"backend": "marigold"}, {"gives", "zoedepth_flip"}),
    (
        "depth",
        {"backend": "sensor"},
        {"weights", "max_side", "marigold_steps", "marigold_ensemble", "seed", "gives", "zoedepth_flip"},
    ),
    ("train", {"drop_loss": False, "decay_steps": ()}, {"drop_loss_iou", "decay_factor"}),
]


@pytest.mark.parametrize(("section", "changes", "expected"), CASES)
def test_what_has_no_effect(section: str, changes: dict[str, Any], expected: set[str]):
    values = replace(getattr(PAPER, section), **changes)
    assert set(unread(section, values)) == expected
    assert {getattr(values, decisive) for decisive in unread(section, values).values()} <= {
        *changes.values(),
        # the defaults of what decides about the others
        "seed",
        "zoedepth",
        "paper",
        None,
    }


def test_maskcut_reads_three_settings_of_the_cut_and_no_depth():
    values = replace(PAPER.pseudo, method="maskcut")
    read = {item.name for item in fields(CutSettings)} - set(unread("pseudo", values))
    assert read == {"instances", "tau_ncut", "eigensolver"}
    assert {"depth_clip", "depth_sampling"} <= set(unread("pseudo", values))


@pytest.mark.parametrize(
    ("section", "chosen", "ignored"),
    [
        ("pseudo", {"method": "maskcut"}, {"tau_knn": 0.01, "retries": 7, "depth_clip": 3.0}),
        ("pseudo", {"cut": "component", "crf": False}, {"tau_knn": 0.01, "crf_iterations": 3}),
        ("depth", {"backend": "sensor"}, {"max_side": 100, "seed": 3}),
        ("confidence", {"source": "crf"}, {"cuts": 3}),
        ("selftrain", {"copy_paste": False}, {"alpha": "scalar"}),
    ],
)
def test_what_has_no_effect_makes_nothing_stale(section: str, chosen: dict[str, Any], ignored: dict[str, Any]):
    values = replace(getattr(PAPER, section), **chosen)
    assert recorded(section, replace(values, **ignored)) == recorded(section, values)
    usual = getattr(PAPER, section)
    assert recorded(section, replace(usual, **ignored)) != recorded(section, usual)


def test_every_name_is_a_field():
    for section, kind in section_types().items():
        names = {item.name for item in fields(kind)}  # type: ignore[arg-type]
        choices = [{}]
        choices += [{"method": name} for name in METHODS] if section == "pseudo" else []
        choices += [{"backend": name} for name in DEPTHS] if section == "depth" else []
        for chosen in choices:
            found = unread(section, replace(getattr(PAPER, section), **chosen))
            assert {*found, *found.values()} <= names
