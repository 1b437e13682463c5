from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome
from cuts3d_cli.errors import ShardError
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars.finished import finished, require
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
    assert finished(base, "depth") is None
    found.tar.write_bytes(whole)
    manifest_path(found.tar).unlink()
    assert finished(base, "depth") is None


def test_a_sidecar_of_an_earlier_base_shard_is_refused(base: Path):
    run(base)
    write_shard(base, {"a0": {"jpg": b"another photo"}, "b0": {"jpg": b"2"}})
    with pytest.raises(ShardError, match=r"s-0\.depth\.tar was made from another s-0\.tar: run `cuts3d depth"):
        finished(base, "depth")
    run(base)
    assert finished(base, "depth") is not None


@pytest.mark.parametrize(("stage", "maker"), [("pseudo", "pseudo"), ("pseudo.st1", "selftrain")])
def test_what_is_missing_is_told_with_its_maker(base: Path, stage: str, maker: str):
    expected = rf"s-0\.{stage}\.tar is missing or unfinished: run `cuts3d {maker}` first, or go home"
    with pytest.raises(ShardError, match=expected):
        require(base, stage, further=[", or go home"])
