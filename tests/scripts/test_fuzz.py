from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cuts3d_cli.errors import ShardError
from stress import fuzz
from stress.fuzz_mutations import mutated_bytes, mutated_json, mutated_tar
from stress.fuzz_targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_input_ends_in_a_result_or_in_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(number=st.integers(0, 10**9))
    def run(number: int) -> None:
        assert fuzz.run_case(name, number, tmp_path) is None

    run()


def test_every_target_takes_undamaged_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Else all cases might end in the same error, long before what they are to reach."""
    monkeypatch.chdir(tmp_path)
    for name, target in TARGETS.items():
        good = 0
        for number in range(60):
            try:
                target(Random(f"{name}:{number}"), tmp_path)
                good += 1
            except Exception:  # what it is, the test above looks at
                continue
        assert 0 < good < 60, name


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
    monkeypatch.setitem(fuzz.TARGETS, "x", target)  # type: ignore[arg-type]
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    monkeypatch.setattr(fuzz, "MEGABYTES", -1 if target is devour else 512)
    assert words in str(fuzz.run_case("x", 0, tmp_path))


def test_a_case_is_a_function_of_its_number():
    for mutate in (lambda rng: mutated_bytes(rng, b"content"), lambda rng: mutated_json(rng, {"a": [1, {"b": "c"}]})):
        assert [mutate(Random(n)) for n in range(50)] == [mutate(Random(n)) for n in range(50)]
    assert mutated_tar(Random(5), bytes(1024)) == mutated_tar(Random(5), bytes(1024))
