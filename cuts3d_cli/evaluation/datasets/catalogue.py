"""The benchmarks of the paper and of CutLER: where their files are, and how their annotations are read.

The paper's are COCO val2017, COCO20K, LVIS, Pascal VOC, Objects365 and KITTI (Sec. 4); CutLER has five more. All
categories become one. The published figures come from files in which CutLER's authors had done that, by rules that were
not published where a dataset leaves a choice (difficult objects, groups, regions without labels); `rule` says what is
done here.

The command line makes its help from this list, so readers are imported only when a dataset is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cuts3d_cli.evaluation.datasets.parsed import ParsedDataset

Alternatives = Sequence[Sequence[str]]
"""Ways in which files may be laid out in a folder; of each, all paths are needed. The first is the recommended one."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A dataset to evaluate on.

    Attributes:
        name: as on the command line.
        title: for people.
        masks: whether its instances have masks; else only boxes.
        images: how many it has.
        page: where to get it.
        folders: paths that it may have below the root.
        annotations: files or folders, in one of those folders.
        photos: folders, in one of those folders.
        rule: how annotations that are not plain instances are treated.
        read: reads the annotations, given the paths of one of the alternatives.
        extensions: that its photos may have instead of the one in the annotations.
    """

    name: str
    title: str
    masks: bool
    images: int
    page: str
    folders: Sequence[str]
    annotations: Alternatives
    photos: Alternatives
    rule: str
    read: Callable[[Sequence[Path]], ParsedDataset]
    extensions: Sequence[str] = ()


def _coco(paths: Sequence[Path]) -> ParsedDataset:
    from cuts3d_cli.evaluation.datasets.coco import read_coco

    return read_coco(paths[0], masks=True)


def _coco20k(paths: Sequence[Path]) -> ParsedDataset:
    from cuts3d_cli.evaluation.datasets.coco import read_coco
    from cuts3d_cli.evaluation.datasets.files import read_lines

    annotations, *lists = paths
    names = {name.rpartition("/")[2] for path in lists for line in read_lines(path) for name in line.split()}
    return read_coco(annotations, masks=True, chosen=names if lists else None)


def _objects365(paths: Sequence[Path]) -> ParsedDataset:
    from cuts3d_cli.evaluation.datasets.coco import read_coco

    return read_coco(paths[0], masks=False)


def _voc(paths: Sequence[Path]) -> ParsedDataset:
    from cuts3d_cli.evaluation.datasets.voc import read_voc

    return read_voc(paths[0], *paths[1:])


def _kitti(paths: Sequence[Path]) -> ParsedDataset:
    from cuts3d_cli.evaluation.datasets.kitti import read_kitti

    return read_kitti(paths[0])


def _open_images(paths: Sequence[Path]) -> ParsedDataset:
    from cuts3d_cli.evaluation.datasets.open_images import read_open_images

    return read_open_images(paths[0])


def _art(name: str, title: str, images: int) -> Benchmark:
    """Return one of the three sets of drawings and paintings, which come from one place in one format."""
    return Benchmark(
        name=name,
        title=f"{title} train+test",
        masks=False,
        images=images,
        page="https://github.com/naoto0804/cross-domain-detection",
        folders=(name, title, name.capitalize()),
        annotations=(("Annotations", "ImageSets/Main/train.txt", "ImageSets/Main/test.txt"),),
        photos=(("JPEGImages",),),
        rule="difficult objects become crowd regions",
        read=_voc,
    )


_COCO = ("coco", "COCO")

BENCHMARKS = {
    item.name: item
    for item in (
        Benchmark(
            name="coco",
            title="COCO val2017",
            masks=True,
            images=5000,
            page="https://cocodataset.org/#download",
            folders=_COCO,
            annotations=(("annotations/instances_val2017.json",), ("instances_val2017.json",)),
            photos=(("val2017",), ("images/val2017",)),
            rule="iscrowd is kept",
            read=_coco,
        ),
        Benchmark(
            name="coco20k",
            title="COCO20K",
            masks=True,
            images=19_817,
            page="https://cocodataset.org/#download (the images of train2014 that are listed in"
            " https://github.com/valeoai/LOST/blob/master/datasets/coco_20k_filenames.txt)",
            folders=_COCO,
            annotations=(
                ("annotations/instances_train2014.json", "annotations/coco_20k_filenames.txt"),
                ("annotations/instances_train2014.json", "coco_20k_filenames.txt"),
                ("annotations/coco20k_trainval_gt.json",),
                ("coco20k_trainval_gt.json",),
                ("annotations/instances_train2014_sel20k.json",),
            ),
            photos=(("train2014",), ("images/train2014",)),
            rule="iscrowd is kept",
            read=_coco20k,
        ),
        Benchmark(
            name="lvis",
            title="LVIS v1 val",
            masks=True,
            images=19_809,
            page="https://www.lvisdataset.org/dataset (the photos are those of COCO val2017 and train2017)",
            folders=("lvis", "LVIS", *_COCO),
            annotations=(("lvis_v1_val.json",), ("annotations/lvis_v1_val.json",)),
            photos=(("val2017", "train2017"), ("images/val2017", "images/train2017")),
            rule="all 1203 categories; LVIS has no crowd regions",
            read=_coco,
        ),
        Benchmark(
            name="voc",
            title="VOC 2007 trainval+test",
            masks=False,
            images=9963,
            page="http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
            folders=("VOCdevkit/VOC2007", "voc/VOC2007", "VOC2007", "voc/VOCdevkit/VOC2007", "VOC/VOC2007"),
            annotations=(("Annotations", "ImageSets/Main/trainval.txt", "ImageSets/Main/test.txt"),),
            photos=(("JPEGImages",),),
            rule="difficult objects become crowd regions",
            read=_voc,
        ),
        Benchmark(
            name="objects365",
            title="Objects365 v2 val",
            masks=False,
            images=80_000,
            page="https://www.objects365.org/download.html",
            folders=("objects365", "Objects365"),
            annotations=(
                ("annotations/zhiyuan_objv2_val.json",),
                ("zhiyuan_objv2_val.json",),
                ("val/zhiyuan_objv2_val.json",),
            ),
            photos=(("val",), ("images/val",), ("images",)),
            rule="iscrowd is kept",
            read=_objects365,
        ),
        Benchmark(
            name="kitti",
            title="KITTI training set",
            masks=False,
            images=7481,
            page="https://www.cvlibs.net/datasets/kitti/eval_object.php?obj_benchmark=2d",
            folders=("kitti/training", "KITTI/training", "kitti", "KITTI"),
            annotations=(("label_2",),),
            photos=(("image_2",), ("JPEGImages",)),
            rule="DontCare regions become crowd regions; the eight types of objects are instances",
            read=_kitti,
            extensions=(".jpg",),
        ),
        Benchmark(
            name="uvo",
            title="UVO sparse val",
            masks=True,
            images=7356,
            page="https://sites.google.com/view/unidentified-video-object/dataset",
            folders=("uvo", "UVO"),
            annotations=(
                ("FrameSet/UVO_frame_val.json",),
                ("annotations/UVO_frame_val.json",),
                ("UVO_frame_val.json",),
            ),
            photos=(("uvo_videos_sparse_frames",), ("all_UVO_frames",)),
            rule="iscrowd is kept",
            read=_coco,
        ),
        Benchmark(
            name="openimages",
            title="Open Images v6 val",
            masks=False,
            images=37_306,
            page="https://storage.googleapis.com/openimages/web/download_v6.html",
            folders=("openimages", "openImages", "OpenImages"),
            annotations=(("validation-annotations-bbox.csv",), ("annotations/validation-annotations-bbox.csv",)),
            photos=(("validation",), ("images/validation",)),
            rule="groups become crowd regions; images without a box are left out",
            read=_open_images,
        ),
        _art("clipart", "Clipart1k", 1000),
        _art("comic", "Comic2k", 2000),
        _art("watercolor", "Watercolor2k", 2000),
    )
}
"""Name -> benchmark."""

PAPER = ("coco", "coco20k", "voc", "objects365", "kitti", "lvis")
"""The benchmarks of the paper, in the order of its Table 2."""

GROUPS: Mapping[str, Callable[[], Sequence[str]]] = {"paper": lambda: PAPER, "all": lambda: tuple(BENCHMARKS)}
"""Names that stand for several datasets."""
