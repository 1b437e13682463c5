"""Pickles of strangers, read as data: tensors, arrays, numbers, texts, and the dictionaries and lists around them.

A pickle is a program that may name any function and have it called. Here no name is ever looked up: each stands for an
inert object that notes what it is given. A few names, those of tensors and arrays, are then read as what they describe.
A pickle that names what no weights have a use for, such as `os.system`, is refused altogether.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_OF_THE_SYSTEM = ("os", "posix", "nt", "sys", "subprocess", "commands", "shutil", "socket", "pty", "ctypes")
_HOSTILE_MODULES = frozenset((*_OF_THE_SYSTEM, "importlib", "imp", "runpy", "pdb", "pip", "webbrowser"))
_HOSTILE_BUILTINS = frozenset(
    ("eval", "exec", "execfile", "compile", "apply", "__import__", "open", "file", "input", "breakpoint")
)
_BUILTINS = frozenset({"builtins", "__builtin__", "__builtins__"})
_PLAIN_DTYPE = re.compile(r"[<>=|]?(b1|[iufc](1|2|4|8|16)|[US][0-9]{1,6}|\?)")
_MAX_REPEATED = 1 << 20
"""Most elements of a tensor that repeats the numbers of its storage."""
_PACKED = "torch.storage._load_from_bytes"
_TORCH_DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": torch.uint8,
}
FindStorage = Callable[[str, torch.dtype, int], Tensor]
"""From a storage's key, its type and its number of elements to its elements, (n,)."""


class HostileError(pickle.UnpicklingError):
    """A pickle names what no weights have a use for.

    Attributes:
        name: for instance "posix.system".
    """

    def __init__(self, name: str) -> None:
        """Keep the name."""
        super().__init__(name)
        self.name = name


class Inert:
    """Stands for an object of a class that is never looked up, or for what a function that is never run returns.

    Every name in a pickle becomes a subclass of its own. Whatever a pickle does with it has no effect but on the notes.

    Attributes:
        stands_for: the name.
        given: what the name was called with.
        mapping: items that it was given as a kind of dictionary.
        state: what its attributes were to be.
    """

    stands_for = ""
    given: tuple[Any, ...]
    mapping: dict[Any, Any]
    state: Any

    def __new__(cls, *given: Any, **_: Any) -> Inert:
        """Note what the name is called with."""
        item = object.__new__(cls)
        item.given, item.mapping, item.state = given, {}, None
        return item

    def __call__(self, *given: Any) -> Inert:
        """Stand for the result as well."""
        return Inert(*given)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.mapping[key] = value

    def append(self, item: Any) -> None:
        """Take an item of a kind of list, and forget it."""

    extend = add = append


def read_pickle(file: BinaryIO, *, find_storage: FindStorage, read_packed: Callable[[bytes], Any]) -> Any:
    """Read the next pickle of a file as data. Nothing that it names is run, imported or looked up.

    Args:
        file: open for reading, at the pickle's begin.
        find_storage: gives the elements of a tensor's storage.
        read_packed: reads a file of `torch.save` within the pickle, which `pickle.dump` makes of each storage.

    Returns:
        What the pickle describes, for `plain`; shared objects may still be under way.

    Raises:
        HostileError: it names what no weights have a use for.
        Exception: it is damaged; of many types.
    """
    # The C version sets aside memory for numbers that a damaged file makes up.
    reader = _Reader(file, encoding="latin1")  # Python 2 wrote bytes as str: latin1 keeps them
    reader.find_storage, reader.read_packed = find_storage, read_packed
    return reader.load()


def plain(content: Any) -> Any:
    """Return what a pickle describes as plain values.

    Args:
        content: from `read_pickle`, with all storages in place.

    Returns:
        Dictionaries, lists, tuples, sets, texts, bytes, numbers, None, dtypes, tensors and NumPy arrays, as they were.
        A whole pickled network is its state dict. Any other object is a dictionary: its items where it was a kind of
        dictionary, else empty.
    """
    return _Plain().of(content)


