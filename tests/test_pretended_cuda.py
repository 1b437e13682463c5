"""The pretended CUDA device raises what CUDA raises, and computes what the CPU computes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support.pretended_cuda import Device, DeviceTensor, pretended_cuda

MIXED = "Expected all tensors to be on the same device"


@pytest.fixture
def device() -> Iterator[Device]:
    if torch.cuda.is_available():
        pytest.skip("the device is a real one: none is pretended")
    with pretended_cuda(count=2) as made:
        yield made


def on(values: Tensor) -> Tensor:
    return values.to("cuda")


@pytest.mark.parametrize(
    "mistake",
    [
        lambda there, here: there + here,
        lambda there, here: here * there,
        lambda there, here: there.add_(here),
        lambda there, here: here.add_(there),
        lambda there, here: torch.where(there > 0, here, 0.0),
        lambda there, here: torch.stack([there, here]),
        lambda there, here: torch.stack([there.sum(), here.sum()]),
        lambda there, here: torch.cat([there, here]),
        lambda there, here: torch.outer(there, here),
        lambda there, here: there[None] @ here[:, None],
        lambda there, here: functional.linear(here[None], there[None]),
        lambda there, here: functional.mse_loss(there, here),
        lambda there, here: torch.gather(there, 0, torch.tensor([0])),
        lambda there, here: torch.searchsorted(there, here),
        lambda there, here: torch.equal(there, here),
        lambda there, here: here + there.sum(),
        lambda there, here: here.sum().add_(there.sum()),
        lambda there, here: there.masked_fill_(here > 0, 1.0),
        lambda there, here: there + here.to("cuda:1"),
        lambda there, here: torch.add(there, there, out=torch.empty(3)),
        lambda there, here: nn.Linear(3, 2)(there),
        lambda there, here: nn.Linear(3, 2).to("cuda")(here),
        lambda there, here: there.index_put_((torch.tensor([0, 1]),), here[:2]),
    ],
)
def test_tensors_of_two_devices_do_not_mix(device: Device, mistake: Callable[[Tensor, Tensor], object]):
    values = torch.arange(1.0, 4.0)
    with pytest.raises(RuntimeError, match=MIXED):
        mistake(on(values), values.clone())


def test_an_index_of_the_device_is_refused_on_the_cpu(device: Device):
    values = torch.arange(3.0)
    with pytest.raises(RuntimeError, match="indices should be either on cpu or on the same device"):
        _ = values[on(torch.tensor([0, 1]))]
    with pytest.raises(RuntimeError, match="indices should be either on cpu or on the same device"):
        values[on(values) > 1] = 0.0


def test_what_cuda_allows_to_mix(device: Device):
    values = torch.arange(3.0)
    there = on(values)
    assert (there + torch.tensor(2.0)).tolist() == (torch.tensor(2.0) + there).tolist() == [2.0, 3.0, 4.0]
    assert there[torch.tensor([2, 0])].tolist() == [2.0, 0.0]
    assert there[torch.tensor([False, True, True])].tolist() == [1.0, 2.0]
    there[torch.tensor([0])] = torch.tensor(5.0)
    there[1:] = values[:2]
    assert there.tolist() == [5.0, 0.0, 1.0]
    here = torch.zeros(3)
    here.copy_(there)
    assert not isinstance(here, DeviceTensor)
    assert here.tolist() == [5.0, 0.0, 1.0]


@pytest.mark.parametrize("read", [Tensor.numpy, np.asarray, np.array, lambda values: np.stack([values, values])])
def test_no_array_is_made_of_a_tensor_of_the_device(device: Device, read: Callable[[Tensor], object]):
    with pytest.raises((TypeError, RuntimeError), match="numpy"):
        read(on(torch.ones(3)))


def test_generators_of_the_cpu_draw_on_the_cpu_alone(device: Device):
    generator = torch.Generator().manual_seed(0)
    for draw in (
        lambda: torch.rand(3, generator=generator, device="cuda"),
        lambda: torch.randperm(3, generator=generator, device=torch.device("cuda")),
        lambda: torch.zeros(3, device="cuda").normal_(generator=generator),
        lambda: torch.multinomial(torch.ones(3, device="cuda"), 1, generator=generator),
    ):
        with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator but found 'cpu'"):
            draw()
    assert torch.rand(3, generator=generator).device.type == "cpu"


def test_kernels_that_only_the_cpu_has(device: Device):
    whole = on(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="not implemented"):
        _ = whole @ whole
    image = on(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match="not implemented for 'Byte'"):
        functional.interpolate(image, (4, 4), mode="bilinear", antialias=True)


def test_a_copy_that_does_not_wait_is_not_read(device: Device):
    there = on(torch.ones(2))
    with pytest.raises(RuntimeError, match="before it is complete"):
        there.to("cpu", non_blocking=True)
    assert torch.ones(2).to("cuda", non_blocking=True).tolist() == [1.0, 1.0]


def test_a_device_that_is_not_there(device: Device):
    for call in (
        lambda: torch.zeros(1, device="cuda:2"),
        lambda: torch.ones(1).to("cuda:2"),
        lambda: torch.cuda.set_device(2),
        lambda: torch.cuda.synchronize("cuda:2"),
    ):
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            call()


def test_results_say_where_they_are(device: Device):
    there = on(torch.arange(6.0).view(2, 3))
    made = [
        torch.zeros_like(there),
        there.new_ones(2),
        torch.tensor([1.0], device="cuda"),
        torch.as_tensor(np.ones(2), device="cuda"),
        torch.empty(1, device=torch.device("cuda")),
        there.T,
        there[0],
        there.half(),
        there.argmax(),
        torch.linalg.norm(there),
        *torch.sort(there),
        *there.unbind(),
    ]
    assert {str(item.device) for item in made} == {"cuda:0"}
    assert all(item.is_cuda for item in made)
    torch.cuda.set_device("cuda:1")
    assert torch.zeros(1, device="cuda").device == torch.device("cuda:1")
    assert torch.zeros_like(there).device == torch.device("cuda:0")
    assert type(there.cpu()) is Tensor
    assert there.to("cuda:0") is there
    assert there.to(torch.zeros(1)).device.type == "cpu"


def test_views_share_their_data(device: Device):
    there = on(torch.zeros(2, 3))
    row = there[1]
    row += 2.0
    there[:, 0] = 7.0
    assert there[0].unsqueeze_(0).shape == (1, 3)
    torch.add(row, row, out=row)
    assert there.tolist() == [[7.0, 0.0, 0.0], [14.0, 4.0, 4.0]]


def test_a_module_keeps_its_parameters_and_computes_the_same(device: Device):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    images = torch.randn(2, 3, 8, 8)
    expected = [model.train()(images).detach(), model.eval()(images).detach()]
    model.load_state_dict({**model.state_dict(), "1.running_mean": torch.zeros(4), "1.running_var": torch.ones(4)})
    before = list(model.parameters())
    model.to("cuda")
    assert [id(item) for item in model.parameters()] == [id(item) for item in before]
    assert all(isinstance(item, DeviceTensor) and isinstance(item, nn.Parameter) for item in model.parameters())
    torch.testing.assert_close(model.train()(on(images)).detach().cpu(), expected[0])
    torch.testing.assert_close(model.eval()(on(images)).detach().cpu(), expected[1])
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    assert {item.device.type for item in torch.load(file, weights_only=True).values()} == {"cpu"}


def test_a_step_of_a_training_runs_with_gradients_of_zero(device: Device):
    model = nn.Linear(3, 2).to("cuda")
    before = model.weight.detach().cpu()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda")
    with torch.autocast("cuda"):
        values = model(torch.ones(1, 3, device="cuda"))
    assert values.dtype == torch.float16
    scaler.scale(values.float().sum()).backward()
    assert model.weight.grad is not None
    assert model.weight.grad.is_cuda
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    torch.testing.assert_close(model.weight.detach().cpu(), before)


def test_what_the_cpu_waits_for_is_counted(device: Device):
    there = on(torch.ones(3))
    device.waits.clear()
    _ = there * 2 + 1
    assert sum(device.waits.values()) == 0
    _ = there.sum().item(), bool(there.any()), there.nonzero(), there[there > 0], there.cpu(), there.tolist()
    torch.tensor([1.0], device="cuda")
    torch.cuda.synchronize()
    found: dict[str, int] = {}
    for (what, _), number in device.waits.items():
        found[what] = found.get(what, 0) + number
    assert found == {
        "_local_scalar_dense": 2,
        "nonzero": 1,
        "mask as an index": 1,
        "to the CPU": 2,
        "from the CPU": 1,
        "synchronize": 1,
    }


def test_memory_runs_out(device: Device):
    device.largest = 64
    there = torch.zeros(16, device="cuda")
    with pytest.raises(torch.OutOfMemoryError):
        torch.cat([there, there])


def test_all_is_as_it_was_afterwards():
    if torch.cuda.is_available():
        pytest.skip("the device is a real one: none is pretended")
    with pretended_cuda():
        assert torch.cuda.is_available()
    assert not torch.cuda.is_available()
    with pytest.raises((RuntimeError, AssertionError)):
        torch.empty(1, device="cuda")
    assert (torch.ones(2) + 1).tolist() == [2.0, 2.0]
