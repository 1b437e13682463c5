from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cuts3d_cli.json_reading import MAX_DEPTH, Fields, JsonError, is_number, is_text, is_whole, parse_json, read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda items: st.lists(items) | st.dictionaries(st.text(), items),
    max_leaves=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_what_is_written_is_read_in_every_encoding_of_json(value: Any, encoding: str) -> None:
    assert parse_json(json.dumps(value).encode(encoding)) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "is empty (0 bytes): fetch or write it again"),
        (
            b"version https://git-lfs.github.com/spec/v1",
            "is a Git LFS pointer in place of the file: run `git lfs pull`",
        ),
        (b"\x1f\x8b\x08", "is compressed with gzip: unpack it"),
        (b"{", "is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        (b"[NaN]", "is not JSON (NaN is not a number there)"),
        (b"[-Infinity]", "is not JSON (-Infinity is not a number there)"),
        (b'{"a": [1, 2, -1e999]}', "has a number that is too large"),
        (b'["M\xf6bel"]', "is not JSON (byte 3 is not UTF-8)"),
        (b"9" * 5000, "is not JSON (a number has too many digits)"),
        (b"[" * 3_000_000, f"is nested deeper than {MAX_DEPTH} levels"),
        (b"[" * 200 + b"]" * 200, f"is nested deeper than {MAX_DEPTH} levels"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, f"is nested deeper than {MAX_DEPTH} levels"),
    ],
)
def test_what_is_refused(text: bytes, reason: str) -> None:
    with pytest.raises(JsonError) as refused:
        parse_json(text)
    assert str(refused.value) == reason


def test_the_deepest_that_is_read() -> None:
    value = parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    for _ in range(MAX_DEPTH - 1):
        (value,) = value
    assert value == []


def test_files_of_other_tools_may_be_latin1_and_have_nan() -> None:
    assert parse_json(b'{"name": "M\xf6bel"}', lenient=True) == {"name": "M\xf6bel"}
    area = parse_json(b'{"area": NaN, "big": 1e999}', lenient=True)
    assert math.isnan(area["area"])
    assert not is_number(area["area"])
    assert not is_number(area["big"])


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + b" " * 98 + b"]")
    assert read_json(path, max_bytes=100) == []
    with pytest.raises(JsonError, match="has more than 99 bytes"):
        read_json(path, max_bytes=99)
    assert read_json(path, max_bytes=None) == []


def test_a_missing_file_is_for_the_caller_to_explain(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("method", "arguments", "reason"),
    [
        ("text", ["n"], "x: its n is 5"),
        ("text", ["none"], "x: it has no none"),
        ("whole", ["t"], 'x: its t is "a"'),
        ("whole", ["yes"], "x: its yes is true"),
        ("number", ["big"], f"x: its big is 1{'0' * 36}..."),
        ("share", ["n"], "x: its n is 5"),
        ("list_of", ["t", is_text], 'x: its t is "a"'),
        ("list_of", ["mixed", is_whole], 'x: its mixed is [1, "a"]'),
        ("table_of", ["mixed", is_whole], 'x: its mixed is [1, "a"]'),
        ("table_of", ["o", is_whole], 'x: its o is {"t": "b"}'),
        ("object", ["n"], "x: its n is 5"),
        ("choice", ["t", ["b", "c"]], 'x: its t is "a"'),
    ],
)
def test_fields_of_another_kind_are_refused(method: str, arguments: list[Any], reason: str) -> None:
    fields = Fields({"n": 5, "t": "a", "yes": True, "big": 10**400, "mixed": [1, "a"], "o": {"t": "b"}}, where="x: ")
    with pytest.raises(ValueError, match=r"^x: ") as refused:
        getattr(fields, method)(*arguments)
    assert str(refused.value) == reason


def test_fields_in_fields_say_where_they_are() -> None:
    fields = Fields({"o": {"list": [{}, {"a": -1}]}})
    with pytest.raises(ValueError, match=r"^o: item 1: its a is -1$"):
        fields.object("o").objects("list", each="item")[1].whole("a", least=0)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text(max_size=5), VALUES), st.text(max_size=5))
def test_a_field_is_given_or_refused(values: dict[str, Any], name: str) -> None:
    fields = Fields(values)
    for read in (fields.text, fields.whole, fields.number, fields.share, fields.object):
        try:
            read(name)
        except ValueError as error:
            refused = str(error)
        else:
            continue
        assert refused.startswith((f"its {name} is ", f"it has no {name}"))
