"""Arrays from the bytes of a `.npy` file, believing nothing that its header says."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def decode_npy(data: bytes) -> NDArray[Any]:
    """Read a `.npy` file of numbers.

    NumPy itself makes an array of the size that the header says before it looks whether there is so much, and raises
    what Python's parser raises.

    Args:
        data: the file.

    Returns:
        The array, with memory of its own.

    Raises:
        ValueError: the file is cut off, damaged, or holds something else than numbers. Pickled objects are never read.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, by_columns, dtype = read_header[version](stream)
    except Exception as error:  # the header is parsed as Python, with all the errors there are
        raise ValueError("its header is damaged, or it is no .npy file") from error
    if dtype.kind not in "biufc":
        raise ValueError(f"it holds {'Python objects' if dtype.hasobject else dtype}, not numbers")
    if any(side < 0 for side in shape):
        raise ValueError(f"its header is damaged: the shape is {shape}")
    start, count = stream.tell(), math.prod(shape)
    if len(data) - start < count * dtype.itemsize:
        raise ValueError(
            f"it is cut off: {dtype} of shape {shape} has {count * dtype.itemsize} bytes, not {len(data) - start}"
        )
    values = np.frombuffer(data, dtype, count=count, offset=start) if count else np.zeros(0, dtype)
    return np.array(values.reshape(shape, order="F" if by_columns else "C"))


def encode_npy(array: NDArray[Any]) -> bytes:
    """Return an array of numbers as the bytes of a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
