from __future__ import annotations

import json
import os
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cuts3d_cli.config import RunConfig
from cuts3d_cli.engine import driver
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.replacing import OtherSettingsError, compare_settings
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.errors import FileError, Message, OccupiedError, ShardError, UnwritableError, UsageError
from cuts3d_cli.shards import freshness
from cuts3d_cli.shards import manifest as manifest_module
from cuts3d_cli.shards.manifest import Manifest, load_manifest, save_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.shards.reader import read_shard
from tests.support.photos import write_shard


class Watcher(Progress):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def begin(self, shards: Any) -> None:
        self.told.append(("begin", [(path.name, size) for path, size in shards]))

    def skip(self, shard: Path) -> None:
        self.told.append(("skip", shard.name))

    def start(self, shard: Path, *, why: str) -> None:
        self.told.append(("start", shard.name, why))

    def advance(self, *, failed: bool) -> None:
        self.told.append("failed" if failed else "done")

    def finish(self, shard: Path) -> None:
        self.told.append(("finish", shard.name))

    def elsewhere(self, shard: Path) -> None:
        self.told.append(("elsewhere", shard.name))

    def replacing(self, what: Message) -> None:
        self.told.append(("replacing", str(what)))

    def broken(self, shard: Path, *, why: Message) -> None:
        self.told.append(("broken", shard.name, str(why)))

    def give_up(self, shard: Path, *, why: str) -> None:
        self.told.append(("give up", shard.name, why))

    def wait(self, shards: Any, *, owners: Any) -> None:
        self.told.append(("wait", [path.name for path in shards], list(owners)))


@pytest.fixture
def bases(tmp_path: Path) -> list[Path]:
    return [write_shard(tmp_path / f"s-{n}.tar", {f"a{n}": {"jpg": b"1"}, f"b{n}": {"jpg": b"2"}}) for n in range(2)]


def outcomes(base: Path) -> Iterator[Outcome]:
    """Copies the images; the second sample of a shard fails."""
    for place, sample in enumerate(read_shard(base)):
        if place == 1:
            yield Outcome(key=sample.key, failure="it is the second", seconds={"read": 1.0})
        else:
            yield Outcome(
                key=sample.key,
                members={"depth.json": sample.members["jpg"]},
                dropped=[{"iteration": 2, "reason": "too small"}],
                counts={"masks": 3, "dropped": 1},
                seconds={"read": 0.5, "cut": 0.25},
            )


def run(bases: list[Path], **changes: Any) -> StageResult:
    defaults: dict[str, Any] = {
        "stage": "depth",
        "config": {"depth": {"a": 1}},
        "inputs": lambda base: {"base": base},
        "outcomes": outcomes,
        "if_exists": "resume",
    }
    return run_shards(bases, **(defaults | changes))


def state(bases: list[Path]) -> Mapping[str, bytes]:
    """All files and their content."""
    return {path.name: path.read_bytes() for path in sorted(bases[0].parent.iterdir())}


def test_a_manifest_accounts_for_every_sample(bases: list[Path]):
    result = run(bases, info={"device": "cpu"})
    manifest = load_manifest(manifest_path(sidecar(bases[0], "depth")))
    assert manifest.counts == {"samples_in": 2, "samples_out": 1, "failed": 1, "masks": 3, "dropped": 1}
    assert manifest.failed == [{"key": "b0", "reason": "it is the second"}]
    assert manifest.dropped == [{"key": "a0", "iteration": 2, "reason": "too small"}]
    assert (manifest.stage, manifest.config, manifest.info) == ("depth", {"depth": {"a": 1}}, {"device": "cpu"})
    assert (manifest.seconds["read"], manifest.seconds["cut"]) == (1.5, 0.25)
    assert manifest.inputs["base"].file == "s-0.tar"
    assert [sample.key for sample in read_shard(sidecar(bases[0], "depth"))] == ["a0"]

    assert result.count("samples_in") == 4 == result.count("samples_out") + result.count("failed")
    assert result.failed == [
        {"shard": str(base), "key": f"b{n}", "reason": "it is the second"} for n, base in enumerate(bases)
    ]
    assert result.dropped_by_reason() == {"too small": 2}
    assert result.step_seconds()["read"] == 3.0


