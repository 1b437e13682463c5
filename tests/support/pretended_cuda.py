"""A pretended CUDA device: tensors that say they are on a GPU, hold their data on the CPU, and fail as on a GPU.

No GPU is at hand where most tests run, and code for one breaks at its first run by small mistakes: a tensor of the CPU
beside one of the device, `.numpy()` on the device, a generator of the wrong one. Within `pretended_cuda` tensors on
"cuda" are `DeviceTensor`s. Operations on them run on the CPU, and what CUDA refuses raises as it does there:

- tensors of two devices in one operation, but for what CUDA allows: scalars of the CPU in element-wise operations,
  indices of the CPU, and copies;
- `.numpy()` and `numpy.asarray`;
- generators of the CPU in operations of the device;
- products of whole numbers, and resampling of bytes, which only the CPU has kernels for;
- devices that are not there;
- copies to the CPU that do not wait: nothing here would show that they are read too early.

It counts what makes a CPU wait for a GPU, and by whom (`Device.waits`), and runs out of memory where it is told to
(`Device.largest`).

What it does not cover: threads other than the one that entered it and processes that this one starts, CUDA's own
generators, streams and graphs (all is done at once), pinned memory, torch.compile and torch.jit, tensors that
`torch.load` or safetensors put onto a device themselves, sparse tensors, kernels' own limits and rounding, fused
kernels of attention and of optimizers (plain operations here), inference mode (it only leaves out gradients here),
modules whose parameters something else holds when they move to the device (it raises), and memory but for the size of
a single tensor. Above all not backward passes: torch's engine asks the driver.
`Tensor.backward` gives zeros to all that has a gradient, so that what follows it can run.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.cuda._utils import _get_device_index
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

MEMORY = 8 * 2**30
"""Bytes of memory that a pretended device says it has."""

aten = torch.ops.aten
_CPU = torch.device("cpu")
_COPIES = {aten._to_copy.default, aten.copy_.default, aten.copy.default, aten._copy_from.default}
"""Operations that take a tensor to another device."""
_INDEXING = {
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
"""Operations whose indices, the second argument, may be on the CPU."""
_FILLING = ("fill", "fill_", "masked_fill", "masked_fill_", "index_fill", "index_fill_", "where")
"""Operations that take a scalar of the CPU, besides the element-wise ones."""
_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot")
_RESAMPLING = ("upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_bicubic2d", "_upsample_bicubic2d_aa")
_WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "unique_dim",
    "_unique2",
    "_unique",
}
"""Operations whose results' values or sizes the CPU waits for."""
_OF_STORAGE = (torch.Tensor.untyped_storage, torch.Tensor.storage, torch.Tensor.data_ptr)
_DATA = (torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor)


@dataclass
class Device:
    """What is known of the pretended devices.

    Attributes:
        count: number of them.
        current: the number of the current one.
        largest: bytes of the largest tensor that fits; None for any.
        waits: how often the CPU waited for a device: by the operation, and the line of the package that called it.
        calls: names of the functions of torch.cuda that were called.
    """

    count: int = 1
    current: int = 0
    largest: int | None = None
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)

    @property
    def emptied(self) -> int:
        """How often cached memory was given back."""
        return self.calls["empty_cache"]

    def place(self, name: torch.device | str | int | None) -> torch.device:
        """Return a device with its number.

        Raises:
            RuntimeError: it is not there.
        """
        number = self.current if name is None else name if isinstance(name, int) else torch.device(name).index
        number = self.current if number is None else number
        if not 0 <= number < self.count:
            raise RuntimeError("CUDA error: invalid device ordinal")
        return torch.device("cuda", number)

    def note_wait(self, what: str) -> None:
        """Count that the CPU waits for a device."""
        frame = sys._getframe()
        while frame is not None and "cuts3d_cli" not in frame.f_code.co_filename:
            frame = frame.f_back  # type: ignore[assignment]
        where = f"{frame.f_code.co_filename.rpartition('cuts3d_cli/')[2]}:{frame.f_lineno}" if frame else "elsewhere"
        self.waits[what, where] += 1

    def check_size(self, made: torch.Tensor) -> None:
        """Raise what CUDA raises if a tensor is larger than what fits."""
        if self.largest is not None and made.numel() * made.element_size() > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than the pretended device holds.")


