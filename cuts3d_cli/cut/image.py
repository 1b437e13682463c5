"""One image from features and depth to masks: what a worker process of `pseudo` does. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from cuts3d_cli.config import PseudoConfig
from cuts3d_cli.cut.crf import refine_masks
from cuts3d_cli.cut.iterations import advance, extract
from cuts3d_cli.cut.maskcut import subtract_earlier
from cuts3d_cli.cut.masks import (
    Rle,
    encode_rle,
    fill_holes,
    mask_iou,
    resize_mask,
    rle_area,
    upsample_nearest,
    without_specks,
)
from cuts3d_cli.cut.methods import Rules, get_method
from cuts3d_cli.cut.ncut import Eigenpair
from cuts3d_cli.cut.perspective import Perspective
from cuts3d_cli.cut.types import Candidate, Extraction
from cuts3d_cli.timing import StepTimer, add_seconds


@dataclass(frozen=True, kw_only=True)
class CutTask:
    """One image, ready to be cut.

    Attributes:
        image: (s, s, 3) uint8, RGB, the square image that the CRF works on.
        size: (height, width) of the photo.
        features: (C, H, W) float16.
        depth: (H, W) float32 in [0, 1], no NaN, as `grid.patch_depth` gives it; None where the method needs none.
        config: the section of the configuration, `tau_ncut` set.
        view: metric depth in perspective; None where depth is not metric, or not asked for.
    """

    image: NDArray[np.uint8]
    size: tuple[int, int]
    features: NDArray[np.float16]
    depth: NDArray[np.float32] | None
    config: PseudoConfig
    view: Perspective | None = None


@dataclass(frozen=True, kw_only=True)
class IterationTask:
    """One image whose next eigenproblem was solved elsewhere.

    Attributes:
        rules: the method's.
        extraction: so far; not finished.
        pair: the solution.
    """

    rules: Rules
    extraction: Extraction
    pair: Eigenpair


@dataclass(frozen=True, kw_only=True)
class RefinementTask:
    """One image whose instances are cut at patch resolution.

    Attributes:
        image: (s, s, 3) uint8, RGB, the square image that the CRF works on; None where it is done.
        size: (height, width) of the photo.
        extraction: finished.
        config: the section of the configuration.
        refined: (s, s) bool each, what the CRF made elsewhere of the masks of `coarse_masks`.
    """

    image: NDArray[np.uint8] | None
    size: tuple[int, int]
    extraction: Extraction
    config: PseudoConfig
    refined: Sequence[NDArray[np.bool_]] | None = None


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A pseudo-mask.

    Attributes:
        candidate: the cut that it comes from, at patch resolution.
        patch_mask: (H, W) bool, the mask before the CRF.
        segmentation: the mask at the photo's size.
        crf_iou: IoU of the masks before and after the CRF; None without a CRF.
    """

    candidate: Candidate
    patch_mask: NDArray[np.bool_]
    segmentation: Rle
    crf_iou: float | None


@dataclass(frozen=True, kw_only=True)
class CutResult:
    """All masks of one image, and what was found but not kept.

    Attributes:
        extraction: the cuts at patch resolution.
        instances: the masks, in the order of their iterations.
        dropped: `iteration` and `reason` of each cut that gave no mask, in the order of iterations.
        seconds: time spent in each step.
    """

    extraction: Extraction
    instances: Sequence[Instance]
    dropped: Sequence[Mapping[str, Any]]
    seconds: Mapping[str, float]


def cut_image(task: CutTask) -> CutResult:
    """Cut one image: extraction at patch resolution, then masks at the photo's size.

    Linear algebra runs in one thread, so that the result does not depend on the number of workers.

    Raises:
        SampleError: the features are not finite or all zero.
        UsageError: there is no such method, or its settings do not fit the grid.
        ValueError: the depth does not fit.
    """
    with threadpool_limits(limits=1):
        extraction = extract(
            task.features.astype(np.float32),
            task.depth,
            method=get_method(task.config.method),
            settings=task.config,
            view=task.view,
        )
        return _refine(RefinementTask(image=task.image, size=task.size, extraction=extraction, config=task.config))


