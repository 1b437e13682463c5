from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome
from cuts3d_cli.errors import ShardError
from cuts3d_cli.shards import freshness
from cuts3d_cli.shards.manifest import digest_file, load_manifest, save_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars.finished import finished, mixed_settings, require
from tests.support.photos import write_shard


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_shard(tmp_path / "s-0.tar", {"a0": {"jpg": b"1"}, "b0": {"jpg": b"2"}})


def run(base: Path) -> None:
    """A depth sidecar whose second sample fails."""

    def outcomes(base: Path) -> Iterator[Outcome]:
        for place, sample in enumerate(read_shard(base)):
            failure = "it is the second" if place else None
            yield Outcome(key=sample.key, members=None if failure else {"depth.json": b"{}"}, failure=failure)

    run_shards(
        [base],
        stage="depth",
        config={},
        inputs=lambda base: {"base": base},
        outcomes=outcomes,
        if_exists="resume",
    )


def store_from(base: Path, inputs: Mapping[str, Path], *, n: int = 3) -> None:
    """A pseudo sidecar that was made from these files."""
    run_shards(
        [base],
        stage="pseudo",
        config={"pseudo": {"n": n}},
        inputs=lambda base: inputs,
        outcomes=lambda base: iter([Outcome(key="a0", members={"pseudo.json": b"{}"})]),
        if_exists="overwrite",
    )


def test_finished_sidecars(base: Path):
    assert finished(base, "depth") is None
    run(base)
    found = finished(base, "depth")
    assert found is not None
    assert (found.tar, found.manifest.stage) == (sidecar(base, "depth"), "depth")
    assert found.failures == {"b0": "it is the second"}
    assert require(base, "depth") == found

    whole = found.tar.read_bytes()
    found.tar.write_bytes(whole + b"\0" * 512)
    with pytest.raises(ShardError, match=r"s-0\.depth\.tar has changed since it was written, or belongs to another"):
        finished(base, "depth")
    found.tar.write_bytes(whole)
    assert finished(base, "depth") == found
    manifest_path(found.tar).unlink()
    assert finished(base, "depth") is None


def test_a_sidecar_of_an_earlier_base_shard_is_refused(base: Path):
    run(base)
    write_shard(base, {"a0": {"jpg": b"another photo"}, "b0": {"jpg": b"2"}})
    with pytest.raises(ShardError, match=r"s-0\.depth\.tar was made from another s-0\.tar: run `cuts3d depth"):
        finished(base, "depth")
    run(base)
    assert finished(base, "depth") is not None


def test_a_sidecar_of_equal_size_is_told_by_its_content(base: Path):
    run(base)
    tar = sidecar(base, "depth")
    whole = tar.read_bytes()
    tar.write_bytes(whole.replace(b"{}", b"[]"))
    for _ in range(2):  # the second time, the digest is known
        with pytest.raises(ShardError, match=r"s-0\.depth\.tar has changed.*run `cuts3d verify` with fix=True"):
            finished(base, "depth")
    tar.write_bytes(whole)
    assert finished(base, "depth") is not None


def test_each_state_of_a_file_is_hashed_once(base: Path, monkeypatch: pytest.MonkeyPatch):
    run(base)
    for path in (base, sidecar(base, "depth")):
        os.utime(path, ns=(5, 5))
    hashed: list[str] = []
    monkeypatch.setattr(freshness, "digest_file", lambda path: (hashed.append(path.name), digest_file(path))[1])
    for _ in range(3):
        assert finished(base, "depth") is not None
    assert sorted(hashed) == ["s-0.depth.tar", "s-0.tar"]


def test_the_sidecar_and_the_manifest_of_another_shard_are_refused(base: Path):
    other = write_shard(base.with_name("s-1.tar"), {"a0": {"jpg": b"3"}, "b0": {"jpg": b"4"}})
    for shard in (base, other):
        run(shard)
    for name in ("s-0.depth.tar", "s-0.depth.json"):
        shutil.copy2(base.with_name(name.replace("s-0", "s-1")), base.with_name(name))
    with pytest.raises(ShardError, match=r"s-0\.depth\.tar was made from another s-0\.tar"):
        finished(base, "depth")


def test_a_manifest_of_another_stage_is_refused(base: Path):
    run(base)
    for name in ("s-0.depth.tar", "s-0.depth.json"):
        shutil.copy2(base.with_name(name), base.with_name(name.replace("depth", "features")))
    with pytest.raises(ShardError, match=r"s-0\.features\.json is of stage depth, not features: run `cuts3d features`"):
        finished(base, "features")


def test_what_was_made_from_sidecars_alone_belongs_to_one_of_these(base: Path):
    run(base)
    tar = sidecar(base, "depth")
    store_from(base, {"depth": tar})
    assert finished(base, "pseudo") is not None
    store_from(base, {"depth": write_shard(base.with_name("t.tar"), {"a0": {"txt": b"x"}})})
    with pytest.raises(ShardError, match=r"s-0\.pseudo\.tar was made from another s-0\.depth\.tar: run"):
        finished(base, "pseudo")
    tar.unlink()
    assert finished(base, "pseudo") is not None  # nothing is left to compare with


def test_other_samples_than_the_manifest_says_are_refused(base: Path):
    run(base)
    path = manifest_path(sidecar(base, "depth"))
    values = load_manifest(path)
    save_manifest(path, replace(values, counts={**values.counts, "samples_out": 5}))
    with pytest.raises(ShardError, match=r"s-0\.depth\.tar holds 1 sample, and not the 5 of its manifest"):
        next(require(base, "depth").samples())
    save_manifest(path, replace(values, failed=[{"key": "a0", "reason": "x"}]))
    with pytest.raises(ShardError, match="holds 1 sample"):
        require(base, "depth").open()
    save_manifest(path, values)
    assert [sample.key for sample in require(base, "depth").samples()] == ["a0"]


def test_mixed_settings_and_weights_are_named(base: Path):
    bases = [base, *(write_shard(base.with_name(f"s-{n}.tar"), {"a0": {"jpg": b"1"}}) for n in (1, 2))]
    weights = [write_shard(base.with_name(f"w{n}.tar"), {"a0": {"txt": b"%d" % n}}) for n in range(2)]
    for shard in bases:
        store_from(shard, {"base": shard, "weights": weights[0]})
    assert mixed_settings([require(shard, "pseudo") for shard in bases]) is None
    store_from(bases[1], {"base": bases[1], "weights": weights[1]})
    line = mixed_settings([require(shard, "pseudo") for shard in bases])
    assert line is not None
    assert "3 sidecars of stage pseudo were made with 2 different settings: " in line
    assert line.endswith("s-1.pseudo.tar, unlike s-0.pseudo.tar (other weights)")
    store_from(bases[1], {"base": bases[1], "weights": weights[0]}, n=4)
    line = mixed_settings([require(shard, "pseudo") for shard in bases])
    assert line is not None
    assert line.endswith("(pseudo.n 3 -> 4)")


@pytest.mark.parametrize(("stage", "maker"), [("pseudo", "pseudo"), ("pseudo.st1", "selftrain")])
def test_what_is_missing_is_told_with_its_maker(base: Path, stage: str, maker: str):
    expected = rf"s-0\.{stage}\.tar is missing or unfinished: run `cuts3d {maker}` first, or go home"
    with pytest.raises(ShardError, match=expected):
        require(base, stage, further=[", or go home"])
