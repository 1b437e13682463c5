from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from cuts3d_cli.config.cutting import CrfBackend
from cuts3d_cli.cut.crf import check_backend, refine_masks
from cuts3d_cli.cut.lattice_points import FOREGROUND_PROBABILITY
from cuts3d_cli.errors import SettingError

BACKENDS = ("auto", "pydensecrf")


@pytest.fixture(autouse=True)
def installed() -> None:
    pytest.importorskip("pydensecrf", reason="pydensecrf is not installed (cuts3d[pydensecrf])")


def picture() -> tuple[np.ndarray, np.ndarray]:
    image = np.full((40, 40, 3), 30, dtype=np.uint8)
    image[10:30, 10:30] = (220, 60, 40)
    truth = np.zeros((40, 40), dtype=bool)
    truth[10:30, 10:30] = True
    return image, truth


def test_the_unary_is_the_softmax_of_a_one_hot_label():
    assert np.exp(1) / (np.exp(0) + np.exp(1)) == FOREGROUND_PROBABILITY


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mask_is_drawn_to_the_edge(backend: CrfBackend):
    image, truth = picture()
    rough = np.zeros_like(truth)
    rough[12:30, 12:30] = True
    refined, probability = next(refine_masks(image, [rough], iterations=10, backend=backend))
    np.testing.assert_array_equal(refined, truth)
    assert probability.dtype == np.float32
    assert np.all((probability >= 0) & (probability <= 1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_shared_lattice_gives_what_a_fresh_one_gives(backend: CrfBackend):
    image, truth = picture()
    image = np.clip(image + np.random.default_rng(0).normal(0, 10, image.shape), 0, 255).astype(np.uint8)
    image.setflags(write=False)
    other = np.roll(truth, 5, axis=1)
    shared = [mask for mask, _ in refine_masks(image, [truth, other, truth], iterations=5, backend=backend)]
    for mask, found in zip([truth, other, truth], shared, strict=True):
        np.testing.assert_array_equal(found, _as_peers_call_it(image, mask, iterations=5))


def test_a_backend_that_is_not_installed_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch):
    check_backend("pydensecrf")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_backend("auto")
    with pytest.raises(
        SettingError, match=r"which is not installed: pip install 'cuts3d\[pydensecrf\]', or take lattice"
    ):
        check_backend("pydensecrf")


def _as_peers_call_it(image: np.ndarray, mask: np.ndarray, *, iterations: int) -> np.ndarray:
    from pydensecrf import densecrf
    from pydensecrf.utils import unary_from_softmax

    logits = np.stack([1.0 - mask, mask.astype(float)])
    softmax = np.exp(logits) / np.exp(logits).sum(axis=0)
    crf = densecrf.DenseCRF2D(mask.shape[1], mask.shape[0], 2)
    crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(softmax.astype(np.float32))))
    crf.addPairwiseGaussian(sxy=3, compat=7)
    crf.addPairwiseBilateral(sxy=50, srgb=5, rgbim=np.array(image), compat=10)
    return np.argmax(np.array(crf.inference(iterations)).reshape(2, *mask.shape), axis=0) == 1
