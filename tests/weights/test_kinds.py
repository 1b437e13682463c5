"""What people hand over in place of weights is called by its name."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from cuts3d_cli.weights.checkpoint import UnreadableError, read_tensors


def archive(write: str) -> bytes:
    buffer = io.BytesIO()
    if write == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as file:
            file.addfile(tarfile.TarInfo("a.pth"))
    else:
        with zipfile.ZipFile(buffer, "w") as packed:
            packed.writestr("weights/a.pth", b"x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
            r"it is a Git LFS pointer.*git lfs pull",
        ),
        (b"<html>404</html>", "it is a web page"),
        (b"\n  <!DOCTYPE html><html>", "it is a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "a message of a server in XML"),
        (b'{"weight_map": {}}', "it is JSON"),
        (b"", r"it is empty \(0 bytes\); fetch or write it again"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip; unpack it"),
        (b"\x89HDF\r\n", "it is HDF5"),
        (archive("tar"), "it is a tar archive; unpack it"),
        (archive("zip"), r"it is a zip archive, but none of torch\.save; give a state dict"),
        (b"anything else", "of an unknown kind, or damaged; weights are safetensors, or what torch.save"),
    ],
)
def test_what_is_no_weights(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UnreadableError, match=rf"w\.pth cannot be read: .*{told}") as caught:
        read_tensors(tmp_path / "w.pth")
    assert "weights_only" not in str(caught.value)


def test_a_torchscript_program(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(UnreadableError, match="it is a TorchScript program; give a state dict"):
        read_tensors(tmp_path / "w.pt")
