import numpy as np
import pytest
from scipy import linalg, ndimage

from cuts3d_cli.cut.iterations import extract
from cuts3d_cli.cut.maskcut import MaskCut, subtract_earlier
from cuts3d_cli.cut.types import Extraction
from tests.support.clouds import GRID, cut_settings, touching_blobs, two_class_features


def cut(features: np.ndarray, **changes: object) -> Extraction:
    return extract(features, None, method=MaskCut(), settings=cut_settings(**changes))


def reference(features: np.ndarray, *, instances: int, tau: float) -> list[np.ndarray]:
    """MaskCut's published rules written down plainly, dense and slow; an all-zero mask stands for a rejected one."""
    channels, height, width = features.shape
    painting = np.zeros((height, width), dtype=bool)
    current = np.zeros((height, width), dtype=bool)
    masks = []
    for iteration in range(instances):
        vectors = features.reshape(channels, -1).astype(np.float64) * ~painting.reshape(-1)
        norms = np.linalg.norm(vectors, axis=0)
        unit = vectors / np.where(norms > 0, norms, 1)
        affinity = np.where(unit.T @ unit > tau, 1.0, 1e-5)
        degrees = np.diag(affinity.sum(axis=1))
        x = linalg.eigh(degrees - affinity, degrees, subset_by_index=[1, 2])[1][:, 0]
        x = x if x[np.argmax(np.abs(x))] > 0 else -x  # LAPACK leaves the sign open
        foreground = x > x.mean()
        grid = foreground.reshape(height, width)
        corners = int(grid[0, 0]) + int(grid[0, -1]) + int(grid[-1, 0]) + int(grid[-1, -1])
        reverse = True if corners >= 3 else not foreground[np.argmax(np.abs(x))]
        if reverse:
            foreground = ~foreground
        seed = int(np.argmax(-x if reverse else x))
        labels, _ = ndimage.label(foreground.reshape(height, width))
        mask = labels == labels.reshape(-1)[seed]
        if iteration >= 1:
            union = (mask | current).sum()
            if (mask & current).sum() / union > 0.5 or mask.sum() / mask.size <= 0.01:
                mask = np.zeros_like(mask)
        current = mask
        painting = painting | mask
        masks.append(mask)
    return masks


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("eigensolver", ["lanczos", "dense"])
def test_it_equals_the_plain_rules(seed: int, eigensolver: str):
    generator = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(generator.normal(size=(6, 14, 14)), (0, 2, 2))
    expected = reference(smooth, instances=3, tau=0.2)
    found = cut(smooth, instances=3, tau_ncut=0.2, eigensolver=eigensolver).candidates
    assert len(found) == 3
    for item, mask in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.zeros_like(mask) if item.dropped else item.mask, mask)


def test_touching_blobs_are_merged_whatever_their_depth():
    left, right = touching_blobs()
    found = cut(two_class_features(left | right), instances=1)
    np.testing.assert_array_equal(found.candidates[0].mask, left | right)


def test_a_repeated_mask_is_rejected_with_its_reason():
    blob = np.zeros(GRID, dtype=bool)
    blob[4:8, 4:8] = True
    found = cut(two_class_features(blob), instances=2).candidates
    assert found[0].dropped is None
    assert found[1].dropped in ("repeats the mask before", "too small", None)
    assert found[1].mask.sum() > 0


def test_later_masks_give_way():
    first = np.array([[True, True, False]])
    second = np.array([[False, True, True]])
    third = np.array([[True, True, True]])
    assert [mask.tolist() for mask in subtract_earlier([first, second, third])] == [
        [[True, True, False]],
        [[False, False, True]],
        [[False, False, False]],
    ]
    assert subtract_earlier([]) == []
