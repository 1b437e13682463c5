from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuts3d_cli.engine.batches import infer_in_batches
from cuts3d_cli.errors import SampleError, WeightsError
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.wording import first_line

SAMPLES = [Sample(key=str(number), members={}) for number in range(7)]


def number_of(sample: Sample) -> int:
    return int(sample.key)


def test_batches_are_full_but_for_the_last():
    sizes = []

    def square(batch: Sequence[int]) -> list[int]:
        sizes.append(len(batch))
        return [item**2 for item in batch]

    results = list(infer_in_batches(SAMPLES, batch_size=3, prepare=number_of, infer=square))
    assert [item.output for item in results] == [number**2 for number in range(7)]
    assert [item.prepared for item in results] == list(range(7))
    assert sizes == [3, 3, 1]


@given(unusable=st.sets(st.integers(0, 6)), poison=st.sets(st.integers(0, 6)), batch_size=st.integers(1, 9))
def test_only_the_culprits_are_lost_and_the_order_is_kept(unusable: set[int], poison: set[int], batch_size: int):
    def prepare(sample: Sample) -> int:
        if number_of(sample) in unusable:
            raise SampleError("unusable")
        return number_of(sample)

    def infer(batch: Sequence[int]) -> list[int]:
        if poison & set(batch):
            raise RuntimeError("out of range\nat line 5")
        return [item + 100 for item in batch]

    results = list(infer_in_batches(SAMPLES, batch_size=batch_size, prepare=prepare, infer=infer))
    assert [item.sample for item in results] == SAMPLES
    for number, item in enumerate(results):
        if number in unusable:
            assert (item.output, item.failure) == (None, "unusable")
        elif number in poison:
            assert (item.output, item.failure) == (None, "the network failed: RuntimeError: out of range")
        else:
            assert (item.output, item.failure) == (number + 100, None)


def test_what_concerns_the_whole_run_is_not_taken_for_an_images_failure():
    def infer(batch: Sequence[int]) -> list[int]:
        raise WeightsError("no weights")

    with pytest.raises(WeightsError, match="no weights"):
        list(infer_in_batches(SAMPLES, batch_size=3, prepare=number_of, infer=infer))

    def prepare(sample: Sample) -> int:
        raise WeightsError("no weights")

    with pytest.raises(WeightsError, match="no weights"):
        list(infer_in_batches(SAMPLES, batch_size=3, prepare=prepare, infer=list))


def test_samples_that_failed_do_not_pile_up():
    def prepare(sample: Sample) -> int:
        read.append(number_of(sample))
        raise SampleError("unusable")

    read: list[int] = []
    results = infer_in_batches(SAMPLES, batch_size=3, prepare=prepare, infer=list)
    assert next(results).failure == "unusable"
    assert read == [0]


def test_no_samples_are_no_batch():
    assert list(infer_in_batches([], batch_size=3, prepare=number_of, infer=list)) == []


def test_first_line():
    assert first_line(ValueError("\n one \n two")) == "one "
    assert first_line(ValueError()) == "no message"