def test_progress_is_told_in_order(bases: list[Path]):
    watcher = Watcher()
    run(bases, progress=watcher)
    assert watcher.told == [
        ("begin", [("s-0.tar", None), ("s-1.tar", None)]),
        *[("start", "s-0.tar", ""), "done", "failed", ("finish", "s-0.tar")],
        *[("start", "s-1.tar", ""), "done", "failed", ("finish", "s-1.tar")],
    ]


def test_finished_shards_are_skipped_with_their_numbers(bases: list[Path]):
    first = run(bases[:1])
    before = state(bases)
    watcher = Watcher()
    result = run(bases, progress=watcher)
    assert watcher.told[1:3] == [("skip", "s-0.tar"), ("start", "s-1.tar", "")]
    assert [shard.status for shard in result.shards] == ["skipped", "done"]
    assert result.shards[0].counts == first.shards[0].counts
    assert result.failed[0]["key"] == "b0"
    assert result.step_seconds()["read"] == 1.5  # what was done now
    assert {name: data for name, data in state(bases).items() if name in before} == before


def redone(bases: list[Path], **changes: Any) -> str:
    """Why the first shard is done again; the second is skipped."""
    watcher = Watcher()
    run(bases, progress=watcher, **changes)
    starts = [event for event in watcher.told if event[0] == "start"]
    assert [event[1] for event in starts] == ["s-0.tar"]
    assert ("skip", "s-1.tar") in watcher.told
    return starts[0][2]


def test_a_changed_input_is_redone_and_said(bases: list[Path]):
    run(bases)
    write_shard(bases[0], {"other": {"jpg": b"1"}})
    assert redone(bases) == "redone, input changed: base (s-0.tar)"
    assert [sample.key for sample in read_shard(sidecar(bases[0], "depth"))] == ["other"]


def test_a_touched_input_is_not_redone(bases: list[Path]):
    run(bases)
    bases[0].write_bytes(bases[0].read_bytes())
    result = run(bases)
    assert [shard.status for shard in result.shards] == ["skipped", "skipped"]


def test_a_missing_manifest_is_redone_and_said(bases: list[Path]):
    run(bases)
    manifest_path(sidecar(bases[0], "depth")).unlink()
    assert redone(bases) == "redone, unfinished: it has no manifest"


def test_a_damaged_sidecar_is_redone_and_said(bases: list[Path]):
    run(bases)
    tar = sidecar(bases[0], "depth")
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-512])
    assert "redone, damaged: " in redone(bases)
    assert tar.read_bytes() == whole
    tar.write_bytes(whole.replace(b"1", b"9"))
    assert redone(bases) == "redone, changed since it was written"
    assert tar.read_bytes() == whole


def test_results_of_other_settings_are_refused_before_anything_is_done(bases: list[Path]):
    run(bases[:1], config={"depth": {"a": 1, "b": 1}})
    before = state(bases)
    with pytest.raises(
        OtherSettingsError,
        match=r"^1 of 2 shards holds finished results of other settings \(s-0\.depth\.tar\): "
        r"depth\.a 1 -> 2: run\.if_exists='replace' replaces them; to keep them, work in another folder",
    ) as refused:
        run(bases, config={"depth": {"a": 2, "b": 1}})
    assert refused.value.exit_code == 2
    assert state(bases) == before
    # What is unfinished or of other inputs is no result of other settings.
    manifest_path(sidecar(bases[0], "depth")).unlink()
    assert [shard.status for shard in run(bases).shards] == ["done", "done"]


def test_results_of_other_settings_are_replaced_where_asked_and_that_is_said_first(bases: list[Path]):
    run(bases)
    watcher = Watcher()
    run(bases, config={"depth": {"a": 2}}, if_exists="replace", progress=watcher)
    assert watcher.told[0] == (
        "replacing",
        "replacing in 2 of 2 shards finished results of other settings (s-0.depth.tar, s-1.depth.tar): depth.a 1 -> 2",
    )
    assert [event for event in watcher.told if event[0] == "start"] == [
        ("start", f"s-{n}.tar", "redone, config changed: depth.a 1 -> 2") for n in range(2)
    ]
    # A run that was stopped goes on: what has the new settings is left.
    again = Watcher()
    result = run(bases, config={"depth": {"a": 2}}, if_exists="replace", progress=again)
    assert [shard.status for shard in result.shards] == ["skipped", "skipped"]
    assert again.told[0][0] == "begin"
    overwriting = Watcher()
    run(bases, config={"depth": {"a": 3}}, if_exists="overwrite", progress=overwriting)
    assert "depth.a 2 -> 3" in overwriting.told[0][1]


