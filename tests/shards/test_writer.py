from __future__ import annotations

import hashlib
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st

from cuts3d_cli.errors import FileError, ShardError
from cuts3d_cli.files import atomic_write_bytes, atomic_write_json, this_process
from cuts3d_cli.shards import writer as writer_module
from cuts3d_cli.shards.keys import extension_problem, key_problem
from cuts3d_cli.shards.reader import SidecarReader, read_shard
from cuts3d_cli.shards.writer import ShardWriter

SAMPLES = {"b/猫": {"jpg": b"1", "json": b"{}"}, "a": {"depth.png": b"x" * 700, "cls": b"5"}, "k" * 300: {"txt": b""}}


def write(path: Path, samples: dict[str, dict[str, bytes]]) -> ShardWriter:
    with ShardWriter(path) as shard:
        for key, members in samples.items():
            shard.write(key, members)
    return shard


def test_what_is_written_is_known(tmp_path: Path) -> None:
    path = tmp_path / "a-000.tar"
    shard = write(path, SAMPLES)
    data = path.read_bytes()
    assert (shard.samples, shard.size, shard.sha256) == (3, len(data), hashlib.sha256(data).hexdigest())
    assert os.listdir(tmp_path) == ["a-000.tar"]
    with tarfile.open(path) as tar:
        infos = tar.getmembers()
    assert [info.name for info in infos] == ["b/猫.jpg", "b/猫.json", "a.cls", "a.depth.png", "k" * 300 + ".txt"]
    assert {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in infos} == {(0, 0, 0, "", "", 0o644)}


def test_the_bytes_are_what_they_were(tmp_path: Path) -> None:
    # If this changes, so does every shard: with it the version of the format must change.
    shard = write(tmp_path / "a.tar", SAMPLES)
    assert shard.sha256 == "e8a9c7f0af8b23f81fec02b6eadb91eebda466727fb8801e1c9a1220685b9971"
    reordered = {key: dict(reversed(members.items())) for key, members in SAMPLES.items()}
    assert write(tmp_path / "b.tar", reordered).sha256 == shard.sha256


def test_headers_are_gnu_as_the_format_says(tmp_path: Path) -> None:
    # docs/format.md promises this to readers in other languages.
    long = "folder/" + "k" * 120
    write(tmp_path / "a.tar", {"a": {"txt": b"1"}, long: {"txt": b"2"}})
    data = (tmp_path / "a.tar").read_bytes()
    blocks = [data[start : start + 512] for start in range(0, len(data), 512)]
    short_header, _, link_header, link, long_header, _ = blocks[:6]
    magics = [header[257:265] for header in (short_header, link_header, long_header)]
    assert magics == [b"ustar  \0"] * 3  # POSIX says "ustar\0" and "00" here
    assert [header[156:157] for header in (short_header, link_header, long_header)] == [b"0", b"L", b"0"]
    assert link_header.startswith(b"././@LongLink\0")
    assert link.rstrip(b"\0").decode("utf-8") == f"{long}.txt"
    assert long_header[:100].decode("ascii") == f"{long}.txt"[:100]


