from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cuts3d_cli.errors import Cuts3dError, ShardError, UsageError
from cuts3d_cli.shards import names
from cuts3d_cli.shards.names import (
    base_of,
    expand,
    in_generation,
    manifest_path,
    only_set,
    sidecar,
    stage_names,
    stage_of,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*files: str) -> None:
    for file in files:
        path = Path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(*specs: str) -> list[str]:
    return [str(path) for path in expand(specs)]


@pytest.mark.parametrize("stage", [*stage_names(), "pseudo.st1", "pseudo.st12", "predict.initial", "predict.st2"])
def test_names_of_one_shard_lead_to_each_other(stage: str) -> None:
    base = Path("some.where/in1k.v2-007.tar")
    tar = sidecar(base, stage)
    assert tar == Path(f"some.where/in1k.v2-007.{stage}.tar")
    assert manifest_path(tar) == Path(f"some.where/in1k.v2-007.{stage}.json")
    assert manifest_path(base) == Path("some.where/in1k.v2-007.json")
    assert stage_of(tar) == stage_of(manifest_path(tar)) == stage
    assert stage_of(base) is None
    assert base_of(tar) == base_of(manifest_path(tar)) == base_of(manifest_path(base)) == base_of(base) == base


def test_generations_belong_to_some_stages() -> None:
    assert in_generation("pseudo", "st1") == "pseudo.st1"
    assert in_generation("predict", None) == "predict"
    for stage, generation in [("depth", "st1"), ("pseudo", "st0"), ("pseudo", "1"), ("predict", "st")]:
        with pytest.raises(ValueError, match="there is no generation"):
            in_generation(stage, generation)
    assert stage_of(Path("a-000.depth.st1.tar")) is None
    assert stage_of(Path("a-000.st1.tar")) is None
    assert stage_of(Path("pseudo.st1.tar")) is None


def test_one_set_of_shards_needs_no_name(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"no shards were named: name yours, for example shards='in1k"):
        only_set(Path())
    touch("a-001.tar", "a-000.tar", "a-000.pseudo.tar", "a-000.pseudo.st1.tar", "a-000.json")
    assert [str(path) for path in only_set(Path())] == ["a-000.tar", "a-001.tar"]
    touch("val-000.tar")
    with pytest.raises(UsageError, match=r"this folder holds 2 sets of them \(a, val\)"):
        only_set(Path())


def test_a_stage_without_a_name_before_it_is_a_name() -> None:
    assert stage_of(Path("depth.tar")) is None
    assert stage_of(Path("depth-000.tar")) is None


