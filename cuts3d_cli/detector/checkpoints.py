"""Checkpoints: written atomically, and read as plain tensors, without running code from the file.

Beside each lies its SHA-256, `checkpoint-0005000.pth.sha256`, as `sha256sum -c` reads it. A file that has one is
checked whenever it is read: a checkpoint with a flipped bit is still a checkpoint, of another detector.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from cuts3d_cli._version import __version__
from cuts3d_cli.config import TrainConfig, output_dict, resolve
from cuts3d_cli.detector import CHECKPOINTS, WRITTEN
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
    tensors_within,
)
from cuts3d_cli.weights.sources import file_sha256
from cuts3d_cli.wording import absence

FORMAT = 1
_DIGEST, _DAMAGED = ".sha256", ".damaged"
"""What follows the name of a file in that of its digest, and in the name under which a damaged one is set aside."""
_NAME = re.compile(r"checkpoint-([0-9]{7,})\.pth")


def checkpoint_path(folder: Path, iteration: int) -> Path:
    """Return the path of the checkpoint after so many iterations."""
    return folder / f"checkpoint-{iteration:07d}.pth"


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, the newest last."""
    found = {int(match[1]): path for path in folder.glob(CHECKPOINTS) if (match := _NAME.fullmatch(path.name))}
    return [found[iteration] for iteration in sorted(found)]


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically, and its digest beside it.

    Args:
        path: the file.
        content: tensors and plain values in dictionaries and lists.
    """
    digest_path(path).unlink(missing_ok=True)
    with atomic_file(path) as file:
        sha256 = write_torch(file, {"format": FORMAT, "version": __version__, **content})
    _write_digest(path, sha256)


def write_torch(file: BinaryIO, content: object) -> str:
    """Write a file of `torch.save`.

    Args:
        file: to write to.
        content: tensors and plain values in dictionaries and lists.

    Returns:
        The SHA-256 of the file.

    Raises:
        OSError: it cannot be written, as on a full disk, of which torch makes a RuntimeError.
    """
    hashing = _HashingFile(file)
    try:
        torch.save(content, cast("IO[bytes]", hashing))
    except RuntimeError as error:
        raise hashing.failure or error from error
    return hashing.sha256


class _HashingFile:
    """A file that hashes what is written to it, and keeps the error of a write that failed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hasher = hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        self._hasher.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self._file.flush()

    @property
    def sha256(self) -> str:
        return self._hasher.hexdigest()


def digest_path(path: Path) -> Path:
    """Return the path of the digest of a checkpoint or of final weights."""
    return path.with_name(f"{path.name}{_DIGEST}")


def _write_digest(path: Path, sha256: str) -> None:
    atomic_write_bytes(digest_path(path), f"{sha256}  {path.name}\n".encode())


def is_intact(path: Path) -> bool:
    """Return whether a file is what its digest says; True where it has none, as files of earlier versions.

    Args:
        path: of a checkpoint or of final weights.
    """
    try:
        recorded = digest_path(path).read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return True
    return recorded[:1] == [file_sha256(path)]


def keep_last(folder: Path, count: int) -> None:
    """Delete all but the newest `count` checkpoints of a folder."""
    for path in find_checkpoints(folder)[:-count]:
        path.unlink()
        digest_path(path).unlink(missing_ok=True)


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint to `NAME.damaged`, so that nothing resumes from it or counts it."""
    digest_path(path).unlink(missing_ok=True)
    path.replace(path.with_name(f"{path.name}{_DAMAGED}"))


def clear_unfinished(folder: Path) -> None:
    """Delete files that a killed training left half written. No other training may be running in the folder."""
    for name in WRITTEN:
        # A digest's name begins with that of its file.
        for path in folder.glob(f".{name}.*.tmp"):
            path.unlink()


def written_by_training(folder: Path) -> list[Path]:
    """Return the files of trainings in a folder, sorted; nothing that others have put there."""
    patterns = [f"{name}{end}" for name in WRITTEN for end in ("", _DIGEST, _DAMAGED)]
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if not path.is_dir()})


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, onto the CPU.

    Raises:
        WeightsError: it is missing, damaged, would run code, or is none of ours.
    """
    others = [other for other in find_checkpoints(path.parent) if other != path]
    way_out = f"take {others[-1].name} in its place" if others else "train again, or give another file"
    if not path.is_file():
        raise WeightsError(f"{path} {absence(path)}: name a checkpoint that `cuts3d train` wrote")
    if not is_intact(path):
        raise WeightsError(f"{path} is damaged (its SHA-256 is not that of {digest_path(path).name}): {way_out}")
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
    content = save({name: tensor.contiguous() for name, tensor in state.items()}, metadata=metadata)
    digest_path(path).unlink(missing_ok=True)
    atomic_write_bytes(path, content)
    _write_digest(path, hashlib.sha256(content).hexdigest())


def read_trained(path: Path) -> tuple[dict[str, torch.Tensor], TrainConfig | None]:
    """Read a detector's tensors, and the configuration of its training where `cuts3d train` wrote the file.

    Args:
        path: a checkpoint, the safetensors file that training ends with, or anybody's file of tensors.

    Raises:
        WeightsError: it is missing or damaged, holds no tensors, or is of another version of `cuts3d train`.
    """
    if not path.is_file():
        raise WeightsError(f"{path} {absence(path)}: name a detector, from `cuts3d train` or another program")
    if not is_intact(path):
        raise WeightsError(
            f"{path} is damaged (its SHA-256 is not that of {digest_path(path).name}): train again, or restore the file"
        )
    # The safetensors file.
    if is_safetensors(path):
        tensors, metadata = read_tensors(path), read_metadata(path)
        if "cuts3d" not in metadata:
            return tensors, None
        try:
            values = parse_json(metadata["cuts3d"].encode())["config"]
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path} is damaged: what it says of its training is no JSON") from error
        return tensors, config_of(values, path=path)
    # A checkpoint.
    content = read_checkpoint(path)
    if not (isinstance(content, dict) and {"format", "version", "config", "model"} <= content.keys()):
        return tensors_within(content, path=path), None
    if content["format"] != FORMAT:
        raise WeightsError(f"{path} is a checkpoint of another version of `cuts3d train`, {content['version']}")
    return tensors_of(content["model"], path=path), config_of(content["config"], path=path)


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
