from __future__ import annotations

from pathlib import Path

import pytest

from cuts3d_cli.wording import absence, be, choose_one, counted, did_you_mean


@pytest.mark.parametrize(
    ("given", "meant"), [("papper", "paper"), ("pap", "paper"), ("cutlr", "cutler"), ("zzz", None), ("", None)]
)
def test_the_name_that_is_most_alike(given: str, meant: str | None):
    names = ("paper", "best", "cutler")
    said = f" (did you mean {meant}?)" if meant else ""
    assert did_you_mean(given, names) == said
    assert choose_one(given, names) == f"choose one of paper, best, cutler{said}"


def test_a_folder_is_not_called_missing(tmp_path: Path):
    assert absence(tmp_path) == "is a folder"
    assert absence(tmp_path / "none") == "does not exist"


def test_verbs_go_with_numbers():
    assert [f"{counted(number, 'class', 'classes')} {be(number)}" for number in (0, 1, 2)] == [
        "0 classes are",
        "1 class is",
        "2 classes are",
    ]
