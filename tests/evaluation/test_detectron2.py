"""Against detectron2's COCOEvaluator, which the figures of CutLER, CuVLER and the paper are from."""

from __future__ import annotations

import contextlib
import io
import json
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.evaluation.benchmark_results import predictions_of
from cuts3d_cli.evaluation.datasets.ground_truth import read_ground_truth
from cuts3d_cli.evaluation.metrics import STATS, KindMetrics, evaluate, sort_instances
from cuts3d_cli.images import decode_image
from tests.support.adversarial import CASES, SIZE, TRUTHS, Case, Seen, Truth, detections, in_order, made_up, usual
from tests.support.running import Ran

pytest.importorskip("detectron2", reason="detectron2 is not installed (see scripts/detectron2)")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("name", ["coco", "coco_person", "mosd"])
def test_it_agrees_on_real_photos(test_data: Path, tmp_path: Path, name: str, case: Case):
    path = test_data / name / "annotations.json"
    truth = read_ground_truth(path).instances
    agree(path, truth, detections(case, truth), folder=tmp_path)


@pytest.mark.parametrize("change", TRUTHS, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["coco", "coco_person", "mosd"])
def test_it_agrees_where_nothing_counts(
    test_data: Path, tmp_path: Path, name: str, change: Callable[[dict[str, Any]], None]
):
    path = test_data / name / "annotations.json"
    content = json.loads(path.read_bytes())
    change(content)
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(content))
    found = detections(usual, read_ground_truth(path).instances)
    agree(changed, read_ground_truth(changed).instances, found, folder=tmp_path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_it_agrees_on_made_up_images(tmp_path: Path, case: Case):
    truth = made_up(np.random.default_rng(2))
    agree(written(tmp_path / "truth.json", truth), truth, detections(case, truth), folder=tmp_path)


def agree(path: Path, truth: Truth, found: Mapping[int, Seen], *, folder: Path) -> None:
    metrics = evaluate({number: predictions_of(item, masks=True) for number, item in found.items()}, truth)
    theirs = by_detectron2(path, found, folder=folder)
    if not any(len(item.masks) for item in found.values()):  # it has no figures then
        assert theirs == {}
        assert (metrics.box.ap, metrics.box.ar100, metrics.predictions) == (0, 0, 0)
        return
    for kind, figures in (("bbox", metrics.box), ("segm", metrics.mask)):
        stats, shown = theirs[kind]
        np.testing.assert_allclose(of(figures), stats, rtol=0, atol=1e-9)
        expected = [math.nan if value < 0 else 100 * value for value in np.array(stats)[:6]]
        np.testing.assert_allclose([shown[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")], expected)


def of(figures: KindMetrics | None) -> list[float]:
    assert figures is not None
    return [value if (value := getattr(figures, name)) is not None else -1.0 for name in STATS]


def by_detectron2(path: Path, found: Mapping[int, Seen], *, folder: Path) -> dict[str, tuple[Sequence[float], Any]]:
    """What COCOEvaluator makes of a JSON and of detections: by kind, COCO's figures, and those it shows."""
    import torch
    from detectron2.evaluation import COCOEvaluator
    from detectron2.structures import Boxes, Instances

    stats: dict[str, Sequence[float]] = {}

    class Evaluator(COCOEvaluator):  # type: ignore[misc, unused-ignore]
        def _derive_coco_results(self, coco_eval: Any, iou_type: str, class_names: Any = None) -> Any:
            if coco_eval is not None:
                stats[iou_type] = [float(value) for value in coco_eval.stats[:9]]
            return super()._derive_coco_results(coco_eval, iou_type, class_names)

    with registered(path) as name, contextlib.redirect_stdout(io.StringIO()):
        evaluator = Evaluator(
            name, tasks=("bbox", "segm"), distributed=False, output_dir=str(folder / name), use_fast_impl=False
        )
        evaluator.reset()
        for number in sorted(found):
            item = found[number]
            height, width = item.masks[0]["size"] if item.masks else SIZE
            instances = Instances((height, width))
            instances.pred_boxes = Boxes(torch.from_numpy(item.boxes))
            instances.scores = torch.from_numpy(item.scores)
            instances.pred_classes = torch.zeros(len(item.masks), dtype=torch.int64)
            masks = np.array([decode_rle(code) for code in item.masks], dtype=bool).reshape(-1, height, width)
            instances.pred_masks = torch.from_numpy(masks)
            evaluator.process([{"image_id": number}], [{"instances": instances}])
        shown = evaluator.evaluate()
    return {kind: (values, shown[kind]) for kind, values in stats.items()}


@contextlib.contextmanager
def registered(path: Path) -> Iterator[str]:
    from detectron2.data import MetadataCatalog

    name = f"truth-{uuid.uuid4().hex}"
    MetadataCatalog.get(name).set(
        json_file=str(path), thing_classes=["fg"], thing_dataset_id_to_contiguous_id={1: 0}, evaluator_type="coco"
    )
    try:
        yield name
    finally:
        MetadataCatalog.pop(name)


def written(path: Path, truth: Truth) -> Path:
    """A COCO JSON with the instances in the order in which they are tried."""
    images = [{"id": number, "file_name": f"{number}.jpg", "height": SIZE[0], "width": SIZE[1]} for number in truth]
    items = [(number, item) for number in sorted(truth) for item in sort_instances(truth[number])]
    annotations = [
        {
            "id": place,
            "image_id": number,
            "category_id": 1,
            "bbox": list(item.box),
            "area": item.area,
            "iscrowd": int(item.crowd),
            "segmentation": item.mask,
        }
        for place, (number, item) in enumerate(items, start=1)
    ]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "fg"}]}
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("name", ["coco", "coco_person", "mosd"])
def test_it_agrees_on_what_a_detector_finds(
    test_data: Path, tiny_detector: Path, cuts3d: Callable[..., Ran], tmp_path: Path, name: str
):
    """A small random network: the command, detectron2, and pycocotools on the file that the command wrote."""
    from cuts3d_cli.detector.inference import Detector

    path, photos = test_data / name / "annotations.json", test_data / name / "images"
    few = ("--batch-size", 1, "--export-coco", "found", "--detections", "kept", "--json")
    ran = cuts3d("eval", "-c", tiny_detector, "-d", path, "--images", photos, *few)
    assert ran.code == 0, ran.err
    (result,) = json.loads(ran.out)["datasets"]

    detector = Detector.load(tiny_detector, device="cpu")
    truth = read_ground_truth(path)
    found = {}
    for number, facts in truth.images.items():
        (seen,) = detector.detect([np.asarray(decode_image((photos / facts.file).read_bytes()), dtype=np.uint8)])
        found[number] = in_order(seen)
    assert result["predictions"] == sum(len(item.masks) for item in found.values()) > 100
    assert result["box"]["matched"] > 0
    theirs = by_detectron2(path, found, folder=tmp_path)
    for ours, kind in (("box", "bbox"), ("mask", "segm")):
        stats = [value if (value := result[ours][figure]) is not None else -1.0 for figure in STATS]
        np.testing.assert_allclose(stats, theirs[kind][0], rtol=0, atol=1e-9)
        np.testing.assert_allclose(stats, of_results(path, Path("found/annotations.json"), kind), rtol=0, atol=1e-9)


def of_results(truth: Path, results: Path, kind: str) -> Sequence[float]:
    """What pycocotools makes of two files."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluation = COCOeval(coco, coco.loadRes(str(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:9]]
