"""Depth networks against the code of their authors: files that it writes, random weights, a photo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.official_code import checkout, run_official

NETWORKS = {
    "depth-anything-v2-small": "Depth-Anything-V2",
    "midas-small": "MiDaS",
    "kbr": "slowtv_monodepth",
    "zoedepth": "ZoeDepth",
    "zoedepth, one head": "ZoeDepth",
}


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_those_of_the_official_code(name: str, load: Any, test_data: Path, tmp_path: Path) -> None:
    code = checkout(NETWORKS[name])
    if name.startswith("zoedepth"):
        checkout("MiDaS")  # which it is built on
        pytest.importorskip("transformers", reason="the extra `depth` is not installed")
    image = np.array(Image.open(min((test_data / "coco" / "images").iterdir())).convert("RGB"))
    np.savez(tmp_path / "photos.npz", photo=image)
    run_official("official_depth.py", name, code, tmp_path / "photos.npz", tmp_path)
    theirs = np.load(tmp_path / "found.npz")
    expected = theirs["photo"]
    assert expected.std() > 0.01 * np.ptp(expected) > 0
    backend = name.split(",")[0]
    network = load(backend, tmp_path / "weights.pt")
    whole = network.predict([image], max_side=10_000)[0]
    if backend == "depth-anything-v2-small":
        np.testing.assert_array_equal(network.prepare(image), theirs["photo.input"])
        np.testing.assert_allclose(whole, expected, atol=1e-5 * np.ptp(expected), rtol=0)
    elif backend == "zoedepth":
        # Sums in another order, which the attractors of random weights make larger at single pixels.
        flipped = load(backend, tmp_path / "weights.pt", zoedepth_flip=True).predict([image], max_side=10_000)[0]
        for ours, official in ((whole, expected), (flipped, theirs["photo.flipped"])):
            assert ours.shape == official.shape
            assert np.abs(ours - official).mean() < 1e-4 * np.ptp(official)
    else:
        # What the network sees, to the difference of two resizings; and the same input gives the same map.
        np.testing.assert_allclose(network.prepare(image), theirs["photo.input"], atol=3e-4)
        with torch.inference_mode():
            (ours,) = network.infer(torch.from_numpy(theirs["photo.input"])[None])
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
