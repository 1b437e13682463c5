"""Cuts images in batches: features, graphs and eigenproblems on a device, everything else in worker processes.

The images of a batch stay together from their features to their last cut, so that what is computed together depends on
the data alone, not on which worker is done first. Several batches are under way: while workers cut one, the device
solves another. Their number is bounded, and with it the memory.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cuts3d_cli.config import PseudoConfig
from cuts3d_cli.cut.batched_graph import binarised, cosine_affinities, sharpened_edges, unusable
from cuts3d_cli.cut.batched_ncut import second_eigenvectors
from cuts3d_cli.cut.image import CutResult, FinishTask, StepTask, cut_rules, cut_step, finish_image
from cuts3d_cli.cut.iterations import Rules, begin
from cuts3d_cli.cut.ncut import Eigenpair
from cuts3d_cli.cut.types import Extraction
from cuts3d_cli.engine.batches import Failed, infer_each
from cuts3d_cli.engine.pool import LOOK_SECONDS, Task, WorkerPool, numerics_of_one_image, result_of
from cuts3d_cli.errors import SampleError
from cuts3d_cli.stages.loading import Loaded
from cuts3d_cli.timing import StepTimer, add_seconds

Extract = Callable[[Sequence[NDArray[np.uint8]]], Sequence[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What became of an image: its masks, or the reason why there are none. `seconds` are of all steps."""

    key: str
    size: tuple[int, int]
    result: CutResult | None
    failure: str | None
    seconds: Mapping[str, float]


