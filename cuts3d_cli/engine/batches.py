"""Feeds a network in batches, so that one bad sample fails alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from cuts3d_cli.engine.batch_size import BatchSize, free_cached_memory, is_out_of_memory
from cuts3d_cli.engine.pool import WorkerPool, result_of
from cuts3d_cli.errors import Cuts3dError, SampleError
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.wording import first_line

Prepared = TypeVar("Prepared")
Output = TypeVar("Output")


@dataclass(frozen=True, kw_only=True)
class Inferred(Generic[Prepared, Output]):
    """One sample after the network: its input and output, or why there is none."""

    sample: Sample
    prepared: Prepared | None = None
    output: Output | None = None
    failure: str | None = None


def infer_in_batches(
    samples: Iterable[Sample],
    *,
    batch_size: int | BatchSize,
    prepare: Callable[[Sample], Prepared],
    infer: Callable[[Sequence[Prepared]], Sequence[Output]],
    pool: WorkerPool | None = None,
) -> Iterator[Inferred[Prepared, Output]]:
    """Prepare samples one by one and put them through a network in batches, keeping their order.

    A batch that fails is repeated image by image, so that only the image at fault fails; one that memory does not hold
    is repeated in halves.

    Args:
        samples: from a shard.
        batch_size: most samples in a batch; a `BatchSize` falls when memory runs out.
        prepare: raises SampleError where a sample is unusable.
        infer: the network; as many outputs as inputs.
        pool: workers that prepare samples, a bounded number ahead, by a function that can travel to another process;
            without workers each is prepared here.

    Yields:
        One result a sample.

    Raises:
        Cuts3dError: from `prepare` or `infer`: what concerns the whole run, not one sample.
    """
    size = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size)
    waiting: list[Inferred[Prepared, Output]] = []
    ready = 0
    for sample, result in _prepared(samples, prepare, pool):
        try:
            waiting.append(Inferred(sample=sample, prepared=result()))
            ready += 1
        except SampleError as error:
            waiting.append(Inferred(sample=sample, failure=str(error)))
        if ready == 0 or ready >= size.current:  # with nothing to wait for, failed samples go on at once
            yield from _flush(waiting, infer, size)
            waiting, ready = [], 0
    yield from _flush(waiting, infer, size)


def _prepared(
    samples: Iterable[Sample], prepare: Callable[[Sample], Prepared], pool: WorkerPool | None
) -> Iterator[tuple[Sample, Callable[[], Prepared]]]:
    """Yield the samples in order, each with what gives it prepared, or raises."""
    if pool is None or pool.workers == 0:
        for sample in samples:
            yield sample, partial(prepare, sample)
        return
    for sample, future in pool.in_order(prepare, ((sample, sample) for sample in samples)):
        assert future is not None
        yield sample, partial(result_of, future)


def _flush(
    waiting: Sequence[Inferred[Prepared, Output]],
    infer: Callable[[Sequence[Prepared]], Sequence[Output]],
    size: BatchSize,
) -> Iterator[Inferred[Prepared, Output]]:
    inputs = [item.prepared for item in waiting if item.prepared is not None]
    outputs = iter(infer_each(inputs, infer, what="the network", size=size))
    size.fitted(len(inputs))
    for item in waiting:
        if item.prepared is None:
            yield item
            continue
        result = next(outputs)
        if isinstance(result, Failed):
            yield Inferred(sample=item.sample, prepared=item.prepared, failure=result.reason)
        else:
            yield Inferred(sample=item.sample, prepared=item.prepared, output=result)


@dataclass(frozen=True)
class Failed:
    """In place of an output: why there is none."""

    reason: str


def infer_each(
    inputs: Sequence[Prepared],
    infer: Callable[[Sequence[Prepared]], Sequence[Output]],
    *,
    what: str,
    size: BatchSize | None = None,
) -> list[Output | Failed]:
    """Put a batch through a function. One that fails is repeated item by item, so that only the item at fault fails.

    Where memory runs out, the batch is repeated in halves, and a single item once, after cached memory is freed.

    Args:
        inputs: the batch.
        infer: the function; it returns as many outputs as it is given inputs.
        what: names the function in reasons, as in "the network".
        size: learns what did not fit into memory.

    Returns:
        An output, or the reason why there is none, for each input.

    Raises:
        Cuts3dError: from `infer`: what concerns the whole run, not one item.
    """
    if not inputs:
        return []
    found = _attempt(inputs, infer, what=what)
    if isinstance(found, list):
        return found
    # What the failed attempt held on the device is free by now: its frames are gone.
    if len(inputs) == 1:
        if not found.lacks_memory:
            return [found.failed]
        free_cached_memory()
        again = _attempt(inputs, infer, what=what)
        return again if isinstance(again, list) else [again.failed]
    if found.lacks_memory:
        if size is not None:
            size.exceeded(len(inputs))
        half = len(inputs) // 2
        parts = [inputs[first : first + half] for first in range(0, len(inputs), half)]
    else:
        parts = [inputs[first : first + 1] for first in range(len(inputs))]
    return [result for part in parts for result in infer_each(part, infer, what=what, size=size)]


@dataclass(frozen=True)
class _Attempt:
    """A call that failed: the reason, and whether memory ran out."""

    failed: Failed
    lacks_memory: bool


def _attempt(
    inputs: Sequence[Prepared], infer: Callable[[Sequence[Prepared]], Sequence[Output]], *, what: str
) -> list[Output | Failed] | _Attempt:
    try:
        return list(infer(inputs))
    except Exception as error:  # A network raises what it likes; alone, each item shows whether it is to blame.
        if isinstance(error, Cuts3dError) and not isinstance(error, SampleError):
            raise
        reason = Failed(f"{what} failed: {type(error).__name__}: {first_line(error)}")
        return _Attempt(failed=reason, lacks_memory=is_out_of_memory(error))
