from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from cuts3d_cli.evaluation.datasets.catalogue import PAPER
from cuts3d_cli.evaluation.metrics import COLUMNS, KindMetrics, Metrics
from cuts3d_cli.evaluation.report import OURS, BenchmarkReport, DatasetResult, lines, to_csv, to_markdown


def figures(ap: float, *, small: float | None = 0.1) -> KindMetrics:
    known = dict.fromkeys(("ap75", "ap_medium", "ap_large", "ar1", "ar10", "ar100"), 0.25)
    others = dict.fromkeys(("recall50", "precision50", "mean_best_iou"), 0.5)
    return KindMetrics(ap=ap, ap50=2 * ap, ap_small=small, **known, **others, matched=1, ignored=0)


def result(
    name: str, ap: float, *, mask: float | None = None, missing: int = 0, small: float | None = 0.1
) -> DatasetResult:
    metrics = Metrics(
        images=2,
        instances=3,
        crowds=0,
        predictions=4,
        box=figures(ap, small=small),
        mask=figures(mask) if mask is not None else None,
    )
    return DatasetResult(
        name=name, title=f"Set {name}", metrics=metrics, missing=missing, failed=[], seconds=1.5, warnings=["odd"]
    )


def report(*results: DatasetResult) -> BenchmarkReport:
    return BenchmarkReport(detector="st1.pth", results=results)


TWO = report(result("coco", 0.1, mask=0.05), result("voc", 0.2, small=None))


def test_the_average_is_over_the_datasets_that_have_the_figure():
    average = TWO.average("box")
    assert average is not None
    assert (average["ap"], average["ap50"], average["ap_small"]) == (pytest.approx(0.15), pytest.approx(0.3), None)
    assert TWO.average("mask") is None
    both = report(result("coco", 0.1, mask=0.05), result("voc", 0.2), result("lvis", 0.3, mask=0.07)).average("mask")
    assert both is not None
    assert both["ap"] == pytest.approx(0.06)
    assert report(result("coco", 0.1)).average("box") is None


def test_lines_are_in_percent_and_end_with_the_average():
    one, other, average = lines(TWO, "box")
    assert (one.dataset, one.method, one.source) == ("Set coco", OURS, "")
    assert one.values["ap"] == pytest.approx(10)
    assert (other.dataset, other.values["ap_small"]) == ("Set voc", None)
    assert (average.dataset, average.values["ap50"]) == ("average of 2", pytest.approx(30))
    assert [line.dataset for line in lines(TWO, "mask")] == ["Set coco"]


def test_published_rows_are_under_ours():
    found = lines(TWO, "box", compare="zero-shot")
    assert [(line.dataset, line.method) for line in found][:2] == [("Set coco", OURS), ("Set coco", "CutS3D")]
    assert (found[1].source, found[1].values["ap50"], found[1].values["ar100"]) == ("Table 12", 24.3, 30.2)
    assert found[-1].dataset == "average of 2"
    masks = lines(TWO, "mask", compare="in-domain")
    assert [(line.method, line.source) for line in masks[1:]] == [("CutS3D", "Table 12"), ("CuVLER", "Table 3")]
    assert (masks[2].values["ap"], masks[2].values["ap75"]) == (10.4, None)


def test_the_papers_average_is_shown_for_the_papers_datasets_alone():
    six = report(*(result(name, 0.1) for name in reversed(PAPER)))
    last = lines(six, "box", compare="zero-shot")[-3:]
    assert [(line.dataset, line.method, line.values["ap50"]) for line in last] == [
        ("average of 6", "CutS3D", 23.9),
        ("average of 6", "CutLER", 21.6),
        ("average of 6", "CuVLER", 21.3),
    ]
    five = report(*(result(name, 0.1) for name in PAPER[:5]))
    assert lines(five, "box", compare="zero-shot")[-1].method == OURS


def test_csv_has_full_precision_and_a_line_each():
    third = report(replace(TWO.results[0], metrics=replace(TWO.results[0].metrics, box=figures(1 / 3))))
    rows = list(csv.DictReader(io.StringIO(to_csv(third, compare="zero-shot"))))
    assert list(rows[0]) == ["dataset", "method", "source", "kind", *COLUMNS]
    assert (rows[0]["kind"], float(rows[0]["AP"]), rows[0]["method"]) == ("box", 100 * (1 / 3), OURS)
    assert (rows[1]["method"], rows[1]["AP50"]) == ("CutS3D", "24.3")
    assert [row["AP50"] for row in rows if row["kind"] == "mask"][:2] == ["10.0", "20.8"]
    assert {row["kind"] for row in csv.DictReader(io.StringIO(to_csv(report(result("voc", 0.2)))))} == {"box"}
    (voc,) = csv.DictReader(io.StringIO(to_csv(report(result("voc", 0.2, small=None)))))
    assert voc["APs"] == ""


def test_markdown_is_a_table_of_each_kind():
    box, mask = to_markdown(TWO).rstrip("\n").split("\n\n")
    assert box.splitlines() == [
        "| dataset | AP50 box | AP75 box | AP box | APs box | APm box | APl box | AR@1 box | AR@10 box | AR@100 box |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| Set coco | 20.0 | 25.0 | 10.0 | 10.0 | 25.0 | 25.0 | 25.0 | 25.0 | 25.0 |",
        "| Set voc | 40.0 | 25.0 | 20.0 | - | 25.0 | 25.0 | 25.0 | 25.0 | 25.0 |",
        "| average of 2 | 30.0 | 25.0 | 15.0 | - | 25.0 | 25.0 | 25.0 | 25.0 | 25.0 |",
    ]
    assert mask.splitlines()[-1].startswith("| Set coco | 10.0 |")
    compared = to_markdown(TWO, compare="zero-shot")
    assert "| Set coco | CutS3D (Table 12) | 24.3 | 12.5 | 13.3 |" in compared
    assert "| Set coco | CuVLER (Table 1) | 23.0 | 11.8 | 12.6 | - |" in compared


def test_a_part_of_a_dataset_is_marked():
    part = report(result("coco", 0.1, missing=7), result("voc", 0.2))
    assert [line.dataset for line in lines(part, "box")] == ["Set coco*", "Set voc", "average of 2*"]
    assert to_markdown(part).endswith("\n\n\\* 7 images of Set coco were left out: these are not its figures\n")


def test_it_is_plain_json():
    stored = json.loads(json.dumps(TWO.to_json()))
    assert (stored["detector"], stored["average"]["mask"]) == ("st1.pth", None)
    assert stored["average"]["box"]["ap"] == pytest.approx(0.15)
    first = stored["datasets"][0]
    assert (first["dataset"], first["whole"], first["mask"]["ap"], first["box"]["ap_small"]) == (
        "coco",
        True,
        0.05,
        0.1,
    )
    assert stored["datasets"][1]["mask"] is None
    compared = json.loads(json.dumps(TWO.to_json(compare="zero-shot")))["published"]
    assert [(row["dataset"], row["method"]) for row in compared][:2] == [("coco", "CutS3D"), ("coco", "CutLER")]
    assert compared[0]["box"]["ap50"] == 24.3
    six = report(*(result(name, 0.1) for name in PAPER)).to_json(compare="zero-shot")["published"]
    assert [row["dataset"] for row in six][-3:] == ["average"] * 3
