"""`cuts3d eval --checkpoint` and `--list` as a command, on small datasets in the formats of the real ones."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from cuts3d_cli.evaluation.datasets.catalogue import BENCHMARKS
from cuts3d_cli.evaluation.metrics import COLUMNS
from tests.evaluation.test_benchmark import rows_of
from tests.evaluation.test_shards import shard
from tests.support.datasets import HEIGHT, WIDTH, coco, kitti_line, lvis, photo, voc, voc_object, voc_xml, write
from tests.support.running import Ran
from tests.support.shapes import annotation, coco_file, image

Eval = Callable[..., Ran]
ALL = ("-d", "coco,voc", "-d", "kitti", "--root", "sets")
BOX = (16, 12, 48, 36)
"""Edges of the object in the photos of VOC and KITTI."""


@pytest.fixture
def sets(alone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """COCO, VOC and KITTI of two photos each, below `sets`."""
    for name in ("coco", "voc", "kitti", "lvis"):
        monkeypatch.setitem(BENCHMARKS, name, replace(BENCHMARKS[name], images=2))
    root = alone / "sets"
    coco(root / "coco")
    xml = voc_xml([voc_object((BOX[0] + 1, BOX[1] + 1, BOX[2], BOX[3])), voc_object((1, 1, 5, 5), difficult=1)])
    voc(root / "VOCdevkit/VOC2007", {"trainval": ["000005"], "test": ["000001"]}, {"000005": xml, "000001": xml})
    for number in ("000000", "000001"):
        photo(root / f"kitti/training/image_2/{number}.png")
        write(root / f"kitti/training/label_2/{number}.txt", kitti_line("Car", BOX))
    return root


@pytest.fixture
def detector(alone: Path, tiny_detector: Path) -> Path:
    """The small detector in a folder of its own."""
    folder = alone / "detector-initial"
    folder.mkdir()
    os.link(tiny_detector, folder / tiny_detector.name)
    return Path("detector-initial", tiny_detector.name)


def figures(ran: Ran) -> dict[str, Any]:
    """The report, without what differs from run to run."""
    report = json.loads(ran.out)
    for item in report["datasets"]:
        del item["seconds"]
    return report


# ---------------------------------------------------------------------------------------------- what is printed


def test_several_datasets_and_their_average(cuts3d: Eval, sets: Path, detector: Path):
    ran = cuts3d("eval", "-c", detector, *ALL, "--json")
    assert ran.code == 0, ran.err
    report = figures(ran)
    assert report["detector"] == str(detector)
    assert [item["dataset"] for item in report["datasets"]] == ["coco", "voc", "kitti"]
    assert [(item["images"], item["instances"], item["crowds"]) for item in report["datasets"]] == [
        (2, 1, 1),
        (2, 2, 2),
        (2, 2, 0),
    ]
    assert [item["mask"] is None for item in report["datasets"]] == [False, True, True]
    assert all(item["whole"] and item["predictions"] > 0 for item in report["datasets"])
    assert report["average"]["box"]["ar100"] == pytest.approx(
        sum(item["box"]["ar100"] for item in report["datasets"]) / 3
    )
    assert report["average"]["mask"] is None
    assert "published" not in report
    settings, sizes, *finished = ran.err.splitlines()
    assert settings.startswith("model-final.safetensors: Cascade Mask R-CNN, ResNet-18, 1 class; photos at 96 pixels")
    assert sizes == "kitti: reading the sizes of 2 photos"
    assert [line.split(",")[0] for line in finished] == [f"{name}: 2 images" for name in ("coco", "voc", "kitti")]

    again = figures(cuts3d("eval", "-c", detector, *ALL, "--json", "--detections", "elsewhere"))
    assert again["datasets"] == report["datasets"]
    assert sorted(path.name.rpartition("-")[0] for path in Path("elsewhere").iterdir()) == ["coco", "kitti", "voc"]


def test_the_tables_fit_80_columns(cuts3d: Eval, sets: Path, detector: Path):
    ran = cuts3d("eval", "-c", detector, *ALL, "--compare", "paper")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0] == f"{detector}, percent"
    assert max(map(len, lines)) <= 80
    assert [row[0] for row in rows_of(ran.out)] == [
        "box",
        "COCO val2017",
        "CutS3D (Table 12)",
        "CutLER (Table 1)",
        "CutLER (Table 2)",
        "CutLER (README)",
        "CuVLER (Table 1)",
        "VOC 2007 trainval+test",
        "CutS3D (Table 12)",
        "CutS3D (Table 2)",
        "CutLER (Table 2)",
        "CutLER (README)",
        "CuVLER (Table 2)",
        "KITTI training set",
        "CutS3D (Table 12)",
        "CutLER (Table 2)",
        "CutLER (README)",
        "CuVLER (Table 2)",
        "average of 3",
        "mask",
        "COCO val2017",
        "CutS3D (Table 12)",
        "CutLER (Table 1)",
        "CuVLER (Table 1)",
    ]


def test_csv_and_markdown(cuts3d: Eval, sets: Path, detector: Path):
    stored = figures(cuts3d("eval", "-c", detector, *ALL, "--json", "--compare", "paper"))
    assert {(row["method"], row["source"]) for row in stored["published"]} >= {("CutS3D", "Table 12")}
    ran = cuts3d("eval", "-c", detector, *ALL, "--csv", "--compare", "paper")
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    ours = [row for row in rows if row["method"] == "this detector"]
    assert [(row["dataset"], row["kind"]) for row in ours] == [
        ("COCO val2017", "box"),
        ("VOC 2007 trainval+test", "box"),
        ("KITTI training set", "box"),
        ("average of 3", "box"),
        ("COCO val2017", "mask"),
    ]
    assert [float(row["AR@100"]) for row in ours[:3]] == [100 * item["box"]["ar100"] for item in stored["datasets"]]
    assert {"CutS3D", "CutLER", "CuVLER"} < {row["method"] for row in rows}
    ran = cuts3d("eval", "-c", detector, *ALL, "--markdown", "--compare", "in-domain")
    lines = ran.out.splitlines()
    assert lines[0] == f"| dataset | method | {' | '.join(f'{column} box' for column in COLUMNS)} |"
    assert any(line.startswith("| COCO val2017 | CutS3D (Table 12) | 24.7 |") for line in lines)
    assert "there are no published in-domain figures of KITTI training set" in ran.err


def test_a_json_of_ones_own(cuts3d: Eval, alone: Path, detector: Path):
    photo(alone / "photos/a.jpg")
    coco_file(alone / "own.json", [image(1, "a.jpg", width=WIDTH, height=HEIGHT)], [annotation(1, 1, (16, 12, 32, 24))])
    own = ("-d", "own.json", "--images", "photos")
    ran = cuts3d("eval", "-c", detector, *own, "--compare", "paper", "--export-coco", "out")
    assert ran.code == 0, ran.err
    assert " own.json " in ran.out
    assert ran.err.splitlines()[-1] == "there are no published zero-shot figures of own.json"
    results = json.loads(Path("out/own.json").read_text())
    assert {(item["image_id"], item["category_id"]) for item in results} == {(1, 1)}
    assert [item["score"] for item in results] == sorted((item["score"] for item in results), reverse=True)


def test_safetensors_or_pth(cuts3d: Eval, sets: Path, detector: Path):
    from cuts3d_cli.detector.checkpoints import read_trained, save_checkpoint

    state, config = read_trained(detector)
    assert config is not None
    save_checkpoint(detector.parent / "checkpoint-0000002.pth", {"model": state, "config": asdict(config)})
    reports = []
    for name in ("model-final.safetensors", "checkpoint-0000002.pth"):
        reports.append(figures(cuts3d("eval", "-c", detector.parent / name, "-d", "voc", "--root", "sets", "--json")))
    assert reports[0]["datasets"] == reports[1]["datasets"]
    assert len(list((detector.parent / "detections").iterdir())) == 2


# ---------------------------------------------------------------------------------------------- what is not lost


def test_photos_that_cannot_be_read_are_listed(cuts3d: Eval, sets: Path, detector: Path):
    bad = sets / "VOCdevkit/VOC2007/JPEGImages/000001.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(b"no photo")
    ran = cuts3d("eval", "-c", detector, *ALL)
    assert ran.code == 3
    assert f"failed: voc: {bad.relative_to(sets.parent)}: this is not an image of a known format" in ran.err
    assert "voc: 2 images" in ran.err
    assert " VOC 2007 trainval+test* " in ran.out
    assert ran.out.endswith("* 1 image of VOC 2007 trainval+test failed, and is counted as without detections\n")
    bad.write_bytes(whole)
    again = cuts3d("eval", "-c", detector, *ALL, "--json")
    assert again.code == 0
    assert "coco: the detections in 2 of 2 images are known (detector-initial/detections/coco-" in again.err
    assert "voc: 1 image" not in again.err  # the whole batch is done again
    fresh = cuts3d("eval", "-c", detector, *ALL, "--json", "--detections", "fresh")
    assert figures(again) == figures(fresh)


def test_what_was_found_before_is_not_looked_for_again(cuts3d: Eval, sets: Path, detector: Path):
    first = cuts3d("eval", "-c", detector, *ALL, "--json")
    for path in sets.rglob("*.jpg"):  # only its size and time are looked at
        facts = path.stat()
        path.write_bytes(b"x" * facts.st_size)
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    again = cuts3d("eval", "-c", detector, *ALL, "--json")
    assert (again.code, figures(again)) == (0, figures(first))
    assert again.err.count("finished before, skipped") == 3


def test_an_end_in_the_middle(cuts3d: Eval, alone: Path, detector: Path):
    """What was found stays, and the same command goes on to the same figures."""
    count = 40
    for number in range(count):
        photo(alone / f"photos/{number}.jpg", width=WIDTH + number // 3, height=HEIGHT)
    images = [image(number + 1, f"{number}.jpg", width=WIDTH + number // 3, height=HEIGHT) for number in range(count)]
    coco_file(alone / "own.json", images, [annotation(n + 1, n + 1, (16, 12, 32, 24)) for n in range(count)])
    line = ("eval", "-c", str(detector), "-d", "own.json", "--images", "photos", "--batch-size", "4", "--json")
    code = "from cuts3d_cli.__main__ import main; main()"
    running = subprocess.Popen(
        [sys.executable, "-c", code, *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    kept = alone / "detector-initial/detections"
    while running.poll() is None and sum(path.read_bytes().count(b"\n") for path in kept.glob("*.jsonl")) < 6:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate()
    assert (running.returncode, out) == (130, ""), err
    assert err.endswith("\ncuts3d: interrupted; what is finished is kept, run the same command again to go on\n")
    (journal,) = kept.iterdir()
    done = len(journal.read_text().splitlines())
    assert 6 <= done < count
    ran = cuts3d(*line)
    assert (
        f"own.json: the detections in {done - done % 4} of {count} images are known ({journal.relative_to(alone)})"
        in ran.err
    )
    assert figures(ran) == figures(cuts3d(*line, "--detections", "fresh"))


# ---------------------------------------------------------------------------------------------- what is refused


def test_a_missing_photo_is_one_line_unless_what_is_there_will_do(cuts3d: Eval, sets: Path, detector: Path):
    (sets / "coco/val2017/000000000139.jpg").unlink()
    ran = cuts3d("eval", "-c", detector, *ALL)
    assert ran.code == 1
    assert "coco: 1 of 2 photos are missing in sets/coco/val2017 (000000000139.jpg): get them from https" in ran.err
    assert ran.err.rstrip().endswith("or set partial to evaluate what is there (--partial)")
    ran = cuts3d("eval", "-c", detector, *ALL, "--partial")
    assert ran.code == 0
    assert " COCO val2017* " in ran.out
    assert ran.out.endswith("* 1 image of COCO val2017 was left out: these are not its figures\n")
    ran = cuts3d("eval", "-c", detector, "-d", "voc", "--root", "sets", "--limit", "1")
    assert "* 1 image of VOC 2007 trainval+test was left out" in ran.out


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "coco/annotations/instances_val2017.json").unlink(), "coco: there is no sets/coco/anno"),
        (lambda root: _cut(root / "coco/annotations/instances_val2017.json"), "val2017.json is not JSON"),
        (lambda root: _empty(root / "coco/val2017"), "coco: none of its 2 photos is in sets/coco/val2017"),
        (lambda root: (root / "VOCdevkit/VOC2007/ImageSets/Main/test.txt").unlink(), "voc: there is no sets/VOCdevkit"),
        (lambda root: (root / "VOCdevkit/VOC2007/Annotations/000005.xml").unlink(), "000005.xml cannot be read"),
        (lambda root: _cut(root / "VOCdevkit/VOC2007/Annotations/000005.xml"), "000005.xml is damaged"),
        (
            lambda root: (root / "kitti/training/label_2/000001.txt").unlink(),
            "kitti: sets/kitti/training/label_2 has 1",
        ),
        (lambda root: _cut(root / "kitti/training/label_2/000001.txt"), "000001.txt, line 1 is not a label of KITTI"),
        (
            lambda root: root.rename(root.parent / "other"),
            "sets is not a folder: name the folder with the datasets (root)",
        ),
    ],
)
def test_a_wrong_root_or_half_of_a_set_is_one_line(
    cuts3d: Eval, sets: Path, detector: Path, spoil: Callable[[Path], object], words: str
):
    spoil(sets)
    ran = cuts3d("eval", "-c", detector, *ALL)
    assert ran.code == 1
    assert words in ran.err.splitlines()[-1]
    assert ran.out == ""
    assert not (detector.parent / "detections").exists() or not any((detector.parent / "detections").glob("kitti*"))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def test_a_checkpoint_that_is_none_is_one_line(cuts3d: Eval, sets: Path, detector: Path):
    ran = cuts3d("eval", "-c", "no.safetensors", *ALL)
    assert (ran.code, ran.line) == (
        1,
        "cuts3d: no.safetensors does not exist: name a detector, from `cuts3d train` or another program",
    )
    for name in ("x.safetensors", "x.pth"):
        Path(name).write_bytes(b"x")
        ran = cuts3d("eval", "-c", name, *ALL)
        assert ran.code == 1
        assert f"{name} cannot be read: it is of an unknown kind, or damaged" in ran.line


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            [],
            "pass a detector and datasets (--checkpoint, --dataset), or shards and their ground truth (--shards, --gt)",
        ),
        (["-c", "x.pth"], "no dataset was named: pass --dataset, for example --dataset coco"),
        (["-c", "x.pth", "-d", "coc0"], "there is no dataset 'coc0', nor a file of that name: the datasets are coco,"),
        (
            ["-c", "x.pth", "-d", "coco", "--images", "p"],
            "--images is the folder of the photos of one COCO JSON of your own, and none is named: leave it out",
        ),
        (
            ["-c", "x.pth", "-d", "coco", "--gt", "g.json"],
            "--gt is for results in shards, and --checkpoint is for a det",
        ),
        (
            ["-c", "x.pth", "--shards", "s.tar"],
            "--dataset; or, for shards, run `cuts3d predict --checkpoint FILE`, then",
        ),
        (["-c", "x.pth", "-d", "coco", "--csv", "--json"], "--json and --csv are several formats: pass one of them"),
        (["-d", "coco"], "--dataset is for a detector on datasets, and no detector is named: add --checkpoint"),
        (
            ["--shards", "s.tar"],
            "--shards is for results in shards, which need a ground truth: name its COCO JSON by --gt",
        ),
        (["--shards", "s.tar", "--gt", "g.json", "--images", "p"], "--images is for a detector"),
        (
            ["--shards", "s.tar", "--gt", "g.json", "--csv"],
            "--csv is for a detector on datasets: for shards take --json",
        ),
        (["--list", "-c", "x.pth"], "--checkpoint has no effect with --list"),
        (["--list", "--markdown"], "--markdown has no effect with --list, which shows the"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(cuts3d: Eval, line: list[str], words: str):
    ran = cuts3d("eval", *line)
    assert ran.code == 2
    assert words in ran.line


# ---------------------------------------------------------------------------------------------- the list, and LVIS


def test_the_list(cuts3d: Eval, sets: Path, monkeypatch: pytest.MonkeyPatch):
    (sets / "kitti/training/image_2/000001.png").unlink()
    ran = cuts3d("eval", "--list", "--root", "sets")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "datasets in sets"
    assert "coco: sets/coco/annotations/instances_val2017.json and sets/coco/val2017" in lines
    assert "kitti: 1 of 2 photos in sets/kitti/training/image_2" in lines
    place = lines.index(
        "uvo: there is no sets/uvo/FrameSet/UVO_frame_val.json and no sets/uvo/uvo_videos_sparse_frames"
    )
    assert lines[place + 1] == f"  from {BENCHMARKS['uvo'].page}"
    table = [line for line in lines if line.startswith(" ")]
    assert max(map(len, table[: len(BENCHMARKS) + 3])) <= 80
    monkeypatch.setenv("CUTS3D_EVAL_ROOT", "sets")
    stored = {item["name"]: item for item in json.loads(cuts3d("eval", "--list", "--json").out)}
    assert {name: stored[name]["state"] for name in ("coco", "voc", "kitti", "uvo")} == {
        "coco": "ready",
        "voc": "ready",
        "kitti": "incomplete",
        "uvo": "missing",
    }


def test_lvis_needs_no_file_names(cuts3d: Eval, sets: Path, detector: Path):
    lvis(sets)
    as_benchmark = cuts3d("eval", "-c", detector, "-d", "lvis", "--root", "sets", "--json")
    own = ("-d", "sets/lvis/lvis_v1_val.json", "--images", "sets/coco", "--json")
    as_own = cuts3d("eval", "-c", detector, *own)
    (one,), (other,) = (figures(ran)["datasets"] for ran in (as_benchmark, as_own))
    assert (one["images"], one["instances"]) == (2, 1)
    assert (one["box"], one["mask"]) == (other["box"], other["mask"])
    shard(Path("s-000.tar"), {"000000098304": []}, width=WIDTH, height=HEIGHT)
    ran = cuts3d("eval", "--shards", "s-000.tar", "--gt", "sets/lvis/lvis_v1_val.json", "--json")
    assert ran.code == 0, ran.err
    assert (json.loads(ran.out)["images"], json.loads(ran.out)["missing"]) == (1, 1)
