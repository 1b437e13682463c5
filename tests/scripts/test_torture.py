from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from stress import torture
from stress.torture import Figures
from stress.torture_runs import KINDS, Ended

SCRIPTS = Path(torture.__file__).parents[1]


@pytest.mark.slow
def test_what_is_killed_goes_on_to_the_same_bytes(tmp_path: Path):
    """The short form; `scripts/stress.sh torture --kills 100` is the long one."""
    ran = subprocess.run(
        [sys.executable, "-m", "stress", "torture", "--kills", "6", "--json", "--folder", str(tmp_path / "folder")],
        cwd=SCRIPTS,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SCRIPTS.parent)},
    )
    figures = json.loads(ran.stdout)
    assert figures["broken"] == []
    assert (figures["differing_bytes"], figures["lost_samples"], figures["leftovers"]) == (0, 0, 0)
    assert (figures["kills"], set(figures["kills_by_kind"])) == (6, set(KINDS))
    assert figures["comparisons"] >= 1


def ended(**changes: object) -> Ended:
    defaults: dict[str, object] = {"stage": "depth", "kind": "SIGINT", "code": 130, "undisturbed": False, "after": 1.0}
    return Ended(**(defaults | {"line": ""} | changes))  # type: ignore[arg-type]


def test_promises_that_are_not_kept_are_told():
    for change, words in (
        ({"code": 0}, "exit code 0, not 130"),
        ({"complaints": ["Traceback"]}, "Traceback"),
        ({"left": [".s.tmp"]}, "left .s.tmp"),
        ({"processes_left": True}, "processes are left"),
        ({"kind": "SIGTERM"}, "exit code 130, not 143"),
        ({"kind": "full disk"}, "exit code 130, not 1"),
    ):
        figures = Figures()
        torture._judge(ended(**change), figures)
        assert len(figures.broken) == 1
        assert words in figures.broken[0]
        assert not figures.kept
    late = Figures()
    torture._judge(ended(latency=2.1), late)
    assert (late.broken, late.kept, late.to_json()["sigint_seconds_max"]) == ([], False, 2.1)


@pytest.mark.parametrize(
    ("differing", "lost", "left", "kept"), [(0, 0, 0, True), (1, 0, 0, False), (0, 1, 0, False), (0, 0, 1, False)]
)
def test_what_is_found_in_the_end_counts(differing: int, lost: int, left: int, kept: bool, tmp_path: Path):
    class Made:
        stages = ("depth",)
        folder = tmp_path

        def run_undisturbed(self) -> None:
            pass

        def reset(self) -> None:
            pass

        def run(self, stage: str, *, kind: str = "", chance: random.Random | None = None) -> Ended:
            return ended(kind=kind, code={"SIGKILL": -9, "SIGINT": 130, "": 0}[kind])

        def differing_bytes(self) -> int:
            return differing

        def lost_samples(self) -> int:
            return lost

    for number in range(left):
        (tmp_path / f".{number}.tmp").touch()
    figures = torture.torture(Made(), kills=2, chance=random.Random(0), log=lambda _: None)  # type: ignore[arg-type]
    assert (figures.kept, figures.comparisons, dict(figures.kills)) == (kept, 1, {"SIGKILL": 1, "SIGINT": 1})