class BatchedCutter:
    """Cuts the images of shards, in batches.

    Attributes:
        in_flight: most batches under way, those included that wait for an earlier one to be given back: two tasks for
            every worker, a batch for the device, and one whose cuts it waits for.
    """

    def __init__(
        self,
        *,
        config: PseudoConfig,
        tau_ncut: float,
        extract: Extract,
        device: str,
        batch_size: int,
        pool: WorkerPool,
    ) -> None:
        """Take what the batches share.

        Args:
            config: the section of the configuration.
            tau_ncut: threshold of the semantic graph, resolved for the backbone.
            extract: features of squares, (C, H, W) float16 each, on the device.
            device: torch's name of it; it must have double precision.
            batch_size: images of a batch.
            pool: the workers.
        """
        self._config = config
        self._tau_ncut = tau_ncut
        self._extract = extract
        self._device = device
        self._batch_size = batch_size
        self._pool = pool
        self.in_flight = 2 + math.ceil(pool.ahead / batch_size)

    def cut(self, images: Iterable[Loaded]) -> Iterator[Cut]:
        """Cut images and give the outcomes back in order.

        Raises:
            UsageError: tau_knn does not fit the grid.
            WorkerDiedError: processes die also without a task.
        """
        remaining = iter(images)
        flying: deque[_Flight] = deque()
        while True:
            while flying and flying[0].cuts is not None:
                yield from flying.popleft().cuts or []
            if ready := next((flight for flight in flying if flight.is_ready), None):
                ready.go_on()
            elif len(flying) < self.in_flight and (batch := list(islice(remaining, self._batch_size))):
                flying.append(_Flight(self._steps(batch), self._pool))
            elif flying:
                pending = [future for flight in flying for future in flight.pending]
                wait(pending, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
            else:
                return

    def _steps(self, images: Sequence[Loaded]) -> Generator[list[Task[Any, Any]], None, list[Cut]]:
        """All that happens to a batch; gives control away, with what it waits for, whenever workers have to do."""
        jobs = [_Job(image) for image in images]
        self._add_features([job for job in jobs if job.failure is None])
        self._add_graphs([job for job in jobs if job.failure is None])
        while active := [job for job in jobs if self._wants_eigenvector(job)]:
            cutting = [(job, self._pool.start(cut_step, task)) for job, task in self._solve(active)]
            yield [task for _, task in cutting]
            for job, task in cutting:
                job.take_extraction(self._pool.take(task))
        yield [job.finishing for job in jobs if job.finishing is not None]
        return [job.cut(self._pool) for job in jobs]

    def _wants_eigenvector(self, job: _Job) -> bool:
        """Whether an image needs another eigenvector; one that has just had its last cut goes on to the CRF."""
        if job.failure is not None or job.finishing is not None:
            return False
        assert job.extraction is not None
        if not job.extraction.finished:
            return True
        assert job.image.crf_image is not None
        job.edges = None
        task = FinishTask(
            image=job.image.crf_image, size=job.image.size, extraction=job.extraction, config=self._config
        )
        job.finishing = self._pool.start(finish_image, task)
        return False

    def _add_features(self, jobs: Sequence[_Job]) -> None:
        for job in jobs:
            if job.image.features is not None:
                job.features = torch.from_numpy(job.image.features).to(self._device)
        fresh = [job for job in jobs if job.features is None]

        def extract(batch: Sequence[_Job]) -> Sequence[Tensor]:
            return self._extract([job.image.square for job in batch if job.image.square is not None])

        with self._timed("features", fresh):
            outputs = infer_each(fresh, extract, what="the network")
        for job, features in zip(fresh, outputs, strict=True):
            if isinstance(features, Failed):
                job.failure = features.reason
            else:
                job.features = features

    def _add_graphs(self, jobs: Sequence[_Job]) -> None:
        for job, edges in zip(jobs, infer_each(jobs, self._graphs, what="the graph"), strict=True):
            features, job.features = job.features, None
            if isinstance(edges, Failed):
                job.failure = edges.reason
            elif features is not None:
                job.edges = edges
                job.begin(self._config, self._tau_ncut, grid=(features.shape[1], features.shape[2]))

    def _graphs(self, jobs: Sequence[_Job]) -> list[Tensor | Failed]:
        """(K, K) bool for each image, or what is wrong with its features."""
        with self._timed("affinity", jobs):
            features = torch.stack([job.features for job in jobs if job.features is not None])
            reasons = unusable(features)
            affinity = cosine_affinities(features)
            if not self._sharpens:
                edges = binarised(affinity, tau_ncut=self._tau_ncut)
        if self._sharpens:
            with self._timed("sharpen", jobs):
                maps = np.stack([job.image.importance for job in jobs if job.image.importance is not None])
                edges = sharpened_edges(
                    affinity,
                    torch.from_numpy(maps).to(self._device),
                    pairing=self._config.pairing,
                    tau_ncut=self._tau_ncut,
                )
        return [Failed(reason) if reason else item for item, reason in zip(edges, reasons, strict=True)]

    @property
    def _sharpens(self) -> bool:
        return self._config.method == "cuts3d" and self._config.sharpen

    def _solve(self, jobs: Sequence[_Job]) -> Iterator[tuple[_Job, StepTask]]:
        """The next eigenvector of each image, as a task for a worker."""
        with self._timed("eigen", jobs):
            pairs = infer_each(jobs, self._pairs, what="the eigensolver")
        for job, pair in zip(jobs, pairs, strict=True):
            if isinstance(pair, Failed):
                job.failure = pair.reason
            else:
                assert job.rules is not None
                assert job.extraction is not None
                yield job, StepTask(rules=job.rules, extraction=job.extraction, pair=pair)

    def _pairs(self, jobs: Sequence[_Job]) -> list[Eigenpair]:
        edges = torch.stack([job.edges for job in jobs if job.edges is not None])
        removed = torch.from_numpy(np.stack([job.removed() for job in jobs])).to(self._device)
        return second_eigenvectors(edges, removed, solver=self._config.eigensolver)

    @contextmanager
    def _timed(self, step: str, jobs: Sequence[_Job]) -> Iterator[None]:
        """Share the seconds of what the device does among the images it does it for."""
        timer = StepTimer()
        with timer.step(step):
            yield
            if self._device.startswith("cuda"):
                torch.cuda.synchronize(self._device)
        share = {name: value / max(len(jobs), 1) for name, value in timer.seconds.items()}
        for job in jobs:
            job.seconds = add_seconds(job.seconds, share)


class _Flight:
    """A batch under way: where it stands, and what it waits for."""

    def __init__(self, steps: Generator[list[Task[Any, Any]], None, list[Cut]], pool: WorkerPool) -> None:
        self._steps = steps
        self._pool = pool
        self._waits_for: list[Task[Any, Any]] = []
        self.cuts: list[Cut] | None = None
        self.go_on()

    def go_on(self) -> None:
        try:
            self._waits_for = next(self._steps)
        except StopIteration as end:
            self._waits_for, self.cuts = [], end.value

    @property
    def is_ready(self) -> bool:
        return self.cuts is None and not self.pending

    @property
    def pending(self) -> list[Future[Any]]:
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
        self.finishing: Task[FinishTask, CutResult] | None = None

    def begin(self, config: PseudoConfig, tau_ncut: float, *, grid: tuple[int, int]) -> None:
        """Get ready for the first cut."""
        try:
            with numerics_of_one_image():
                self.rules = cut_rules(config, tau_ncut, grid=grid, depth=self.image.depth)
                self.extraction = begin(self.rules)
        except SampleError as error:
            self.failure = str(error)

    def removed(self) -> NDArray[np.bool_]:
        assert self.rules is not None
        assert self.extraction is not None
        return self.rules.removed(self.extraction.candidates).reshape(-1)

    def take_extraction(self, future: Future[Extraction]) -> None:
        try:
            self.extraction = result_of(future)
        except SampleError as error:
            self.failure = str(error)

    def cut(self, pool: WorkerPool) -> Cut:
        """What became of it."""
        result = None
        if self.finishing is not None:
            try:
                result = result_of(pool.take(self.finishing))
            except SampleError as error:
                self.failure = str(error)
        later = {} if result is None else result.seconds
        return Cut(
            key=self.image.key,
            size=self.image.size,
            result=result,
            failure=self.failure,
            seconds=add_seconds(self.image.seconds, self.seconds, later),
        )