_device: Device | None = None
"""The pretended devices that are there."""


class DeviceTensor(torch.Tensor):
    """A tensor that says it is on a pretended device.

    Attributes:
        held: its data, on the CPU.
    """

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: torch.Tensor, device: torch.device) -> DeviceTensor:
        made: DeviceTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=device,
            requires_grad=False,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    # What torch needs to know so that `Module.to` keeps its parameters' identity, as it does on a GPU.
    def __tensor_flatten__(self) -> tuple[list[str], torch.device]:
        return ["held"], self.device

    @staticmethod
    def __tensor_unflatten__(inner: Any, device: torch.device, *_: Any) -> DeviceTensor:
        return DeviceTensor(inner["held"], device)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Store the data. On a GPU a file would say where the tensor was; the package reads all onto the CPU."""
        return self.held.__reduce_ex__(protocol)

    def __repr__(self, *_: Any, **__: Any) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.held!r}, device='{self.device}')"


class _Operations(TorchDispatchMode):
    """Runs operations below autograd and autocast, also those that torch starts by itself."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """Answers calls that name a pretended device before torch looks for the driver."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func is torch.Tensor.cuda:
            return _moved(args[0], _place(named.get("device", args[1] if len(args) > 1 else None)), named)
        if func is torch.Tensor.backward and isinstance(args[0], DeviceTensor):
            return _pretended_backward(args[0])
        if func is torch.Tensor.to:
            return _to(func, args, named)
        if func is torch.Tensor.data.__set__:  # type: ignore[attr-defined]
            return _set_data(args[0], args[1])
        if args and isinstance(args[0], DeviceTensor) and func in (torch.Tensor.tolist, torch.Tensor.numpy):
            return _to_python(args[0], func)
        if func in _OF_STORAGE and isinstance(args[0], DeviceTensor):
            return func(args[0].held)
        if not _is_cuda(named.get("device")) or func is torch._C._nn._parse_to:  # type: ignore[attr-defined]
            return func(*args, **named)
        device, grad = _place(named.pop("device")), named.pop("requires_grad", False)
        _check_generator(named.get("generator"), device)
        if func in _DATA and isinstance(args[0] if args else named.get("data"), torch.Tensor):
            given = args[0] if args else named.pop("data")
            made = _moved(given, device, {"copy": func is torch.tensor, **named})
        elif func not in _DATA and any(isinstance(item, DeviceTensor) for item in tree_flatten((args, named))[0]):
            made = func(*args, **named)  # as `zeros_like`: where its argument is
            made = _moved(made, device, {})
        else:
            made = _moved(func(*args, **named, device="cpu"), device, {}, wait=func in _DATA)
        return made.requires_grad_() if grad else made


def _to_python(tensor: DeviceTensor, func: Any) -> Any:
    """Do `Tensor.tolist`, which torch refuses for tensors of a subclass, and refuse `Tensor.numpy`."""
    assert _device is not None
    if func is torch.Tensor.numpy:
        raise TypeError(
            f"can't convert {tensor.device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host"
            " memory first."
        )
    _device.note_wait("to the CPU")
    return tensor.held.tolist()


def _is_cuda(device: Any) -> bool:
    """Return whether an argument names a CUDA device."""
    return (isinstance(device, str) and device.partition(":")[0] == "cuda") or (
        isinstance(device, torch.device) and device.type == "cuda"
    )


def _place(device: Any) -> torch.device:
    assert _device is not None
    return _device.place(device)


