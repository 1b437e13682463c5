from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cuts3d_cli.engine.batch_size import AUTO_FIRST, BatchSize, is_out_of_memory
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


class Device:
    """A network on a device that holds so many images at once."""

    def __init__(self, holds: int) -> None:
        self.holds = holds
        self.tried: list[int] = []

    def infer(self, batch: Sequence[int]) -> list[int]:
        self.tried.append(len(batch))
        if len(batch) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [item + 100 for item in batch]


def test_a_batch_that_does_not_fit_is_halved_and_later_ones_are_no_larger():
    said: list[str] = []
    device, size = Device(holds=2), BatchSize(5, say=said.append)
    samples = [Sample(key=str(number), members={}) for number in range(12)]
    results = list(infer_in_batches(samples, batch_size=size, prepare=number_of, infer=device.infer))
    assert [item.output for item in results] == [number + 100 for number in range(12)]
    assert device.tried == [5, 2, 2, 1, 2, 2, 2, 1]
    assert said == ["5 images at once are more than the memory of the device holds: going on with 2"]


@given(holds=st.integers(1, 40), asked=st.one_of(st.just("auto"), st.integers(1, 40)), cuda=st.booleans())
def test_no_image_is_lost_to_memory(holds: int, asked: Any, cuda: bool):
    device, size = Device(holds), BatchSize(asked, device="cuda" if cuda else "cpu")
    samples = [Sample(key=str(number), members={}) for number in range(50)]
    results = list(infer_in_batches(samples, batch_size=size, prepare=number_of, infer=device.infer))
    assert [item.output for item in results] == [number + 100 for number in range(50)]
    assert size.current <= max(2 * holds, AUTO_FIRST)


def test_auto_takes_what_fits_on_cuda_and_a_few_elsewhere():
    device, size = Device(holds=10), BatchSize("auto", device="cuda:1")
    list(infer_in_batches(SAMPLES * 10, batch_size=size, prepare=number_of, infer=device.infer))
    assert device.tried == [4, 8, 16, *[8] * 7, 2]
    device = Device(holds=1000)
    list(infer_in_batches(SAMPLES * 10, batch_size=BatchSize("auto"), prepare=number_of, infer=device.infer))
    assert set(device.tried[:-1]) == {AUTO_FIRST}


def test_one_image_that_does_not_fit_is_tried_again_and_then_fails():
    device = Device(holds=0)
    (result,) = infer_in_batches(SAMPLES[:1], batch_size=3, prepare=number_of, infer=device.infer)
    assert result.failure == "the network failed: OutOfMemoryError: CUDA out of memory."
    assert device.tried == [1, 1]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("shape mismatch"), False),
        (ValueError("DefaultCPUAllocator"), False),
    ],
)
def test_which_errors_are_of_memory(error: Exception, expected: bool):
    assert is_out_of_memory(error) is expected


def test_no_samples_are_no_batch():
    assert list(infer_in_batches([], batch_size=3, prepare=number_of, infer=list)) == []


def test_first_line():
    assert first_line(ValueError("\n one \n two")) == "one "
    assert first_line(ValueError()) == "no message"
