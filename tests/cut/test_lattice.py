"""The lattice of our own against pydensecrf, and its two ways, compiled and in torch, against each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.cut import batched_crf, lattice
from cuts3d_cli.cut.crf import refine_masks
from cuts3d_cli.cut.lattice import Packing
from tests.support.photos import two_boxes

Pixels = NDArray[np.uint8]
Masks = list[NDArray[np.bool_]]


def noisy(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def flat(height: int, width: int) -> Pixels:
    return np.full((height, width, 3), 90, dtype=np.uint8)


def scene(height: int, width: int) -> Pixels:
    return two_boxes(width, height).image


def boxes(height: int, width: int, count: int) -> Masks:
    random = np.random.default_rng(count)
    masks = np.zeros((count, height, width), dtype=bool)
    for mask in masks:
        top, left = random.integers(0, height), random.integers(0, width)
        mask[top : top + max(1, height // 2), left : left + max(1, width // 2)] = True
    return list(masks)


def in_torch(image: Pixels, masks: Masks, *, iterations: int = 10) -> list[NDArray[np.float32]]:
    return batched_crf.foreground([image], [masks], iterations=iterations, device="cpu")[0]


def assert_as_pydensecrf(image: Pixels, masks: Masks) -> None:
    expected = list(refine_masks(image, masks, iterations=10, backend="pydensecrf"))
    found = list(refine_masks(image, masks, iterations=10, backend="lattice"))
    assert len(found) == len(masks)
    for (theirs, probability), (ours, own) in zip(expected, found, strict=True):
        assert own.dtype == np.float32
        np.testing.assert_allclose(own, probability, atol=5e-3)
        np.testing.assert_array_equal(ours, theirs)


SMALL = [(picture, size) for picture in (noisy, flat) for size in ((1, 1), (1, 7), (3, 500), (40, 60))]


@pytest.mark.parametrize(("picture", "size"), [*SMALL, (scene, (40, 60)), (scene, (90, 70))])
@pytest.mark.parametrize("count", [0, 1, 3, 12])
def test_masks_are_those_of_pydensecrf(picture: Callable[[int, int], Pixels], size: tuple[int, int], count: int):
    assert_as_pydensecrf(picture(*size), boxes(*size, count))


def test_nothing_and_everything_are_masks():
    image = scene(50, 50)
    assert_as_pydensecrf(image, [np.zeros((50, 50), dtype=bool), np.ones((50, 50), dtype=bool)])


@pytest.mark.parametrize("name", ["coco", "mandarin", "mosd"])
def test_masks_of_photos_are_those_of_pydensecrf(test_data: Path, name: str):
    path = sorted(file for file in (test_data / name / "images").iterdir() if file.suffix in (".jpg", ".png"))[0]
    with Image.open(path) as photo:
        image = np.asarray(photo.convert("RGB").resize((480, 480)))
    assert_as_pydensecrf(image, boxes(480, 480, 3))


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (40, 60)])
def test_compiled_and_in_torch_give_the_same_digits(size: tuple[int, int]):
    pytest.importorskip("numba", reason="Numba is not installed: pip install '.[fast]'")
    for image in (noisy(*size), flat(*size)):
        for count in (1, 5):
            compiled = lattice.foreground(image, boxes(*size, count), iterations=10)
            for ours, other in zip(compiled, in_torch(image, boxes(*size, count)), strict=True):
                np.testing.assert_array_equal(ours, other)


def test_a_table_that_is_full_grows():
    pytest.importorskip("numba", reason="Numba is not installed: pip install '.[fast]'")
    image = noisy(200, 250)  # 300 000 vertices, no two points share one
    assert len(batched_crf.build(torch.from_numpy(lattice.bilateral_features(image))).offsets) > 1 << 17
    for ours, other in zip(
        lattice.foreground(image, boxes(200, 250, 1), iterations=1),
        in_torch(image, boxes(200, 250, 1), iterations=1),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, other)


def test_without_the_compiler_it_is_slower_and_the_same(monkeypatch: pytest.MonkeyPatch):
    image, masks = scene(30, 40), boxes(30, 40, 2)
    before = lattice.foreground(image, masks, iterations=3)
    monkeypatch.setattr(lattice, "has_compiler", lambda: False)
    for ours, other in zip(lattice.foreground(image, masks, iterations=3), before, strict=True):
        np.testing.assert_array_equal(ours, other)


def test_images_of_a_batch_do_not_touch_each_other():
    images = [noisy(24, 32), flat(24, 32), scene(24, 32), noisy(24, 32)[::-1]]
    masks = [boxes(24, 32, count) for count in (3, 0, 6, 1)]
    together = batched_crf.foreground(images, masks, iterations=5, device="cpu")
    assert [len(found) for found in together] == [3, 0, 6, 1]
    for image, some, found in zip(images, masks, together, strict=True):
        for ours, alone in zip(found, in_torch(image, some, iterations=5), strict=True):
            np.testing.assert_array_equal(ours, alone)


def test_the_lattice_of_positions_is_made_once_a_size():
    positions = batched_crf.PositionLattices()
    assert positions.of((5, 6), device="cpu") is positions.of((5, 6), device="cpu")
    assert len(positions.of((7, 6), device="cpu").vertices) == 42


# ---------------------------------------------------------------------------------------------- the lattice itself


@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_barycentric_coordinates_give_the_point_back(dimensions: int):
    """The weights of a point are positive, add up to one, and average the vertices to the point itself."""
    features = torch.from_numpy(np.random.default_rng(1).uniform(-20, 20, (dimensions, 50)))
    packing = Packing.of(dimensions)
    keys, weights = batched_crf.simplexes(features, packing)
    assert (weights > -1e-6).all()
    np.testing.assert_allclose(weights.sum(dim=1), 1.0, atol=1e-6)
    half = 1 << (packing.bits - 1)
    vertices = np.stack(
        [((keys.numpy() >> (packing.bits * i)) & ((1 << packing.bits) - 1)) - half for i in range(dimensions)], axis=2
    )
    average = (weights.numpy()[..., None] * vertices).sum(axis=1)
    np.testing.assert_allclose(average, elevated(features.numpy())[:, :dimensions], atol=1e-3)


def elevated(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """The points on the plane of coordinates that sum to zero, (N, d + 1), from the matrix of the paper."""
    d = len(features)
    scaled = features.T * Packing.of(d).scale
    matrix = np.zeros((d, d + 1))
    for j in range(d):
        matrix[j, : j + 1] = 1.0
        matrix[j, j + 1] = -(j + 1.0)
    return scaled @ matrix


def test_the_filter_is_near_the_gaussian_it_stands_for():
    """On one dimension a point far from the border: the response falls with the distance, symmetrically."""
    points = np.arange(-40, 41) / 4.0
    built = batched_crf.build(torch.from_numpy(points[None]))
    impulse = torch.zeros(81, 1)
    impulse[40] = 1.0
    response = (built.filtered(impulse) * lattice.blur_gain(1))[:, 0].numpy()
    wanted = np.exp(-0.5 * points**2)
    np.testing.assert_allclose(response / response[40], wanted, atol=0.15)
    np.testing.assert_allclose(response, response[::-1], atol=1e-6)


@pytest.mark.usefixtures("gpu")
def test_cuda_gives_the_masks_of_the_cpu_and_the_same_digits_every_time():
    image, masks = scene(120, 160), boxes(120, 160, 5)
    once = batched_crf.foreground([image], [masks], iterations=10, device="cuda")[0]
    again = batched_crf.foreground([image], [masks], iterations=10, device="cuda")[0]
    for first, second, cpu in zip(once, again, in_torch(image, masks), strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first > 0.5, cpu > 0.5)
