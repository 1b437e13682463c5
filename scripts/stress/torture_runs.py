"""Runs of real commands on small shards of rendered scenes, for `torture`: how each ended, and what it left."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from cuts3d_cli.shards.manifest import load_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.shards.reader import read_shard
from executable import command, neutral_environment
from scenes import render_scene
from scenes.files import write_photo

SHARDS, IMAGES = 3, 3
"""Number of shards, and of images in each."""
HEIGHT, WIDTH = 96, 128
FULL = "full disk"
KINDS = ("SIGKILL", "SIGINT", "SIGKILL", "SIGTERM", "SIGINT", FULL, "SIGKILL", "SIGINT", "SIGTERM", "SIGINT")
"""Kinds of interruption, taken in turn."""
_NETWORK = ("--backbone", "dino-vits16", "--size", "224", "--device", "cpu")
STAGES: dict[str, tuple[str, ...]] = {
    "pack": (
        *("pack", "{source}/images", "--out", ".", "--name", "s"),
        *("--depth-dir", "{source}/depth", "--shard-size", str(IMAGES)),
    ),
    "depth": ("depth", "--shards", ".", "--backend", "sensor"),
    "features": ("features", "--shards", ".", *_NETWORK, "--weights", "{weights}"),
    "pseudo": (
        *("pseudo", "--shards", ".", *_NETWORK, "--weights", "{weights}"),
        *("--crf-size", "64", "--tau-knn", "0.2", "-j", "2"),
    ),
    "confidence": ("confidence", "--shards", ".", "--tau-knn-min", "0.12", "-j", "1"),
}
"""The commands, with settings that compute as little as the method allows."""
_ROOM = "64m"
"""Size of the small file system."""
_PATIENCE = 120.0
"""Seconds after which a run is considered hung."""
_VOLATILE = ("seconds", "mtime_ns", "info", "inputs")
"""Fields of a manifest that differ from run to run."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a run ended.

    Attributes:
        stage: of the run.
        kind: of the interruption; empty for a run that was left to finish.
        code: its exit code, negative for a signal.
        undisturbed: it finished before it could be interrupted.
        after: seconds from its start to the signal, or to its end.
        latency: seconds from the signal to the end.
        line: its last line on stderr.
        complaints: lines that do not belong on stderr.
        left: unfinished files that were not there before.
        processes_left: some of its processes are still alive.
    """

    stage: str
    kind: str = ""
    code: int
    undisturbed: bool
    after: float
    latency: float = 0.0
    line: str
    complaints: Sequence[str] = ()
    left: Sequence[str] = ()
    processes_left: bool = False


class Bench:
    """Runs stages on small shards. A context manager.

    Args:
        folder: working folder.
        stages: of `STAGES`.
        log: prints a status line.

    Attributes:
        folder: of the shards: a small file system where it may be mounted, else the size of files is limited to
            simulate a full disk.
        stages: that are run, in order.
    """

    def __init__(self, folder: Path, *, stages: Sequence[str], log: Callable[[str], None]) -> None:
        """Name the folders; create nothing."""
        self.folder = folder / "shards"
        self.stages = stages
        self._source = folder / "source"
        self._weights = folder / "weights.pth"
        self._reference = folder / "reference"
        self._packed = folder / "packed"
        self._log = log
        self._stack = ExitStack()
        self._mounted = False
        self._seconds: dict[str, float] = {}

    def __enter__(self) -> Bench:
        self._source.mkdir(parents=True)
        self.folder.mkdir()
        self._mounted = self._mount()
        self._log("a full disk is " + ("a small file system" if self._mounted else "a limit on the size of files"))
        self._write_photos()
        _write_weights(self._weights)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def reset(self) -> None:
        """Start again with base shards only, or with an empty folder if `pack` is among the stages."""
        for path in self.folder.iterdir():
            path.unlink()
        if "pack" in self.stages:
            return
        if self._packed.is_dir():
            for path in self._packed.iterdir():
                shutil.copy2(path, self.folder)
        else:
            self._must("pack")
            shutil.copytree(self.folder, self._packed)

    def run_undisturbed(self) -> None:
        """Run all stages undisturbed; keep their output, and how long they take."""
        self.reset()
        for stage in self.stages:
            self._seconds[stage] = self._must(stage).after
        shutil.copytree(self.folder, self._reference)

    def run(self, stage: str, *, kind: str = "", chance: random.Random | None = None) -> Ended:
        """Run a stage.

        Args:
            stage: one of `STAGES`.
            kind: one of `KINDS`; empty lets it finish.
            chance: draws the moment: at any time of the run, or once it writes.
        """
        with ExitStack() as stack:
            limit = None
            if kind == FULL and chance is not None:
                limit = self._fill(stack, chance.randrange(self._written_by(stage)))
            before, begun = set(unfinished(self.folder)), time.monotonic()
            # Not a pipe, which worker processes would keep open.
            errors = stack.enter_context(tempfile.TemporaryFile())
            process = self._start(stage, errors=errors, limit=limit)
            signalled = None
            if kind not in ("", FULL) and chance is not None:
                signalled = self._signal(process, getattr(signal, kind), stage=stage, chance=chance, before=before)
            code = process.wait(timeout=_PATIENCE)
            ended = time.monotonic()
            processes_left = not _group_ends(process.pid)
            errors.seek(0)
            lines = errors.read().decode().splitlines()
        return Ended(
            stage=stage,
            kind=kind,
            code=code,
            undisturbed=code == 0,
            after=(signalled or ended) - begun,
            latency=ended - signalled if signalled else 0.0,
            line=lines[-1] if lines else "",
            complaints=_complaints(lines, stage=stage, kind=kind),
            left=sorted(set(unfinished(self.folder)) - before),
            processes_left=processes_left,
        )

    def differing_bytes(self) -> int:
        """Count the bytes of tars, and of manifests without their times, that differ from the undisturbed run."""
        names = {path.name for folder in (self.folder, self._reference) for path in folder.iterdir()}
        return sum(_difference(self.folder / name, self._reference / name) for name in names if name[0] != ".")

    def lost_samples(self) -> int:
        """Count the samples of base shards that a stage neither wrote nor listed as failed."""
        lost = 0
        for base in sorted(self.folder.glob("s-[0-9][0-9][0-9].tar")):
            keys = {sample.key for sample in read_shard(base)}
            for stage in self.stages:
                tar = base if stage == "pack" else sidecar(base, stage)
                if not manifest_path(tar).exists():
                    lost += len(keys)
                    continue
                failed = {item["key"] for item in load_manifest(manifest_path(tar)).failed}
                lost += len(keys - failed - {sample.key for sample in read_shard(tar)})
        return lost

    def _must(self, stage: str) -> Ended:
        """Run a stage that must not fail."""
        ended = self.run(stage)
        if ended.code != 0:
            raise RuntimeError(f"cuts3d {stage} ended with {ended.code}: {ended.line}")
        return ended

    def _start(self, stage: str, *, errors: IO[bytes], limit: int | None) -> subprocess.Popen[bytes]:
        places = {"source": self._source, "weights": self._weights}
        words = command(*(word.format(**places) for word in STAGES[stage]))

        def limit_files() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        return subprocess.Popen(
            words,
            cwd=self.folder,
            env=neutral_environment(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1"),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
            preexec_fn=limit_files,
        )

    def _signal(
        self,
        process: subprocess.Popen[bytes],
        number: int,
        *,
        stage: str,
        chance: random.Random,
        before: set[str],
    ) -> float | None:
        """Signal the whole group at a random moment. Returns when, or None if the run had finished before."""
        begun, length = time.monotonic(), self._seconds[stage]
        once_it_writes = chance.random() < 0.5
        delay = chance.uniform(0, 1.3 * length)
        if number != signal.SIGKILL:  # before it has a handler, Python itself answers
            _until(lambda: _handles(process.pid, signal.SIGTERM) or process.poll() is not None)
        if once_it_writes:
            _until(lambda: bool(set(unfinished(self.folder)) - before) or process.poll() is not None)
            begun, delay = time.monotonic(), chance.uniform(0, 0.4 * length)
        _until(lambda: time.monotonic() >= begun + delay or process.poll() is not None)
        if process.poll() is not None:
            return None
        now = time.monotonic()
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return None
        return now

    def _written_by(self, stage: str) -> int:
        """Return how many bytes a stage writes."""
        ending = "" if stage == "pack" else f".{stage}"
        return sum(path.stat().st_size for path in self._reference.glob(f"s-[0-9][0-9][0-9]{ending}.tar"))

    def _fill(self, stack: ExitStack, room: int) -> int | None:
        """Fill the file system but for `room` bytes until the stack unwinds; without one, return a limit per file."""
        if not self._mounted:
            return room // SHARDS
        filler = self.folder.with_name("shards") / "filler.bin"
        state = os.statvfs(self.folder)
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(state.f_bavail * state.f_frsize - room, 1))
        stack.callback(filler.unlink)
        return None

    def _mount(self) -> bool:
        """Mount a small file system in memory. Returns whether this process may."""
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_ROOM}", "cuts3d-torture", str(self.folder)]
        try:
            done = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        except OSError:
            return False
        if done:
            self._stack.callback(subprocess.run, ["umount", "-l", str(self.folder)], check=False)
        return done

    def _write_photos(self) -> None:
        for part in ("images", "depth"):
            (self._source / part).mkdir()
        for number in range(SHARDS * IMAGES):
            scene = render_scene(number, height=HEIGHT, width=WIDTH, objects=3)
            write_photo(self._source, f"{number:03d}.png", scene.image, scene.depth)


def unfinished(folder: Path) -> list[str]:
    """List the files that are neither shards nor manifests, and the tars without a manifest."""
    names = {path.name for path in folder.iterdir()} - {"filler.bin"}
    return sorted(
        name
        for name in names
        if name.startswith(".")
        or not name.endswith((".tar", ".json"))
        or (name.endswith(".tar") and f"{name[:-4]}.json" not in names)
    )


def _complaints(lines: Sequence[str], *, stage: str, kind: str) -> list[str]:
    """Return the lines on stderr that are neither progress nor the one line on how the run ended."""
    if kind in ("", "SIGKILL"):
        return []
    progress = [line for line in lines if line.startswith(("s-0", "shards: "))]
    others = [line for line in lines if line not in progress]
    return others if len(others) != 1 or not others[0].startswith("cuts3d: ") else []


def _difference(first: Path, second: Path) -> int:
    """Count the bytes in which two files differ; a missing file is empty."""
    contents = [_content(path) for path in (first, second)]
    shorter = min(map(len, contents))
    same = sum(a == b for a, b in zip(*contents, strict=False)) if contents[0] != contents[1] else shorter
    return max(map(len, contents)) - same


def _content(path: Path) -> bytes:
    """Read a file; of a manifest, only what does not change from run to run."""
    if not path.exists():
        return b""
    data = path.read_bytes()
    if path.suffix != ".json":
        return data
    facts: dict[str, Any] = json.loads(data)
    inputs = {role: item["sha256"] for role, item in facts["inputs"].items()}
    kept = {name: value for name, value in facts.items() if name not in _VOLATILE}
    return json.dumps({**kept, "inputs": inputs}, sort_keys=True).encode()


def _write_weights(path: Path) -> None:
    """Write a checkpoint of dino-vits16 with random weights: enough to tell objects from the wall."""
    import timm
    import torch

    torch.manual_seed(0)
    torch.save(timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0).state_dict(), path)


def _handles(process: int, number: int) -> bool:
    """Return whether a process has a handler for a signal; True where the system does not tell."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return True
    return any(line.startswith("SigCgt:") and int(line.split()[1], 16) >> (number - 1) & 1 for line in lines)


def _until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"a run has been hanging for {_PATIENCE:g} s")
        time.sleep(0.002)


def _group_ends(group: int, *, seconds: float = 5.0) -> bool:
    """Wait for all processes of a group to end. Returns whether they did."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return True
        time.sleep(0.01)
    return False
