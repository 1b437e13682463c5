"""Cuts images in batches: features, graphs and eigenproblems on a device, everything else in worker processes.

The images of a batch stay together from their features to their last cut, so that what is computed together depends on
the data alone, not on which worker is done first. Several batches are under way: while workers cut one, the device
solves another. Their number is bounded, and with it the memory.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cuts3d_cli.config import PseudoConfig
from cuts3d_cli.cut.batched_crf import PositionLattices, foreground
from cuts3d_cli.cut.batched_graph import cosine_affinities, unusable
from cuts3d_cli.cut.batched_ncut import second_eigenvectors
from cuts3d_cli.cut.image import (
    CutResult,
    IterationTask,
    RefinementTask,
    coarse_masks,
    cut_iteration,
    refine_image,
)
from cuts3d_cli.cut.iterations import begin
from cuts3d_cli.cut.methods import Method, Rules, get_method
from cuts3d_cli.cut.ncut import Eigenpair
from cuts3d_cli.cut.types import Extraction
from cuts3d_cli.devices import on_cuda
from cuts3d_cli.engine.batch_size import BatchSize
from cuts3d_cli.engine.batches import Failed, infer_each
from cuts3d_cli.engine.pool import LOOK_SECONDS, Task, WorkerPool, numerics_of_one_image, result_of
from cuts3d_cli.errors import SampleError
from cuts3d_cli.stages.loading import Extract, ImageCut
from cuts3d_cli.stages.reading import Loaded
from cuts3d_cli.timing import StepTimer, add_seconds


def crf_on_device(config: PseudoConfig, *, device: str) -> bool:
    """Return whether the CRF runs where the graphs do: on CUDA, unless pydensecrf is asked for."""
    return config.crf and config.crf_backend != "pydensecrf" and on_cuda(device)


class BatchedCutter:
    """Cuts the images of shards, in batches."""

    def __init__(
        self, *, config: PseudoConfig, extract: Extract, device: str, batch_size: BatchSize, pool: WorkerPool
    ) -> None:
        """Take what the batches share.

        Args:
            config: the section of the configuration, `tau_ncut` set.
            extract: features of squares, (C, H, W) float16 each, on the device.
            device: torch's name of it; it must have double precision.
            batch_size: images of a batch.
            pool: the workers.
        """
        self._config = config
        self._method = get_method(config.method)
        self._extract = extract
        self._device = device
        self._batch_size = batch_size
        self._pool = pool
        self._refines_on_device = crf_on_device(config, device=device)
        self._positions = PositionLattices()

    @property
    def in_flight(self) -> int:
        """Most batches under way, those included that are done and wait for an earlier one.

        Two tasks for every worker, a batch for the device, and one whose cuts it waits for.
        """
        return 2 + math.ceil(self._pool.ahead / self._batch_size.current)

    def cut(self, images: Iterable[Loaded]) -> Iterator[ImageCut]:
        """Cut images and yield the results in order.

        Raises:
            UsageError: the method's settings do not fit the grid.
            WorkerDiedError: processes die also without a task.
        """
        remaining = iter(images)
        in_flight: deque[_BatchInFlight] = deque()
        while True:
            # What is done leaves in order; then a batch whose workers are done goes on, else a new one starts.
            while in_flight and in_flight[0].cuts is not None:
                yield from in_flight.popleft().cuts or []
            if ready := next((batch for batch in in_flight if batch.is_ready), None):
                ready.go_on()
            elif len(in_flight) < self.in_flight and (batch := list(islice(remaining, self._batch_size.current))):
                in_flight.append(_BatchInFlight(self._steps(batch), self._pool))
            elif in_flight:
                pending = [future for batch in in_flight for future in batch.pending]
                wait(pending, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
            else:
                return

    def _steps(self, images: Sequence[Loaded]) -> Generator[list[Task[Any, Any]], None, list[ImageCut]]:
        """Do all that happens to a batch; yield the tasks to wait for whenever the workers have to do."""
        jobs = [_Job(image) for image in images]
        self._add_features([job for job in jobs if job.failure is None])
        self._add_graphs([job for job in jobs if job.failure is None])
        while True:
            # Images that have had their last cut go on to the CRF while the others are solved.
            self._refine([job for job in jobs if job.failure is None and job.is_cut and job.refining is None])
            active = [job for job in jobs if job.failure is None and not job.is_cut]
            if not active:
                break
            cutting = [(job, self._pool.start(cut_iteration, task)) for job, task in self._solve(active)]
            yield [task for _, task in cutting]
            for job, task in cutting:
                job.take_extraction(self._pool.take(task))
        yield [job.refining for job in jobs if job.refining is not None]
        self._batch_size.fitted(len(jobs))
        return [job.result(self._pool) for job in jobs]

    def _add_features(self, jobs: Sequence[_Job]) -> None:
        for job in jobs:
            if job.image.features is not None:
                job.features = torch.from_numpy(job.image.features).to(self._device)
        fresh = [job for job in jobs if job.features is None]

        def extract(batch: Sequence[_Job]) -> Sequence[Tensor]:
            return self._extract([job.image.square for job in batch if job.image.square is not None])

        with self._timed("features", fresh):
            outputs = infer_each(fresh, extract, what="the network", size=self._batch_size)
        for job, features in zip(fresh, outputs, strict=True):
            if isinstance(features, Failed):
                job.failure = features.reason
            else:
                job.features = features

    def _add_graphs(self, jobs: Sequence[_Job]) -> None:
        for job, edges in zip(
            jobs, infer_each(jobs, self._graphs, what="the graph", size=self._batch_size), strict=True
        ):
            features, job.features = job.features, None
            if isinstance(edges, Failed):
                job.failure = edges.reason
            elif features is not None:
                job.edges = edges
                job.begin(self._method, self._config, grid=(features.shape[1], features.shape[2]))

    def _graphs(self, jobs: Sequence[_Job]) -> list[Tensor | Failed]:
        """Return the edges, (K, K) bool, of each image, or what is wrong with its features."""
        with self._timed("affinity", jobs):
            features = torch.stack([job.features for job in jobs if job.features is not None])
            reasons = unusable(features)
            affinity = cosine_affinities(features)
            importance = self._importance(jobs)
        with self._timed("affinity" if importance is None else "sharpen", jobs):
            edges = self._method.batched_edges(affinity, importance, settings=self._config)
        return [Failed(reason) if reason else item for item, reason in zip(edges, reasons, strict=True)]

    def _importance(self, jobs: Sequence[_Job]) -> Tensor | None:
        """Return the importance of the method, (B, H, W) float32; None where it sharpens no graph."""
        maps = [self._method.importance(job.image.depth, settings=self._config) for job in jobs]
        given = [item for item in maps if item is not None]
        if 0 < len(given) < len(maps):  # then each image is tried by itself
            raise ValueError("some images of a batch have an importance, and some have none")
        return torch.from_numpy(np.stack(given)).to(self._device) if given else None

    def _solve(self, jobs: Sequence[_Job]) -> Iterator[tuple[_Job, IterationTask]]:
        """Yield the next eigenvector of each image, as a task for a worker."""
        with self._timed("eigen", jobs):
            pairs = infer_each(jobs, self._pairs, what="the eigensolver", size=self._batch_size)
        for job, pair in zip(jobs, pairs, strict=True):
            if isinstance(pair, Failed):
                job.failure = pair.reason
            else:
                assert job.rules is not None
                assert job.extraction is not None
                yield job, IterationTask(rules=job.rules, extraction=job.extraction, pair=pair)

    def _refine(self, jobs: Sequence[_Job]) -> None:
        """Hand images that have had their last cut to the workers, after the CRF where that is on the device."""
        if not self._refines_on_device:
            for job in jobs:
                job.refine(self._config, self._pool)
            return
        with self._timed("crf", jobs):
            masks = infer_each(jobs, self._refined, what="the CRF", size=self._batch_size)
        for job, refined in zip(jobs, masks, strict=True):
            if isinstance(refined, Failed):
                job.failure = refined.reason
            else:
                job.refine(self._config, self._pool, refined=refined)

    def _refined(self, jobs: Sequence[_Job]) -> list[list[NDArray[np.bool_]]]:
        """Return what the CRF makes of the masks of each image, (s, s) bool each."""
        images = [job.image.crf_image for job in jobs if job.image.crf_image is not None]
        coarse = [
            coarse_masks(job.extraction, size=self._config.crf_size) for job in jobs if job.extraction is not None
        ]
        probabilities = foreground(
            images,
            coarse,
            iterations=self._config.crf_iterations,
            device=self._device,
            positions=self._positions,
        )
        return [[values > 0.5 for values in found] for found in probabilities]

    def _pairs(self, jobs: Sequence[_Job]) -> list[Eigenpair]:
        edges = torch.stack([job.edges for job in jobs if job.edges is not None])
        removed = torch.from_numpy(np.stack([job.removed() for job in jobs])).to(self._device)
        return second_eigenvectors(edges, removed, solver=self._config.eigensolver)

    @contextmanager
    def _timed(self, step: str, jobs: Sequence[_Job]) -> Iterator[None]:
        """Share the seconds that the device takes among the images it works on."""
        timer = StepTimer()
        with timer.step(step):
            yield
            if self._device.startswith("cuda"):
                torch.cuda.synchronize(self._device)
        share = {name: value / max(len(jobs), 1) for name, value in timer.seconds.items()}
        for job in jobs:
            job.seconds = add_seconds(job.seconds, share)


class _BatchInFlight:
    """A batch under way: where it stands, and what it waits for."""

    def __init__(self, steps: Generator[list[Task[Any, Any]], None, list[ImageCut]], pool: WorkerPool) -> None:
        self._steps = steps
        self._pool = pool
        self._waits_for: list[Task[Any, Any]] = []
        self.cuts: list[ImageCut] | None = None
        self.go_on()

    def go_on(self) -> None:
        """Work on the batch until it waits for workers, or is done."""
        try:
            self._waits_for = next(self._steps)
        except StopIteration as end:
            self._waits_for, self.cuts = [], end.value

    @property
    def is_ready(self) -> bool:
        """Whether it can go on."""
        return self.cuts is None and not self.pending

    @property
    def pending(self) -> list[Future[Any]]:
        """The tasks that it still waits for."""
        return [task.future for task in self._waits_for if not self._pool.is_done(task)]


class _Job:
    """One image of a batch."""

    def __init__(self, image: Loaded) -> None:
        self.image = image
        self.failure = image.failure
        self.seconds: dict[str, float] = {}
        self.features: Tensor | None = None
        self.edges: Tensor | None = None
        self.rules: Rules | None = None
        self.extraction: Extraction | None = None
        self.refining: Task[RefinementTask, CutResult] | None = None

    def begin(self, method: Method, config: PseudoConfig, *, grid: tuple[int, int]) -> None:
        """Get ready for the first cut."""
        try:
            with numerics_of_one_image():
                self.rules = method.rules(self.image.depth, grid=grid, settings=config, view=self.image.view)
                self.extraction = begin(self.rules)
        except SampleError as error:
            self.failure = str(error)

    @property
    def is_cut(self) -> bool:
        """Whether it has had its last cut."""
        return self.extraction is not None and self.extraction.finished

    def removed(self) -> NDArray[np.bool_]:
        """Return the nodes that are out of the graph, (K,) bool."""
        assert self.rules is not None
        assert self.extraction is not None
        return self.rules.removed(self.extraction.candidates).reshape(-1)

    def take_extraction(self, future: Future[Extraction]) -> None:
        """Take the extraction after a cut."""
        try:
            self.extraction = result_of(future)
        except SampleError as error:
            self.failure = str(error)

    def refine(
        self, config: PseudoConfig, pool: WorkerPool, *, refined: Sequence[NDArray[np.bool_]] | None = None
    ) -> None:
        """Let a worker refine the masks, or bring refined ones to the photo's size; the graph is needed no more."""
        assert self.extraction is not None
        self.edges = None
        task = RefinementTask(
            image=self.image.crf_image if refined is None else None,
            size=self.image.size,
            extraction=self.extraction,
            config=config,
            refined=refined,
        )
        self.refining = pool.start(refine_image, task)

    def result(self, pool: WorkerPool) -> ImageCut:
        """Return the masks, or why there are none."""
        result = None
        if self.refining is not None:
            try:
                result = result_of(pool.take(self.refining))
            except SampleError as error:
                self.failure = str(error)
        return ImageCut(
            key=self.image.key,
            size=self.image.size,
            result=result,
            failure=self.failure,
            seconds=add_seconds(self.image.seconds, self.seconds, result.seconds if result else {}),
            is_relative=self.image.is_relative,
            is_flattened=self.image.is_flattened,
            focal=self.image.focal,
        )
