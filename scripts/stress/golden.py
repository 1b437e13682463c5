"""Record what the commands write, or compare it with an earlier record.

    bash scripts/stress.sh golden record FILE     # before a change
    bash scripts/stress.sh golden compare FILE    # after it

A record holds the SHA-256 of tars, pictures and weights, the configuration hashes and counts of manifests, the keys of
--json, and the names of all options, for rendered scenes and the photos of the demo. `compare` makes the same record
again and lists what differs; the exit code is 1 if anything does. It takes about two minutes.

Compare on the machine of the record: bytes may differ between processors and between versions of packages, since the
last digits of floating-point results do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from demo.data import write_rgbd
from executable import FINAL_WEIGHTS, CommandError, cuts3d, neutral_environment

SCENE_SEEDS = (0, 1)
OFFLINE = ("--preset", "offline")
SMALL = ("--size", 476)
"""A small grid, 34x34 patches of 14 pixels."""
BACKBONE = ("--backbone", "dinov2-vits14-pypi")
OVERWRITE = ("--if-exists", "overwrite")
REPLACE = ("--if-exists", "replace")
TRAINING = (
    *("--preset", "tiny", "--device", "cpu", "--set", "max_iter=2", "--set", "decay_steps="),
    *("--set", "images_per_batch=2", "--set", "precise_bn=2"),
)
"""Two iterations of a small detector."""
COMMANDS = (
    *("pack", "depth", "features", "pseudo", "confidence", "viz", "train", "selftrain"),
    *("predict", "eval", "run", "verify", "inspect", "doctor", "weights", "config"),
)


class Recorder:
    """Runs commands in a folder, and records what they write.

    Args:
        folder: working folder; receives the input and all output.

    Attributes:
        record: name -> digest, hash, counts or names.
    """

    def __init__(self, folder: Path) -> None:
        """Start with an empty record."""
        self.record: dict[str, Any] = {}
        self._folder = folder
        # Help is wrapped at the width of the terminal; no model hub is asked.
        self._environment = neutral_environment(COLUMNS="200", HF_HUB_OFFLINE="1")

    def run(self, *arguments: object) -> str:
        """Run one command. Returns what it prints.

        Raises:
            CommandError: it failed.
        """
        return cuts3d(*arguments, folder=self._folder, environment=self._environment)

    def note_keys(self, *arguments: object) -> None:
        """Run one command with --json, and record the keys of its output."""
        self.record[f"{arguments[0]}: --json keys"] = keys(json.loads(self.run(*arguments, "--json")))

    def note_file(self, name: str) -> None:
        """Record the digest of a file."""
        self.record[name] = _digest((self._folder / name).read_bytes())

    def note_shards(self, label: str) -> None:
        """Record the tars and manifests of all shards as they are now."""
        for path in sorted((self._folder / "shards").iterdir()):
            name = f"{label}: {path.name}"
            if path.suffix == ".tar":
                self.record[name] = _digest(path.read_bytes())
            else:
                manifest = json.loads(path.read_text(encoding="utf-8"))
                self.record[f"{name}: configuration hash"] = manifest["config_hash"]
                self.record[f"{name}: counts"] = manifest["counts"]
                self.record[f"{name}: keys"] = sorted(manifest)

    def note_masks(self) -> None:
        """Pack photos, and cut their masks by every method and way of computing."""
        # Input, and depth by the sensor.
        write_rgbd(self._folder, seeds=SCENE_SEEDS)
        self.run(
            *("pack", "images", "--depth-dir", "depth", "--out", "shards"), *("--name", "golden", "--shard-size", 3)
        )
        common = ("--shards", "shards", "--workers", 0)
        self.note_keys("depth", *common, *OFFLINE)

        # Both methods, with variants of CutS3D, from features computed on the way.
        self.note_keys("pseudo", *common, *OFFLINE, *SMALL, "--export-coco", "masks.json")
        coco = json.loads((self._folder / "masks.json").read_text(encoding="utf-8"))
        coco.pop("info", None)  # has the date
        self.record["masks.json"] = _digest(json.dumps(coco, sort_keys=True).encode())
        self.note_keys("confidence", *common)
        self.note_shards("cuts3d")
        self.note_keys("eval", "--shards", "shards", "--gt", "annotations.json")
        self.run("viz", "--shards", "shards", "--key", "rendered-0", "--out", "viz-of-shard.png")
        self.note_file("viz-of-shard.png")
        self.run("confidence", *common, "--source", "crf", *REPLACE)
        self.note_shards("confidence of the CRF")
        for label, words in {
            "best": (*SMALL, "--preset", "best", *BACKBONE, "--source", "core", "--tau-knn", 0.1),
            "maskcut": (*SMALL, "--preset", "maskcut", *BACKBONE),
            "in 2D": (*OFFLINE, *SMALL, "--cut", "component", "--no-sharpen", "--no-crf"),
        }.items():
            self.run("pseudo", *common, *words, *REPLACE)
            self.note_shards(label)

        # Graphs of a batch at once, from stored features.
        self.run("features", *common, *OFFLINE, *SMALL)
        batched = ("--set", "graphs=device", *OVERWRITE)
        self.run("pseudo", *common, *OFFLINE, *SMALL, *batched)
        self.note_shards("cuts3d, batched")
        self.run("pseudo", *common, *SMALL, "--preset", "maskcut", *BACKBONE, *batched)
        self.note_shards("maskcut, batched")

    def note_photo(self) -> None:
        """Draw every step for one photo that is in no shard."""
        write_rgbd(self._folder, seeds=())
        photo = ("images/tote.png", "--depth", "depth/tote.png")
        self.run("viz", *OFFLINE, *photo, "--out", "viz-of-photo.png", *SMALL, "--workers", 0)
        self.note_file("viz-of-photo.png")

    def note_detector(self) -> None:
        """Train a small detector for two iterations, and predict."""
        write_rgbd(self._folder, seeds=SCENE_SEEDS)
        self.run("pack", "images", "--depth-dir", "depth", "--out", "shards", "--name", "golden")
        common = ("--shards", "shards", "--workers", 0)
        self.run("depth", *common, *OFFLINE)
        self.run("pseudo", *common, *OFFLINE, *SMALL, "--no-crf", "-n", 5, "--tau-knn", 0.1)
        self.run("confidence", *common)
        self.run("train", "--shards", "shards", *TRAINING, "--out", "detector")
        self.note_file(f"detector/{FINAL_WEIGHTS}")
        self.note_keys("predict", "--shards", "shards", "--checkpoint", f"detector/{FINAL_WEIGHTS}")
        self.note_shards("detector")
        self.note_keys("verify", "--shards", "shards")
        self.note_keys("inspect", "shards/golden-000.pseudo.tar")

    def note_options(self) -> None:
        """Record the names of the options of every command, and the whole default configuration."""
        for command in COMMANDS:
            help_text = self.run(command, "--help")
            self.record[f"{command}: options"] = sorted(set(re.findall(r"--[a-z][a-z0-9-]*", help_text)))
        self.note_keys("config", "show")
        self.note_keys("weights", "list")
        self.record["config show"] = _digest(self.run("config", "show").encode())


PARTS: dict[str, Callable[[Recorder], None]] = {
    "options": Recorder.note_options,
    "photo": Recorder.note_photo,
    "masks": Recorder.note_masks,
    "detector": Recorder.note_detector,
}


def record(parts: Sequence[str], *, log: Callable[[str], None]) -> dict[str, Any]:
    """Run commands on rendered scenes and the photos of the demo, and record what they write.

    Args:
        parts: of `PARTS`.
        log: prints a status line.

    Returns:
        Part -> name -> digest, hash, counts or names.

    Raises:
        CommandError: a command failed.
    """
    found = {}
    for part in parts:
        log(f"golden: {part}")
        with tempfile.TemporaryDirectory(prefix="cuts3d-golden-") as folder:
            recorder = Recorder(Path(folder))
            PARTS[part](recorder)
            found[part] = recorder.record
    return found


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """List what differs between two records of the same parts, a line each."""
    lines = []
    for part in first:
        for name in sorted({*first[part], *second[part]}):
            if name not in second[part]:
                lines.append(f"{part}: {name}: missing now")
            elif name not in first[part]:
                lines.append(f"{part}: {name}: new")
            elif first[part][name] != second[part][name]:
                lines.append(f"{part}: {name}: {_change(first[part][name], second[part][name])}")
    return lines


def keys(value: Any, place: str = "") -> list[str]:
    """List the keys of a JSON value with their places, as in ".shards[].name"; items of a list share a place."""
    found: set[str] = set()
    if isinstance(value, dict):
        for key, item in value.items():
            found |= {f"{place}.{key}", *keys(item, f"{place}.{key}")}
    elif isinstance(value, list):
        for item in value:
            found |= set(keys(item, f"{place}[]"))
    return sorted(found)


def main(arguments: Sequence[str]) -> int:
    """Run the command line.

    Args:
        arguments: of the command line.

    Returns:
        1 if something differs from the record.
    """
    parser = argparse.ArgumentParser(
        prog="stress golden", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("record", "compare"), help="record into FILE, or compare with it")
    parser.add_argument("file", type=Path, metavar="FILE", help="a JSON file")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"for record: some of {','.join(PARTS)} (all)")
    options = parser.parse_args(arguments)
    parts = options.parts.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"--parts {options.parts}: the parts are {', '.join(PARTS)}")

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        if options.action == "record":
            found = record(parts, log=log)
            options.file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            print(f"{_count(found)} entries recorded in {options.file}")
            return 0
        expected = json.loads(options.file.read_text(encoding="utf-8"))
        lines = differences(expected, record(list(expected), log=log))
    except (CommandError, OSError, ValueError) as error:
        sys.exit(f"golden: {error}")
    for line in lines:
        print(line)
    print(f"{len(lines)} differences" if lines else f"all {_count(expected)} entries are equal")
    return int(bool(lines))


def _change(before: Any, after: Any) -> str:
    """Describe a change: by the names that came and went, or that there is one."""
    if isinstance(before, list) and isinstance(after, list):
        gone, new = sorted(set(before) - set(after)), sorted(set(after) - set(before))
        return "; ".join(f"{title} {', '.join(names)}" for title, names in (("without", gone), ("with", new)) if names)
    return f"{before} then, {after} now"


def _count(found: dict[str, Any]) -> int:
    return sum(len(names) for names in found.values())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
