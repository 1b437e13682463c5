"""Which depth map belongs to which photo, by their names."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from cuts3d_cli.errors import SettingError
from cuts3d_cli.stages.depth_pairs import pair_maps
from cuts3d_cli.stages.listing import Photo


def paired(folder: Path, photos: list[str], maps: list[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    for file in maps:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    found = pair_maps([Photo(file=file, id=1, key="k") for file in photos], folder)
    return dict(found.maps), list(found.unused)


@pytest.mark.parametrize(
    ("photo", "map_"),
    [
        ("a.jpg", "a.png"),
        ("x/y/a.JPG", "x/y/a.PNG"),
        ("a.jpg", "a.tiff"),
        ("a.jpg", "a.Npz"),
        ("IMG_1.JPG", "img_1.png"),
        ("a.jpg?size=2", "a.png"),
        ("a.jpg", "a_depth.png"),
        ("a.jpg", "a-Depth.npy"),
        ("a.jpg", "a.depth.png"),
        ("00001_colors.png", "00001_depth.png"),  # NYU Depth
        ("frame-000000.color.png", "frame-000000.depth.png"),  # 7-Scenes
        ("frame000000.jpg", "depth000000.png"),  # Replica
        ("rgb_00045.jpg", "sync_depth_00045.png"),  # NYU Depth, raw
        ("camera_1_domain_rgb.png", "camera_1_domain_depth.png"),  # 2D-3D-S
        ("point_0_view_0_domain_rgb.png", "point_0_view_0_domain_depth_zbuffer.png"),  # Taskonomy
        ("00019_indoors_000_010.png", "00019_indoors_000_010_depth.npy"),  # DIODE
        ("1305031102.175304.png", "1305031102.175304.png"),  # TUM RGB-D, once times agree
        (unicodedata.normalize("NFC", "café.jpg"), unicodedata.normalize("NFD", "café.png")),
    ],
)
def test_names_that_belong_together(photo: str, map_: str, tmp_path: Path) -> None:
    assert paired(tmp_path, [photo], [map_]) == ({photo: (map_,)}, [])


def test_the_same_name_goes_before_one_with_a_word_more(tmp_path: Path) -> None:
    maps, unused = paired(tmp_path, ["a.jpg", "b.jpg"], ["a.png", "a_depth.png", "b_depth.png", "b_depth_mask.npy"])
    assert maps == {"a.jpg": ("a.png",), "b.jpg": ("b_depth.png",)}
    assert unused == ["a_depth.png", "b_depth_mask.npy"]


def test_the_same_letters_go_before_others(tmp_path: Path) -> None:
    maps, _ = paired(tmp_path, ["A.jpg", "a.jpg"], ["A.png", "a.png"])
    assert maps == {"A.jpg": ("A.png",), "a.jpg": ("a.png",)}


def test_a_map_that_could_be_of_two_photos_is_of_none(tmp_path: Path) -> None:
    maps, unused = paired(tmp_path, ["x.jpg", "a.jpg", "a_rgb.jpg", "b_rgb.jpg", "b_color.jpg"], [
        "x.png", "a.png", "b_depth.png",
    ])  # fmt: skip
    assert maps == {"x.jpg": ("x.png",), "a.jpg": ("a.png",)}
    assert unused == ["b_depth.png"]


def test_of_two_maps_of_a_photo_both_are_named(tmp_path: Path) -> None:
    maps, _ = paired(tmp_path, ["a.jpg"], ["a.png", "a.npy"])
    assert sorted(maps["a.jpg"]) == ["a.npy", "a.png"]


def test_photos_that_fail_anyway_have_no_map(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    photos = [Photo(file="a.heic", id=1, key="a", problem="HEIC files are not read")]
    assert pair_maps(photos, tmp_path).maps == {}


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        ([], ["holds no files"]),
        (["b.png", "c.png"], ["that of x/a.jpg would be x/a.png (or npy, npz", "there is b.png, c.png"]),
        (["x/a.exr", "x/b.h5"], ["there is x/a.exr, x/b.h5, and .exr and .h5 files are not read"]),
    ],
)
def test_a_folder_without_any_map_of_a_photo(maps: list[str], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^depth_dir") as caught:
        paired(tmp_path, ["x/a.jpg"], maps)
    for word in words:
        assert word in str(caught.value)
