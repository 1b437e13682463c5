"""Whole command lines on damaged and misplaced files: exit codes, and the line that says what is wrong."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
from pathlib import Path
from random import Random
from unittest import mock

import typer.main

from cuts3d_cli.cli.app import exit_code
from stress.fuzz_mutations import mutated_json, mutated_tar, mutated_text
from stress.fuzz_shards import SHARDS, TRUTH, ShardFolder, read_members, write_members
from stress.fuzz_swaps import change, shards_in

_ALL = ("--shards", SHARDS[0], "--shards", SHARDS[1])
_COMMANDS: tuple[tuple[str, ...], ...] = (
    ("inspect", "{file}"),
    ("inspect", "{file}", "--json"),
    ("verify", *_ALL),
    ("verify", *_ALL, "--json"),
    ("eval", *_ALL, "--gt", TRUTH),
    ("eval", *_ALL, "--gt", TRUTH, "--predicted", "--json"),
    ("depth", *_ALL, "--backend", "sensor"),
    ("depth", *_ALL, "--backend", "sensor", "--if-exists", "overwrite"),
    ("config", "show"),
)
_CODES = (0, 1, 2, 3)


_command_line = functools.cache(typer.main.get_command)


class BadEndError(Exception):
    """A command did not end as a command must."""


def command(rng: Random, folder: Path) -> None:
    """Run a command on shards of which some files are damaged, or are others."""
    shards = shards_in(folder)
    words = list(rng.choice(_COMMANDS))
    back = os.getcwd()
    os.chdir(shards.folder)
    try:
        what = change(rng, shards) if rng.random() < 0.4 else _damage(rng, shards)
        file = rng.choice([name for name in [*shards.files, *shards.touched] if Path(name).suffix in (".tar", ".json")])
        words = [word.format(file=rng.choice([file, shards.touched[0]])) for word in words]
        encoding = rng.choice(("utf-8", "ascii"))
        out, errors = (io.TextIOWrapper(io.BytesIO(), encoding, errors="backslashreplace") for _ in range(2))
        # Typer would put the whole command line together again, which takes longer than most commands.
        once = mock.patch.object(typer.main, "get_command", _command_line)
        with once, contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            code = exit_code(words)
        errors.seek(0)
        _check(code, errors.read(), where=f"{' '.join(words)} after {what}")
    finally:
        shards.restore()
        os.chdir(back)


def _damage(rng: Random, shards: ShardFolder) -> str:
    """Damage a file; sometimes write a cuts3d.toml that may be none."""
    if rng.random() < 0.1:
        text = '[run]\nmax_image_pixels = 1000\nclaim_timeout = 5.0\n[depth]\nbackend = "sensor"\nmax_side = 64\n'
        shards.put("cuts3d.toml", mutated_text(rng, text))
        return "cuts3d.toml"
    name = rng.choice([name for name in shards.files if name.startswith("a-") or name == TRUTH])
    content, time = shards.files[name]
    shards.put(name, _damaged(rng, name, content), time=rng.choice([None, time]))
    return f"damage to {name}"


def _damaged(rng: Random, name: str, content: bytes) -> bytes:
    """Damage a JSON, a tar, or a JSON in a tar."""
    if name.endswith(".json"):
        return mutated_json(rng, json.loads(content))
    if rng.random() < 0.4:
        return mutated_tar(rng, content)
    samples = read_members(content)
    members = samples[rng.choice(list(samples))]
    extension = rng.choice([item for item in members if item.endswith("json")])
    members[extension] = mutated_json(rng, json.loads(members[extension]))
    return write_members(samples)


def _check(code: int, errors: str, *, where: str) -> None:
    """Check how a command ended.

    Raises:
        BadEndError: its code is none of those that are documented, or an error is not told in one line.
    """
    lines = errors.splitlines()
    if code not in _CODES:
        raise BadEndError(f"{where}: exit code {code}")
    if any("Traceback" in line for line in lines):
        raise BadEndError(f"{where}: a traceback: {errors}")
    told = [line for line in lines if line.startswith("cuts3d: ")]
    if code in (1, 2) and len(told) != 1 and "verify" not in where.split()[0]:
        raise BadEndError(f"{where}: exit code {code}, and {len(told)} lines say why: {errors}")