class _Reader(pickle._Unpickler):
    """Python's own reader of pickles, without its way to names and to the attributes of objects."""

    find_storage: FindStorage
    read_packed: Callable[[bytes], Any]
    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name."""
        whole = f"{module}.{name}"
        if whole == _PACKED:
            return self.read_packed
        if whole in _KNOWN:
            return _KNOWN[whole]
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        if module in ("torch", "torch.storage", "torch.cuda") and name in _TORCH_DTYPES:
            return _TORCH_DTYPES[name]
        root = module.partition(".")[0]
        called = name.rpartition(".")[2]
        if root in _HOSTILE_MODULES or (module in _BUILTINS and called in _HOSTILE_BUILTINS):
            raise HostileError(whole)
        return type("Inert", (Inert,), {"stands_for": whole})

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage of a tensor, or the class of a network, which old files of torch name here too."""
        if not isinstance(pid, tuple) or not pid:
            raise pickle.UnpicklingError(f"a persistent id is {type(pid).__name__}")
        if pid[0] == "module":
            return pid[1]
        kind, dtype, key, _, count = pid[:5]
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(count, int) or count < 0:
            raise pickle.UnpicklingError("a storage is of an unknown kind")
        storage = self.find_storage(str(key), dtype, count)
        view = pid[5] if len(pid) > 5 else None
        return storage if view is None else storage[view[1] : view[1] + view[2]]

    def load_build(self) -> None:
        """Note a state; what is not inert gets none."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state

    dispatch[pickle.BUILD[0]] = load_build


class _Dtype(Inert):
    """A dtype of NumPy, by its code, such as "f4"."""

    def dtype(self) -> np.dtype[Any] | None:
        """Return the dtype, or None for one that is not of plain numbers or texts."""
        code = str(self.given[0]) if self.given else ""
        if not _PLAIN_DTYPE.fullmatch(code):
            return None
        order = self.state[1] if isinstance(self.state, tuple) and len(self.state) > 1 else "="
        return np.dtype(code).newbyteorder(">" if order == ">" else "<" if order == "<" else "=")


class _Array(Inert):
    """An array of NumPy. Older protocols give all as a state, newer ones the bytes at once."""

    def array(self) -> NDArray[Any] | None:
        """Return the array, of this machine's byte order and writable; None for one of objects."""
        if isinstance(self.state, tuple) and len(self.state) == 5:
            _, shape, dtype, fortran, data = self.state
            order = "F" if fortran else "C"
        elif len(self.given) == 4 and isinstance(self.given[3], str):
            data, dtype, shape, order = self.given
        else:
            return None
        data = data.encode("latin1") if isinstance(data, str) else data
        found = dtype.dtype() if isinstance(dtype, _Dtype) else None
        if found is None or not isinstance(data, (bytes, bytearray)):
            return None
        values = np.frombuffer(data, found).reshape(shape, order="F" if order == "F" else "C")
        return values.astype(found.newbyteorder("="))


class _Scalar(Inert):
    """A number of NumPy: a dtype and its bytes."""

    def number(self) -> Any:
        """Return it as a number of Python; None for an object."""
        dtype, data = (*self.given, None, None)[:2]
        data = data.encode("latin1") if isinstance(data, str) else data
        found = dtype.dtype() if isinstance(dtype, _Dtype) else None
        return None if found is None or not isinstance(data, bytes) else np.frombuffer(data, found)[0].item()