def test_webdataset_reads_it_unaided(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", SAMPLES)
    samples = list(wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    read = {s["__key__"]: {k: v for k, v in s.items() if not k.startswith("__")} for s in samples}
    assert read == SAMPLES
    assert list(read) == list(SAMPLES)


def test_an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    assert write(tmp_path / "a.tar", {}).samples == 0
    assert list(read_shard(tmp_path / "a.tar")) == []
    assert (tmp_path / "a.tar").stat().st_size == 10240


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    path, manifest = tmp_path / "a.tar", tmp_path / "a.json"

    def interrupted() -> None:
        with ShardWriter(path) as shard:
            shard.write("a", {"txt": b"1"})
            raise error

    with pytest.raises(error):
        interrupted()
    assert os.listdir(tmp_path) == []
    path.write_bytes(b"old")
    manifest.write_bytes(b"{}")
    with pytest.raises(error):
        interrupted()
    assert (path.read_bytes(), manifest.read_bytes()) == (b"old", b"{}")
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.tar"]


def test_a_killed_process_leaves_the_name_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"old")
    child = os.fork()
    if child == 0:
        with ShardWriter(path) as shard:
            shard.write("a", {"txt": b"1"})
            os._exit(9)
    os.waitpid(child, 0)
    assert path.read_bytes() == b"old"
    (left,) = set(os.listdir(tmp_path)) - {"a.tar"}
    assert left.startswith(".a.tar.")
    assert not left.endswith(".tar")
    write(path, {"a": {"txt": b"1"}})  # the next one takes it away
    assert os.listdir(tmp_path) == ["a.tar"]


def test_only_what_is_certainly_dead_is_swept(tmp_path: Path) -> None:
    own = this_process()
    alive = replace(own, process=os.getppid(), start=0)
    elsewhere = replace(own, machine="0" * 10)
    dead = replace(own, start=1)
    names = {owner: f".a.tar.{owner}.00000000.tmp" for owner in (own, alive, elsewhere, dead)}
    old = f".a.tar.{elsewhere}.11111111.tmp"
    for name in [*names.values(), old, ".a.tar.tmp"]:
        (tmp_path / name).touch()
    os.utime(tmp_path / old, (1, 1))
    write(tmp_path / "a.tar", {})
    assert set(os.listdir(tmp_path)) == {"a.tar", names[own], names[alive], names[elsewhere], ".a.tar.tmp"}


def test_what_comes_around_the_publishing_comes_in_order(tmp_path: Path) -> None:
    path, told = tmp_path / "a.tar", []
    with ShardWriter(
        path,
        before_publishing=lambda: told.append(path.exists()),
        after_publishing=lambda: told.append(path.exists()),
    ):
        pass
    assert told == [False, True]


def test_a_shard_that_may_not_be_published_any_more_touches_nothing(tmp_path: Path) -> None:
    def refuse() -> None:
        raise RuntimeError("it is another's now")

    path, manifest = tmp_path / "a.tar", tmp_path / "a.json"
    path.write_bytes(b"old")
    manifest.write_bytes(b"{}")
    with pytest.raises(RuntimeError, match="another's"), ShardWriter(path, before_publishing=refuse):
        pass
    assert (path.read_bytes(), manifest.read_bytes()) == (b"old", b"{}")
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.tar"]


def test_a_new_tar_takes_the_old_manifest_away(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", {"a": {"txt": b"1"}})
    (tmp_path / "a.json").write_bytes(b"{}")
    write(tmp_path / "a.tar", {"a": {"txt": b"2"}})
    assert os.listdir(tmp_path) == ["a.tar"]


def test_a_rename_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cuts3d_cli.files.os.replace", fail)
    with pytest.raises(ShardError, match=r"a\.tar cannot be written: No space left on device"):
        write(tmp_path / "a.tar", SAMPLES)
    with pytest.raises(FileError, match="No space left"):
        atomic_write_bytes(tmp_path / "b", b"1")
    assert os.listdir(tmp_path) == []


def test_a_sample_written_in_part_gives_the_shard_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: bytes) -> None:
        raise OSError(28, "No space left on device")

    def go_on_after_a_full_disk() -> None:
        with ShardWriter(tmp_path / "a.tar") as shard:
            with monkeypatch.context() as patch:
                patch.setattr(shard, "_put", fail)
                with pytest.raises(ShardError, match="No space left"):
                    shard.write("a", {"txt": b"1"})
            with pytest.raises(ShardError, match="in part only"):
                shard.write("b", {"txt": b"1"})

    with pytest.raises(ShardError, match="in part only"):
        go_on_after_a_full_disk()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("key", "members", "message"),
    [
        ("a.b", {"txt": b""}, "has a dot"),
        ("", {"txt": b""}, "is empty"),
        ("/a", {"txt": b""}, "absolute"),
        ("../a", {"txt": b""}, "leads out"),
        ("first", {"jpg": b""}, "written twice"),
        ("a", {}, "no members"),
        ("a", {"JPG": b""}, "'JPG'"),
    ],
)
def test_refusals_name_the_shard_and_spoil_nothing(
    tmp_path: Path, key: str, members: dict[str, bytes], message: str
) -> None:
    with ShardWriter(tmp_path / "a-000.tar") as shard:
        shard.write("first", {"txt": b"1"})
        with pytest.raises(ShardError, match=rf"a-000\.tar.*{message}"):
            shard.write(key, members)
        shard.write("last", {"txt": b"2"})
    assert [sample.key for sample in read_shard(tmp_path / "a-000.tar")] == ["first", "last"]


def test_too_large_a_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_MEMBER_BYTES", 3)
    with ShardWriter(tmp_path / "a.tar") as shard, pytest.raises(ShardError, match="has 4 bytes, more than 3"):
        shard.write("a", {"txt": b"1234"})


def test_a_missing_folder_and_use_outside_with(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="No such file"), ShardWriter(tmp_path / "none" / "a.tar"):
        pass
    with pytest.raises(ValueError, match="with statement"):
        ShardWriter(tmp_path / "a.tar").write("a", {"txt": b""})


def test_small_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic_write_json(path, {"é": [1, 2.5, None]}, indent=None)
    assert path.read_bytes() == b'{"\\u00e9": [1, 2.5, null]}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic_write_json(path, float("nan"))
    assert json.loads(path.read_bytes()) == {"é": [1, 2.5, None]}
    assert os.listdir(tmp_path) == ["a.json"]


keys = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=130)
extensions = st.from_regex(r"[a-z0-9_-]{1,5}(\.[a-z0-9]{1,4})?", fullmatch=True)
members = st.dictionaries(extensions, st.binary(max_size=600), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(samples=st.dictionaries(keys, members, max_size=4))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, samples: dict[str, dict[str, bytes]]) -> None:
    path = tmp_path_factory.mktemp("trip") / "a.depth.tar"
    good = {
        key: members
        for key, members in samples.items()
        if key_problem(key) is None and not any(map(extension_problem, members))
    }
    write(path, good)
    read = list(read_shard(path))
    assert [(sample.key, sample.members) for sample in read] == [(k, dict(sorted(m.items()))) for k, m in good.items()]
    with SidecarReader(path) as reader:
        assert [reader.get(key) for key in good] == read
    theirs = wds.WebDataset(str(path), shardshuffle=False, empty_check=False)
    assert [{k: v for k, v in s.items() if k not in ("__url__", "__local_path__")} for s in theirs] == [
        {"__key__": key} | members for key, members in good.items()
    ]