def _to(func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Do `Tensor.to`, whose device may be an argument, a name, a number or that of another tensor."""
    tensor, *further = args
    given = [*further, named.get("device"), named.get("other")]
    found = [item.device if isinstance(item, torch.Tensor) else item for item in given]
    if not any(map(_is_cuda, found)):
        return func(*args, **named)
    device = next(_place(item) for item in found if _is_cuda(item))
    kinds = [item.dtype if isinstance(item, torch.Tensor) else item for item in [*given, named.get("dtype")]]
    dtype = next((item for item in kinds if isinstance(item, torch.dtype)), tensor.dtype)
    switches = [item for item in further if isinstance(item, bool)]
    names = dict(zip(("non_blocking", "copy"), switches, strict=False))
    return _moved(tensor, device, {**named, **names, "dtype": dtype})


def _moved(tensor: torch.Tensor, device: torch.device, named: dict[str, Any], *, wait: bool = True) -> torch.Tensor:
    """Return a tensor on a pretended device; the same one where it is there and has the type already."""
    dtype = named.get("dtype") or tensor.dtype
    if tensor.device == device and tensor.dtype == dtype and not named.get("copy"):
        return tensor
    if not wait:  # it was made on the device
        return _held_on(device, tensor)
    with _Operations():
        found: torch.Tensor = aten._to_copy.default(
            tensor, dtype=dtype, device=device, non_blocking=bool(named.get("non_blocking"))
        )
    return found


def _pretended_backward(loss: torch.Tensor) -> None:
    """Give gradients of zero to what a loss was computed from."""
    if loss.numel() != 1:
        raise RuntimeError("grad can be implicitly created only for scalar outputs")
    if loss.grad_fn is None:
        raise RuntimeError("element 0 of tensors does not require grad and does not have a grad_fn")
    seen: set[Any] = set()
    left: list[Any] = [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [following for following, _ in node.next_functions]
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf.grad is None:
            leaf.grad = torch.zeros_like(leaf)


def _set_data(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Do `tensor.data = value`."""
    if not isinstance(tensor, DeviceTensor) and not isinstance(value, DeviceTensor):
        torch.Tensor.data.__set__(tensor, value)  # type: ignore[attr-defined]
        return
    if not (isinstance(tensor, DeviceTensor) and isinstance(value, DeviceTensor)):
        raise TypeError("the data of a tensor of a pretended device can only be that of another one")
    if (tensor.shape, tensor.stride(), tensor.dtype) != (value.shape, value.stride(), value.dtype):
        raise NotImplementedError("a pretended device keeps the shape and type of a tensor whose data are set")
    tensor.held = value.held


def _held_on(device: torch.device, held: torch.Tensor) -> DeviceTensor:
    assert _device is not None
    _device.check_size(held)
    return DeviceTensor(held, device)


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation on the CPU, if CUDA would run it, and say where its results are."""
    flat, shape = tree_flatten((args, kwargs))
    there = [item for item in flat if isinstance(item, DeviceTensor)]
    asked = kwargs.get("device")
    if not there and not _is_cuda(asked):
        return func(*args, **kwargs)
    assert _device is not None, "a tensor of a pretended device that is gone"
    device = _place(asked) if _is_cuda(asked) else asked if asked is not None else there[0].device
    name = func.overloadpacket.__name__
    _check_devices(func, args, flat, there)
    _check_kernel(name, there)
    for item in flat:
        if device.type == "cuda":
            _check_generator(item, device)
    _count_waits(func, name, args, kwargs, device=device)
    known = {id(item.held): item for item in there}
    plain = [item.held if isinstance(item, DeviceTensor) else _CPU if _is_cuda(item) else item for item in flat]
    own_args, own_kwargs = tree_unflatten(plain, shape)
    results = _INSTEAD.get(func, functools.partial(_called, func))(*own_args, **own_kwargs)
    if device.type != "cuda":
        return results
    if torch.Tag.inplace_view in func.tags:  # what was done to the data is done to what stands for them
        with no_dispatch():
            func(*args, **kwargs)

    def placed(result: torch.Tensor) -> torch.Tensor:
        before = known.get(id(result))
        if before is None:
            return (
                result
                if func is aten.copy_.default and not isinstance(args[0], DeviceTensor)
                else _held_on(device, result)
            )
        if before.shape != result.shape or before.stride() != result.stride():
            raise NotImplementedError(f"{func} gives a tensor of a pretended device another shape in place")
        return before

    return tree_map_only(torch.Tensor, placed, results)


def _called(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operation on the CPU, in single precision where the CPU has none in half."""
    try:
        return func(*args, **kwargs)
    except (RuntimeError, NotImplementedError) as error:
        if "not implemented for 'Half'" not in str(error):
            raise
    flat, shape = tree_flatten((args, kwargs))
    is_half = [isinstance(item, torch.Tensor) and item.dtype == torch.float16 for item in flat]
    wide = [item.float() if half else item for item, half in zip(flat, is_half, strict=True)]
    own_args, own_kwargs = tree_unflatten(wide, shape)
    found = func(*own_args, **own_kwargs)
    return tree_map_only(torch.Tensor, lambda item: item.half() if item.dtype == torch.float32 else item, found)


def _check_devices(func: Any, args: tuple[Any, ...], flat: list[Any], there: list[DeviceTensor]) -> None:
    """Raise what CUDA raises if an operation mixes devices."""
    here = [item for item in flat if isinstance(item, torch.Tensor) and not isinstance(item, DeviceTensor)]
    devices = {item.device for item in there}
    if func in _COPIES:
        return
    if len(devices) > 1:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices,"
            f" {' and '.join(sorted(map(str, devices)))}!"
        )
    if not here or not there:
        return
    if func in _INDEXING:
        indices = [item for item in args[1] if item is not None]
        if not isinstance(args[0], DeviceTensor) and any(isinstance(item, DeviceTensor) for item in indices):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        here = [item for item in here if not any(item is index for index in indices)]
    elementwise = torch.Tag.pointwise in func.tags or func.overloadpacket.__name__ in _FILLING
    output = args[0] if func._schema.is_mutable and args else None
    allowed = [item for item in here if item.dim() == 0 and elementwise and item is not output]
    if func in _INDEXING:  # a value of no dimension is filled in
        allowed = [item for item in here if item.dim() == 0]
    if len(allowed) < len(here):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {there[0].device} and cpu!"
            f" ({func})"
        )


