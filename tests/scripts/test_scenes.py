from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from scenes import heap, layout, render_scene, textures, tracer, write_scenes
from scenes.__main__ import main


@pytest.mark.parametrize(("objects", "size"), [(2, (96, 128)), (3, (96, 128)), (4, (120, 160)), (5, (96, 144))])
@pytest.mark.parametrize("seed", [0, 1])
def test_touching_scenes_keep_their_promises(seed: int, objects: int, size: tuple[int, int]) -> None:
    height, width = size
    image, depth, instances = render_scene(seed, height=height, width=width, objects=objects)
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert depth.shape == instances.shape == size
    assert depth.dtype == np.float32
    assert np.isfinite(depth).all()
    assert depth.min() > 0
    assert np.unique(instances).tolist() == list(range(objects + 1))
    assert not instances[[0, -1]].any(), "an object leaves the image"
    assert not instances[:, [0, -1]].any(), "an object leaves the image"
    for instance in range(1, objects + 1):
        assert (instances == instance).mean() > 0.8 * layout.MIN_SHARE / objects

    contacts = layout.contacts(instances, depth)
    assert len(contacts) >= objects - 1
    assert {i for pair in contacts for i in pair} == set(range(1, objects + 1))
    assert min(contact.step for contact in contacts.values()) >= layout.MIN_STEP


def test_objects_are_numbered_from_left_to_right() -> None:
    instances = render_scene(3, height=96, width=128, objects=4).instances
    columns = [np.nonzero(instances == i)[1].mean() for i in range(1, 5)]
    assert columns == sorted(columns)


@pytest.mark.parametrize("objects", [1, 4, 8])
def test_scattered_objects_do_not_touch(objects: int) -> None:
    scene = render_scene(objects, height=96, width=128, kind="scattered", objects=objects)
    assert np.unique(scene.instances).tolist() == list(range(objects + 1))
    assert layout.contacts(scene.instances, scene.depth) == {}


def test_a_seed_is_a_scene() -> None:
    first, again, other = (render_scene(seed, height=64, width=96, objects=3) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.image, other.image)
    assert not np.array_equal(first.depth, other.depth)


def test_depth_is_along_the_axis_and_a_ball_bulges_towards_the_camera() -> None:
    grey = textures.stone(np.full(3, 0.5), np.full(3, 0.5), 1.0)
    ball = tracer.Solid("sphere", np.array([0, 1, 10.0]), np.eye(3), 1, grey)
    camera = tracer.Camera(1.0, 0.0, 2.0, (0.0, 0.0))
    origins, directions = camera.rays(np.array([0.0, 0.1, 0.9]), np.array([0.0, 0.0, 0.0]))
    hits = ball.hit(origins, directions)
    assert hits[0] == pytest.approx(9.0)
    # x = 0.05 t and z = t must meet (x)^2 + (z - 10)^2 = 1.
    a, b, c = 1 + 0.05**2, -20.0, 99.0
    assert hits[1] == pytest.approx((-b - np.sqrt(b * b - 4 * a * c)) / (2 * a), rel=1e-5)
    assert hits[2] == np.inf


@pytest.mark.parametrize(
    ("shape", "from_", "towards", "expected"),
    [
        ("box", (0, 0, -5), (0, 0, 1), 4.0),
        ("box", (3, 0.5, 0), (-1, 0, 0), 2.0),
        ("box", (3, 1.5, 0), (-1, 0, 0), np.inf),
        ("cylinder", (0, 4, 0), (0, -1, 0), 3.0),
        ("cylinder", (0.9, 4, 0.9), (0, -1, 0), np.inf),
        ("cylinder", (0, 0, -4), (0, 0, 1), 3.0),
        ("sphere", (0, 0, -4), (0, 0, -1), np.inf),
    ],
)
def test_rays_meet_solids_where_they_should(
    shape: str, from_: tuple[float, ...], towards: tuple[float, ...], expected: float
) -> None:
    solid = tracer.Solid(shape, np.zeros(3), np.eye(3), 1, None)
    hit = solid.hit(np.array([from_], np.float32), np.array([towards], np.float32))
    assert hit[0] == pytest.approx(expected)


def test_contacts_of_a_known_map() -> None:
    instances = np.array([[1, 1, 2, 0, 3], [1, 1, 2, 0, 3]], np.int32)
    depth = np.array([[1, 1, 2, 5, 4], [1, 1, 3, 5, 4]], np.float32)
    assert layout.contacts(instances, depth) == {(1, 2): (2, 0.25)}
    assert layout.contacts(instances, depth, reach=2) == {(1, 2): (4, 0.25), (2, 3): (2, 0.25)}


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="objects is 9"):
        render_scene(0, objects=9)
    with pytest.raises(ValueError, match="48x64"):
        render_scene(0, height=48, width=64)
    with pytest.raises(ValueError, match="kind is 'piled'"):
        render_scene(0, kind="piled")


def test_written_scenes_are_the_rendered_ones(tmp_path: Path) -> None:
    main([str(tmp_path), "--count", "2", "--seed", "7", "--height", "96", "--width", "128"])
    content = json.loads((tmp_path / "annotations.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["000.png", "001.png"]
    assert content["categories"] == [{"id": 1, "name": "fg"}]
    assert [item["id"] for item in content["annotations"]] == list(range(1, 8))
    for index, objects in enumerate((3, 4)):
        scene = render_scene(7 + index, height=96, width=128, objects=objects)
        name = f"{index:03d}.png"
        assert np.array_equal(np.asarray(Image.open(tmp_path / "images" / name)), scene.image)
        stored = np.asarray(Image.open(tmp_path / "depth" / name))
        assert stored.dtype == np.uint16
        assert np.abs(stored / 1000 - scene.depth).max() <= 0.0006
        mine = [item for item in content["annotations"] if item["image_id"] == index + 1]
        assert len(mine) == objects
        for instance, item in enumerate(mine, start=1):
            mask = scene.instances == instance
            assert np.array_equal(rle.decode(item["segmentation"]), mask)
            assert item["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            assert item["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]


def test_scenes_are_the_same_when_written_twice(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_scenes(tmp_path / folder, count=1, seed=1, height=64, width=96)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("seed", range(len(heap.CLASSES)))
def test_in_a_heap_objects_touch_at_nearly_one_depth(seed: int) -> None:
    image, depth, instances = heap.render_heap(seed, height=120, width=160)
    assert image.shape == (120, 160, 3)
    assert np.isfinite(depth).all()
    assert np.unique(instances).tolist() == list(range(8))
    assert not instances[[0, -1]].any()
    assert not instances[:, [0, -1]].any()
    contacts = layout.contacts(instances, depth)
    assert {i for pair in contacts for i in pair} == set(range(1, 8))
    # Under the paper's tau_knn all of them hang together.
    assert layout._one_group([pair for pair, contact in contacts.items() if contact.step < 0.115], 7)
    np.testing.assert_array_equal(heap.render_heap(seed, height=120, width=160).image, image)
