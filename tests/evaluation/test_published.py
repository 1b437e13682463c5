from __future__ import annotations

from itertools import pairwise

import pytest

from cuts3d_cli.evaluation.datasets.catalogue import BENCHMARKS, PAPER
from cuts3d_cli.evaluation.metrics import COLUMNS
from cuts3d_cli.evaluation.published import AVERAGE, PUBLISHED, Published, published


def values(source: str, method: str, dataset: str, setting: str = "zero-shot") -> Published:
    (row,) = [
        item
        for item in PUBLISHED
        if (item.source, item.method, item.dataset, item.setting) == (source, method, dataset, setting)
    ]
    return row


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.method}, {row.source}, {row.dataset}, {row.setting}")
def test_every_row_is_plausible(row: Published):
    assert row.dataset in {*BENCHMARKS, AVERAGE}
    assert row.box or row.mask
    for figures in (row.box, row.mask):
        assert set(figures) <= set(COLUMNS.values())
        assert all(0 < value < 50 and round(value, 1) == value for value in figures.values())
        for chain in (("ap75", "ap", "ap50"), ("ap_small", "ap_medium", "ap_large"), ("ar1", "ar10", "ar100")):
            known = [figures[name] for name in chain if name in figures]
            assert all(one < other for one, other in pairwise(known))
        if "ar100" in figures and "ap" in figures:
            assert figures["ap"] < figures["ar100"]
    assert all(value < row.box[name] for name, value in row.mask.items() if row.box)
    assert bool(row.mask) <= (row.dataset in BENCHMARKS and BENCHMARKS[row.dataset].masks)


def test_the_differences_are_those_of_the_paper():
    """The last line of Tables 1, 2 and 3 has what CutS3D is better by."""
    table_1 = {"coco20k": ([1.1, 0.6, 0.7], [1.3, 0.9, 0.9]), "coco": ([1.3, 0.7, 0.7], [1.5, 1.0, 0.9])}
    for dataset, (box, mask) in table_1.items():
        ours, theirs = values("Table 1", "CutS3D", dataset), values("Table 1", "CuVLER", dataset)
        for name, difference in zip(("ap50", "ap75", "ap"), box, strict=True):
            assert ours.box[name] - theirs.box[name] == pytest.approx(difference)
        for name, difference in zip(("ap50", "ap75", "ap"), mask, strict=True):
            assert ours.mask[name] - theirs.mask[name] == pytest.approx(difference)
    table_2 = {
        AVERAGE: (2.3, 0.9),
        "coco": (1.3, 0.7),
        "coco20k": (1.2, 0.7),
        "voc": (1.2, -0.9),
        "objects365": (2.0, 1.0),
        "kitti": (2.7, 1.2),
        "lvis": (0.3, 0.3),
    }
    for dataset, differences in table_2.items():
        for name, difference in zip(("ap50", "ap"), differences, strict=True):
            best = max(values("Table 2", method, dataset).box[name] for method in ("CutLER", "CuVLER"))
            assert values("Table 2", "CutS3D", dataset).box[name] - best == pytest.approx(difference)
    table_3 = {"coco": (1.4, 1.0), "coco20k": (0.8, 0.9), "lvis": (0.9, 0.7)}
    for dataset, differences in table_3.items():
        ours, theirs = (values("Table 3", method, dataset, "in-domain").mask for method in ("CutS3D", "CuVLER"))
        assert [ours[name] - theirs[name] for name in ("ap50", "ap")] == pytest.approx(differences)


@pytest.mark.parametrize("method", ["CutS3D", "CutLER", "CuVLER"])
def test_the_average_of_table_2_is_that_of_its_columns(method: str):
    for name in ("ap50", "ap"):
        mean = sum(values("Table 2", method, dataset).box[name] for dataset in PAPER) / len(PAPER)
        assert values("Table 2", method, AVERAGE).box[name] == pytest.approx(mean, abs=0.0501)


def test_tables_agree_but_where_the_paper_does_not():
    disagreements = {("Table 1", "coco20k"), ("Table 2", "coco20k"), ("Table 2", "voc")}
    for row in PUBLISHED:
        if row.method != "CutS3D" or row.source == "Table 12" or row.dataset == AVERAGE:
            continue
        full = values("Table 12", "CutS3D", row.dataset, row.setting)
        differs = any(full.box[name] != value for name, value in row.box.items())
        differs |= any(full.mask[name] != value for name, value in row.mask.items())
        assert differs == ((row.source, row.dataset) in disagreements)


def test_what_is_shown_repeats_nothing():
    def shown(dataset: str) -> list[tuple[str, str]]:
        return [(row.method, row.source) for row in published(dataset)]

    assert shown("lvis") == [
        ("CutS3D", "Table 12"),
        ("CutLER", "Table 2"),
        ("CutLER", "README"),
        ("CuVLER", "Table 2"),
    ]
    # Tables 12 and 2 disagree on VOC, Tables 1 and 2 on CutLER.
    assert ("CutS3D", "Table 2") in shown("voc")
    assert ("CutS3D", "Table 1") not in shown("coco")
    assert [source for method, source in shown("coco") if method == "CutLER"] == ["Table 1", "Table 2", "README"]
    assert shown("clipart") == [("CutLER", "README")]
    assert [(row.method, row.source) for row in published("lvis", setting="in-domain")] == [
        ("CutS3D", "Table 12"),
        ("CuVLER", "Table 3"),
    ]
    assert {row.setting for row in published("lvis", setting="in-domain")} == {"in-domain"}
    assert published("own") == []
