from __future__ import annotations

from dataclasses import replace
from importlib import resources
from typing import Any

import pytest

from cuts3d_cli.reports.page import Gallery, data_of, page_of
from cuts3d_cli.reports.records import MaskRecord, PhotoRecord, TruthRecord, worst_first

TEMPLATE = (resources.files("cuts3d_cli.reports") / "assets/index.html").read_text(encoding="utf-8")
HOSTILE = '</td><script>alert("1")</script>\'&'


def gallery(**changes: Any) -> Gallery:
    record = PhotoRecord(
        name="a.jpg",
        key="a",
        shard="s-000.tar",
        size=(40, 30),
        thumbnail=True,
        masks=[MaskRecord(area=0.03, score=0.75), MaskRecord(area=1.0, score=1.0)],
        depth=0.5,
    )
    values: dict[str, Any] = {
        "source": "masks",
        "stage": "pseudo",
        "made_by": "CutS3D",
        "scored": True,
        "min_score": 0.0,
        "compared": False,
        "warnings": [],
        "records": [record],
        "settings": {"pseudo": {"pseudo.beta": "0.45"}},
        "versions": {"cuts3d": "1.0"},
        "seconds": [("pseudo: crf", 1.5)],
    }
    return Gallery(**{**values, **changes})


def page(**changes: Any) -> str:
    return page_of(gallery(**changes), template=TEMPLATE).decode()


def test_settings_versions_and_figures_stand_on_the_page():
    text = page()
    for piece in ("pseudo.beta", "0.45", "CutS3D", "1 photo", "2 masks", "pseudo: crf: 1.5 s", "0.75 to 0.8: 1"):
        assert piece in text
    # A mask of the whole photo is in the last bin, one on an edge in the upper one.
    assert "50 to 100: 1" in text
    assert "2 to 5: 1" in text
    assert text.count("<figure>") == 5


def test_figures_that_say_nothing_are_left_out():
    assert "<figcaption>Score" not in page(scored=False)
    assert "<figcaption>Seconds" not in page(seconds=[])
    assert page(records=[], seconds=[]).count("<figure>") == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"made_by": HOSTILE},
        {"warnings": [HOSTILE]},
        {"settings": {HOSTILE: {HOSTILE: HOSTILE}}},
        {"versions": {HOSTILE: HOSTILE}},
        {"seconds": [(HOSTILE, 1.0)]},
    ],
)
def test_strangers_texts_are_escaped(changes: dict[str, Any]):
    text = page(**changes)
    assert "<script>" not in text
    assert 'alert("' not in text
    assert "&lt;script&gt;alert(&quot;1&quot;)" in text


def test_dollars_are_no_placeholders():
    assert "<td>$title</td>" in page(versions={"x": "$title"})


def test_data_hold_no_tag_and_leave_out_what_is_empty():
    record = PhotoRecord(name=HOSTILE + "\u2028", key="k", shard="s.tar", failed=("pseudo", HOSTILE))
    data = data_of(gallery(records=[record])).decode("ascii")
    assert "<" not in data
    assert "dropped" not in data
    assert "\\u2028" in data


def test_the_worst_come_first_and_those_without_a_ground_truth_last():
    def with_quality(quality: float | None) -> PhotoRecord:
        truth = TruthRecord(instances=1, missed=0, best=None, quality=quality)
        return PhotoRecord(name="", key="", shard="", truth=truth)

    none = replace(with_quality(None), truth=None)
    assert worst_first([none, with_quality(0.5), with_quality(None), with_quality(0.0), with_quality(0.5)]) == [
        3,
        1,
        4,
        2,
        0,
    ]
