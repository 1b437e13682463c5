"""Weight files of strangers: the one reader, and the one strict fit of what is in them to a network.

The content of a file decides what it is, not its name. Nothing in it is ever run: safetensors hold tensors alone, and
pickles go through `torch.load(weights_only=True)`. Whatever else a pickle names, such as the class of a configuration
beside the weights, is never looked up: an empty dictionary takes its place.
"""

from __future__ import annotations

import re
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cuts3d_cli.errors import WeightsError
from cuts3d_cli.wording import cause, listed

CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "d = torch.load('{file}', 'cpu', weights_only=False); d = d.get('state_dict', d); "
    "save_file({{k: v.clone() for k, v in d.items() if torch.is_tensor(v)}}, '{stem}.safetensors')\""
)
"""How to convert a checkpoint that is refused. It runs the checkpoint's own code: for trusted files only."""
_NESTS = ("teacher", "state_dict", "model", "student")
# The teacher is what DINO evaluates and publishes, so it comes first.
_COUNTER = "num_batches_tracked"
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
# torch.save has written a zip archive since torch 1.6 and a bare pickle before; \x80 begins pickles of protocol 2 and
# above.
_NAMESPACE = "argparse.Namespace"
# DINO's training checkpoints hold their command line as one.
_one_at_a_time = threading.Lock()
# The names that torch.load accepts are those of the whole process.


class UnreadableError(WeightsError):
    """A weight file cannot be read.

    Attributes:
        reason: why, in a few words.
    """

    def __init__(self, path: Path, reason: str, *, way_out: str) -> None:
        """Keep the reason, for callers that know another way out."""
        super().__init__(f"{path} cannot be read: {reason}; {way_out}")
        self.reason = reason


