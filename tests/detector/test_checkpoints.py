from __future__ import annotations

import errno
import hashlib
import io
import os
from pathlib import Path

import pytest
import torch

from cuts3d_cli.detector.checkpoints import digest_path, save_checkpoint, write_torch
from cuts3d_cli.errors import FileError


class FullDisk(io.BytesIO):
    """Takes so many bytes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._left = size

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._left -= len(data)
        if self._left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


@pytest.mark.parametrize("size", [0, 10, 1000, 30_000])
def test_a_full_disk_is_called_that(size: int):
    with pytest.raises(OSError, match="No space left on device"):
        write_torch(FullDisk(size), {"weights": torch.zeros(10_000)})


def test_the_digest_is_that_of_the_file(tmp_path: Path):
    path = tmp_path / "checkpoint-0000001.pth"
    save_checkpoint(path, {"model": {"a": torch.arange(3.0)}})
    assert digest_path(path).read_text().split()[0] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_cannot_be_written_names_the_file(tmp_path: Path):
    with pytest.raises(FileError, match=r"none/checkpoint-0000001\.pth cannot be written: No such file"):
        save_checkpoint(tmp_path / "none" / "checkpoint-0000001.pth", {"model": {}})
