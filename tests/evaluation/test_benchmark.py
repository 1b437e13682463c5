from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from cuts3d_cli.cli.evaluate_tables import print_datasets, print_report
from cuts3d_cli.config import RunConfig
from cuts3d_cli.cut.masks import encode_rle
from cuts3d_cli.detector.card import write_card
from cuts3d_cli.engine.results import Progress
from cuts3d_cli.errors import DatasetError, FileError, UsageError
from cuts3d_cli.evaluation.benchmark import record_benchmarks, run, run_checkpoint
from cuts3d_cli.evaluation.datasets.catalogue import BENCHMARKS, PAPER
from cuts3d_cli.evaluation.datasets.loading import list_datasets
from cuts3d_cli.evaluation.metrics import Instance, Prediction, evaluate
from cuts3d_cli.evaluation.report import BenchmarkReport, DatasetResult
from cuts3d_cli.evaluation.selection import Selection
from tests.support.adversarial import Seen, seen
from tests.support.datasets import coco, kitti_line, write
from tests.support.shapes import annotation, coco_file, image

WIDTH, HEIGHT = 80, 60
ROW = re.compile(r"^(.+?)((?: +(?:AP\w*|AR@\d+|-|\d+\.\d)){9}) *$", re.MULTILINE)
BOXES = {1: (10, 10, 30, 20), 2: (5, 20, 40, 30), 3: (50, 5, 16, 40)}


def painted(path: Path, box: tuple[int, int, int, int] | None, *, orientation: int | None = None) -> Path:
    """A black photo with a white box."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    if box is not None:
        x, y, width, height = box
        pixels[y : y + height, x : x + width] = 255
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif)
    return path


class White:
    """Finds what is white, and remembers what it was shown."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, ...]]] = []

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Seen]:
        self.batches.append([pixels.shape for pixels in images])
        assert all(pixels.dtype == np.uint8 and pixels.ndim == 3 for pixels in images)
        found = []
        for pixels in images:
            mask = pixels[..., 0] > 128
            found.append(seen([encode_rle(mask)] if mask.any() else [], [0.9] * int(mask.any())))
        return found


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's own JSON with three painted photos in tmp_path/photos."""
    for number, box in BOXES.items():
        painted(tmp_path / f"photos/{number}.png", box)
    images = [image(number, f"{number}.png", width=WIDTH, height=HEIGHT) for number in BOXES]
    annotations = [annotation(number, number, box) for number, box in BOXES.items()]
    return coco_file(tmp_path / "own.json", images, annotations)


def evaluated(path: Path, detector: Any = None, *, limit: int | None = None, **settings: Any) -> BenchmarkReport:
    return run(
        Selection(dataset=[str(path)], images=path.parent / "photos", limit=limit),
        detector=detector or White(),
        label="white.pth",
        **settings,
    )


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_perfect_detector_is_perfect(own: Path, batch_size: int):
    detector = White()
    report = evaluated(own, detector, batch_size=batch_size)
    (result,) = report.results
    assert (result.name, result.missing, result.failed, result.warnings) == ("own", 0, [], [])
    assert result.metrics.mask is not None
    assert [result.metrics.box.ap, result.metrics.mask.ap] == pytest.approx([1, 1])
    assert (result.metrics.images, result.metrics.instances, result.metrics.predictions) == (3, 3, 3)
    assert list(map(len, detector.batches)) == {1: [1, 1, 1], 2: [2, 1], 5: [3]}[batch_size]
    assert {shape for batch in detector.batches for shape in batch} == {(HEIGHT, WIDTH, 3)}
    assert report.detector == "white.pth"


def test_a_photo_that_cannot_be_read_is_one_without_detections(own: Path):
    (own.parent / "photos/2.png").write_bytes(b"no photo")
    (result,) = evaluated(own, batch_size=2).results
    (failed,) = result.failed
    assert failed == {"file": str(own.parent / "photos/2.png"), "reason": "this is not an image of a known format"}
    assert (result.metrics.images, result.metrics.predictions) == (3, 2)
    assert result.metrics.box.recall50 == pytest.approx(2 / 3)
    assert evaluated(own).failed == [{"shard": "own", **failed}]


