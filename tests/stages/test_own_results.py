"""What cuts3d wrote for people is taken neither for photos nor for depth maps."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cuts3d_cli.errors import UsageError
from cuts3d_cli.reports.page import data_of
from cuts3d_cli.stages.listing import files_in, left_out_lines, list_source
from cuts3d_cli.stages.listing_many import list_sources
from tests.support.photos import encoded, two_boxes, write_photos
from tests.support.running import Ran

RECORD: dict[str, Any] = {
    "format": 1,
    "finished": True,
    "photos": "0" * 64,
    "settings": {},
    "outputs": ["masks", "pictures", "annotations.json"],
    "keeps_shards": False,
}


def fill(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(encoded(two_boxes().image, "PNG"))


def results(folder: Path, **record: Any) -> None:
    """Write what `segment` leaves, and photos of a user's beside it."""
    fill(folder, "masks/a-001.png", "pictures/a.jpg", "mine.png", "other/b.png")
    (folder / "annotations.json").write_text("{}")
    (folder / "segment.json").write_text(json.dumps({**RECORD, **record}))


def listed(source: Path) -> list[str]:
    return [photo.file for photo in list_source(source, images=None).photos]


def test_a_photo_among_results_is_told(tmp_path: Path, cuts3d: Callable[..., Ran]):
    """It is left out with their folder; whether it is a result, the record says."""
    fill(tmp_path, "a.png")
    own = {"masks/a-001.png": "1-0", "pictures/a.jpg": "1-0", "annotations.json": "1-0"}
    results(tmp_path / "out", format=2, files=own)
    listing = list_source(tmp_path, images=None)
    assert left_out_lines(listing.results) == [f"left out results of segment: {tmp_path / 'out'}"]
    fill(tmp_path / "out", "masks/holiday.png", "masks/.hidden/b.png")
    (tmp_path / "out/masks/notes.txt").write_text("no image")
    listing = list_source(tmp_path, images=None)
    assert [photo.file for photo in listing.photos] == ["a.png", "out/mine.png", "out/other/b.png"]
    told = (
        "warning: 1 image is left out in folders of results of segment, which has not written it:"
        f" {tmp_path / 'out/masks/holiday.png'}; to take it, move it to another folder"
    )
    assert left_out_lines(listing.results)[1:] == [told]
    # A run's own results go without saying, and what is none of them does not.
    assert left_out_lines(listing.results, out=tmp_path / "out") == [told]
    assert told in cuts3d("pack", tmp_path, "--out", tmp_path / "shards").err
    fill(tmp_path / "out", "pictures/deep/c.png")
    line = left_out_lines(list_source(tmp_path, images=None).results)[1]
    assert line.startswith(
        "warning: 2 images are left out in folders of results of segment, which has not written them"
    )
    # Where a record says nothing of files, as that of a run under way, nothing is known.
    results(tmp_path / "out", format=2, finished=False, files=own)
    assert len(left_out_lines(list_source(tmp_path, images=None).results)) == 1
    # A record may name anything: what does not lie beside it is not looked at.
    fill(tmp_path, "outside/d.png")
    results(tmp_path / "deep/out", format=2, files={}, outputs=["../../outside", str(tmp_path / "outside")])
    listing = list_source(tmp_path / "deep", images=None)
    assert left_out_lines(listing.results) == [f"left out results of segment: {tmp_path / 'deep/out'}"]
    shutil.rmtree(tmp_path / "deep")
    shutil.rmtree(tmp_path / "outside")
    # Where there is nothing else to take, it is part of the error.
    results(tmp_path / "out", format=2, files=own)
    for file in ("a.png", "out/mine.png", "out/other/b.png"):
        (tmp_path / file).unlink()
    with pytest.raises(UsageError, match=r"are left out, and so is .*holiday\.png among them, which seg"):
        list_source(tmp_path, images=None)


def test_results_of_segment_are_no_photos_and_what_lies_beside_them_is(tmp_path: Path):
    fill(tmp_path, "a.png")
    results(tmp_path / "deep/out")
    listing = list_source(tmp_path, images=None)
    assert [photo.file for photo in listing.photos] == ["a.png", "deep/out/mine.png", "deep/out/other/b.png"]
    assert listing.passed_over == []
    assert left_out_lines(listing.results) == [f"left out results of segment: {tmp_path / 'deep/out'}"]
    # A run's own results go without saying.
    assert left_out_lines(listing.results, out=tmp_path / "deep/out/.shards") == []
    assert left_out_lines(listing.results, out=tmp_path / "deep") != []
    # The folder itself may hold results too.
    assert listed(tmp_path / "deep/out") == ["mine.png", "other/b.png"]
    # A folder of results that is named itself is what the user means.
    assert listed(tmp_path / "deep/out/masks") == ["a-001.png"]
    assert sorted(item.folder for item in list_sources([tmp_path, tmp_path / "deep"], images=None).results) == [
        tmp_path / "deep/out"
    ]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"segments": []}',
        json.dumps({**RECORD, "outputs": "masks"}),
        json.dumps({name: value for name, value in RECORD.items() if name != "photos"}),
    ],
)
def test_a_file_of_that_name_makes_no_results(tmp_path: Path, content: str):
    results(tmp_path / "out")
    (tmp_path / "out/segment.json").write_text(content)
    listing = list_source(tmp_path, images=None)
    assert "out/masks/a-001.png" in [photo.file for photo in listing.photos]
    assert listing.results == []


