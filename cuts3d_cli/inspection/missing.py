"""Base shards that are gone: numbers that a range lacks, and shards of which only sidecars are left."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cuts3d_cli.shards.manifest import Manifest
from cuts3d_cli.shards.names import base_of, stage_of
from cuts3d_cli.stages.pack import STAGE as PACK
from cuts3d_cli.wording import listed

_NUMBERED = re.compile(r"(?P<name>.*?(?<![0-9]))(?P<number>[0-9]{1,9})")


class MissingShard(NamedTuple):
    """A base shard that is not there, and why it should be."""

    base: Path
    reason: str


def missing_shards(shards: Sequence[Path], manifests: Mapping[Path, Manifest]) -> list[MissingShard]:
    """Find base shards that are gone, of the sets of numbered shards that some shards belong to.

    What is looked at lies between the first and the last shard of a set that are given; where all that are there are
    given, also before and behind them: `pack` counts from 0, and sidecars may be left. Numbers need not be a range, as
    where they are dates: they are taken for one if at least half of them are there.

    Args:
        shards: base shards.
        manifests: of those that have one.

    Returns:
        The missing ones, in order.
    """
    # Sort the shards that are given into sets, by folder and name.
    sets: dict[tuple[Path, str], dict[int, Path]] = {}
    for base in shards:
        if match := _NUMBERED.fullmatch(base.stem):
            sets.setdefault((base.parent, match["name"]), {})[int(match["number"])] = base
    # Compare each with what lies in its folder.
    found = []
    for (folder, name), given in sets.items():
        there, left = _numbers(folder, name)
        is_all = given.keys() >= there
        packed = any(base in manifests and manifests[base].stage == PACK for base in given.values())
        inside = range(0 if is_all and packed else min(given), max(given) + 1)
        expected = {number for number in left if is_all or number in inside}
        if len(inside) <= 2 * len(there):
            expected.update(inside)
        width = min(len(base.stem) - len(name) for base in given.values())
        for number in sorted(expected - there):
            beside = f", but {listed(left[number])} is there" if number in left else ""
            found.append(MissingShard(folder / f"{name}{number:0{width}d}.tar", f"it is missing{beside}"))
    return found


def _numbers(folder: Path, name: str) -> tuple[set[int], dict[int, list[str]]]:
    """Return the numbers of the base shards of a set, and the sidecars in its folder by number."""
    there: set[int] = set()
    left: dict[int, list[str]] = {}
    for file in sorted(os.listdir(folder)):
        path = folder / file
        match = _NUMBERED.fullmatch(base_of(path).stem) if path.suffix == ".tar" else None
        if match and match["name"] == name:
            if stage_of(path) is None:
                there.add(int(match["number"]))
            else:
                left.setdefault(int(match["number"]), []).append(file)
    return there, left
