"""Benchmarks of speed: the eigensolver and the CRF, each against the peer (MaskCut) in the same run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean, median

import numpy as np
from numpy.typing import NDArray

from bench.common import Report, Row, Table, agreement, faster, in_one_thread, interleaved, log, ratios, spread
from bench.data import Features, Photo, offline
from bench.peer import dense_ncut, fresh_crf, semantic_edges
from cuts3d_cli.config import Config, for_backbone
from cuts3d_cli.config.cutting import CrfBackend
from cuts3d_cli.cut.bipartition import bipartition, connected_component
from cuts3d_cli.cut.crf import refine_masks
from cuts3d_cli.cut.grid import patch_depth
from cuts3d_cli.cut.image import CutTask, cut_image
from cuts3d_cli.cut.lattice import has_compiler
from cuts3d_cli.cut.localcut import grid_spacing
from cuts3d_cli.cut.masks import upsample_nearest
from cuts3d_cli.cut.ncut import solve_ncut
from cuts3d_cli.cut.perspective import in_perspective
from cuts3d_cli.images import resize_square

Masks = list[NDArray[np.bool_]]

INSTANCES = 3
"""N, cuts per image."""
TAU_KNN = 0.035
"""For objects on a table, which the photos show."""


def ncut(photos: Sequence[Photo], *, sizes: Sequence[int], features: Features, repeats: int) -> Report:
    """Time our eigensolver against the dense one, on the graphs of the three iterations of an extraction.

    Args:
        photos: source of the graphs.
        sizes: sides of the resized photos, pixels; with patches of 14 pixels 490 gives K = 1225, 840 gives 3600.
        features: source of the features.
        repeats: rounds of dense in all threads, dense in one, ours, dense in all threads, ...

    Returns:
        For each K and iteration: seconds, how many times slower the dense solver is, IoU of the bipartitions.
    """
    rows: list[Row] = []
    for size in sizes:
        config = offline({"features": {"size": size}})
        extractor = features.extractor(config)
        grid = extractor.grid
        runs: list[list[_Solved]] = [[] for _ in range(INSTANCES)]
        for photo, vectors in zip(photos, features.of(photos, config), strict=True):
            log(f"ncut: {photo.name}, {grid[0]}x{grid[1]}")
            settings = for_backbone(config.pseudo, tau_ncut=extractor.spec.tau_ncut)
            edges = semantic_edges(vectors.astype(np.float32), tau_ncut=settings.graph_threshold)
            for stage, solved in enumerate(_stages(edges, grid, repeats=repeats)):
                runs[stage].append(solved)
        for stage, solves in enumerate(runs, start=1):
            if not solves:
                continue
            all_threads = [value for solved in solves for value in solved.all_threads]
            one_thread = [value for solved in solves for value in solved.one_thread]
            ours = [value for solved in solves for value in solved.ours]
            rows.append(
                {
                    "K": grid[0] * grid[1],
                    "stage": stage,
                    "graphs": len(solves),
                    "removed": mean(solved.removed for solved in solves),
                    "eigh, all threads, s": median(all_threads),
                    "eigh, one thread, s": median(one_thread),
                    "ours, s": median(ours),
                    **ratios(faster(all_threads, one_thread), ours),
                    **spread((solved.iou for solved in solves), name="IoU"),
                    "same seed": sum(solved.same_seed for solved in solves),
                }
            )
    return Report(
        name="ncut",
        tables=[Table("dense generalised solve against ours", rows)],
        notes=[
            f"{names_of(photos)}; repeats: {repeats}, interleaved; medians, ratios of pairs.",
            "scipy.linalg.eigh(D - A, D, subset_by_index=[1, 2]) in float64, in all threads that BLAS takes and in one;"
            " ratios are to the faster of the two in each round. Ours runs in one thread, as in worker processes.",
            "Stage 1 is the whole graph; later stages lack the objects found before.",
        ],
    )


@dataclass(frozen=True, kw_only=True)
class _Solved:
    """Both solutions of one graph, in figures.

    Attributes:
        removed: nodes that earlier iterations removed.
        all_threads: seconds of the dense solver in all threads, one per round.
        one_thread: seconds of the dense solver in one thread.
        ours: seconds of our solver in one thread.
        iou: of the bipartitions.
        same_seed: whether both choose the same seed.
    """

    removed: int
    all_threads: Sequence[float]
    one_thread: Sequence[float]
    ours: Sequence[float]
    iou: float
    same_seed: bool


def _stages(edges: NDArray[np.bool_], grid: tuple[int, int], *, repeats: int) -> list[_Solved]:
    """Solve the graph, remove what the dense solution finds, solve again."""
    weights = edges.astype(np.float64)  # once per image, as in an extraction
    removed = np.zeros(grid, dtype=bool)
    solved: list[_Solved] = []
    for _ in range(INSTANCES):
        flat = removed.reshape(-1)
        left = edges & ~flat[:, None] & ~flat[None, :]

        timed = interleaved(
            {
                "all": partial(dense_ncut, left),
                "one": partial(in_one_thread, partial(dense_ncut, left)),
                "ours": partial(in_one_thread, partial(solve_ncut, weights, removed=flat, solver="lanczos")),
            },
            repeats=repeats,
        )
        dense = bipartition(timed.results["one"][-1], grid, removed=removed)
        own = bipartition(timed.results["ours"][-1].vector, grid, removed=removed)
        if dense is None or own is None:
            break
        solved.append(
            _Solved(
                removed=int(flat.sum()),
                all_threads=timed.seconds["all"],
                one_thread=timed.seconds["one"],
                ours=timed.seconds["ours"],
                iou=agreement(dense.mask, own.mask),
                same_seed=dense.seed == own.seed,
            )
        )
        removed = removed | connected_component(dense.mask, dense.seed)
        if np.count_nonzero(~removed) < 3:
            break
    return solved


def crf(photos: Sequence[Photo], *, features: Features, repeats: int, size: int | None = None) -> Report:
    """Time one CRF for each mask, as the peer builds it, against ours by pydensecrf and by our own lattice.

    Args:
        photos: with depth; the masks are those of an extraction.
        features: source of the features.
        repeats: rounds of peer, ours, lattice, peer, ours, lattice, ...
        size: side of the resized photos, pixels; None is the backbone's own.

    Returns:
        For each photo: seconds for all of its masks, the ratios, the IoU of the refined masks with the peer's.
    """
    config = table_top(features, size=size, crf=False)
    rows: list[Row] = []
    seconds: dict[str, list[float]] = {"peer": [], "pydensecrf": [], "lattice": []}
    ious: list[float] = []
    masks = 0
    for photo, vectors in zip(photos, features.of(photos, config), strict=True):
        task = cut_task(photo, vectors, config, features)
        coarse = [upsample_nearest(item.patch_mask, task.image.shape[:2]) for item in cut_image(task).instances]
        if not coarse:
            continue
        log(f"crf: {photo.name}, {len(coarse)} masks")
        ours = partial(_crf_ours, task.image, coarse, config.pseudo.crf_iterations)
        ours("lattice")  # compiles what is compiled
        timed = interleaved(
            {
                "peer": partial(_crf_each, task.image, coarse, config.pseudo.crf_iterations),
                "pydensecrf": partial(in_one_thread, partial(ours, "pydensecrf")),
                "lattice": partial(in_one_thread, partial(ours, "lattice")),
            },
            repeats=repeats,
        )
        theirs = timed.results["peer"][-1]
        same = [
            agreement(mask, own)
            for name in ("pydensecrf", "lattice")
            for mask, own in zip(theirs, timed.results[name][-1], strict=True)
        ]
        rows.append(_crf_row(photo.name, len(coarse), timed.seconds, same))
        for name, values in timed.seconds.items():
            seconds[name] += values
        ious += same
        masks += len(coarse)
    if rows:
        rows.append(_crf_row("all", masks, seconds, ious))
    side = config.pseudo.crf_size
    return Report(
        name="crf",
        tables=[Table("one CRF per mask against ours", rows)],
        notes=[
            f"{side}x{side} pixels, {config.pseudo.crf_iterations} iterations, masks of cuts; repeats: {repeats},"
            " interleaved; seconds for all masks of an image; IoU of the refined masks, 1 where both are empty.",
            f"The lattice is {'compiled by Numba' if has_compiler() else 'in torch: Numba is not installed'}.",
        ],
    )


def _crf_each(image: NDArray[np.uint8], masks: Masks, iterations: int) -> list[NDArray[np.bool_]]:
    return [fresh_crf(image, mask, iterations=iterations) for mask in masks]


def _crf_ours(image: NDArray[np.uint8], masks: Masks, iterations: int, backend: CrfBackend) -> list[NDArray[np.bool_]]:
    return [mask for mask, _ in refine_masks(image, masks, iterations=iterations, backend=backend)]


def _crf_row(name: str, masks: int, seconds: Mapping[str, Sequence[float]], ious: Sequence[float]) -> Row:
    return {
        "photo": name,
        "masks": masks,
        "one CRF per mask, s": median(seconds["peer"]),
        "pydensecrf, s": median(seconds["pydensecrf"]),
        **ratios(seconds["peer"], seconds["pydensecrf"]),
        "lattice, s": median(seconds["lattice"]),
        "pydensecrf / lattice": ratios(seconds["pydensecrf"], seconds["lattice"])["ratio"],
        **spread(ious, name="IoU"),
    }


def table_top(features: Features, *, size: int | None, crf: bool = True) -> Config:
    """Return settings for photos of table tops, for a grid of any size.

    Args:
        features: source of the features.
        size: side of the resized photos, pixels; None is the backbone's own.
        crf: whether the masks are refined.
    """
    spacing = grid_spacing(features.extractor(offline({"features": {"size": size}})).grid)
    tau_knn = max(TAU_KNN, 1.05 * spacing)
    return offline(
        {
            "features": {"size": size},
            "pseudo": {"instances": INSTANCES, "tau_knn": tau_knn, "crf": crf},
            "confidence": {"tau_knn_min": (spacing + tau_knn) / 2},
        }
    )


def cut_task(photo: Photo, vectors: NDArray[np.float16], config: Config, features: Features) -> CutTask:
    """Return a photo with its features, ready to be cut."""
    extractor = features.extractor(config)
    settings = for_backbone(config.pseudo, tau_ncut=extractor.spec.tau_ncut)
    depth = view = None
    if (found := photo.depth_map()) is not None:
        depth = patch_depth(found.depth, extractor.grid, clip=settings.depth_clip, sampling=settings.depth_sampling)
        view = in_perspective(found.distance, grid=extractor.grid, settings=settings)
    return CutTask(
        image=resize_square(photo.image, settings.crf_size),
        size=photo.size,
        features=vectors,
        depth=depth,
        view=view,
        config=settings,
    )


def names_of(photos: Sequence[Photo]) -> str:
    """Return the names of photos, for a note."""
    return f"Photos: {', '.join(photo.name for photo in photos)}"
