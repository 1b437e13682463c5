"""The official code of others, where a checkout of it is at hand: the variable OFFICIAL_CODE names the folder.

Each repository lies below it under its own name, as `git clone` makes it. It runs in a process of its own: these
projects give the same names to different things.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "OFFICIAL_CODE"
_ROOT = Path(__file__).parents[2]


def checkout(name: str) -> Path:
    """The folder of a repository; the test is skipped where there is none."""
    root = os.environ.get(VARIABLE)
    if root is None:
        pytest.skip(f"needs the official code ({VARIABLE} names a folder with a clone of {name})")
    folder = Path(root) / name
    if not folder.is_dir():
        pytest.skip(f"needs the official code: {VARIABLE} has no folder {name}")
    return folder.resolve()


def run_official(script: str, *arguments: Any) -> None:
    """Run a script beside this file, which imports the official code."""
    path = Path(__file__).with_name(script)
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    ran = subprocess.run(
        [sys.executable, str(path), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
