"""Published results of CutS3D, CutLER and CuVLER, for comparison with one's own: as printed, in percent.

They are from Tables 1, 2, 3 and 12 of the CutS3D paper, and, for the benchmarks that it leaves out, from the README of
CutLER. Where two tables disagree (CutS3D's AP50 on Pascal VOC is 40.6 in Table 2 and 40.8 in Table 12), both figures
are here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cuts3d_cli.evaluation.datasets.catalogue import PAPER

Setting = Literal["zero-shot", "in-domain"]
AVERAGE = "average"
"""Stands for a dataset in rows that hold the mean over the paper's six."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One row of a published table.

    Attributes:
        method: CutS3D, CutLER or CuVLER.
        source: the table.
        setting: "zero-shot", trained on ImageNet alone; "in-domain", self-trained on COCO train2017 as well.
        dataset: a name in `BENCHMARKS`, or `AVERAGE`.
        box: field of `KindMetrics` -> percent, by boxes.
        mask: field of `KindMetrics` -> percent, by masks.
    """

    method: str
    source: str
    setting: Setting
    dataset: str
    box: Mapping[str, float]
    mask: Mapping[str, float]


_FULL = ("ap50", "ap75", "ap", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100")
_README = "README"


def _table_1() -> list[Published]:
    """Return box AP50, AP75, AP and mask AP50, AP75, AP, on COCO20K and on COCO val2017."""
    printed = {
        "CutLER": "22.4 11.9 12.5 19.6 9.2 10.0 21.9 11.8 12.3 18.9 9.2 9.7",
        "CuVLER": "23.5 11.9 12.7 20.0 9.0 10.0 23.0 11.8 12.6 19.3 8.8 9.8",
        "CutS3D": "24.6 12.5 13.4 21.3 9.9 10.9 24.3 12.5 13.3 20.8 9.8 10.7",
    }
    rows = []
    for method, text in printed.items():
        values = _numbers(text)
        for dataset, part in (("coco20k", values[:6]), ("coco", values[6:])):
            rows.append(_row(method, "Table 1", dataset, box=_named(part[:3]), mask=_named(part[3:])))
    return rows


def _table_2() -> list[Published]:
    """Return box AP50 and AP: the average, then the six benchmarks."""
    printed = {
        "CuVLER": "21.3 11.3 23.0 12.6 23.5 12.7 39.4 22.3 21.6 10.9 11.8 4.6 8.5 4.5",
        "CutLER": "21.6 11.6 21.9 12.5 22.4 12.5 36.9 20.2 21.6 11.4 18.4 8.5 8.4 4.5",
        "CutS3D": "23.9 12.5 24.3 13.3 24.7 13.4 40.6 21.4 23.6 12.4 21.1 9.7 8.8 4.8",
    }
    rows = []
    for method, text in printed.items():
        values = _numbers(text)
        for dataset, ap50, ap in zip((AVERAGE, *PAPER), values[::2], values[1::2], strict=True):
            rows.append(_row(method, "Table 2", dataset, box={"ap50": ap50, "ap": ap}))
    return rows


def _table_3() -> list[Published]:
    """Return mask AP50 and AP after self-training on COCO, on COCO val2017, COCO20K and LVIS."""
    printed = {"CuVLER": "20.4 10.4 21.6 10.7 7.2 3.8", "CutS3D": "21.8 11.4 22.4 11.6 8.1 4.5"}
    rows = []
    for method, text in printed.items():
        values = _numbers(text)
        for dataset, ap50, ap in zip(("coco", "coco20k", "lvis"), values[::2], values[1::2], strict=True):
            rows.append(_row(method, "Table 3", dataset, mask={"ap50": ap50, "ap": ap}, setting="in-domain"))
    return rows


def _table_12() -> list[Published]:
    """Return AP50, AP75, AP, APs, APm, APl, AR@1, AR@10, AR@100, by boxes, and by masks where there are any."""
    printed: dict[Setting, dict[str, str]] = {
        "zero-shot": {
            "coco": "24.3 12.5 13.3 3.7 13.9 31.0 6.9 20.8 30.2 20.8 9.8 10.7 2.3 9.5 27.0 6.1 17.8 24.2",
            "coco20k": "24.6 12.6 13.4 4.0 14.0 30.7 6.9 20.9 30.4 21.3 9.9 10.9 2.4 9.9 26.7 6.1 17.8 26.7",
            "lvis": "8.8 4.2 4.8 2.3 8.8 15.7 2.4 9.9 17.9 7.1 3.6 3.9 1.4 5.7 13.8 2.2 8.5 14.6",
            "voc": "40.8 19.8 21.4 1.2 7.6 33.7 16.5 33.9 41.7",
            "objects365": "23.6 11.2 12.4 2.7 11.0 22.5 3.2 16.5 30.8",
            "kitti": "21.1 7.6 9.7 0.1 5.7 22.9 7.0 17.5 25.3",
        },
        "in-domain": {
            "coco": "24.7 12.5 13.3 3.6 13.4 29.8 6.7 21.1 31.5 21.8 10.4 11.4 2.5 10.5 27.5 6.1 19.0 27.0",
            "coco20k": "25.1 12.5 13.3 3.9 13.6 29.6 6.7 21.3 31.7 22.4 10.7 11.6 2.9 10.8 27.3 6.2 19.1 27.2",
            "lvis": "9.6 4.6 5.2 2.5 8.9 15.3 2.4 10.4 29.5 8.1 4.1 4.5 1.9 6.5 14.2 2.3 9.5 17.2",
        },
    }
    return [
        _row("CutS3D", "Table 12", dataset, box=_named(values[:9]), mask=_named(values[9:]), setting=setting)
        for setting, datasets in printed.items()
        for dataset, text in datasets.items()
        for values in [_numbers(text)]
    ]


def _readme() -> list[Published]:
    """Return box AP50 and AR@100 of CutLER on the eleven benchmarks."""
    printed = {
        "coco": (21.9, 32.7),
        "coco20k": (22.4, 33.1),
        "voc": (36.9, 44.3),
        "lvis": (8.4, 21.8),
        "uvo": (31.7, 42.8),
        "clipart": (21.1, 41.3),
        "comic": (30.4, 38.6),
        "watercolor": (37.5, 44.6),
        "kitti": (18.4, 27.5),
        "objects365": (21.6, 34.2),
        "openimages": (17.3, 29.6),
    }
    return [
        _row("CutLER", _README, dataset, box={"ap50": ap50, "ar100": ar100})
        for dataset, (ap50, ar100) in printed.items()
    ]


def _row(
    method: str,
    source: str,
    dataset: str,
    *,
    box: Mapping[str, float] | None = None,
    mask: Mapping[str, float] | None = None,
    setting: Setting = "zero-shot",
) -> Published:
    return Published(method=method, source=source, setting=setting, dataset=dataset, box=box or {}, mask=mask or {})


def _numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


def _named(values: Sequence[float]) -> dict[str, float]:
    """Name values by the first columns of Table 12, of which the first three are those of Table 1."""
    return dict(zip(_FULL, values, strict=False))


PUBLISHED: Sequence[Published] = (*_table_12(), *_table_1(), *_table_2(), *_table_3(), *_readme())
"""All rows; of those that repeat each other, the most complete first."""


def published(dataset: str, *, setting: Setting = "zero-shot") -> list[Published]:
    """Return what is published for a dataset: CutS3D first, without rows that only repeat others.

    Args:
        dataset: a name in `BENCHMARKS`, or `AVERAGE`.
        setting: how the detector was trained.
    """
    rows = [row for row in PUBLISHED if (row.dataset, row.setting) == (dataset, setting)]
    kept: list[Published] = []
    for row in sorted(rows, key=lambda row: ("CutS3D", "CutLER", "CuVLER").index(row.method)):
        others = [other for other in kept if other.method == row.method]
        if not any(_repeats(row.box, other.box) and _repeats(row.mask, other.mask) for other in others):
            kept.append(row)
    return kept


def _repeats(values: Mapping[str, float], known: Mapping[str, float]) -> bool:
    """Tell whether all values are known already."""
    return all(known.get(name) == value for name, value in values.items())