def test_sidecar_refuses_unknown_stages_and_sidecars() -> None:
    with pytest.raises(ValueError, match="unknown stage 'detph'"):
        sidecar(Path("a-000.tar"), "detph")
    with pytest.raises(ValueError, match="is a sidecar"):
        sidecar(Path("a-000.depth.tar"), "pseudo")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("a-<008..011>.tar", ["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]),
        ("a-{008..011}.tar", ["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]),
        ("a-<9..10>.tar", ["a-9.tar", "a-10.tar"]),
        ("a-<2..0>.tar", ["a-2.tar", "a-1.tar", "a-0.tar"]),
        ("a-{0..01}.tar", ["a-00.tar", "a-01.tar"]),
        ("{b,a}-<00..01>.tar", ["b-00.tar", "b-01.tar", "a-00.tar", "a-01.tar"]),
        ("<0..1>/a-{3..4}.tar", ["0/a-3.tar", "0/a-4.tar", "1/a-3.tar", "1/a-4.tar"]),
        ("a{,-x}.tar", ["a.tar", "a-x.tar"]),
        ("a-000.tar", ["a-000.tar"]),
    ],
)
def test_patterns_are_expanded_as_the_shell_does(folder: Path, spec: str, expected: list[str]) -> None:
    touch(*expected)
    assert listed(spec) == expected


def test_many_arguments_keep_their_order_and_lose_duplicates(folder: Path) -> None:
    touch("a-000.tar", "a-001.tar", "a-002.tar")
    assert listed("a-002.tar", "./a-000.tar", "a-<000..002>.tar") == ["a-002.tar", "a-000.tar", "a-001.tar"]


def test_globs_folders_and_their_mixtures(folder: Path) -> None:
    touch("x/b-001.tar", "x/a-000.tar", "x/a-000.depth.tar", "x/a-000.json", "x/.a-001.tar.1-ff.tmp", "y/c-0.tar")
    touch("x/.hidden.tar")
    assert listed("x") == listed("x/") == listed("x/*.tar") == listed("x/*") == ["x/a-000.tar", "x/b-001.tar"]
    assert listed("*/*-0*.tar") == ["x/a-000.tar", "x/b-001.tar", "y/c-0.tar"]
    assert listed("[xy]") == ["x/a-000.tar", "x/b-001.tar", "y/c-0.tar"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("**", ["a.tar", "x/b.tar", "x/y/c.tar"]),
        ("**/*.tar", ["a.tar", "x/b.tar", "x/y/c.tar"]),
        ("x/**/*.tar", ["x/b.tar", "x/y/c.tar"]),
        ("x/**", ["x/b.tar", "x/y/c.tar"]),
        ("**/y/**/*.tar", ["x/y/c.tar"]),
        ("?/**/c.tar", ["x/y/c.tar"]),
        ("**/[bc].tar", ["x/b.tar", "x/y/c.tar"]),
    ],
)
def test_two_stars_are_folders_of_any_depth(folder: Path, spec: str, expected: list[str]) -> None:
    touch("a.tar", "a.depth.tar", "x/b.tar", "x/y/c.tar", ".hidden/d.tar", "x/.hidden/e.tar", "x/.f.tar")
    # Links that lead round in circles are not followed: there would be 2 ** 40 ways.
    for place in ("x/again", "x/y/back"):
        Path(place).symlink_to(folder, target_is_directory=True)
    assert listed(spec) == expected
    assert listed(f"{folder}/{spec}") == [f"{folder}/{name}" for name in expected]


def test_a_range_in_front_of_a_glob(folder: Path) -> None:
    touch("0/a.tar", "1/b.tar", "1/c.tar")
    assert listed("<0..1>/*.tar") == ["0/a.tar", "1/b.tar", "1/c.tar"]


def test_a_name_that_exists_is_no_pattern(folder: Path) -> None:
    touch("a[1].tar", "a1.tar", "b{1..2}.tar", "c<x>.tar")
    assert listed("a[1].tar", "b{1..2}.tar", "c<x>.tar") == ["a[1].tar", "b{1..2}.tar", "c<x>.tar"]


def test_the_home_folder_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch("a-0.tar")
    monkeypatch.setenv("HOME", str(folder))
    assert expand(["~/a-<0..0>.tar"]) == [folder / "a-0.tar"]


def test_list_files_are_relative_to_themselves(folder: Path) -> None:
    touch("deep/er/a-0.tar", "deep/er/a-1.tar", "deep/b#1.tar", "{x}/c.tar")
    lines = ["# all of it", "", "er/a-<0..1>.tar  # a range", "b#1.tar", str(folder / "{x}/c.tar")]
    Path("deep/list.txt").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    expected = ["deep/er/a-0.tar", "deep/er/a-1.tar", "deep/b#1.tar", str(folder / "{x}/c.tar")]
    assert listed("deep/list.txt") == expected
    Path("{x}/list.txt").write_text("*.tar", encoding="utf-8")
    assert listed("{x}/list.txt") == ["{x}/c.tar"]


def test_missing_shards_are_named(folder: Path) -> None:
    touch("a-000.tar", "a-002.tar")
    with pytest.raises(ShardError, match=r"^1 of 3 shards are missing: a-001\.tar "):
        expand(["a-<000..002>.tar"])
    with pytest.raises(ShardError, match=r"98 of 100 .*: a-001\.tar, a-003\.tar, a-004\.tar, \.\.\. "):
        expand(["a-{000..099}.tar"])
    with pytest.raises(ShardError, match=r"a-009\.tar"):
        expand(["a-000.tar", "a-009.tar"])
    os.symlink("nowhere", "a-001.tar")
    with pytest.raises(ShardError, match=r"a-001\.tar"):
        expand(["a-001.tar"])


def test_sidecars(folder: Path) -> None:
    touch("a-000.tar", "a-000.depth.tar", "a-001.tar", "b-000.features.tar")
    # As `--shards a-*` is expanded by the shell.
    assert listed("a-000.depth.tar", "a-000.tar", "a-001.tar") == ["a-000.tar", "a-001.tar"]
    with pytest.raises(UsageError, match=r"a-000\.depth\.tar is a sidecar of stage depth: pass .* a-000\.tar$"):
        expand(["a-000.depth.tar", "a-001.tar"])
    with pytest.raises(ShardError, match=r"only sidecars: pass base shards such as b-000\.tar"):
        expand(["b-*.tar"])


def test_nothing_there(folder: Path) -> None:
    Path("empty").mkdir()
    touch("half/a.depth.tar", "empty.txt", "nested.txt", "latin.txt")
    Path("nested.txt").write_text("empty.txt\n")
    Path("latin.txt").write_bytes(b"\xe9.tar")
    cases: list[tuple[list[str], type[Exception], str]] = [
        ([], UsageError, "no shards are given"),
        ([""], UsageError, "empty shard name"),
        (["empty"], ShardError, "folder empty holds no .tar: .*cuts3d pack"),
        (["half"], ShardError, "only sidecars"),
        (["q-*.tar"], ShardError, r"no shard matches 'q-\*\.tar'"),
        (["nowhere"], ShardError, "nowhere does not exist"),
        (["nowhere.txt"], ShardError, "list file nowhere.txt cannot be read"),
        (["empty.txt"], ShardError, "names no shards"),
        (["nested.txt"], UsageError, "names another list, empty.txt"),
        (["latin.txt"], ShardError, "not UTF-8"),
        (["s3://bucket/a.tar"], UsageError, "not a local file"),
        (["pipe:cat a.tar"], UsageError, "not a local file"),
    ]
    for specs, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            expand(specs)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [
        *("<0..>", "<..9>", "<a..c>", "<0-9>", "<0,1>", "<0..9}", "<-1..2>", "<٠..٩>", "0..9>"),
        *("{5}", "{0..9", "{{0..1},b}", "{0..9..2}", "{}"),
    ],
)
def test_malformed_patterns(folder: Path, spec: str) -> None:
    with pytest.raises(UsageError, match=r"is not a range|without its partner"):
        expand([spec])