def test_a_file_that_the_user_names_is_a_setting(bases: list[Path], tmp_path: Path):
    def with_weights(content: bytes, **changes: Any) -> StageResult:
        (tmp_path / "w.bin").write_bytes(content)
        inputs = {"inputs": lambda base: {"base": base, "weights": tmp_path / "w.bin"}}
        return run(bases, **inputs, files={"weights": "depth.weights"}, **changes)

    with_weights(b"1")
    assert [shard.status for shard in with_weights(b"1").shards] == ["skipped", "skipped"]
    with pytest.raises(OtherSettingsError, match=r"depth\.weights w\.bin \(6b86b273\) -> w\.bin \(d4735e3a\): "):
        with_weights(b"2")
    with_weights(b"2", if_exists="replace")
    with pytest.raises(OtherSettingsError, match=r"depth\.weights w\.bin \(d4735e3a\) -> \(unset\)"):
        run(bases, files={"weights": "depth.weights"})
    # Weights that come or go with another input are no choice of the user's.
    found = run(bases, inputs=lambda base: {"base": base, "features": base}, files={"weights": "depth.weights"})
    assert [shard.status for shard in found.shards] == ["done", "done"]


def test_whether_a_stage_would_refuse_is_told_without_work(bases: list[Path]):
    def compare(**changes: Any) -> None:
        compare_settings(lambda progress: run(bases, progress=progress, **changes))

    def no_inputs(base: Path) -> Mapping[str, Path]:
        raise UsageError("it would look for weights")

    compare(inputs=no_inputs)
    assert not sidecar(bases[0], "depth").exists()
    run(bases)
    with pytest.raises(OtherSettingsError):
        compare(config={"depth": {"a": 2}}, inputs=no_inputs)
    watcher = Watcher()
    compare_settings(
        lambda progress: run(bases, progress=progress, config={"depth": {"a": 2}}, if_exists="replace"),
        progress=watcher,
    )
    assert [event[0] for event in watcher.told] == ["replacing"]


@pytest.mark.parametrize("if_exists", ["resume", "replace", "overwrite", "fail"])
def test_a_run_ends_well_only_over_its_own_settings(bases: list[Path], if_exists: str):
    """Another run of other settings takes the second shard before this one and, replacing, the first one after it."""

    def other_run(base: Path) -> Iterator[Outcome]:
        if base == bases[0]:
            run(bases[1:], config={"depth": {"a": 2}})
        else:
            run(bases[:1], config={"depth": {"a": 2}}, if_exists="replace")
        yield from outcomes(base)

    watcher = Watcher()
    result = run(bases, outcomes=other_run, if_exists=if_exists, progress=watcher)
    first, second = result.shards
    if if_exists in ("resume", "fail"):  # the other's shard stays
        assert (first.status, second.status) == ("done", "broken")
        assert load_manifest(manifest_path(sidecar(bases[1], "depth"))).config == {"depth": {"a": 2}}
    else:
        assert (first.status, second.status) == ("broken", "done")
    why = "another run has written it meanwhile, with other settings: let one of them end first"
    assert [event[2] for event in watcher.told if event[0] == "broken"] == [why]
    assert [str(shard.reason) for shard in result.broken] == [why]
    with pytest.raises(ShardError, match=r"1 of 2 shards could not be done: s-[01]\.tar"):
        result.check_complete()


def test_overwrite_redoes_all_and_gives_the_same_bytes(bases: list[Path]):
    run(bases)
    before = {name: data for name, data in state(bases).items() if name.endswith(".tar")}
    watcher = Watcher()
    result = run(bases, if_exists="overwrite", progress=watcher)
    assert [shard.status for shard in result.shards] == ["done", "done"]
    assert [event[2] for event in watcher.told if event[0] == "start"] == ["", ""]
    assert {name: data for name, data in state(bases).items() if name.endswith(".tar")} == before


def test_fail_stops_before_anything_is_done(bases: list[Path]):
    run(bases[1:])
    before = state(bases)
    with pytest.raises(OccupiedError, match=r"s-1\.depth\.tar exists: run\.if_exists='resume' keeps"):
        run(bases, if_exists="fail")
    assert state(bases) == before