def cut_iteration(task: IterationTask) -> Extraction:
    """Return the extraction with what the solution leads to: the part of an iteration that a worker process does."""
    timer = StepTimer()
    with threadpool_limits(limits=1), timer.step("cut"):
        after = advance(task.extraction, task.pair, task.rules)
    return replace(after, seconds=add_seconds(after.seconds, timer.seconds))


def refine_image(task: RefinementTask) -> CutResult:
    """Refine cuts at patch resolution to masks at the photo's size: CRF, holes, filter."""
    with threadpool_limits(limits=1):
        return _refine(task)


def coarse_masks(extraction: Extraction, *, size: int) -> list[NDArray[np.bool_]]:
    """Return the masks of a finished extraction as the CRF takes them.

    Args:
        extraction: finished.
        size: the side at which the CRF works, pixels.

    Returns:
        (size, size) bool for each cut that was kept: masks that may overlap become disjoint, the earlier one keeps the
        patch.
    """
    return _coarse(_patch_masks(_kept(extraction)), size=size)


def _coarse(patch_masks: Sequence[NDArray[np.bool_]], *, size: int) -> list[NDArray[np.bool_]]:
    return [upsample_nearest(mask, (size, size)) for mask in patch_masks]


def _kept(extraction: Extraction) -> list[Candidate]:
    return [item for item in extraction.candidates if item.dropped is None]


def _patch_masks(kept: Sequence[Candidate]) -> list[NDArray[np.bool_]]:
    return subtract_earlier([item.mask for item in kept])


def _refine(task: RefinementTask) -> CutResult:
    config, extraction = task.config, task.extraction
    timer = StepTimer()
    dropped = [{"iteration": item.iteration, "reason": item.dropped} for item in extraction.candidates if item.dropped]

    # Along the edges of the image, at the CRF's size, unless that is done.
    kept = _kept(extraction)
    patch_masks = _patch_masks(kept)
    with timer.step("crf"):
        coarse = _coarse(patch_masks, size=config.crf_size)
        refined: Sequence[NDArray[np.bool_]] = coarse
        if task.refined is not None:
            refined = task.refined
        elif config.crf and coarse:
            assert task.image is not None
            pairs = refine_masks(task.image, coarse, iterations=config.crf_iterations, backend=config.crf_backend)
            refined = [mask for mask, _ in pairs]

    # At the photo's size; what the refinement made unusable is dropped.
    instances = []
    with timer.step("encode"):
        for candidate, patch_mask, before, after in zip(kept, patch_masks, coarse, refined, strict=True):
            filled = fill_holes(after)
            change = mask_iou(before, filled) if config.crf else None
            undone = change is not None and change < config.crf_min_iou and config.crf_failed == "keep"
            final = fill_holes(before) if undone else filled
            if config.specks != "off":
                final = without_specks(final, share=config.specks)
            item = Instance(
                candidate=candidate,
                patch_mask=patch_mask,
                segmentation=encode_rle(resize_mask(final, task.size)),
                crf_iou=change,
            )
            if reason := _rejection(item, coarse=before, least=0.0 if undone else config.crf_min_iou):
                dropped.append({"iteration": candidate.iteration, "reason": reason})
            else:
                instances.append(item)
    return CutResult(
        extraction=extraction,
        instances=instances,
        dropped=sorted(dropped, key=lambda item: item["iteration"]),
        seconds=add_seconds(extraction.seconds, timer.seconds),
    )


def _rejection(item: Instance, *, coarse: NDArray[np.bool_], least: float) -> str | None:
    """Return why a refined mask, `coarse` before its refinement, is no instance; None if it is one."""
    if not coarse.any():
        return "covered by earlier masks"
    if item.crf_iou is not None and item.crf_iou < least:
        return "changed too much by the CRF"
    if rle_area(item.segmentation) < 1:
        return "empty at the photo's size"
    return None