def _check_kernel(name: str, there: list[DeviceTensor]) -> None:
    """Raise what CUDA raises where it has no kernel, and the CPU has one."""
    name = name.removesuffix("_out").rstrip("_") if not name.startswith("_") else name
    if name in _PRODUCTS and any(not item.dtype.is_floating_point and not item.dtype.is_complex for item in there):
        raise RuntimeError(f'"{name}_cuda" not implemented for whole numbers')
    if name in _RESAMPLING and any(item.dtype == torch.uint8 for item in there):
        raise RuntimeError(f"\"{name}_out_frame\" not implemented for 'Byte'")


def _check_generator(item: Any, device: torch.device) -> None:
    if isinstance(item, torch.Generator) and item.device.type != device.type:
        raise RuntimeError(f"Expected a '{device.type}' device type for generator but found '{item.device.type}'")


def _count_waits(func: Any, name: str, args: Any, kwargs: dict[str, Any], *, device: torch.device) -> None:
    """Count where a CPU would wait for a GPU; refuse a copy that does not wait, and is read at once."""
    assert _device is not None
    source, target = (args[1], args[0].device) if func is aten.copy_.default else (args[0] if args else None, device)
    if func in _COPIES and isinstance(source, torch.Tensor) and source.device.type != target.type:
        quick = bool(kwargs.get("non_blocking") or (func is aten.copy_.default and len(args) > 2 and args[2]))
        if quick and target.type == "cpu":
            raise RuntimeError("a copy to the CPU that does not wait may be read before it is complete")
        if not quick:
            _device.note_wait("to the CPU" if target.type == "cpu" else "from the CPU")
    elif name in _WAITING:
        _device.note_wait(name)
    elif func in _INDEXING and any(item is not None and item.dtype in (torch.bool, torch.uint8) for item in args[1]):
        _device.note_wait("mask as an index")


