"""Checkpoints: written atomically, and read as plain tensors, without running code from the file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from cuts3d_cli._version import __version__
from cuts3d_cli.config import TrainConfig, output_dict, resolve
from cuts3d_cli.detector import FINAL_WEIGHTS, METRICS
from cuts3d_cli.errors import UsageError, WeightsError
from cuts3d_cli.files import atomic_file, atomic_write_bytes
from cuts3d_cli.json_reading import parse_json
from cuts3d_cli.weights.checkpoint import (
    UnreadableError,
    is_safetensors,
    read_checkpoint,
    read_metadata,
    read_tensors,
    tensors_of,
)

FORMAT = 1
_NAME = re.compile(r"checkpoint-([0-9]{7,})\.pth")


def checkpoint_path(folder: Path, iteration: int) -> Path:
    """Return the path of the checkpoint after so many iterations."""
    return folder / f"checkpoint-{iteration:07d}.pth"


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, the newest last."""
    found = {int(match[1]): path for path in folder.glob("checkpoint-*.pth") if (match := _NAME.fullmatch(path.name))}
    return [found[iteration] for iteration in sorted(found)]


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: the file.
        content: tensors and plain values in dictionaries and lists.
    """
    with atomic_file(path) as file:
        torch.save({"format": FORMAT, "version": __version__, **content}, file)


def keep_last(folder: Path, count: int) -> None:
    """Delete all but the newest `count` checkpoints of a folder."""
    for path in find_checkpoints(folder)[:-count]:
        path.unlink()


def clear_unfinished(folder: Path) -> None:
    """Delete files that a killed training left half written. No other training may be running in the folder."""
    for name in ("checkpoint-*.pth", FINAL_WEIGHTS, METRICS):
        for path in folder.glob(f".{name}.*.tmp"):
            path.unlink()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, onto the CPU.

    Raises:
        WeightsError: it is missing, damaged, would run code, or is none of ours.
    """
    others = [other for other in find_checkpoints(path.parent) if other != path]
    way_out = f"delete it to resume from {others[-1].name}" if others else "train again, or give another file"
    if not path.is_file():
        raise WeightsError(f"{path} does not exist: name a checkpoint that `cuts3d train` wrote")
    try:
        content = read_checkpoint(path)
    except UnreadableError as error:
        raise WeightsError(f"{path} is damaged, or no file of tensors alone ({error.reason}): {way_out}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or "model" not in content:
        raise WeightsError(f"{path} is no checkpoint of `cuts3d train`, or one of another version: {way_out}")
    return content


def save_weights(path: Path, state: Mapping[str, torch.Tensor], *, config: TrainConfig) -> None:
    """Write a model's weights as safetensors, with the configuration that it was trained with.

    Fields that do not shape the result, as the number of loader processes, are not in it: equal weights, equal bytes.
    """
    from safetensors.torch import save

    # One entry: the order of several in the file is left to chance.
    metadata = {"cuts3d": json.dumps({"version": __version__, "config": output_dict(config)})}
    atomic_write_bytes(path, save({name: tensor.contiguous() for name, tensor in state.items()}, metadata=metadata))


def load_trained(path: Path) -> tuple[dict[str, torch.Tensor], TrainConfig]:
    """Read a trained model's weights and the configuration that it was trained with.

    Args:
        path: a checkpoint, or the safetensors file that training ends with.

    Raises:
        WeightsError: it is missing, damaged, or none of ours.
    """
    if not is_safetensors(path):
        content = load_checkpoint(path)
        return tensors_of(content["model"], path=path), config_of(content.get("config"), path=path)
    try:
        state, metadata = read_tensors(path), read_metadata(path)
        values = parse_json(metadata["cuts3d"].encode())["config"]
    except (UnreadableError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is damaged, or no detector that `cuts3d train` wrote: train again") from error
    return state, config_of(values, path=path)


def config_of(values: Any, *, path: Path) -> TrainConfig:
    """Return the configuration that a file holds; fields of other versions are left out.

    Raises:
        WeightsError: it is no configuration.
    """
    if not isinstance(values, dict):
        raise WeightsError(f"{path} holds no configuration: it is no checkpoint of `cuts3d train`")
    known = {item.name: values[item.name] for item in fields(TrainConfig) if item.name in values}
    try:  # a number out of its limits could ask for a network of any size
        return resolve(preset="paper", overrides={"train": known}, environment={}, folder=Path(os.devnull)).train
    except UsageError as error:
        raise WeightsError(f"{path} holds a configuration that no detector can have: {error}") from error
