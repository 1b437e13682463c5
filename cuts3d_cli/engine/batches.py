"""Feeds a network in batches, so that one bad sample fails alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

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
    batch_size: int,
    prepare: Callable[[Sample], Prepared],
    infer: Callable[[Sequence[Prepared]], Sequence[Output]],
) -> Iterator[Inferred[Prepared, Output]]:
    """Prepare samples one by one and put them through a network in batches, keeping their order.

    A batch that fails is repeated image by image, so that only the image at fault fails.

    Args:
        samples: from a shard.
        batch_size: most samples in a batch.
        prepare: raises SampleError where a sample is unusable.
        infer: the network; as many outputs as inputs.

    Yields:
        One result a sample.

    Raises:
        Cuts3dError: from `prepare` or `infer`: what concerns the whole run, not one sample.
    """
    waiting: list[Inferred[Prepared, Output]] = []
    ready = 0
    for sample in samples:
        try:
            waiting.append(Inferred(sample=sample, prepared=prepare(sample)))
            ready += 1
        except SampleError as error:
            waiting.append(Inferred(sample=sample, failure=str(error)))
        if ready in (0, batch_size):  # with nothing to wait for, failed samples go on at once
            yield from _flush(waiting, infer)
            waiting, ready = [], 0
    yield from _flush(waiting, infer)


def _flush(
    waiting: Sequence[Inferred[Prepared, Output]], infer: Callable[[Sequence[Prepared]], Sequence[Output]]
) -> Iterator[Inferred[Prepared, Output]]:
    inputs = [item.prepared for item in waiting if item.prepared is not None]
    outputs = iter(infer_each(inputs, infer, what="the network"))
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
    inputs: Sequence[Prepared], infer: Callable[[Sequence[Prepared]], Sequence[Output]], *, what: str
) -> list[Output | Failed]:
    """Put a batch through a function. One that fails is repeated item by item, so that only the item at fault fails.

    Args:
        inputs: the batch.
        infer: the function; it returns as many outputs as it is given inputs.
        what: names the function in reasons, as in "the network".

    Returns:
        An output, or the reason why there is none, for each input.

    Raises:
        Cuts3dError: from `infer`: what concerns the whole run, not one item.
    """
    if not inputs:
        return []
    try:
        return list(infer(inputs))
    except Exception as error:  # A network raises what it likes; alone, each item shows whether it is to blame.
        if isinstance(error, Cuts3dError) and not isinstance(error, SampleError):
            raise
        if len(inputs) == 1:
            return [Failed(f"{what} failed: {type(error).__name__}: {first_line(error)}")]
        return [result for item in inputs for result in infer_each([item], infer, what=what)]