class _Ordered(Inert):
    """A kind of dictionary of Python's own."""


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any = None, _hooks: Any = None, *rest: Any
) -> Tensor:
    # A dtype among the rest is that of types which have no storage of their own.
    dtype = next((item for item in rest if isinstance(item, torch.dtype)), storage.dtype)
    values = storage.view(dtype)
    # A stride of 0 repeats numbers: a few bytes could stand for more than the memory holds.
    if math.prod(size) > max(_MAX_REPEATED, values.untyped_storage().nbytes() // dtype.itemsize):
        raise ValueError("a tensor has more elements than its storage")
    return torch.as_strided(values, tuple(size), tuple(stride), values.storage_offset() + int(offset))


def _of_parameter(data: Any, *_: Any) -> Any:
    return data


def _of_subclass(rebuild: Any, _class: Any, given: Any, _state: Any = None) -> Any:
    return rebuild(*given)


def _of_array(values: Any, *_: Any) -> Any:
    return values


def _new(cls: Any, *given: Any) -> Any:
    return cls(*given) if isinstance(cls, type) and issubclass(cls, Inert) else Inert(cls, *given)


def _size(sizes: Any = ()) -> tuple[Any, ...]:
    return tuple(sizes)


def _bytes(text: Any = "", encoding: Any = "latin1") -> bytes:
    return text.encode("latin1") if isinstance(text, str) else b""


_KNOWN: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": _of_parameter,
    "torch._utils._rebuild_parameter_with_state": _of_parameter,
    "torch._utils._rebuild_device_tensor_from_numpy": _of_array,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _of_array,
    "torch._tensor._rebuild_from_type_v2": _of_subclass,
    "torch.Size": _size,
    "collections.OrderedDict": _Ordered,
    "collections.defaultdict": _Ordered,
    "collections.Counter": _Ordered,
    "_codecs.encode": _bytes,
    "copyreg._reconstructor": _new,
    "copy_reg._reconstructor": _new,
    "copyreg.__newobj__": _new,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    **{f"{module}.{kind.__name__}": kind for module in _BUILTINS for kind in (set, frozenset, complex)},
    **{f"numpy.{core}.multiarray._reconstruct": _new for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _Scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _Array for core in ("core", "_core")},
}
"""The names that are read as what they describe. Each of these calls nothing but what stands here."""


class _Plain:
    """Turns what was read into plain values; what occurs twice stays one object, and circles end."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[Any, Any]] = {}  # by identity; the source is kept, so that its identity stays its

    def of(self, item: Any) -> Any:
        if id(item) in self._done:
            return self._done[id(item)][1]
        if isinstance(item, dict):
            return self._dictionary(item, item)
        if isinstance(item, list):
            values: list[Any] = []
            self._done[id(item)] = (item, values)
            values.extend(self.of(inner) for inner in item)
            return values
        if isinstance(item, Inert):
            return self._inert(item)
        if isinstance(item, type):
            return {}
        found: Any = item
        if isinstance(item, tuple):
            found = tuple(self.of(inner) for inner in item)
        elif isinstance(item, (set, frozenset)):
            found = type(item)(value for value in map(self.of, item) if _is_hashable(value))
        self._done[id(item)] = (item, found)
        return found

    def _dictionary(self, source: Any, items: Mapping[Any, Any]) -> dict[Any, Any]:
        values: dict[Any, Any] = {}
        self._done[id(source)] = (source, values)
        for key, value in items.items():
            name = self.of(key)
            values[name if _is_hashable(name) else str(type(key).__name__)] = self.of(value)
        return values

    def _inert(self, item: Inert) -> Any:
        found: Any = None
        if isinstance(item, _Array):
            found = item.array()
        elif isinstance(item, _Scalar):
            found = item.number()
        if found is not None:
            self._done[id(item)] = (item, found)
            return found
        if isinstance(item, _Ordered) and item.given and isinstance(pairs := item.given[0], (list, dict)):
            # Python 2 gives the items to the call.
            item.mapping = {**(dict(pairs) if isinstance(pairs, dict) else dict(map(tuple, pairs))), **item.mapping}
        is_network = isinstance(item.state, dict) and {"_parameters", "_modules"} <= item.state.keys()
        if is_network:
            values: dict[Any, Any] = {}
            self._done[id(item)] = (item, values)
            values.update(self._state_dict(item))
            return values
        return self._dictionary(item, item.mapping)

    def _state_dict(self, network: Inert) -> dict[str, Any]:
        """Return the tensors of a pickled network by their names."""
        state = {name: self.of(value) for name, value in network.state.items()}
        passing = state.get("_non_persistent_buffers_set") or ()
        found = {**_texts(state.get("_parameters")), **_texts(state.get("_buffers"))}
        tensors = {name: value for name, value in found.items() if isinstance(value, Tensor) and name not in passing}
        for name, inner in _texts(state.get("_modules")).items():
            if isinstance(inner, dict):
                tensors |= {f"{name}.{below}": value for below, value in inner.items()}
        return tensors


def _texts(items: Any) -> dict[str, Any]:
    return {str(name): value for name, value in items.items()} if isinstance(items, dict) else {}


def _is_hashable(item: Any) -> bool:
    try:
        hash(item)
    except TypeError:
        return False
    return True
