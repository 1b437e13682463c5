from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cuts3d_cli.errors import SampleError
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.features import read_features

FACTS = b'{"backbone": "dino-vits16", "size": 224, "tensor": "keys"}'


def npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        (None, "it has no features: it was too dark"),
        ({"json": b"{}"}, "it has no features: it was too dark"),
        ({"features.npy": b""}, "cannot be read"),
        ({"features.npy": npy(np.zeros((2, 3, 4), np.float16))[:-1]}, "cannot be read"),
        ({"features.npy": b"PK\x03\x04"}, "cannot be read"),
        ({"features.npy": npy(np.zeros((3, 4), np.float16))}, r"float16 of shape \(3, 4\)"),
        ({"features.npy": npy(np.zeros((2, 3, 4), np.float32))}, r"float32 of shape \(2, 3, 4\)"),
        ({"features.npy": npy(np.array([{}], dtype=object))}, "cannot be read"),
    ],
)
def test_damaged_features_are_the_samples_failure(members: dict[str, bytes] | None, reason: str):
    sample = None if members is None else Sample(key="a", members={"features.json": FACTS, **members})
    with pytest.raises(SampleError, match=reason):
        read_features(sample, "it was too dark")
