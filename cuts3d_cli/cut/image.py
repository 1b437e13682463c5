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
from cuts3d_cli.cut.cuts3d import CutParameters, Cuts3dRules, extract_cuts3d
from cuts3d_cli.cut.grid import clip_depth, depth_to_grid
from cuts3d_cli.cut.iterations import Rules, advance
from cuts3d_cli.cut.maskcut import MaskCutRules, extract_maskcut, subtract_earlier
from cuts3d_cli.cut.masks import (
    Rle,
    encode_rle,
    fill_holes,
    mask_iou,
    resize_mask,
    rle_area,
    upsample_nearest,
)
from cuts3d_cli.cut.ncut import Eigenpair
from cuts3d_cli.cut.types import Candidate, Extraction
from cuts3d_cli.depth.maps import fill_holes as fill_depth_holes
from cuts3d_cli.timing import StepTimer, add_seconds


@dataclass(frozen=True, kw_only=True)
class CutTask:
    """One image, ready to be cut.

    Attributes:
        image: (s, s, 3) uint8, RGB, the square image that the CRF works on.
        size: (height, width) of the photo.
        features: (C, H, W) float16.
        depth: (h, w) float32 in [0, 1], NaN where nothing was measured; None where the method needs none.
        config: the section of the configuration.
        tau_ncut: threshold of the semantic graph, resolved for the backbone.
    """

    image: NDArray[np.uint8]
    size: tuple[int, int]
    features: NDArray[np.float16]
    depth: NDArray[np.float32] | None
    config: PseudoConfig
    tau_ncut: float


def patch_depth(depth: NDArray[np.float32], grid: tuple[int, int], config: PseudoConfig) -> NDArray[np.float32]:
    """The depth that the cut sees: clipped if asked for, without holes, at patch resolution.

    Args:
        depth: (h, w) in [0, 1], NaN where nothing was measured.
        grid: (H, W).
        config: the section of the configuration.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        SampleError: no pixel is valid.
    """
    clipped = clip_depth(depth, percent=config.depth_clip)
    return depth_to_grid(fill_depth_holes(clipped), grid, sampling=config.depth_sampling)


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
    """All masks of one image, and what was found but not kept."""

    extraction: Extraction
    instances: Sequence[Instance]
    dropped: Sequence[Mapping[str, Any]]
    seconds: Mapping[str, float]


def needs_depth(config: PseudoConfig) -> bool:
    """Whether the method, as configured, looks at depth."""
    return config.method == "cuts3d" and (config.sharpen or config.cut == "local")


def cut_parameters(config: PseudoConfig, tau_ncut: float) -> CutParameters:
    """The part of the configuration that concerns the cut itself."""
    return CutParameters(
        instances=config.instances,
        tau_ncut=tau_ncut,
        tau_knn=config.tau_knn,
        sharpen=config.sharpen,
        beta=config.beta,
        sigma=config.sigma,
        pairing=config.pairing,
        separation=config.cut,
        source=config.source,
        core_share=config.core_share,
        sink=config.sink,
        knn=config.knn,
        background_level=config.background_level,
        capacity=config.capacity,
        min_cut_solver=config.min_cut,
        eigensolver=config.eigensolver,
        min_area=config.min_area,
        rest_iou=config.rest_iou,
        retries=config.retries,
    )


def cut_rules(
    config: PseudoConfig, tau_ncut: float, *, grid: tuple[int, int], depth: NDArray[np.float32] | None
) -> Rules:
    """The rules by which the method, as configured, cuts one image.

    Args:
        config: the section of the configuration.
        tau_ncut: threshold of the semantic graph, resolved for the backbone.
        grid: (H, W).
        depth: (H, W) in [0, 1], no NaN; None where the method needs none.

    Raises:
        UsageError: tau_knn does not fit the grid.
        ValueError: the depth does not fit.
    """
    if config.method == "maskcut":
        return MaskCutRules(grid=grid, instances=config.instances)
    return Cuts3dRules(grid=grid, depth=depth, parameters=cut_parameters(config, tau_ncut))


