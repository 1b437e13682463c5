from __future__ import annotations

from pathlib import Path

import pytest

from cuts3d_cli.errors import FileError
from cuts3d_cli.exports.output import Output


@pytest.mark.parametrize(
    ("file", "stem"),
    [
        ("a.jpg", "a"),
        ("sub/a.b.jpg", "sub/a.b"),
        ("noending", "noending"),
        ("../../etc/passwd.png", "etc/passwd"),
        ("/abs/a.jpg", "abs/a"),
        ("C:\\data\\a.jpg", "C_/data/a"),
        ("a?b<c>\x00\n.jpg", "a_b_c___"),
        ("bad\udc80.jpg", "bad_"),
        ("..", "photo"),
        ("", "photo"),
    ],
)
def test_what_is_written_of_a_photo_stays_in_the_folder(tmp_path: Path, file: str, stem: str):
    out = Output(tmp_path / "out")
    assert out.stem_of(file) == stem
    other = out.stem_of(file)
    assert other.startswith(f"{stem}-")
    assert len({stem, other, out.stem_of(file.upper())}) == 3
    assert Output(tmp_path / "out").stem_of(file) == stem


def test_two_runs_name_alike(tmp_path: Path):
    files = ["a.jpg", "a.png", "A.JPG", "b/a.jpg", "a.jpg"]
    first, second = Output(tmp_path), Output(tmp_path)
    assert [first.stem_of(file) for file in files] == [second.stem_of(file) for file in files]


def test_a_stream_takes_its_name_only_when_it_is_whole(tmp_path: Path):
    out = Output(tmp_path / "out")

    def interrupted() -> None:
        with out.open("sub/x.json") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list((tmp_path / "out/sub").iterdir()) == []
    with out.open("sub/x.json") as file:
        file.write(b"whole")
    assert (tmp_path / "out/sub/x.json").read_bytes() == b"whole"
    assert (out.written, out.same) == (1, 0)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path):
    (tmp_path / "x").write_text("a file")
    with pytest.raises(FileError, match="x is not a folder, and a folder is needed"):
        Output(tmp_path / "x")
    with pytest.raises(FileError, match="is not a folder"):
        Output(tmp_path).write("x/y.json", b"")
