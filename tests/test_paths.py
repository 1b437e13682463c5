from __future__ import annotations

from typing import Any

import pytest

from cuts3d_cli.paths import file_of, plain_path


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("", ""),
        ("a.jpg", "a.jpg"),
        ("./a//b/../c.jpg", "a/c.jpg"),
        ("a\\b\\c.jpg", "a/b/c.jpg"),
        ("C:\\a\\c.jpg", "C:/a/c.jpg"),
        ("..\\c.jpg", "../c.jpg"),
        ("cafe\u0301.jpg", "caf\u00e9.jpg"),
    ],
)
def test_paths_are_brought_to_one_form(text: str, plain: str):
    assert plain_path(text) == plain
    assert plain_path(plain) == plain


@pytest.mark.parametrize(
    ("entry", "file"),
    [
        ({"file_name": "a\\b.jpg"}, "a/b.jpg"),
        ({"file_name": "b.jpg", "coco_url": "http://x/val/c.jpg"}, "b.jpg"),
        ({"coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg"}, "val2017/000000397133.jpg"),
        ({"file_name": None, "coco_url": "http://x/train/a%20b.jpg?v=1"}, "train/a b.jpg"),
        ({"file_name": "", "coco_url": "http://x/val/c.jpg"}, "val/c.jpg"),
        ({"file_name": "s3://bucket/sub/a.jpg"}, "sub/a.jpg"),
        ({"file_name": "http://[x/a.jpg"}, ""),
        ({"coco_url": "http://[x/a.jpg"}, ""),
        ({"file_name": 5}, ""),
        ({}, ""),
    ],
)
def test_the_file_of_an_image_is_a_plain_path(entry: dict[str, Any], file: str):
    assert file_of(entry) == file