def test_a_record_hides_nothing_outside_its_folder(tmp_path: Path):
    fill(tmp_path, "a.png", "masks/c.png")
    results(tmp_path / "out", outputs=["..", "../a.png", "", ".", "other/b.png", 3])
    files = listed(tmp_path)
    assert {"a.png", "masks/c.png", "out/masks/a-001.png", "out/other/b.png"} <= set(files)


def test_kept_shards_are_not_looked_through(tmp_path: Path):
    results(tmp_path, keeps_shards=True)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/photos-000.tar").touch()
    assert files_in(tmp_path).files == ["mine.png", "other/b.png"]
    (tmp_path / "segment.json").write_text(json.dumps(RECORD))
    assert "shards/photos-000.tar" in files_in(tmp_path).files


def test_reports_and_pictures_of_viz_are_no_photos(tmp_path: Path):
    fill(tmp_path, "a.png", "a.cuts3d.png", "report/thumbnails/000/000000.png", "report/mine.png")
    (tmp_path / "report/photos.js").write_bytes(data_of(None))
    listing = list_source(tmp_path, images=None)
    assert [photo.file for photo in listing.photos] == ["a.png", "report/mine.png"]
    assert listing.passed_over == ["a.cuts3d.png"]
    assert left_out_lines(listing.results) == [
        f"left out results of report: {tmp_path / 'report'}",
        f"left out pictures of viz (*.cuts3d.png): {tmp_path}",
    ]
    # Pictures beside photos are said of, unless they are the run's own.
    assert len(left_out_lines(listing.results, out=tmp_path / "new")) == 2
    assert len(left_out_lines(listing.results, out=tmp_path)) == 1
    (tmp_path / "report/photos.js").write_text("mine")
    assert "report/thumbnails/000/000000.png" in listed(tmp_path)
    # As the shell expands `*.png`.
    many = list_sources([tmp_path / "a.png", tmp_path / "a.cuts3d.png"], images=None)
    assert [photo.file for photo in many.photos] == ["a.png"]
    assert left_out_lines(many.results) == [f"left out pictures of viz (*.cuts3d.png): {tmp_path}"]


def test_a_pipe_of_that_name_is_not_waited_for(tmp_path: Path):
    fill(tmp_path, "a.png")
    os.mkfifo(tmp_path / "segment.json")
    os.mkfifo(tmp_path / "photos.js")
    assert listed(tmp_path) == ["a.png"]


def test_a_folder_of_nothing_else_says_so(tmp_path: Path):
    results(tmp_path)
    (tmp_path / "mine.png").unlink()
    (tmp_path / "other/b.png").unlink()
    with pytest.raises(UsageError) as error:
        listed(tmp_path)
    assert str(error.value).endswith(f"results of `cuts3d segment` in {tmp_path} are left out")
    fill(tmp_path, "x.cuts3d.png")
    with pytest.raises(UsageError, match=r"holds no photos .*, only 1 other files"):
        list_sources([tmp_path / "x.cuts3d.png"], images=None)


def test_every_command_leaves_them_out_and_says_so(alone: Path, cuts3d: Callable[..., Ran], weights: Path):
    write_photos(alone, 2)
    results(alone / "photos/old")
    for file in ("photos/old/mine.png", "photos/old/other/b.png"):
        Path(file).unlink()
    line = "left out results of segment: photos/old"
    cut = ("--backbone", "dino-vits16", "--weights", weights, "--size", "64", "--no-crf", "--method", "maskcut")
    runs = {
        "pack": cuts3d("pack", "photos", "--out", "shards", "--json"),
        "viz": cuts3d("viz", "photos", "--json", *cut),
        "segment": cuts3d("segment", "photos", "--out", "photos/new", "--json", *cut, "-j", "0"),
    }
    for command, ran in runs.items():
        assert (ran.code, ran.err.count(line)) == (0, 1), (command, ran.err)
    assert json.loads(runs["pack"].out)["counts"]["samples_out"] == 2
    assert len(json.loads(runs["viz"].out)["pictures"]) == 2
    assert json.loads(runs["segment"].out)["photos"] == 2
    # So does a folder of maps.
    results(alone / "maps/old")
    ran = cuts3d("pack", "photos", "--depth-dir", "maps", "--out", "others", "--json")
    assert "left out results of segment: maps/old, photos/" in ran.err
    assert json.loads(ran.out)["counts"]["with_depth"] == 2
