"""Weight files of strangers: the one reader, and the one strict fit of what is in them to a network.

The content of a file decides what it is, not its name. Nothing in it is ever run: safetensors hold tensors alone, and
pickles are read as data by `cuts3d_cli.weights.pickles`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cuts3d_cli.errors import WeightsError
from cuts3d_cli.weights.kinds import kind_of, what_instead
from cuts3d_cli.weights.pickles import HostileError
from cuts3d_cli.weights.torch_files import NoStateError, read_stream, read_zip
from cuts3d_cli.wording import cause, counted, listed

_NESTS = (
    "teacher",
    "state_dict",
    "model",
    "model_state_dict",
    "state_dict_ema",
    "model_ema",
    "target_encoder",
    "encoder",
    "backbone",
    "network",
    "net",
    "module",
    "student",
)
"""Where checkpoints keep their tensors. The teacher is what DINO evaluates and publishes, so it comes first."""
_MAX_NESTS = 4
_INTEGERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_NUMBERS = frozenset((*_INTEGERS, "float16", "float32", "float64", "complex64", "complex128"))
"""Types of NumPy that torch has, too."""
COUNTER = "num_batches_tracked"
"""The end of the names of counters of batch norms, which say nothing about the weights."""


class UnreadableError(WeightsError):
    """A weight file cannot be read.

    Attributes:
        reason: why, in a few words.
    """

    def __init__(self, path: Path, reason: str, *, way_out: str) -> None:
        """Keep the reason, for callers that know another way out."""
        super().__init__(f"{path} cannot be read: {reason}; {way_out}")
        self.reason = reason


def is_safetensors(path: Path) -> bool:
    """Return whether the content of a file is safetensors; False where it cannot be opened.

    Args:
        path: of the file.
    """
    return kind_of(path) == "safetensors"


def read_checkpoint(path: Path) -> Any:
    """Read all that a weight file holds, onto the CPU.

    Args:
        path: safetensors, or what `torch.save` or `pickle.dump` wrote: a state dict, or a checkpoint with one in it.

    Returns:
        What was saved. Tensors, NumPy arrays and plain values in dictionaries and lists are as they were, numbers of
        NumPy are Python's; a whole pickled network is its state dict; any other object is a dictionary: its items
        where it was a kind of dictionary, else empty.

    Raises:
        WeightsError: there is no such file.
        UnreadableError: it is damaged, of another kind, or a pickle that names code which no weights have a use for.
    """
    if path.is_dir():
        raise WeightsError(f"{path} is a folder, not a file of weights")
    if not path.is_file():
        raise WeightsError(f"{path} is not a file: weights are safetensors, or what torch.save writes")
    kind = kind_of(path)
    if kind is None:
        reason, way_out = what_instead(path)
        raise UnreadableError(path, reason, way_out=way_out)
    if kind == "safetensors":
        return _read_safetensors(path)
    try:
        return read_zip(path) if kind == "torch zip" else read_stream(path)
    except HostileError as error:
        reason = f"it holds pickled code ({error.name}), which is never run"
        raise UnreadableError(path, reason, way_out="take the file from a source that you trust") from error
    except NoStateError as error:
        raise UnreadableError(path, str(error), way_out="give a state dict, as torch.save writes it") from error
    except Exception as error:  # A damaged file ends in errors of many types; each means "not loaded".
        raise UnreadableError(
            path, f"as a file of torch.save it is damaged ({cause(error)})", way_out="fetch it again"
        ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weight file, onto the CPU.

    Args:
        path: as for `read_checkpoint`. The tensors may lie under "teacher", "state_dict", "model", "student" and the
            like, or in the only one of its dictionaries that has any.

    Returns:
        Name to tensor, names as in the file; NumPy arrays are tensors. What is neither is left out.

    Raises:
        WeightsError: the file cannot be read (see `read_checkpoint`), or holds no tensors by name.
    """
    return tensors_within(read_checkpoint(path), path=path)


def tensors_within(content: object, *, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, wherever they lie in it, as `read_tensors` does.

    Args:
        content: as `read_checkpoint` gives it.
        path: the file that it is from; only for the error.

    Raises:
        WeightsError: it holds no tensors by name.
    """
    return tensors_of(_with_tensors(content, levels=_MAX_NESTS) or content, path=path)


def tensors_of(content: object, *, path: Path) -> dict[str, Tensor]:
    """Return the tensors and NumPy arrays of a state dict, as tensors; what is neither is left out.

    Args:
        content: what should be a state dict.
        path: the file that it is from; only for the error.

    Raises:
        WeightsError: it is no dictionary, or there is no tensor in it.
    """
    items = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(name): found for name, value in items if (found := _as_tensor(value)) is not None}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors by name: give a state dict, or a checkpoint with one in it")
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """Read the texts that a safetensors file holds beside its tensors.

    Args:
        path: of the file.

    Raises:
        UnreadableError: the file is damaged, or no safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _damaged_safetensors(path, error) from error


def own_tensors(
    tensors: Mapping[str, Tensor], *, anchor: str, what: str, path: Path, followers: Collection[str] = ()
) -> tuple[dict[str, Tensor], list[str]]:
    """Find a network in a checkpoint where wrappers have put something before its names, as in "module.backbone.".

    Args:
        tensors: as `read_tensors` gives them.
        anchor: the name of a tensor that every such network has, and once.
        what: what the network is for, such as "dino-vitb8"; only for the error.
        path: the file that the tensors are from; only for the error.
        followers: parts of prefixes, such as "student", of networks beside another one which is preferred to them.

    Returns:
        The network's tensors under its own names, and the whole names of all others outside of the followers and of
        further copies of the same network.

    Raises:
        WeightsError: there is no such network, or there are several that differ.
    """

    def follows(name: str) -> bool:
        return not set(followers).isdisjoint(name.split("."))

    # Of several networks, the followers go with all that is theirs.
    prefixes = sorted(key.removesuffix(anchor) for key in tensors if key.endswith(anchor))
    if len(prefixes) > 1 and not all(map(follows, prefixes)):
        prefixes = [prefix for prefix in prefixes if not follows(prefix)]
        tensors = {key: tensor for key, tensor in tensors.items() if not follows(key)}
    # A network may have two names, as DenseCL's backbone does.
    for other in prefixes[1:]:
        if _same_tensors(_behind(prefixes[0], tensors), _behind(other, tensors)):
            prefixes.remove(other)
            tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(other)}
    if len(prefixes) != 1 or not (prefixes[0] == "" or prefixes[0].endswith(".")):
        held = f"{len(prefixes)} such networks ({listed(prefixes)})" if prefixes else f"no {anchor}"
        first = ", ".join(list(tensors)[:3])
        raise WeightsError(f"{path} does not fit {what}: it holds {held}; its first tensors are {first}")
    (prefix,) = prefixes
    return _behind(prefix, tensors), [key for key in tensors if not key.startswith(prefix)]