@pytest.mark.parametrize("spec", ["<0..1000000>.tar", "<0..999>{0..999}{0..1}.tar", "a<0..99999999999999999999>.tar"])
def test_absurd_ranges(folder: Path, spec: str) -> None:
    with pytest.raises(UsageError, match=r"more than (1000000 shards|18 digits)"):
        expand([spec])


def test_other_files(folder: Path) -> None:
    touch("a.json", "b.tar.gz", "c.jpg")
    for file, message in {"a.json": r"pass a\.tar", "b.tar.gz": "unpack it", "c.jpg": "is not a shard"}.items():
        with pytest.raises(UsageError, match=message):
            expand([file])


ranges = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 4), st.booleans())


@settings(deadline=None)
@given(st.lists(ranges, min_size=1, max_size=3))
def test_product_of_ranges(parts: list[tuple[int, int, int, bool]]) -> None:
    pattern, values = "a", []
    for first, last, width, angle in parts:
        texts = [f"{first:0{width}d}", f"{last:0{width}d}"]
        opening, closing = "<>" if angle else "{}"
        pattern += f"-{opening}{texts[0]}..{texts[1]}{closing}"
        padded = any(len(text) > 1 and text[0] == "0" for text in texts)
        fill = max(map(len, texts)) if padded else 0
        step = 1 if first <= last else -1
        values.append([str(number).rjust(fill, "0") for number in range(first, last + step, step)])
    expected = ["-".join(["a", *chosen]) + ".tar" for chosen in product(*values)]
    assert list(names._of_pattern(f"{pattern}.tar")) == expected


# No "/": a glob over the whole file system takes long.
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("<>{}.,01a-*[] ~\0\n#"), max_size=12))
def test_any_text_gives_shards_or_an_error_of_ours(folder: Path, text: str) -> None:
    with pytest.raises((ShardError, UsageError)):
        expand([text])
    Path("list.txt").write_text(text, encoding="utf-8")
    with pytest.raises((ShardError, UsageError)):
        expand(["list.txt"])


@pytest.mark.parametrize(
    "spec", ["a-" + "x" * 300, "x" * 300 + ".tar", "*" + "x" * 300, "a\nb", "a\nb://c", "\ud800*", "<\n>"]
)
def test_names_that_no_file_can_have_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Cuts3dError) as caught:
        expand([spec])
    assert len(str(caught.value).splitlines()) == 1