def test_a_manifest_of_another_format_is_not_touched_unless_told(bases: list[Path]):
    run(bases)
    path = manifest_path(sidecar(bases[0], "depth"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    result = run(bases)
    assert [shard.status for shard in result.shards] == ["broken", "skipped"]
    assert "format version 99" in str(result.shards[0].reason)
    assert "run `cuts3d depth` with run.if_exists='overwrite'" in str(result.shards[0].reason)
    run(bases, if_exists="overwrite")
    assert load_manifest(path).format_version == 1


def test_what_goes_wrong_in_a_shard_leaves_the_old_one_as_it_was(bases: list[Path]):
    run(bases)
    before = state(bases)

    def break_down(base: Path) -> Iterator[Outcome]:
        yield Outcome(key="a", members={"depth.json": b"{}"})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(bases, outcomes=break_down, if_exists="overwrite")
    assert state(bases) == before


def test_a_shard_without_its_input_is_named_before_the_work_and_stops_no_other(bases: list[Path]):
    def inputs(base: Path) -> Mapping[str, Path]:
        if base in missing:
            raise ShardError(f"{base.name} has no depth")
        return {"base": base}

    before, missing = state(bases), list(bases)
    with pytest.raises(ShardError, match=r"s-0\.tar has no depth \(and 1 more shards likewise\)"):
        run(bases, inputs=inputs)
    assert state(bases) == before
    watcher, missing = Watcher(), bases[:1]
    result = run(bases, inputs=inputs, progress=watcher)
    assert watcher.told[1:3] == [("broken", "s-0.tar", "s-0.tar has no depth"), ("start", "s-1.tar", "")]
    assert [shard.status for shard in result.shards] == ["broken", "done"]
    assert result.to_json()["shards"][0] == {
        "shard": str(bases[0]),
        "status": "broken",
        "counts": {},
        "reason": "s-0.tar has no depth",
    }


def test_a_damaged_base_shard_is_blamed_itself(bases: list[Path]):
    """What was made of it earlier is not."""
    for base in bases:
        manifest_of_base(base)
    run(bases)
    with tarfile.open(bases[0]) as tar:
        place = tar.getmembers()[0].offset_data
    content = bytearray(bases[0].read_bytes())
    content[place] ^= 1
    bases[0].write_bytes(content)
    result = run(bases)
    assert [shard.status for shard in result.shards] == ["broken", "skipped"]
    assert "s-0.tar has changed since it was written" in str(result.shards[0].reason)
    assert "run `cuts3d verify` with fix=True" in str(result.shards[0].reason)


def manifest_of_base(base: Path) -> None:
    digest = manifest_module.digest_file(base)
    counts = {"samples_in": 2, "samples_out": 2, "failed": 0}
    facts: dict[str, Any] = {"stage": "pack", "config": {}, "inputs": {}, "counts": counts}
    save_manifest(manifest_path(base), Manifest(**facts, sha256=digest.sha256, size=digest.size))


def test_damage_that_shows_during_the_work_stops_no_other_shard(bases: list[Path]):
    def damaged(base: Path) -> Iterator[Outcome]:
        yield from outcomes(base)
        if base == bases[0]:
            raise ShardError("truncated")

    result = run(bases, outcomes=damaged)
    assert [shard.status for shard in result.shards] == ["broken", "done"]
    assert not sidecar(bases[0], "depth").exists()
    assert hidden(bases) == []


def test_a_full_disk_stops_all(bases: list[Path], monkeypatch: pytest.MonkeyPatch):
    begun = []

    def full(base: Path) -> Iterator[Outcome]:
        begun.append(base)
        raise UnwritableError("no space left")
        yield

    with pytest.raises(UnwritableError):
        run(bases, outcomes=full)
    assert begun == bases[:1]


def test_an_input_of_many_shards_is_hashed_once(bases: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"w")
    hashed = []

    def digest(path: Path, **known: Any) -> Any:
        hashed.append(path.name)
        return original(path, **known)

    original = driver.digest_file
    for module in (driver, manifest_module, freshness):
        monkeypatch.setattr(module, "digest_file", digest)
    run(bases, inputs=lambda base: {"base": base, "weights": weights})
    assert sorted(hashed) == ["s-0.tar", "s-1.tar", "weights.bin"]
    manifest = load_manifest(manifest_path(sidecar(bases[1], "depth")))
    assert {role: item.file for role, item in manifest.inputs.items()} == {"base": "s-1.tar", "weights": "weights.bin"}
    weights.write_bytes(b"x")
    watcher = Watcher()
    run(bases, inputs=lambda base: {"base": base, "weights": weights}, progress=watcher)
    assert ("start", "s-1.tar", "redone, input changed: weights (weights.bin)") in watcher.told


@pytest.mark.parametrize(("content", "expected"), [("[1, 2]", None), ("{", None), (None, None)])
def test_a_json_of_another_program_beside_a_shard_is_no_obstacle(
    bases: list[Path], content: str | None, expected: int | None
):
    if content is not None:
        manifest_path(bases[0]).write_text(content)
    watcher = Watcher()
    run(bases[:1], progress=watcher)
    assert watcher.told[0] == ("begin", [("s-0.tar", expected)])
    assert watcher.told[-1] == ("finish", "s-0.tar")


# ---------------------------------------------------------------------------------------------- shared with others


ELSEWHERE = "0123456789-77-1"


def foreign_claim(base: Path, *, age: float = 0.0) -> Path:
    """A claim of a process on another machine."""
    path = base.with_name(f".{sidecar(base, 'depth').name}.0.claim")
    path.write_text(json.dumps({"owner": ELSEWHERE, "host": "node7", "token": "t", "beat": 0.1}))
    os.utime(path, (time.time() - age,) * 2)
    return path


def hidden(bases: list[Path]) -> list[str]:
    return [name for name in state(bases) if name.startswith(".")]


def test_nothing_is_left_of_claims(bases: list[Path]):
    seen = []

    def look(base: Path) -> Iterator[Outcome]:
        seen.append([name for name in hidden(bases) if name.endswith(".claim")])
        yield from outcomes(base)

    run(bases, outcomes=look)
    assert seen == [[".s-0.depth.tar.0.claim"], [".s-1.depth.tar.0.claim"]]
    assert hidden(bases) == []


def test_what_another_process_works_on_comes_last_and_is_waited_for(bases: list[Path]):
    """The other process finishes the first shard when this one has nothing else to do."""
    path = foreign_claim(bases[0])

    class Waiting(Watcher):
        def wait(self, shards: Any, *, owners: Any) -> None:
            super().wait(shards, owners=owners)
            path.unlink()
            run(bases[:1])

    watcher = Waiting()
    result = run(bases, progress=watcher)
    assert [event for event in watcher.told if isinstance(event, tuple)][1:] == [
        ("start", "s-1.tar", ""),
        ("finish", "s-1.tar"),
        ("wait", ["s-0.tar"], ["node7, process 77"]),
        ("elsewhere", "s-0.tar"),
    ]
    assert [shard.status for shard in result.shards] == ["elsewhere", "done"]
    assert result.shards[0].counts == result.shards[1].counts
    assert hidden(bases) == []


def test_a_shard_of_a_machine_that_died_is_taken_over_after_the_time(bases: list[Path]):
    path = foreign_claim(bases[0], age=50)
    (bases[0].parent / f".s-0.depth.tar.{ELSEWHERE}.00000000.tmp").touch()

    class Aging(Watcher):
        def wait(self, shards: Any, *, owners: Any) -> None:
            super().wait(shards, owners=owners)
            os.utime(path, (time.time() - 61,) * 2)

    watcher = Aging()
    result = run(bases, progress=watcher, sharing=Sharing(timeout=60))
    assert ("wait", ["s-0.tar"], ["node7, process 77"]) in watcher.told
    assert [shard.status for shard in result.shards] == ["done", "done"]
    assert hidden(bases) == []


def test_without_waiting_what_is_left_is_reported(bases: list[Path]):
    path = foreign_claim(bases[0])
    result = run(bases, sharing=Sharing(wait=False))
    assert [shard.status for shard in result.shards] == ["held", "done"]
    assert result.count("samples_in") == 2
    assert hidden(bases) == [path.name]


@pytest.mark.parametrize("if_exists", ["replace", "overwrite"])
def test_what_another_process_finishes_meanwhile_is_not_done_again(bases: list[Path], if_exists: str):
    run(bases)
    config = {"depth": {"a": 2}} if if_exists == "replace" else {"depth": {"a": 1}}

    def other_first(base: Path) -> Iterator[Outcome]:
        if base == bases[0]:
            run(bases[1:], config=config, if_exists=if_exists)
        yield from outcomes(base)

    watcher = Watcher()
    result = run(bases, config=config, outcomes=other_first, if_exists=if_exists, progress=watcher)
    assert [shard.status for shard in result.shards] == ["done", "elsewhere"]
    assert ("elsewhere", "s-1.tar") in watcher.told


def test_what_was_taken_over_is_given_up_unpublished(bases: list[Path]):
    """This process is asleep so long that another one has bid more, and has not finished yet."""
    path = bases[0].with_name(".s-0.depth.tar.1.claim")

    def asleep(base: Path) -> Iterator[Outcome]:
        yield from outcomes(base)
        if not path.exists():
            foreign_claim(base).rename(path)

    watcher = Watcher()
    result = run(bases[:1], outcomes=asleep, progress=watcher, sharing=Sharing(wait=False))
    assert watcher.told[-1] == ("give up", "s-0.tar", "s-0.depth.tar: another process has taken it over")
    assert [shard.status for shard in result.shards] == ["held"]
    assert not sidecar(bases[0], "depth").exists()
    assert hidden(bases) == [path.name]


def test_what_a_process_left_that_died_after_its_work_is_swept(bases: list[Path]):
    run(bases)
    foreign_claim(bases[0], age=1000)
    (bases[0].parent / f".s-0.depth.json.{ELSEWHERE}.00000000.tmp").touch()
    result = run(bases)
    assert [shard.status for shard in result.shards] == ["skipped", "skipped"]
    assert hidden(bases) == []


def test_a_manifest_that_cannot_be_written_leaves_no_tar(bases: list[Path], monkeypatch: pytest.MonkeyPatch):
    before = state(bases)

    def fail(*_: Any) -> None:
        raise FileError("no space left")

    monkeypatch.setattr(driver, "save_manifest", fail)
    with pytest.raises(FileError, match="no space left"):
        run(bases)
    assert state(bases) == before


def test_a_fixed_split_is_complete_and_without_overlap(tmp_path: Path):
    bases = [write_shard(tmp_path / f"s-{n}.tar", {"a": {"jpg": b"1"}, "b": {"jpg": b"2"}}) for n in range(5)]
    parts = [run(bases, sharing=Sharing(rank=rank, world_size=3)) for rank in range(3)]
    assert [[shard.shard.name for shard in part.shards] for part in parts] == [
        ["s-0.tar", "s-3.tar"],
        ["s-1.tar", "s-4.tar"],
        ["s-2.tar"],
    ]
    assert {shard.status for part in parts for shard in part.shards} == {"done"}


def test_a_split_is_fixed_only_where_it_was_asked_for():
    slurm = {"SLURM_PROCID": "2", "SLURM_NTASKS": "4"}
    torchrun = {"RANK": "1", "WORLD_SIZE": "3"}
    everything = Sharing.from_config(RunConfig(), environment=slurm | torchrun)
    assert (everything.rank, everything.world_size) == (0, 1)
    for environment, expected in ((slurm, (2, 4)), (slurm | torchrun, (1, 3))):
        found = Sharing.from_config(RunConfig(split="fixed"), environment=environment)
        assert (found.rank, found.world_size) == expected
    for config in (RunConfig(rank=0, world_size=2), RunConfig(split="fixed", rank=0, world_size=2)):
        assert Sharing.from_config(config, environment=slurm).world_size == 2


@pytest.mark.parametrize(
    ("config", "environment", "message"),
    [
        (RunConfig(split="fixed"), {}, "needs run\\.rank and run\\.world_size"),
        (RunConfig(rank=1), {}, "needs run\\.rank and run\\.world_size"),
        (RunConfig(world_size=4), {"RANK": "1", "WORLD_SIZE": "3"}, "needs run\\.rank and run\\.world_size"),
        (RunConfig(rank=4, world_size=4), {}, "rank 4 of 4 processes is impossible: ranks go from 0 to 3"),
        (RunConfig(split="fixed"), {"RANK": "x", "WORLD_SIZE": "3"}, "variable RANK is 'x'"),
    ],
)
def test_impossible_splits(config: RunConfig, environment: dict[str, str], message: str):
    with pytest.raises(UsageError, match=message):
        Sharing.from_config(config, environment=environment)
