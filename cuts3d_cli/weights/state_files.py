"""State dicts from files of strangers: safetensors, or pickles of which no code runs."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cuts3d_cli.errors import WeightsError
from cuts3d_cli.wording import cause

CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "d = torch.load('{file}', 'cpu', weights_only=False); d = d.get('state_dict', d); "
    "save_file({{k: v.clone() for k, v in d.items() if torch.is_tensor(v)}}, '{stem}.safetensors')\""
)
"""How to convert a checkpoint that is refused. It runs the checkpoint's own code: for trusted files only."""


def read_state(path: Path, *, name: str) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint, on the CPU.

    Pickles go through `torch.load(weights_only=True)`. Names that it does not know, such as the class of a
    configuration object beside the weights, become plain ordered dicts: no class or function of the file's
    choice is ever looked up, so that nothing of it can run.

    Args:
        path: a `.safetensors` file, or a state dict or Lightning checkpoint that `torch.save` wrote.
        name: of the network, for errors.

    Returns:
        Name -> tensor: the file's `state_dict` or `model` entry where it has one, else the file's own
        entries.

    Raises:
        WeightsError: the file is damaged, or no state dict, or a pickle that cannot be read in this way.
    """
    if path.is_dir():
        raise WeightsError(f"{path} is a folder, but {name} loads a file")
    loaded = _read_safetensors(path, name) if path.suffix == ".safetensors" else _read_pickle(path, name)
    for entry in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(entry), Mapping):
            loaded = loaded[entry]
            break
    tensors = (
        {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
        if isinstance(loaded, Mapping)
        else {}
    )
    if not tensors:
        raise WeightsError(f"{path} holds no tensors by name, so it cannot be the weights of {name}")
    return tensors


def fill(module: torch.nn.Module, state: Mapping[str, torch.Tensor], *, path: Path, name: str) -> None:
    """Load a state dict strictly: every tensor of the module and no other; batch norm counters may be absent.

    Args:
        module: takes the tensors.
        state: name -> tensor.
        path: where they come from, for errors.
        name: of the network, for errors.

    Raises:
        WeightsError: a tensor is missing, unknown or of another shape.
    """
    expected = module.state_dict()
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in expected]
    reshaped = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    if missing or unknown or reshaped:
        example = (missing + reshaped + unknown)[0]
        raise WeightsError(
            f"{path} does not hold {name}: {len(missing)} tensors are missing, {len(reshaped)} have another "
            f"shape, {len(unknown)} are unknown, such as {example}"
        )
    module.load_state_dict(dict(state), strict=False)


def _read_safetensors(path: Path, name: str) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} cannot be read as weights of {name}: {cause(error)}") from error


def _read_pickle(path: Path, name: str) -> Any:
    if not zipfile.is_zipfile(path):
        raise WeightsError(f"{path} is no whole checkpoint of torch (or one from before torch 1.6), needed for {name}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Unpickling raises nearly anything; all of it means that this way is closed.
        refusal = cause(error)
    try:
        foreign = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        stand_ins = [(OrderedDict, foreign_name) for foreign_name in foreign]
        with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        command = CONVERT.format(file=path, stem=path.with_suffix(""))
        raise WeightsError(
            f"{path} cannot be read safely as weights of {name} ({refusal}); if you trust it, convert it with "
            f"{command} and pass the new file"
        ) from error