def _behind(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _same_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def fit(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, torch.Size],
    *,
    what: str,
    path: Path,
    ignored: Callable[[str], object] = lambda name: False,
    unknown: Iterable[str] = (),
    same_shape: Callable[[str, torch.Size, torch.Size], bool] = lambda name, found, wanted: found == wanted,
) -> dict[str, Tensor]:
    """Return exactly the tensors that a network needs, or refuse: loaded in part, weights are noise.

    Args:
        tensors: by the network's own names.
        expected: names and shapes of the network's tensors. Counters of batch norms, which say nothing about the
            weights, may be missing.
        what: what they are for, such as "dino-vitb8"; only for the error.
        path: the file that they are from; only for the error.
        ignored: whether a tensor that the network lacks is harmless, by its name.
        unknown: further names that the network lacks.
        same_shape: whether a tensor fits, by its name, its shape and the expected shape.

    Returns:
        In the order of `expected`, contiguous, floating point numbers as float32.

    Raises:
        WeightsError: tensors are missing, unknown, of another shape, or not finite; the error counts them and names the
            first few.
    """
    problems = {
        "missing": [name for name in expected if name not in tensors and not name.endswith(COUNTER)],
        "unknown": [*unknown, *(name for name in tensors if name not in expected and not ignored(name))],
        "of another shape": [
            f"{name} {_shape_text(tensors[name].shape)} instead of {_shape_text(shape)}"
            for name, shape in expected.items()
            if name in tensors and not same_shape(name, tensors[name].shape, shape)
        ],
    }
    if any(problems.values()):
        told = "; ".join(
            f"{counted(len(names), 'tensor')} {how} ({listed(names)})" for how, names in problems.items() if names
        )
        raise WeightsError(f"{path} does not fit {what}: {told}")
    found = {name: tensors[name] for name in expected if name in tensors}
    fitted = {
        name: (tensor.to(torch.float32) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in found.items()
    }
    broken = [name for name, tensor in fitted.items() if not tensor.isfinite().all()]
    if broken:
        of_what = f"{counted(len(broken), 'tensor')} of {what} ({listed(broken)})"
        raise WeightsError(
            f"{path} holds NaN or infinite weights, in {of_what}: take an earlier checkpoint, or another file"
        )
    return fitted


def load_into(
    module: nn.Module, tensors: Mapping[str, Tensor], *, what: str, path: Path, unknown: Iterable[str] = ()
) -> None:
    """Load weights into a network: all that it has, and no others.

    Args:
        module: takes the weights.
        tensors: by the module's own names.
        what: the module, for the error.
        path: the file that the tensors are from, for the error.
        unknown: further names that the network lacks.

    Raises:
        WeightsError: they do not fit, as for `fit`.
    """
    expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
    # Not strict in torch's sense alone: counters of batch norms may be missing.
    module.load_state_dict(fit(tensors, expected, what=what, path=path, unknown=unknown), strict=False)


def _with_tensors(content: object, *, levels: int) -> Mapping[Any, Any] | None:
    """Return the dictionary within a checkpoint that holds the network's tensors, or None."""
    if not isinstance(content, Mapping) or not levels:
        return None
    # The known places first.
    for name in _NESTS:
        found = _with_tensors(content.get(name), levels=levels - 1)
        if found is not None:
            return found
    if any(_as_tensor(value) is not None for value in content.values()):
        return content
    inner = [value for value in content.values() if isinstance(value, Mapping)]
    found_in = [value for value in inner if any(_as_tensor(item) is not None for item in value.values())]
    return found_in[0] if len(found_in) == 1 else None


def _as_tensor(value: object) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    return torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype.name in _NUMBERS else None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged_safetensors(path, error) from error


def _damaged_safetensors(path: Path, error: Exception) -> UnreadableError:
    return UnreadableError(path, f"as safetensors it is damaged ({cause(error)})", way_out="fetch it again")


def _shape_text(sizes: Iterable[int]) -> str:
    return "x".join(str(size) for size in sizes) or "scalar"
