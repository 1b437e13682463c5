from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from cuts3d_cli.errors import ShardError
from cuts3d_cli.shards.reader import Sample, SidecarReader, read_shard
from cuts3d_cli.shards.writer import ShardWriter
from tests.support.tars import special, tar_of


def read(path: Path) -> dict[str, list[str]]:
    return {sample.key: list(sample.members) for sample in read_shard(path)}


def test_members_of_a_sample_come_together(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", [("x/a.JPG", b"one"), ("x/a.sensor.PNG", b"two"), ("b.json", b""), "a.webp"])
    assert list(read_shard(path)) == [
        Sample(key="x/a", members={"jpg": b"one", "sensor.png": b"two"}),
        Sample(key="b", members={"json": b""}),
        Sample(key="a", members={"webp": b"1"}),
    ]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_formats_of_other_writers(tmp_path: Path, kind: int) -> None:
    name = "f" * 90 + "/" + "ü" * 40 + ".jpg"
    with tarfile.open(tmp_path / "a.tar", "w", format=kind) as tar:
        info = tarfile.TarInfo(name)
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    assert list(read_shard(tmp_path / "a.tar")) == [Sample(key=name[:-4], members={"jpg": b"abc"})]


def test_what_webdataset_passes_over(tmp_path: Path) -> None:
    members = [special("x", tarfile.DIRTYPE), "x/.DS_Store", "x/._a.jpg", "__meta__", "__m__/a.jpg", "x/a.jpg"]
    assert read(tar_of(tmp_path / "a.tar", members)) == {"x/a": ["jpg"]}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["a.jpg", "b.jpg", "a.json"], r"member 'a\.json' returns to key 'a' after other samples"),
        (["a.jpg", "b.jpg", "a.jpg"], r"member 'a\.jpg' returns to key 'a'"),
        (["a.jpg", "a.jpg"], r"member 'a\.jpg' is there twice"),
        (["a.jpg", "a.JPG"], r"member 'a\.JPG' is there twice \(extensions are compared in lower case\)"),
        (["é.jpg", "b.jpg", "e\u0301.json"], "returns to key 'e\u0301' after other samples"),
        (["/a.jpg"], "absolute name"),
        (["x/../../a.jpg"], "leads out of its folder"),
        (["a\nb.jpg"], r"'a\\nb.jpg'.*control character"),
        ([special("a.jpg", tarfile.SYMTYPE)], "'a.jpg' is a symbolic link: write the tar with `tar --dereference`"),
        ([special("a.jpg", tarfile.LNKTYPE, to="b.jpg")], "a link to 'b.jpg', which does not stand before it"),
        (["b.jpg", special("a.jpg", tarfile.LNKTYPE, to="../b.jpg")], "leads out"),
        ([special("a.jpg", tarfile.FIFOTYPE)], "'a.jpg' is not a plain file but a device or pipe"),
        ([special("a.jpg", tarfile.CHRTYPE)], "'a.jpg' is not a plain file but a device or pipe"),
        ([special("../x", tarfile.DIRTYPE)], "leads out"),
    ],
)
def test_refusals_name_the_file_and_the_member(tmp_path: Path, members: list, message: str) -> None:
    path = tar_of(tmp_path / "a-000.tar", members)
    with pytest.raises(ShardError, match=message) as caught:
        list(read_shard(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_names_as_other_programs_write_them(tmp_path: Path) -> None:
    """With `.` as the folder, doubled slashes, dots in folders, dots behind the key, or no ending."""
    members = [special("./", tarfile.DIRTYPE), "./v1.0/a.JPG", "./v1.0/a.seg.PNG", "x//b.jpg", "c.1.jpg", "README"]
    path = tar_of(tmp_path / "a.tar", members)
    assert read(path) == {"v1.0/a": ["jpg", "seg.png"], "x/b": ["jpg"], "c": ["1.jpg"], "README": [""]}
    (first, *_) = read_shard(path)
    assert first.names == {"jpg": "v1.0/a.JPG", "seg.png": "v1.0/a.seg.PNG"}


def test_a_key_is_spelled_as_its_first_member_spells_it(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", ["e\u0301.jpg", "\u00e9.json", "f.jpg"])
    assert read(path) == {"e\u0301": ["jpg", "json"], "f": ["jpg"]}


def test_a_hard_link_has_the_content_of_its_target(tmp_path: Path) -> None:
    link = special("./c.jpg", tarfile.LNKTYPE, to="./a.jpg")
    path = tar_of(tmp_path / "a.tar", [("./a.jpg", b"one"), ("b.jpg", b"two"), link])
    assert [sample.members["jpg"] for sample in read_shard(path)] == [b"one", b"two", b"one"]
    with SidecarReader(path) as reader:
        assert reader.pick("c") == Sample(key="c", members={"jpg": b"one"})


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "a.npy", "wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x")
    for kind in ("gnu", "pax"):
        subprocess.run(["tar", "-S", f"--format={kind}", "-cf", "a.tar", "a.npy"], cwd=tmp_path, check=True)
        with pytest.raises(ShardError, match=r"'a\.npy' is a sparse file: write the tar without `--sparse`"):
            list(read_shard(tmp_path / "a.tar"))


@pytest.mark.parametrize("padding", [0, 10240, 3 << 20])
def test_another_tar_in_the_same_file_is_refused(tmp_path: Path, padding: int) -> None:
    first = tar_of(tmp_path / "a.tar", ["a.jpg"]).read_bytes()
    second = tar_of(tmp_path / "b.tar", ["b.jpg"]).read_bytes()
    path = tmp_path / "c.tar"
    path.write_bytes(first + bytes(padding) + second)
    for read_it in (read, SidecarReader):
        with pytest.raises(ShardError, match=f"c.tar holds another tar, which begins at byte {len(first) + padding}, "):
            read_it(path)
    path.write_bytes(first + b"x" + second)
    with pytest.raises(ShardError, match=f"damaged.*byte {len(first)}, after the end mark, is not zero"):
        read(path)
    path.write_bytes(first + bytes(padding))
    assert read(path) == {"a": ["jpg"]}


def test_a_damaged_shard_is_refused_before_its_first_sample_unless_asked_otherwise(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", ["a.jpg", "b.jpg"])
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(ShardError, match="another tar"):
        next(read_shard(path))
    assert next(read_shard(path, whole=False)).key == "a"


def test_too_large_a_sample(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", [("a.1.jpg", b"123"), ("a.2.jpg", b"123"), ("b.jpg", b"12345")])
    assert len(list(read_shard(path, max_member_bytes=6))) == 2
    with pytest.raises(ShardError, match="the members of key 'a' have together 6 bytes, more than 5"):
        list(read_shard(path, max_member_bytes=5))


def test_names_that_are_not_utf8_are_latin1(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for name in ("é.jpg", "é.json", "f.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    assert read(tmp_path / "a.tar") == {"é": ["jpg", "json"], "f": ["jpg"]}


def test_too_large_a_member(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", [("a.jpg", b"123")])
    assert len(list(read_shard(path, max_member_bytes=3))) == 1
    with pytest.raises(ShardError, match=r"'a\.jpg' has 3 bytes, more than 2"):
        list(read_shard(path, max_member_bytes=2))


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A tar of three samples, 512 bytes of header and 512 of content each, then the end mark."""
    with ShardWriter(tmp_path / "a-000.tar") as shard:
        for key in "abc":
            shard.write(key, {"jpg": key.encode() * 300})
    return tmp_path / "a-000.tar"


@pytest.mark.parametrize("size", range(1, 3 * 1024 + 512, 128))
def test_a_tar_cut_anywhere_is_refused(three: Path, size: int) -> None:
    three.write_bytes(three.read_bytes()[:size])
    with pytest.raises(ShardError, match=r"a-000\.tar.*(damaged|truncated)"):
        list(read_shard(three))
    with pytest.raises(ShardError, match=r"a-000\.tar.*(damaged|truncated)"):
        SidecarReader(three)


def test_a_tar_may_lack_its_padding(three: Path) -> None:
    three.write_bytes(three.read_bytes()[: 3 * 1024 + 512])
    assert list(read(three)) == ["a", "b", "c"]


@pytest.mark.parametrize("place", [0, 100, 124, 148, 156])
@pytest.mark.parametrize("header", [0, 1, 2])
def test_a_damaged_header_is_not_taken_for_the_end(three: Path, header: int, place: int) -> None:
    data = bytearray(three.read_bytes())
    data[header * 1024 + place] ^= 0x55
    three.write_bytes(data)
    with pytest.raises(ShardError, match="damaged"):
        list(read_shard(three))


def test_a_size_below_zero_does_not_go_round_in_circles(three: Path) -> None:
    data = bytearray(three.read_bytes())
    info = tarfile.TarInfo("b.jpg")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfc\x00"  # -1024 in base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[1024:1536] = header
    three.write_bytes(data)
    with pytest.raises(ShardError, match="damaged"):
        list(read_shard(three))


def test_what_is_no_tar(tmp_path: Path) -> None:
    empty, text, packed = tmp_path / "empty.tar", tmp_path / "text.tar", tmp_path / "packed.tar"
    pointer = tmp_path / "pointer.tar"
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    empty.touch()
    text.write_bytes(b"hello" * 1000)
    packed.write_bytes(gzip.compress(tar_of(tmp_path / "a.tar", ["a.jpg"]).read_bytes()))
    cases = {
        empty: r"empty\.tar is empty \(0 bytes\)",
        pointer: r"pointer\.tar is a Git LFS pointer in place of the file, not a plain tar: run `git lfs",
        text: r"text\.tar is not an uncompressed tar",
        packed: r"packed\.tar is compressed with gzip, not a plain tar: unpack it",
        tmp_path / "none.tar": r"none\.tar does not exist",
        tmp_path: "cannot be read: Is a directory",
    }
    for path, message in cases.items():
        with pytest.raises(ShardError, match=message):
            list(read_shard(path))
        with pytest.raises(ShardError, match=message):
            SidecarReader(path)


def test_memory_does_not_grow_with_the_shard(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.tar") as shard:
        for number in range(64):
            shard.write(f"{number:03d}", {"jpg": bytes(1 << 20)})
    tracemalloc.start()
    try:
        assert sum(len(sample.members["jpg"]) for sample in read_shard(tmp_path / "a.tar")) == 64 << 20
        assert tracemalloc.get_traced_memory()[1] < 6 << 20
    finally:
        tracemalloc.stop()


def test_sidecar_by_the_keys_of_its_base(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "s.depth.tar", [("b.depth.png", b"B"), ("b.json", b"{}"), "d.json", "e.json"])
    with SidecarReader(path) as reader:
        assert reader.keys == ("b", "d", "e")
        assert reader.get("a") is None
        assert reader.get("b") == Sample(key="b", members={"depth.png": b"B", "json": b"{}"})
        assert reader.get("c") is None
        assert reader.get("e") == Sample(key="e", members={"json": b"1"})  # d failed since
        assert reader.get("f") is None


def test_sidecar_in_another_order_than_its_base(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "s.depth.tar", ["b.json", "a.json", "c.json"])
    with SidecarReader(path) as reader:
        assert reader.get("a") is not None
        with pytest.raises(ShardError, match=r"s\.depth\.tar: key 'b' comes before 'a'.*overwrite"):
            reader.get("b")


def test_sidecar_that_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="twice"):
        SidecarReader(tar_of(tmp_path / "s.depth.tar", ["a.json", "a.json"]))
