"""Benchmark of whole images: seconds of each step of both methods, against the peer (MaskCut) in the same run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common import Report, Row, Table, agreement, faster, in_one_thread, interleaved, log, ratios, spread
from bench.data import Features, Photo
from bench.peer import PeerResult, peer_maskcut
from bench.speed import INSTANCES, cut_task, names_of, table_top
from cuts3d_cli.config import ConfidenceConfig, Config
from cuts3d_cli.cut.confidence import choose_thresholds, confidence_counts
from cuts3d_cli.cut.image import CutResult, CutTask, cut_image
from cuts3d_cli.cut.localcut import knn_graph, longest_edge
from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.cut.perspective import surface_of

METHODS = ("peer, all threads", "peer, one thread", "maskcut", "cuts3d")
"""Columns of the table of steps."""
PEER = METHODS[:2]
SHARED_STEPS = ("eigen", "crf", "encode")
"""Steps that are the same in both methods; the others take longer in 3D."""
PAPER_SHARES = {"sharpen": 0.00001, "cut": 0.008, "confidence": 0.03, "all": 0.04}
"""The paper's overhead over MaskCut ("Computational Complexity")."""


def pseudo(photos: Sequence[Photo], *, features: Features, repeats: int, size: int = 840) -> Report:
    """Time whole images from features to run-length codes: the peer, our MaskCut, CutS3D, and confidence on top.

    Args:
        photos: with depth.
        features: source of the features.
        repeats: rounds of peer, maskcut, cuts3d, confidence, ...
        size: side of the resized photos, pixels; 840 gives K = 3600.

    Returns:
        Seconds of each step, ratios to the peer, and what the 3D steps add.
    """
    config = table_top(features, size=size)
    extractor = features.extractor(config)
    maskcut = replace(config, pseudo=replace(config.pseudo, method="maskcut"))
    images = [
        _time_image(photo, vectors, config=config, maskcut=maskcut, features=features, repeats=repeats)
        for photo, vectors in zip(photos, features.of(photos, config), strict=True)
    ]
    return Report(
        name="pseudo",
        tables=[
            Table(f"seconds per image, K = {extractor.grid[0] * extractor.grid[1]}, N = {INSTANCES}", _steps(images)),
            Table("ratios of pairs in the same round", _ratio_rows(images)),
            Table("cost of the 3D steps", _shares(images)),
            Table("cuts and masks", _counts(images)),
        ],
        notes=[
            f"{names_of(photos)}; repeats: {repeats}, interleaved; medians. Depth is given. The network uses all"
            " threads, ours one, as a worker process does; the peer runs in all and in one, and ratios are to the"
            " faster of the two in each round.",
            "'of which k-NN' times the k-NN graphs of the same cuts once more. 'all but features' is the whole.",
        ],
    )


@dataclass(frozen=True, kw_only=True)
class _TimedImage:
    """Figures of one photo; lists have an entry per repeat.

    Attributes:
        steps: method -> for each repeat, step -> seconds.
        total: method -> seconds of the whole call, without features; "peer" is the faster of its two.
        features: seconds of the network.
        confidence: seconds of scoring the masks of cuts3d.
        knn: seconds of its k-NN graphs alone.
        cuts: method -> number of eigenproblems that led to a mask or a drop.
        masks: method -> number of masks.
        same: IoU of each mask of the peer with that of our MaskCut.
    """

    steps: dict[str, list[dict[str, float]]]
    total: dict[str, Sequence[float]]
    features: Sequence[float]
    confidence: Sequence[float]
    knn: Sequence[float]
    cuts: dict[str, int]
    masks: dict[str, int]
    same: Sequence[float]