def test_a_photo_of_another_size_than_its_annotations_is_left_out(own: Path):
    Image.new("RGB", (40, 30)).save(own.parent / "photos/3.png")
    (result,) = evaluated(own).results
    assert (result.metrics.images, result.missing, result.whole, result.failed) == (2, 1, False, [])
    (warning,) = result.warnings
    assert warning.endswith("left out: 3.png (80x60, its photo 40x30)")


def test_a_published_photo_of_another_size_than_its_masks_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(BENCHMARKS, "coco", replace(BENCHMARKS["coco"], images=2))
    coco(tmp_path / "coco")
    Image.new("RGB", (40, 30)).save(tmp_path / "coco/val2017/000000000285.jpg")
    (result,) = run(Selection(dataset=["coco"], root=tmp_path), detector=White(), label="white.pth").results
    assert [item["reason"] for item in result.failed] == ["it is 40x30, its annotations are for 64x48"]


def test_a_folder_that_cannot_be_written_to_is_told_before_the_detector_is_loaded(own: Path):
    (own.parent / "x.pth").write_text("no detector")
    selection = Selection(dataset=[str(own)], images=own.parent / "photos")
    for out in (own, own / "out"):
        with pytest.raises(FileError, match="is not a folder, and a folder is needed"):
            run_checkpoint(own.parent / "x.pth", selection, config=RunConfig(device="cpu"), export=out)


def test_exported_detections_have_the_ids_of_the_file(own: Path):
    content = json.loads(own.read_text())
    content["images"] = [item | {"id": f"photo-{item['id']}"} for item in content["images"]]
    content["annotations"] = [item | {"image_id": f"photo-{item['image_id']}"} for item in content["annotations"]]
    own.write_text(json.dumps(content))
    (result,) = evaluated(own, export=own.parent / "out").results
    assert result.metrics.box.ap == pytest.approx(1)
    found = json.loads((own.parent / "out/own.json").read_text())
    assert [item["image_id"] for item in found] == ["photo-1", "photo-2", "photo-3"]


def test_a_photo_is_turned_as_its_annotations_have_it(own: Path):
    painted(own.parent / "photos/1.png", BOXES[1], orientation=6)
    (result,) = evaluated(own).results
    assert (result.failed, result.metrics.box.recall50) == ([], 1)


def test_a_detector_that_fails_on_one_photo_loses_that_one(own: Path):
    class Moody(White):
        def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Seen]:
            if any(pixels[25, 30, 0] == 255 and pixels[45, 30, 0] == 255 for pixels in images):
                raise RuntimeError("out of luck")
            return super().detect(images)

    (result,) = evaluated(own, Moody(), batch_size=3).results
    assert [item["reason"] for item in result.failed] == ["the network failed: RuntimeError: out of luck"]
    assert result.metrics.box.matched == 2


def test_a_limit_is_spread_evenly_and_told(own: Path):
    detector = White()
    (result,) = evaluated(own, detector, limit=2).results
    assert (result.metrics.images, result.missing, result.whole) == (2, 1, False)
    assert len(detector.batches) == 2
    assert evaluated(own, limit=7).results[0].whole


def test_detections_are_saved_in_cocos_format(own: Path):
    folder = own.parent / "results"
    evaluated(own, export=folder)
    records = json.loads((folder / "own.json").read_text())
    assert [item["image_id"] for item in records] == [1, 2, 3]
    assert records[0]["bbox"] == list(BOXES[1])
    assert (records[0]["category_id"], records[0]["score"]) == (1, pytest.approx(0.9))
    assert records[0]["segmentation"]["size"] == [HEIGHT, WIDTH]
    assert [path.name for path in folder.iterdir()] == ["own.json"]
    for number in BOXES:
        painted(own.parent / f"photos/{number}.png", None)
    evaluated(own, export=folder)
    assert json.loads((folder / "own.json").read_text()) == []