def _batch_norm(
    source: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float, epsilon: float
) -> tuple[torch.Tensor, ...]:
    found = aten.native_batch_norm(source, weight, bias, mean, variance, training, momentum, epsilon)
    return (*found, torch.empty(0, dtype=torch.uint8))


def _in_single(func: Any, values: torch.Tensor, dim: int, half_to_float: bool) -> Any:
    """Take a softmax of half precision in single precision, which kernels of CUDA do in one go."""
    return func(values.float() if half_to_float else values, dim, False)


_INSTEAD: dict[Any, Callable[..., Any]] = {
    aten._fused_sdp_choice.default: lambda *_, **__: 0,  # attention by products
    aten._softmax.default: functools.partial(_in_single, aten._softmax.default),
    aten._log_softmax.default: functools.partial(_in_single, aten._log_softmax.default),
    aten.cudnn_batch_norm.default: _batch_norm,
}
"""What stands for operations that only CUDA has, or has in another way."""


@contextmanager
def pretended_cuda(*, count: int = 1) -> Iterator[Device]:
    """Let there be CUDA devices for a block, in this thread.

    Args:
        count: number of them.

    Yields:
        What is known of them.
    """
    global _device
    assert _device is None, "there are pretended devices already"
    device = Device(count=count)
    torch._C._ensureCUDADeviceGuardSet()  # type: ignore[attr-defined]  # autograd asks for streams
    with ExitStack() as stack:
        for name, stand_in in _functions(device).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, stand_in))
        swapping = torch.__future__.get_swap_module_params_on_conversion()
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swapping)
        torch.__future__.set_swap_module_params_on_conversion(True)
        # Tensors of a subclass cannot be tensors of inference.
        stack.enter_context(
            mock.patch.object(torch, "inference_mode", lambda mode=True: torch.set_grad_enabled(not mode))
        )
        stack.enter_context(_Operations())
        stack.enter_context(_Calls())
        _device = device
        try:
            yield device
        finally:
            _device = None


def _functions(device: Device) -> dict[str, Callable[..., Any]]:
    """Return what stands for functions of torch.cuda."""

    def number(name: Any) -> int:
        return device.place(_get_device_index(name, optional=True)).index

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            device.calls[name] += 1
            return function(*args, **kwargs)

        return called

    def of_device(result: Any) -> Callable[..., Any]:
        def called(device: Any = None) -> Any:
            number(device)
            return result

        return called

    def synchronize(device_: Any = None) -> None:
        number(device_)
        device.note_wait("synchronize")

    def set_device(name: Any) -> None:
        device.current = number(name)

    def set_rng_state(state: torch.Tensor, name: Any = "cuda") -> None:
        number(name)
        if isinstance(state, DeviceTensor) or state.dtype != torch.uint8:
            raise TypeError("RNG state must be a torch.ByteTensor")

    facts = SimpleNamespace(name="a pretended device", total_memory=MEMORY, major=8, minor=0, multi_processor_count=1)
    functions: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_current_stream_capturing": lambda: False,
        "is_bf16_supported": lambda including_emulation=True: True,
        "device_count": lambda: device.count,
        "current_device": lambda: device.current,
        "set_device": set_device,
        "synchronize": synchronize,
        "empty_cache": lambda: None,
        "get_device_properties": of_device(facts),
        "get_device_name": of_device(facts.name),
        "get_device_capability": of_device((facts.major, facts.minor)),
        "mem_get_info": of_device((MEMORY, MEMORY)),
        "memory_allocated": of_device(0),
        "max_memory_allocated": of_device(2**20),
        "max_memory_reserved": of_device(2**20),
        "reset_peak_memory_stats": of_device(None),
        "get_rng_state": lambda device="cuda": torch.full((16,), number(device), dtype=torch.uint8),
        "set_rng_state": set_rng_state,
        "manual_seed": operator.index,
        "manual_seed_all": operator.index,
    }
    return {name: noted(name, function) for name, function in functions.items()}