def _time_image(
    photo: Photo, vectors: NDArray[np.float16], *, config: Config, maskcut: Config, features: Features, repeats: int
) -> _TimedImage:
    # Prepare the tasks; load the network and cut once before the clock runs.
    log(f"pseudo: {photo.name}")
    extractor = features.extractor(config)
    flat, deep = (cut_task(photo, vectors, settings, features) for settings in (maskcut, config))
    extractor.extract([photo.image])
    result = cut_image(deep)  # the same in every round
    peer = partial(
        peer_maskcut,
        vectors.astype(np.float32),
        flat.image,
        size=photo.size,
        tau_ncut=flat.config.graph_threshold,
        instances=INSTANCES,
    )

    # Time all ways in turn.
    timed = interleaved(
        {
            "features": partial(extractor.extract, [photo.image]),
            PEER[0]: peer,
            PEER[1]: partial(in_one_thread, peer),
            "maskcut": partial(cut_image, flat),
            "cuts3d": partial(cut_image, deep),
            "confidence": partial(in_one_thread, partial(_score, deep, result, config.confidence)),
            "k-NN": partial(_knn_alone, _clouds(deep, result), k=config.pseudo.knn),
        },
        repeats=repeats,
    )

    # Compare the peer's masks with those of our MaskCut; a mask without a counterpart agrees with nothing.
    found: PeerResult = timed.results[PEER[1]][-1]
    baseline: CutResult = timed.results["maskcut"][-1]
    theirs = [decode_rle(code) for code in found.masks]
    own = [decode_rle(item.segmentation) for item in baseline.instances]
    same = [agreement(a, b) for a, b in zip(theirs, own, strict=False)] + [0.0] * abs(len(theirs) - len(own))
    return _TimedImage(
        steps={name: [dict(run.seconds) for run in timed.results[name]] for name in METHODS},
        total={name: timed.seconds[name] for name in METHODS}
        | {"peer": faster(timed.seconds[PEER[0]], timed.seconds[PEER[1]])},
        features=timed.seconds["features"],
        confidence=timed.seconds["confidence"],
        knn=timed.seconds["k-NN"],
        cuts={
            "peer": INSTANCES,
            "maskcut": len(baseline.extraction.candidates),
            "cuts3d": len(result.extraction.candidates),
        },
        masks={"peer": len(theirs), "maskcut": len(own), "cuts3d": len(result.instances)},
        same=same,
    )


def _score(task: CutTask, result: CutResult, config: ConfidenceConfig) -> list[NDArray[np.uint8]]:
    """Compute the Spatial Confidence of the masks of one image, as `cuts3d confidence` does."""
    assert task.depth is not None
    surface = surface_of(task.depth, task.view, settings=task.config)
    thresholds = choose_thresholds(
        task.config,
        spacing=surface.spacing,
        tau_knn_min=config.tau_knn_min,
        tau_knn=config.tau_knn,
        cuts=config.cuts,
    )
    cuts = [instance.candidate for instance in result.instances]
    return [
        confidence_counts(
            surface,
            cut.bipartition,
            source=cut.source if cut.core is None else np.flatnonzero(cut.core),
            sink=cut.sink,
            thresholds=thresholds,
            k=task.config.knn,
            capacity=task.config.capacity,
            seed=cut.source,
            min_area=task.config.min_area,
        )
        for cut in cuts
    ]


def _clouds(task: CutTask, result: CutResult) -> list[tuple[NDArray[np.float64], float]]:
    """Return the point clouds of an image's cuts, each with the longest edge that is wanted of it."""
    assert task.depth is not None
    surface = surface_of(task.depth, task.view, settings=task.config)
    longest = longest_edge(task.config.tau_knn, spacing=surface.spacing)
    return [(surface.masked(item.bipartition), longest) for item in result.extraction.candidates]


def _knn_alone(clouds: Sequence[tuple[NDArray[np.float64], float]], *, k: int) -> None:
    for cloud, longest in clouds:
        knn_graph(cloud, k=k, longest=longest)


