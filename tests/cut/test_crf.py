import numpy as np
from pydensecrf import densecrf
from pydensecrf.utils import unary_from_softmax

from cuts3d_cli.cut.crf import FOREGROUND_PROBABILITY, refine_masks


def picture() -> tuple[np.ndarray, np.ndarray]:
    image = np.full((40, 40, 3), 30, dtype=np.uint8)
    image[10:30, 10:30] = (220, 60, 40)
    truth = np.zeros((40, 40), dtype=bool)
    truth[10:30, 10:30] = True
    return image, truth


def test_the_unary_is_the_softmax_of_a_one_hot_label():
    assert np.exp(1) / (np.exp(0) + np.exp(1)) == FOREGROUND_PROBABILITY


def test_a_mask_is_drawn_to_the_edge():
    image, truth = picture()
    rough = np.zeros_like(truth)
    rough[12:30, 12:30] = True
    refined, probability = next(refine_masks(image, [rough], iterations=10))
    np.testing.assert_array_equal(refined, truth)
    assert probability.dtype == np.float32
    assert np.all((probability >= 0) & (probability <= 1))


def test_a_shared_lattice_gives_what_a_fresh_one_gives():
    image, truth = picture()
    image = np.clip(image + np.random.default_rng(0).normal(0, 10, image.shape), 0, 255).astype(np.uint8)
    image.setflags(write=False)
    other = np.roll(truth, 5, axis=1)
    shared = [mask for mask, _ in refine_masks(image, [truth, other, truth], iterations=5)]
    for mask, found in zip([truth, other, truth], shared, strict=True):
        np.testing.assert_array_equal(found, _as_peers_call_it(image, mask, iterations=5))


def _as_peers_call_it(image: np.ndarray, mask: np.ndarray, *, iterations: int) -> np.ndarray:
    logits = np.stack([1.0 - mask, mask.astype(float)])
    softmax = np.exp(logits) / np.exp(logits).sum(axis=0)
    crf = densecrf.DenseCRF2D(mask.shape[1], mask.shape[0], 2)
    crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(softmax.astype(np.float32))))
    crf.addPairwiseGaussian(sxy=3, compat=7)
    crf.addPairwiseBilateral(sxy=50, srgb=5, rgbim=np.array(image), compat=10)
    return np.argmax(np.array(crf.inference(iterations)).reshape(2, *mask.shape), axis=0) == 1