class _Empty:
    """Stands where a pickle names a class or a function: called with anything, it gives an empty dictionary."""

    def __new__(cls, *_: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        # Exactly this type, because torch lets pickles fill no subclass of it.
        return OrderedDict()


def is_safetensors(path: Path) -> bool:
    """Return whether the content of a file is safetensors; False where it cannot be opened.

    Args:
        path: of the file.
    """
    return _kind(path) == "safetensors"


def read_checkpoint(path: Path) -> Any:
    """Read all that a weight file holds, onto the CPU.

    Args:
        path: safetensors, or what `torch.save` wrote: a state dict, or a checkpoint with one in it.

    Returns:
        What was saved. Tensors and plain values in dictionaries and lists are as they were; any other object is an
        empty dictionary, or one of its items where it was a kind of dictionary.

    Raises:
        WeightsError: there is no such file.
        UnreadableError: it is damaged, of another kind, or a pickle that cannot be read without running its code.
    """
    if path.is_dir():
        raise WeightsError(f"{path} is a folder, not a file of weights")
    if not path.is_file():
        raise WeightsError(f"{path} is not a file: weights are safetensors, or what torch.save writes")
    kind = _kind(path)
    if kind is None:
        reason = "it is of an unknown kind, or damaged"
        raise UnreadableError(path, reason, way_out="weights are safetensors, or what torch.save writes")
    return _read_safetensors(path) if kind == "safetensors" else _read_pickle(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weight file, onto the CPU.

    Args:
        path: as for `read_checkpoint`. The tensors may lie under "teacher", "state_dict", "model" or "student".

    Returns:
        Name to tensor, names as in the file. What is not a tensor is left out.

    Raises:
        WeightsError: the file cannot be read (see `read_checkpoint`), or holds no tensors by name.
    """
    content = read_checkpoint(path)
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _NESTS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    return tensors_of(content, path=path)


def tensors_of(content: object, *, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict; what is not a tensor is left out.

    Args:
        content: what should be a state dict.
        path: the file that it is from; only for the error.

    Raises:
        WeightsError: it is no dictionary, or there is no tensor in it.
    """
    items = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(name): value for name, value in items if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors by name: give a state dict, not a whole pickled model")
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
    tensors: Mapping[str, Tensor], *, anchor: str, what: str, path: Path, followers: Sequence[str] = ()
) -> tuple[dict[str, Tensor], list[str]]:
    """Find a network in a checkpoint where wrappers have put something before its names, as in "module.backbone.".

    Args:
        tensors: as `read_tensors` gives them.
        anchor: the name of a tensor that every such network has, and once.
        what: what the network is for, such as "dino-vitb8"; only for the error.
        path: the file that the tensors are from; only for the error.
        followers: ends of prefixes of networks that follow another one, which is preferred to them.

    Returns:
        The network's tensors under its own names, and the whole names of all others.

    Raises:
        WeightsError: there is no such network, or there are several.
    """
    prefixes = sorted(key.removesuffix(anchor) for key in tensors if key.endswith(anchor))
    if len(prefixes) > 1:
        prefixes = [prefix for prefix in prefixes if not prefix.endswith(tuple(followers))]
    if len(prefixes) != 1 or not (prefixes[0] == "" or prefixes[0].endswith(".")):
        held = f"{len(prefixes)} such networks ({listed(prefixes)})" if prefixes else f"no {anchor}"
        first = ", ".join(list(tensors)[:3])
        raise WeightsError(f"{path} does not fit {what}: it holds {held}; its first tensors are {first}")
    (prefix,) = prefixes
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return own, [key for key in tensors if not key.startswith(prefix)]


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
        WeightsError: tensors are missing, unknown or of another shape; the error counts them and names the first few.
    """
    problems = {
        "missing": [name for name in expected if name not in tensors and not name.endswith(_COUNTER)],
        "unknown": [*unknown, *(name for name in tensors if name not in expected and not ignored(name))],
        "of another shape": [
            f"{name} {_shape_text(tensors[name].shape)} instead of {_shape_text(shape)}"
            for name, shape in expected.items()
            if name in tensors and not same_shape(name, tensors[name].shape, shape)
        ],
    }
    if any(problems.values()):
        told = "; ".join(f"{len(names)} tensors {how} ({listed(names)})" for how, names in problems.items() if names)
        raise WeightsError(f"{path} does not fit {what}: {told}")
    found = {name: tensors[name] for name in expected if name in tensors}
    return {
        name: (tensor.to(torch.float32) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in found.items()
    }


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], *, what: str, path: Path) -> None:
    """Load weights into a network: all that it has, and no others.

    Args:
        module: takes the weights.
        tensors: by the module's own names.
        what: the module, for the error.
        path: the file that the tensors are from, for the error.

    Raises:
        WeightsError: they do not fit, as for `fit`.
    """
    expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
    # Not strict in torch's sense alone: counters of batch norms may be missing.
    module.load_state_dict(fit(tensors, expected, what=what, path=path), strict=False)


def _kind(path: Path) -> Literal["safetensors", "pickle"] | None:
    """Return what a file is by how it begins, or None."""
    try:
        with path.open("rb") as file:
            begin = file.read(9)
        size = path.stat().st_size
    except OSError:
        return None
    # Safetensors: the length of a header in JSON, little-endian, and the header.
    if begin[8:] == b"{" and int.from_bytes(begin[:8], "little") <= size - 8:
        return "safetensors"
    return "pickle" if begin.startswith((_ZIP, _PICKLE)) else None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged_safetensors(path, error) from error


def _damaged_safetensors(path: Path, error: Exception) -> UnreadableError:
    return UnreadableError(path, f"as safetensors it is damaged ({cause(error)})", way_out="fetch it again")


def _read_pickle(path: Path) -> Any:
    names: list[str] = []
    try:
        with _one_at_a_time:
            names = sorted(_names_in_pickle(path))
            accepted = torch.serialization.safe_globals([(_Empty, name) for name in {*names, _NAMESPACE}])
            # Open, because of a path newer versions of torch judge the file by its name.
            with accepted, path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on damaged or hostile files; each means "not loaded".
        # Torch says so where it stops at a name. Where an empty dictionary could not take a name's place, it fails in
        # other ways, but not with a RuntimeError: that is about the archive itself.
        stopped = re.search(r"GLOBAL ([\w.]+)", str(error))
        if stopped or (names and not isinstance(error, RuntimeError | OSError)):
            code = stopped[1] if stopped else listed(names)
            command = CONVERT.format(file=path, stem=path.with_suffix(""))
            raise UnreadableError(
                path,
                f"it holds pickled code ({code}), which is never run",
                way_out=f"if you trust it, convert it with {command} and pass the new file",
            ) from error
        raise UnreadableError(
            path, f"as a file of torch.save it is damaged ({cause(error)})", way_out="fetch it again"
        ) from error


def _names_in_pickle(path: Path) -> list[str]:
    """Return what a checkpoint names beside tensors; nothing for the files of before torch 1.6."""
    if not zipfile.is_zipfile(path):
        return []
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # Damaged, or no checkpoint: torch.load says what is wrong with it.
        return []


def _shape_text(sizes: Iterable[int]) -> str:
    return "x".join(str(size) for size in sizes) or "scalar"