def cut_image(task: CutTask) -> CutResult:
    """Cut one image: extraction at patch resolution, CRF, holes, filter, the photo's size.

    Linear algebra runs in one thread, so that the result does not depend on the number of workers.

    Raises:
        SampleError: features or depth are unusable.
        UsageError: tau_knn does not fit the grid.
    """
    with threadpool_limits(limits=1):
        return _cut_image(task)


def _cut_image(task: CutTask) -> CutResult:
    config = task.config
    features = task.features.astype(np.float32)
    grid = (features.shape[1], features.shape[2])
    if config.method == "maskcut":
        extraction = extract_maskcut(
            features, instances=config.instances, tau_ncut=task.tau_ncut, eigensolver=config.eigensolver
        )
    else:
        depth = None
        if needs_depth(config) and task.depth is not None:
            depth = patch_depth(task.depth, grid, config)
        extraction = extract_cuts3d(features, depth, parameters=cut_parameters(config, task.tau_ncut))
    return _finish(FinishTask(image=task.image, size=task.size, extraction=extraction, config=config))


@dataclass(frozen=True, kw_only=True)
class StepTask:
    """One image between an eigenproblem, solved elsewhere, and the next.

    Attributes:
        rules: the method's.
        extraction: so far; not finished.
        pair: the solution.
    """

    rules: Rules
    extraction: Extraction
    pair: Eigenpair


def cut_step(task: StepTask) -> Extraction:
    """The extraction with what the solution leads to: the part of an iteration that a worker process does."""
    timer = StepTimer()
    with threadpool_limits(limits=1), timer.step("cut"):
        after = advance(task.extraction, task.pair, task.rules)
    return replace(after, seconds=add_seconds(after.seconds, timer.seconds))


@dataclass(frozen=True, kw_only=True)
class FinishTask:
    """One image whose cuts are done.

    Attributes:
        image: (s, s, 3) uint8, RGB, the square image that the CRF works on.
        size: (height, width) of the photo.
        extraction: finished.
        config: the section of the configuration.
    """

    image: NDArray[np.uint8]
    size: tuple[int, int]
    extraction: Extraction
    config: PseudoConfig


def finish_image(task: FinishTask) -> CutResult:
    """From cuts at patch resolution to masks at the photo's size: CRF, holes, filter."""
    with threadpool_limits(limits=1):
        return _finish(task)


def _finish(task: FinishTask) -> CutResult:
    config, extraction = task.config, task.extraction
    timer = StepTimer()
    dropped = [{"iteration": item.iteration, "reason": item.dropped} for item in extraction.candidates if item.dropped]
    kept = [item for item in extraction.candidates if item.dropped is None]
    patch_masks = subtract_earlier([item.mask for item in kept])
    square = (config.crf_size, config.crf_size)
    with timer.step("crf"):
        coarse = [upsample_nearest(mask, square) for mask in patch_masks]
        refined = (
            [mask for mask, _ in refine_masks(task.image, coarse, iterations=config.crf_iterations)]
            if (config.crf and coarse)
            else coarse
        )
    instances = []
    with timer.step("encode"):
        for candidate, patch_mask, before, after in zip(kept, patch_masks, coarse, refined, strict=True):
            filled = fill_holes(after)
            iou = mask_iou(before, filled) if config.crf else None
            segmentation = encode_rle(resize_mask(filled, task.size))
            reason = None
            if not before.any():
                reason = "covered by earlier masks"
            elif iou is not None and iou < config.crf_min_iou:
                reason = "changed too much by the CRF"
            elif rle_area(segmentation) < 1:
                reason = "empty at the photo's size"
            if reason:
                dropped.append({"iteration": candidate.iteration, "reason": reason})
            else:
                instances.append(
                    Instance(candidate=candidate, patch_mask=patch_mask, segmentation=segmentation, crf_iou=iou)
                )
    return CutResult(
        extraction=extraction,
        instances=instances,
        dropped=sorted(dropped, key=lambda item: item["iteration"]),
        seconds=add_seconds(extraction.seconds, timer.seconds),
    )
