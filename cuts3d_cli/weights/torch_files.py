"""Files of `torch.save` and `pickle.dump`, read as data: the archive of today, and the streams of before."""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from cuts3d_cli.weights.pickles import plain, read_pickle

_OLD_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of a file of torch before 1.6."""
_BLOCK = 1 << 20


class NoStateError(Exception):
    """An archive that is whole, and none of `torch.save`."""


def read_zip(path: Path) -> Any:
    """Read an archive of `torch.save`: a pickle, and a record for each storage, with check sums.

    Args:
        path: of the file.

    Returns:
        As `pickles.plain` gives it.

    Raises:
        NoStateError: the archive is a TorchScript program, or of another program, or a compressed one.
        pickles.HostileError: the pickle names what no weights have a use for.
        Exception: the file is damaged; of many types.
    """
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        root = next((name.removesuffix("data.pkl") for name in sorted(names) if name.endswith("/data.pkl")), None)
        if root is None:
            raise NoStateError("it is a zip archive, but none of torch.save")
        if f"{root}constants.pkl" in names:
            raise NoStateError("it is a TorchScript program")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise NoStateError("it was written on a big-endian machine")
        storages: dict[str, Tensor] = {}

        def find_storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
            if key not in storages:
                info = archive.getinfo(f"{root}data/{key}")
                if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                    raise NoStateError("its records are compressed, as torch.save never writes them")
                with archive.open(info) as record:
                    storages[key] = _read_bytes(record.read, info.file_size)
            return _elements(storages[key], dtype, count)

        with archive.open(f"{root}data.pkl") as file:
            return plain(read_pickle(cast(BinaryIO, file), find_storage=find_storage, read_packed=_read_packed))


def read_stream(path: Path) -> Any:
    """Read a file of `torch.save` of before torch 1.6, or of `pickle.dump`; returns and raises as `read_zip`."""
    with path.open("rb") as file:
        return _read_stream(file, size=path.stat().st_size)


def _read_packed(data: bytes) -> Any:
    return _read_stream(io.BytesIO(data), size=len(data))


def _read_stream(file: BinaryIO, *, size: int) -> Any:
    storages: dict[str, Tensor] = {}
    widths: dict[str, int] = {}
    left = size

    def find_storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        nonlocal left
        if key not in storages:
            # They come after the pickle: what is made of them now is filled in place.
            left -= count * dtype.itemsize
            if left < 0:
                raise EOFError("it ends early")
            storages[key] = torch.zeros(count * dtype.itemsize, dtype=torch.uint8)
            widths[key] = dtype.itemsize
        return _elements(storages[key], dtype, count)

    # A pickle alone, or a magic number, a version, facts on the machine, and then the content.
    read_next = functools.partial(read_pickle, file, find_storage=find_storage, read_packed=_read_packed)
    content = read_next()
    if content == _OLD_MAGIC:
        read_next()
        facts = read_next()
        if not facts["little_endian"]:
            raise NoStateError("it was written on a big-endian machine")
        content = read_next()

        # The storages in the order of a list of their keys, each after its number of elements.
        for key in map(str, read_next()):
            count = int.from_bytes(file.read(8), "little")
            if len(storages[key]) != count * widths[key]:
                raise EOFError(f"storage {key} has another size than its tensors")
            storages[key].copy_(_read_bytes(file.read, len(storages[key])))
    return plain(content)


def _read_bytes(read: Callable[[int], bytes], size: int) -> Tensor:
    """Return the next `size` bytes, (size,) uint8."""
    values = torch.empty(size, dtype=torch.uint8)
    view, at = values.numpy().data, 0
    while at < size:
        block = read(min(_BLOCK, size - at))
        if not block:
            raise EOFError("it ends early")
        view[at : at + len(block)] = block
        at += len(block)
    return values


def _elements(data: Tensor, dtype: torch.dtype, count: int) -> Tensor:
    """Return the first `count` elements of some bytes."""
    size = count * dtype.itemsize
    if size > len(data):
        raise EOFError("a storage is smaller than its tensors need")
    return data[:size].view(dtype)
