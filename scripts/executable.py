"""Runs commands of the `cuts3d` that is installed for this Python."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

CACHE = "CUTS3D_CACHE"
"""Names the folder of downloaded weights."""
FINAL_WEIGHTS = "model-final.safetensors"
"""File of the detector in the folder of a finished training."""


class CommandError(Exception):
    """A command failed; the message is one line."""


def command(*arguments: object) -> list[str]:
    """Return the words that run a command, for `subprocess`."""
    return [sys.executable, "-m", "cuts3d_cli", *map(str, arguments)]


def neutral_environment(**changes: str) -> dict[str, str]:
    """Return the environment without the user's settings of cuts3d, except for where weights are cached."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CUTS3D_") or name == CACHE}
    return {**kept, **changes}


def cuts3d(
    *arguments: object,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stderr: IO[str] | None = None,
) -> str:
    """Run one command.

    Args:
        arguments: the command and its arguments.
        folder: working folder; this process's by default.
        environment: of the command; this process's by default.
        stderr: where progress and messages go; by default nowhere, except into the error.

    Returns:
        What it prints on stdout.

    Raises:
        CommandError: its exit code is not 0.
    """
    words = command(*arguments)
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if stderr is None else stderr,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr or "").strip().splitlines()[-1:]
        raise CommandError(": ".join([f"`cuts3d {arguments[0]}` ended with exit code {done.returncode}", *last]))
    return done.stdout
