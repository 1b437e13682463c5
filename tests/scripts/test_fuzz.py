from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cuts3d_cli.errors import ShardError
from stress import fuzz, fuzz_swaps
from stress.fuzz import TARGETS
from stress.fuzz_commands import BadEndError, _check
from stress.fuzz_mutations import mutated_bytes, mutated_json, mutated_tar
from stress.fuzz_shards import ShardFolder, read_members, write_members
from stress.fuzz_targets import TARGETS as DAMAGE
from stress.fuzz_targets import UnnamedError, naming

SLOW = {"swap", "command", "packing"}
"""Targets with cases of tens of milliseconds."""


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_input_ends_in_a_result_or_in_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if name in ("checkpoint", "swap"):
        pytest.importorskip("detectron2", reason="detectron2 is not installed (see scripts/detectron2)")
    monkeypatch.chdir(tmp_path)

    @settings(
        max_examples=20 if name in SLOW else 60,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(number=st.integers(0, 10**9))
    def run(number: int) -> None:
        assert fuzz.run_case(name, number, tmp_path) is None

    run()


def test_every_target_takes_undamaged_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Else all cases might end in the same error, long before what they are to reach."""
    monkeypatch.chdir(tmp_path)
    for name, (target, _) in DAMAGE.items():
        good = 0
        for number in range(60):
            try:
                target(Random(f"{name}:{number}"), tmp_path)
                good += 1
            except Exception:  # what it is, the test above looks at
                continue
        # These raise nothing: packing lists what it cannot read, own claims and journals start anew, and a ground truth
        # that says the same in other words is read.
        assert 0 < good < (61 if name in ("packing", "own_json", "same_truth") else 60), name


class TwoLinesError(ShardError):
    def __str__(self) -> str:
        return "two\nlines"


def say_too_much(rng: Random, folder: Path) -> None:
    raise TwoLinesError("x")


def fall_over(rng: Random, folder: Path) -> None:
    raise KeyError("x")


def dawdle(rng: Random, folder: Path) -> None:
    try:
        time.sleep(60)
    except Exception:
        return


def devour(rng: Random, folder: Path) -> None:
    bytearray(3 << 20)


@pytest.mark.parametrize(
    ("target", "words"),
    [(say_too_much, "not one line"), (fall_over, "KeyError"), (dawdle, "more than"), (devour, "MB")],
)
def test_findings_are_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Any, words: str):
    monkeypatch.setitem(fuzz.TARGETS, "x", (target, 1))
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    monkeypatch.setattr(fuzz, "MEGABYTES", -1 if target is devour else 512)
    assert words in str(fuzz.run_case("x", 0, tmp_path))


def test_a_case_is_a_function_of_its_number():
    for mutate in (lambda rng: mutated_bytes(rng, b"content"), lambda rng: mutated_json(rng, {"a": [1, {"b": "c"}]})):
        assert [mutate(Random(n)) for n in range(50)] == [mutate(Random(n)) for n in range(50)]
    assert mutated_tar(Random(5), bytes(1024)) == mutated_tar(Random(5), bytes(1024))


def test_the_cases_are_shared_out_and_a_process_that_dies_is_a_finding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def die(rng: Random, folder: Path) -> None:
        if rng.random() < 0.3:
            os.kill(os.getpid(), signal.SIGSEGV)

    monkeypatch.setattr(
        fuzz, "TARGETS", {"good": (lambda rng, folder: None, 3), "bad": (fall_over, 1), "dead": (die, 1)}
    )
    monkeypatch.setattr(fuzz, "CHUNK", 4)
    findings = fuzz.run_all(["good", "bad", "dead"], 50, first=0)
    out = capsys.readouterr().out
    assert "good: 30 cases, 0 findings" in out
    assert "bad: 10 cases, 10 findings" in out
    died = sum(Random(f"dead:{number}").random() < 0.3 for number in range(10))
    assert died
    assert f"dead: 10 cases, {died} findings" in out
    assert findings == 10 + died


def test_an_error_has_to_name_its_file():
    with pytest.raises(UnnamedError, match=r"does not name a\.json"), naming(Path("a.json")):
        raise ShardError("something is wrong")
    with pytest.raises(ShardError), naming(Path("a.json")):
        raise ShardError("a.json is wrong")


@pytest.mark.parametrize(
    ("code", "errors", "words"),
    [
        (139, "", "exit code 139"),
        (1, "Traceback (most recent call last):\n", "a traceback"),
        (1, "", "0 lines say why"),
        (2, "cuts3d: a\ncuts3d: b\n", "2 lines say why"),
    ],
)
def test_commands_that_end_badly_are_findings(code: int, errors: str, words: str):
    with pytest.raises(BadEndError, match=words):
        _check(code, errors, where="eval")
    _check(1, "cuts3d: a.tar is damaged\n", where="eval")
    _check(0, "warning: x\n", where="eval")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    return ShardFolder(tmp_path_factory.mktemp("swaps") / "swaps")


def test_shards_are_put_back_as_they_were(shards: ShardFolder):
    samples = read_members(shards.files["a-000.tar"][0])
    assert write_members(samples) == shards.files["a-000.tar"][0]
    shards.put("a-000.tar", b"x")
    shards.remove("a-001.json")
    (shards.folder / "new.tar").write_bytes(b"")
    shards.restore()
    there = {str(path.relative_to(shards.folder)): path for path in shards.folder.rglob("*") if path.is_file()}
    assert {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in there.items()} == shards.files


def test_another_result_without_a_word_is_a_finding(
    shards: ShardFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fuzz_swaps, "_KEPT", {tmp_path: fuzz_swaps.Made(shards, expected={"x": 1})})

    def reading(outcome: fuzz_swaps.Outcome | Exception) -> None:
        def read(_: ShardFolder) -> fuzz_swaps.Outcome:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(fuzz_swaps, "READERS", {"x": (read, 1)})
        monkeypatch.setattr(fuzz_swaps, "_CHANGES", {lambda rng, shards: shards.put("a-000.depth.tar", b"") or "y": 1})
        fuzz_swaps.swap(Random(0), tmp_path)

    for fine in (
        fuzz_swaps.Outcome(result=1),
        fuzz_swaps.Outcome(result=2, failed=1),
        fuzz_swaps.Outcome(result=2, said=["warning: a-000.depth.tar is not what it was"]),
        ShardError("a-000.depth.json is of another tar"),
    ):
        reading(fine)
    for bad in (fuzz_swaps.Outcome(result=2), fuzz_swaps.Outcome(result=2, said=["fine"]), ShardError("no")):
        with pytest.raises(fuzz_swaps.SilentChangeError):
            reading(bad)