def _steps(images: Sequence[_TimedImage]) -> list[Row]:
    """Return a row per step with a column per method: medians over images and repeats."""
    steps = dict.fromkeys(step for image in images for name in METHODS for run in image.steps[name] for step in run)
    rows: list[Row] = [{"step": "features", **dict.fromkeys(METHODS, _median(image.features for image in images))}]
    # What each method measures of itself.
    for step in steps:
        cells = {
            name: median([run.get(step, 0.0) for image in images for run in image.steps[name]]) for name in METHODS
        }
        rows.append({"step": step, **{name: value or None for name, value in cells.items()}})
        if step == "cut":
            alone = _median(image.knn for image in images)
            rows.append({"step": "of which k-NN", **dict.fromkeys(METHODS), "cuts3d": alone})
    # The rest of the whole call, the whole call, and confidence on top.
    other = {
        name: median(
            [
                total - sum(run.values())
                for image in images
                for run, total in zip(image.steps[name], image.total[name], strict=True)
            ]
        )
        for name in METHODS
    }
    rows.append({"step": "other", **other})
    totals = {name: _median(image.total[name] for image in images) for name in METHODS}
    confidence = _median(image.confidence for image in images)
    rows.append({"step": "all but features", **totals})
    rows.append({"step": "confidence", **dict.fromkeys(METHODS), "cuts3d": confidence})
    return rows


def _ratio_rows(images: Sequence[_TimedImage]) -> list[Row]:
    peer = [value for image in images for value in image.total["peer"]]
    alone = [value for image in images for value in image.total[PEER[1]]]
    flat = [value for image in images for value in image.total["maskcut"]]
    ours = [value for image in images for value in image.total["cuts3d"]]
    scored = [
        value + more for image in images for value, more in zip(image.total["cuts3d"], image.confidence, strict=True)
    ]
    return [
        {"figure": "peer / cuts3d, CRF included", **ratios(peer, ours)},
        {"figure": "peer / (cuts3d + confidence)", **ratios(peer, scored)},
        {"figure": "peer / our maskcut", **ratios(peer, flat)},
        {"figure": "peer in one thread / cuts3d", **ratios(alone, ours)},
        {"figure": "peer in one thread / (cuts3d + confidence)", **ratios(alone, scored)},
        {"figure": "(cuts3d + confidence) / cuts3d", **ratios(scored, ours)},
        {"figure": "(cuts3d + confidence) / our maskcut", **ratios(scored, flat)},
    ]


def _shares(images: Sequence[_TimedImage]) -> list[Row]:
    """Return the seconds that only 3D takes, as shares of MaskCut's time: our MaskCut and the peer."""

    def extra(step: str) -> float:
        pairs = [
            run.get(step, 0.0) - other.get(step, 0.0)
            for image in images
            for run, other in zip(image.steps["cuts3d"], image.steps["maskcut"], strict=True)
        ]
        return median(pairs)

    names = dict.fromkeys(step for image in images for run in image.steps["cuts3d"] for step in run)
    added = {step: extra(step) for step in names if step not in SHARED_STEPS}
    added["sharpen"] = added.get("sharpen", 0.0) + added.pop("affinity", 0.0)  # sharpening also binarises the graph
    added["confidence"] = _median(image.confidence for image in images)
    added["all"] = sum(added.values())
    network = _median(image.features for image in images)
    ours = _median(image.total["maskcut"] for image in images)
    peer = _median(image.total["peer"] for image in images)
    return [
        {
            "step": step,
            "seconds": seconds,
            "share of our maskcut": seconds / ours,
            "with features": seconds / (ours + network),
            "share of the peer, with features": seconds / (peer + network),
            "in the paper": PAPER_SHARES.get(step),
        }
        for step, seconds in added.items()
    ]


def _counts(images: Sequence[_TimedImage]) -> list[Row]:
    same = [value for image in images for value in image.same]
    return [
        {
            "method": name,
            "cuts per image": mean(image.cuts[name] for image in images),
            "masks per image": mean(image.masks[name] for image in images),
            **spread(same if name == "maskcut" else [], name="IoU with the peer"),
        }
        for name in ("peer", "maskcut", "cuts3d")
    ]


def _median(parts: Any) -> float:
    return median([value for part in parts for value in part])
