"""File names of a COCO JSON that were written for another folder, or on another system."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from cuts3d_cli.stages.coco_names import first_guess, leads_outside, locate

NFC, NFD = (unicodedata.normalize(form, "café/naïve.jpg") for form in ("NFC", "NFD"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = ["a.jpg", "train2017/b.jpg", "x y.jpg", NFD, "tail\\c.jpg"]
    for file in files:
        path = tmp_path / "images" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "outside.jpg").touch()
    return tmp_path / "images"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.jpg", "a.jpg"),
        ("./train2017/../a.jpg", "a.jpg"),
        ("train2017\\b.jpg", "train2017/b.jpg"),
        (".\\a.jpg", "a.jpg"),
        ("tail\\c.jpg", "tail\\c.jpg"),
        ("images/a.jpg", "a.jpg"),
        ("data/images/train2017/b.jpg", "train2017/b.jpg"),
        ("C:\\data\\images\\train2017\\b.jpg", "train2017/b.jpg"),
        ("/home/anna/images/a.jpg", "a.jpg"),
        (NFC, NFD),
        (NFD, NFD),
        ("http://images.cocodataset.org/train2017/b.jpg", "train2017/b.jpg"),
        ("https://host/bucket/a.jpg?v=2#x", "a.jpg"),
        ("https://host/x%20y.jpg", "x y.jpg"),
    ],
)
def test_names_are_found(name: str, file: str, root: Path) -> None:
    assert locate(root, name) == file


@pytest.mark.parametrize("absolute", [False, True])
def test_absolute_paths_through_links(absolute: bool, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = root.parent / "link"
    os.symlink(root, link)
    monkeypatch.chdir(root.parent)
    assert locate(link if absolute else Path("link"), str(root / "train2017/b.jpg")) == "train2017/b.jpg"
    assert locate(root if absolute else Path("images"), str(link / "train2017/b.jpg")) == "train2017/b.jpg"


@pytest.mark.parametrize(
    "name",
    ["../outside.jpg", "x/../../outside.jpg", "..\\outside.jpg", "/etc/passwd", "gone.jpg", "a\0.jpg", "https://h"],
)
def test_what_is_not_there_or_outside_is_not_found(name: str, root: Path) -> None:
    assert locate(root, name) is None


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("gone.jpg", "gone.jpg"),
        ("x\\gone.jpg", "x\\gone.jpg"),
        ("http://images.cocodataset.org/val2017/1.jpg", "val2017/1.jpg"),
        ("../outside.jpg", "../outside.jpg"),
    ],
)
def test_what_is_named_where_nothing_is_found(name: str, guess: str, root: Path) -> None:
    assert first_guess(root, name) == guess
    assert leads_outside(guess) == name.startswith("..")
    assert first_guess(root, str(root.absolute() / "gone.jpg")) == "gone.jpg"