def test_what_is_interrupted_saves_nothing(own: Path):
    class Stopped(White):
        def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Seen]:
            if self.batches:
                raise KeyboardInterrupt
            return super().detect(images)

    with pytest.raises(KeyboardInterrupt):
        evaluated(own, Stopped(), export=own.parent / "results")
    assert list((own.parent / "results").iterdir()) == []


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_run_that_was_stopped_goes_on(own: Path, batch_size: int):
    class Stopped(White):
        def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Seen]:
            if self.batches:
                raise KeyboardInterrupt
            return super().detect(images)

    def path(name: str) -> Path:
        return own.parent / f"kept/{name}.jsonl"

    plain = evaluated(own, batch_size=batch_size)
    stopped = Stopped()
    with pytest.raises(KeyboardInterrupt):
        evaluated(own, stopped, journal=path, batch_size=batch_size)
    assert list(map(len, stopped.batches)) == [batch_size]
    detector = White()
    report = evaluated(own, detector, journal=path, batch_size=batch_size)
    assert report.results[0].metrics == plain.results[0].metrics
    assert list(map(len, detector.batches)) == ([1, 1] if batch_size == 1 else [1])
    assert path("own").is_file()

    nothing_left = White()
    assert (
        evaluated(own, nothing_left, journal=path, batch_size=batch_size).results[0].metrics == plain.results[0].metrics
    )
    assert nothing_left.batches == []


def test_what_failed_or_has_changed_is_looked_at_again_with_its_batch(own: Path):
    def path(name: str) -> Path:
        return own.parent / f"{name}.jsonl"

    photo, whole = own.parent / "photos/3.png", (own.parent / "photos/3.png").read_bytes()
    photo.write_bytes(b"no photo")
    assert len(evaluated(own, journal=path, batch_size=2).failed) == 1
    photo.write_bytes(whole)
    detector = White()
    report = evaluated(own, detector, journal=path, batch_size=2)
    assert (report.failed, report.results[0].metrics.box.matched) == ([], 3)
    assert list(map(len, detector.batches)) == [1]
    painted(own.parent / "photos/1.png", None)
    detector = White()
    report = evaluated(own, detector, journal=path, batch_size=2)
    assert report.results[0].metrics.box.matched == 2
    assert list(map(len, detector.batches)) == [2]


def test_a_photo_that_fails_leaves_the_other_batches_as_they_are(own: Path):
    (own.parent / "photos/1.png").write_bytes(b"no photo")
    detector = White()
    evaluated(own, detector, batch_size=2)
    assert list(map(len, detector.batches)) == [1, 1]


