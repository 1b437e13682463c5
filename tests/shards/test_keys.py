from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from cuts3d_cli.shards.keys import extension_problem, is_meta, key_problem, split_name


@pytest.mark.parametrize(
    "key", ["a", "a/b/c", "n01440764/n01440764_10026", "v1.0/a", "Straße 1", "猫", "a-b_c+d", "__a", "a__/__b__"]
)
def test_good_keys(key: str) -> None:
    assert key_problem(key) is None


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("", "empty"),
        ("a/", "empty"),
        ("/a", "absolute"),
        ("../a", "leads out"),
        ("a/../b", "leads out"),
        ("a.b", "dot"),
        ("v1.0/a.b", "dot"),
        ("./a", "folder without a name"),
        ("a//b", "folder without a name"),
        ("a\nb", "control"),
        ("a\0", "control"),
        ("__x__", "skipped by WebDataset"),
        ("__x__/a", "skipped by WebDataset"),
        ("a\udcff", "UTF-8"),
    ],
)
def test_bad_keys(key: str, problem: str) -> None:
    assert problem in (key_problem(key) or "")


@pytest.mark.parametrize("extension", ["jpg", "depth.png", "a_b-2.c"])
def test_good_extensions(extension: str) -> None:
    assert extension_problem(extension) is None


@pytest.mark.parametrize("extension", ["", ".", "JPG", ".jpg", "jpg.", "a..b", "a/b", "a b", "é", "__key__", "a__"])
def test_bad_extensions(extension: str) -> None:
    assert extension_problem(extension)


@settings(deadline=None)
@given(st.text(st.sampled_from("ab./_AÉ"), max_size=10))
def test_names_are_split_as_webdataset_does(name: str) -> None:
    key, extension = split_name(name)
    theirs_key, theirs_extension = base_plus_ext(name)
    if theirs_key is None or key_problem(key) or not extension:
        return
    assert (key, extension) == (theirs_key, theirs_extension.lower())


def test_is_meta() -> None:
    assert [is_meta(name) for name in ("__a__", "__a__/b.jpg", "__a__.jpg", "__a/b__", "x/__a__")] == [
        True,
        True,
        False,
        False,
        False,
    ]
