"""Which photos several paths name: files, folders and patterns."""

from __future__ import annotations

from pathlib import Path

import pytest

from cuts3d_cli.errors import UsageError
from cuts3d_cli.stages.listing_many import list_sources
from tests.support.photos import encoded, two_boxes


@pytest.fixture
def folder(alone: Path) -> Path:
    photo = encoded(two_boxes().image)
    for file in ("a/1.jpg", "a/2.jpg", "a/notes.txt", "b/c/3.jpg", "b/1.jpg", "x[1].jpg"):
        (alone / file).parent.mkdir(parents=True, exist_ok=True)
        (alone / file).write_bytes(photo if file.endswith("jpg") else b"text")
    return alone


def files(*sources: str, leave_out: tuple[Path, ...] = ()) -> list[str]:
    return [
        photo.file for photo in list_sources([Path(item) for item in sources], images=None, leave_out=leave_out).photos
    ]


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        (["a"], ["1.jpg", "2.jpg"]),  # one folder: as `pack` lists it
        (["a/2.jpg"], ["2.jpg"]),
        (["a/*.jpg"], ["1.jpg", "2.jpg"]),
        (["a/2.jpg", "a/1.jpg", "a/2.jpg"], ["1.jpg", "2.jpg"]),  # sorted, each once
        (["a", "b"], ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/c/3.jpg"]),
        (["a", "a/1.jpg"], ["1.jpg", "2.jpg"]),
        (["**/3.jpg"], ["3.jpg"]),
        (["x[1].jpg"], ["x[1].jpg"]),  # a file of that name, and no pattern
    ],
)
def test_files_folders_and_patterns(folder: Path, sources: list[str], found: list[str]):
    assert files(*sources) == found


def test_ids_and_keys_are_unique_and_do_not_depend_on_the_order(folder: Path):
    one = list_sources([Path("b"), Path("a")], images=None)
    two = list_sources([Path("a"), Path("b")], images=None)
    assert one == two
    assert one.kind == "files"
    assert [photo.id for photo in one.photos] == [1, 2, 3, 4]
    assert len({photo.key for photo in one.photos}) == 4
    assert one.passed_over == ["a/notes.txt"]


def test_folders_that_are_left_out(folder: Path):
    assert files("b", leave_out=(Path("b/c"),)) == ["1.jpg"]


def test_a_file_that_is_named_and_is_no_photo_fails_later_with_its_reason(folder: Path):
    (photo,) = list_sources([Path("a/notes.txt")], images=None).photos
    assert photo.problem == "it is no image, by its name and its first bytes"


@pytest.mark.parametrize(
    ("sources", "problem"),
    [
        (["a", "none.jpg"], "none.jpg does not exist: pass photos, folders of photos, or a COCO JSON"),
        (["none"], "none does not exist: pass"),
        (["none/*.jpg"], "'none/*.jpg' matches no file"),
        (["a", "t.json"], "t.json is a JSON: a COCO JSON goes alone"),
        (["s-000.tar"], "s-000.tar is a tar: pass photos"),
    ],
)
def test_what_cannot_be_listed(folder: Path, sources: list[str], problem: str):
    (folder / "t.json").write_text("{}")
    (folder / "s-000.tar").touch()
    with pytest.raises(UsageError) as raised:
        files(*sources)
    assert str(raised.value).startswith(problem)