def kitti(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A KITTI of two photos below a root."""
    folder = root / "kitti/training"
    for number, (x, y, width, height) in list(BOXES.items())[:2]:
        painted(folder / f"image_2/00000{number}.png", BOXES[number])
        write(folder / f"label_2/00000{number}.txt", kitti_line("Car", (x, y, x + width, y + height)))
    monkeypatch.setitem(BENCHMARKS, "kitti", replace(BENCHMARKS["kitti"], images=2))
    return root


def test_several_datasets_at_once(own: Path, monkeypatch: pytest.MonkeyPatch):
    class Watcher(Progress):
        def __init__(self) -> None:
            self.told: list[Any] = []

        def begin(self, shards: Sequence[tuple[Path, int | None]]) -> None:
            self.told.append([(str(path), count) for path, count in shards])

        def start(self, shard: Path, *, why: str) -> None:
            self.told.append(str(shard))

        def advance(self, *, failed: bool) -> None:
            self.told.append(failed)

    root = kitti(own.parent / "data", monkeypatch)
    watcher, said = Watcher(), list[str]()
    report = run(
        Selection(dataset=["kitti", str(own)], root=root, images=own.parent / "photos"),
        detector=White(),
        label="x",
        say=said.append,
        progress=watcher,
    )
    assert [result.name for result in report.results] == ["kitti", "own"]
    assert [result.metrics.box.ap for result in report.results] == pytest.approx([1, 1])
    assert [result.metrics.mask is None for result in report.results] == [True, False]
    assert watcher.told == [[("kitti", 2), (str(own), 3)], "kitti", False, False, str(own), False, False, False]
    assert said == ["kitti: reading the sizes of 2 photos"]


def test_all_is_looked_for_before_the_first_photo(own: Path, monkeypatch: pytest.MonkeyPatch):
    root, detector = kitti(own.parent / "data", monkeypatch), White()
    with pytest.raises(DatasetError, match="voc: there is no"):
        run(Selection(dataset=["kitti,voc"], root=root), detector=detector, label="x")
    with pytest.raises(UsageError, match=r"kitti: name the folder of the datasets \(root\)"):
        run(Selection(dataset=["kitti"]), detector=detector, label="x")
    assert detector.batches == []


def test_names_are_benchmarks_groups_or_files(own: Path):
    def named(*words: str, images: Path | None = None) -> list[str]:
        return Selection(dataset=words, images=images).names()

    folder = own.parent
    assert named("coco,lvis", "coco") == ["coco", "lvis"]
    assert named("paper") == list(PAPER)
    assert named("voc", "all")[0] == "voc"
    assert set(named("all")) == set(BENCHMARKS)
    assert named(str(own), "voc", images=folder) == [str(own), "voc"]
    for names, images, words in (
        ([], None, "no dataset was named"),
        ([" , "], None, "no dataset was named"),
        (["coc0"], None, "there is no dataset 'coc0', nor a file of that name: the datasets are coco, coco20k"),
        ([str(own)], None, r"own\.json: name the folder of its photos \(images\)"),
        (["coco"], folder, "images is the folder of the photos of one COCO JSON of your own, and none is named"),
    ):
        with pytest.raises(UsageError, match=words):
            named(*names, images=images)


def text_of(print_it: Any, *arguments: Any, **named: Any) -> str:
    text = io.StringIO()
    print_it(*arguments, console=Console(file=text, width=160, color_system=None), **named)
    return text.getvalue()


def rows_of(text: str) -> list[list[str]]:
    """The rows of tables of ten columns, the first of which may have spaces in it."""
    return [[match[1].strip(), *match[2].split()] for match in ROW.finditer(text)]


def test_the_tables_of_a_report(own: Path):
    report, name = evaluated(own), f"{own.parent.name}/own.json"
    text = text_of(print_report, report)
    assert text.startswith("white.pth, percent\n")
    assert [row[0] for row in rows_of(text)] == ["box", name, "mask", name]
    assert rows_of(text)[1] == [name, "100.0", "100.0", "100.0", "100.0", "100.0", "-", "100.0", "100.0", "100.0"]
    part = replace(report, results=[replace(report.results[0], name="coco", title="COCO [val2017]", missing=2)])
    text = text_of(print_report, part, compare="zero-shot")
    rows = rows_of(text)
    assert rows[1][:2] == ["COCO [val2017]*", "100.0"]
    assert rows[2][:4] == ["CutS3D (Table 12)", "24.3", "12.5", "13.3"]
    assert text.endswith("* 2 images of COCO [val2017] were left out: these are not its figures\n")


def test_the_list_of_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = kitti(tmp_path / "data", monkeypatch)
    (root / "coco").mkdir()
    text = text_of(print_datasets, list_datasets(root), root=root)
    assert re.search(r"^ kitti +KITTI training set +boxes +2/2 ready *$", text, re.MULTILINE)
    assert re.search(r"^ coco +COCO val2017 +masks +0/5000 missing *$", text, re.MULTILINE)
    missing = f"there is no {root}/coco/annotations/instances_val2017.json and no {root}/coco/val2017"
    assert f"\ncoco: {missing}\n  from https://cocodataset.org/#download\n" in text
    assert f"\nkitti: {root}/kitti/training/label_2 and {root}/kitti/training/image_2\n" in text


def test_only_results_on_whole_datasets_come_into_a_card(tmp_path: Path):
    pytest.importorskip("detectron2", reason="detectron2 is not installed (see scripts/detectron2)")
    from tests.detector.test_card import finished

    task = finished(tmp_path)
    weights = task.out / "model-final.safetensors"
    code = encode_rle(np.ones((4, 5), dtype=bool))
    metrics = evaluate({1: [Prediction.of_mask(code)]}, {1: [Instance.of_mask(code)]})
    common: dict[str, Any] = {"title": "t", "metrics": metrics, "failed": [], "seconds": 5.0, "warnings": []}
    results = [
        DatasetResult(name="/home/me/own.json", missing=0, **common),
        DatasetResult(name="voc", missing=3, **common),
    ]
    report = BenchmarkReport(detector="d", results=results)
    assert not record_benchmarks(weights, report)  # it has no card
    path = write_card(task, round=0)
    assert record_benchmarks(weights, report)
    recorded = json.loads(path.read_text())["results"]
    assert list(recorded) == ["own.json"]
    assert recorded["own.json"]["images"] == 1
    assert recorded["own.json"]["mask"] == metrics.to_json()["mask"]
    assert "/home/me" not in path.read_text()
    assert "seconds" not in recorded["own.json"]
