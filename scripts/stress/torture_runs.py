"""Runs of commands on small shards of rendered scenes, for `torture`: how each ended, and what it left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cuts3d_cli.detector import CARD, METRICS, READABLE_CARD
from scenes import render_scene
from scenes.files import write_photo
from stress.forks import Fork, HungError, fork, learn, start, wait_for
from stress.moments import FileOperations, Note
from stress.torture_stages import IMAGES, STAGES
from stress.troubles import Trouble, prepare

SHARDS = 3
"""Number of shards."""
HEIGHT, WIDTH = 96, 128
_VOLATILE = ("seconds", "mtime_ns", "info", "inputs", "versions")
"""Fields of a manifest that differ from run to run; versions are of what the process has imported, and this one has
imported everything."""
_SHORT_TIMEOUT = 1.0
"""Seconds after which a claim from another machine is taken over."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a run ended.

    Attributes:
        stage: of the run.
        trouble: what happened to it; None for a run that was left alone.
        code: its exit code, negative for a signal.
        struck: where it was struck, as in "rename s-000.tar"; empty if that never came.
        latency: seconds from the strike to the end.
        line: its last line on stderr.
        complaints: what else was wrong: lines that do not belong on stderr, processes that are left.
        left: unfinished files that were not there before.
        iterations: of its training, as far as they are in its metrics.
        checkpoints: of its training.
    """

    stage: str
    trouble: Trouble | None = None
    code: int
    struck: str = ""
    latency: float = 0.0
    line: str = ""
    complaints: Sequence[str] = ()
    left: Sequence[str] = ()
    iterations: int = 0
    checkpoints: int = 0


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """What an undisturbed run of a stage tells.

    Attributes:
        points: number of its operations on files.
        seconds: that it takes.
    """

    points: int
    seconds: float


class Bench:
    """Runs stages on small shards.

    Args:
        folder: working folder.
        log: prints a status line.

    Attributes:
        folder: of the shards.
        undisturbed: facts of the undisturbed runs, by stage.
        claim_seconds: after which claims from another machine are taken over.
    """

    claim_seconds = _SHORT_TIMEOUT

    def __init__(self, folder: Path, *, log: Callable[[str], None]) -> None:
        """Name the folders; create nothing."""
        folder = folder.resolve()
        self.folder = folder / "shards"
        self.undisturbed: dict[str, Undisturbed] = {}
        self._source = folder / "source"
        self._weights = folder / "weights.pth"
        self._references = folder / "references"
        self._log = log

    def prepare(self, stages: Sequence[str]) -> None:
        """Make the inputs; run stages, and those before them, undisturbed; keep their output.

        Raises:
            RuntimeError: a command fails.
        """
        wanted = {name for stage in stages for name in (*STAGES[stage].before, stage)}
        self.folder.mkdir(parents=True)
        for make in (self._write_photos, *([self._write_weights] if "features" in wanted else [])):
            if (code := fork(make).wait()) != 0:
                raise RuntimeError(f"{make.__name__} ended with {code}")
        for stage in (name for name in STAGES if name in wanted):
            self._log(f"an undisturbed run of {stage}")
            with tempfile.TemporaryFile() as modules:
                self._run_undisturbed(stage, modules)
                learn(modules)
            # Once more, as quick as all that follow.
            self._run_undisturbed(stage)
            shutil.copytree(self.folder, self._references / stage)

    def reset(self, stage: str) -> None:
        """Bring the folder to the state in which a stage starts."""
        shutil.rmtree(self.folder)
        if (before := STAGES[stage].after) is None:
            self.folder.mkdir()
        else:
            shutil.copytree(self._references / before, self.folder, copy_function=_copy_or_link)

    def run(self, stage: str, trouble: Trouble | None = None, *, impatient: bool = False) -> Ended:
        """Run a stage. What it writes is not looked at here.

        Args:
            stage: a name of `STAGES`.
            trouble: what happens to it; None lets it finish.
            impatient: take over claims from other machines soon.
        """
        note, before, begun = Note(), set(unfinished(self.folder)), time.monotonic()
        complaints: list[str] = []
        with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as its_errors:
            # Run it, beside another one if so, and wait for both.
            run = self._start(stage, errors, note=note, trouble=trouble, impatient=impatient)
            other = self._start(stage, its_errors) if trouble is not None and trouble.beside else None
            if trouble is not None and trouble.after is not None:
                _strike(run, trouble, at=begun + trouble.after, note=note)
            code, ended = _wait(run, complaints), time.monotonic()
            if other is not None and _wait(other, complaints) != 0:
                complaints.append(f"the process beside it: {_last_line(its_errors)}")

            # See what it leaves, apart from its results.
            complaints += ["processes are left" for each in (run, other) if each is not None and not each.group_ends()]
            lines = _lines(errors)
        if trouble is not None and trouble.kind != "SIGKILL":
            complaints += unexpected_lines(lines, code=code)
        training = self.folder / (STAGES[stage].training or "none")
        return Ended(
            stage=stage,
            trouble=trouble,
            code=code,
            struck=note.struck,
            latency=ended - note.struck_at if note.struck else 0.0,
            line=lines[-1] if lines else "",
            complaints=complaints,
            left=sorted(set(unfinished(self.folder)) - before),
            iterations=len(training_losses(training / METRICS)),
            checkpoints=len(list(training.glob("checkpoint-*.pth"))),
        )

    def verify(self) -> str:
        """Run `cuts3d verify`. Returns what it complains of."""
        with tempfile.TemporaryFile() as errors:
            code = start(["verify", "--shards", "."], folder=self.folder, errors=errors).wait()
            return "" if code == 0 else f"verify ends with {code}: {_last_line(errors)}"

    def differences(self, stage: str) -> list[str]:
        """Name the files that differ from those of the undisturbed run, apart from times in them."""
        reference = self._references / stage
        names = {path.relative_to(folder) for folder in (self.folder, reference) for path in _results(folder)}
        return sorted(str(name) for name in names if content(self.folder / name) != content(reference / name))

    def _run_undisturbed(self, stage: str, modules: IO[bytes] | None = None) -> None:
        self.reset(stage)
        note, begun = Note(), time.monotonic()
        with tempfile.TemporaryFile() as errors:
            code = self._start(stage, errors, note=note, modules=modules).wait()
            if code != 0:
                raise RuntimeError(f"cuts3d {stage} ended with {code}: {_last_line(errors)}")
        self.undisturbed[stage] = Undisturbed(points=note.number, seconds=time.monotonic() - begun)

    def _start(
        self,
        stage: str,
        errors: IO[bytes],
        *,
        note: Note | None = None,
        trouble: Trouble | None = None,
        modules: IO[bytes] | None = None,
        impatient: bool = False,
    ) -> Fork:
        # Find the words: a training has to be told to resume.
        words = [word.format(source=self._source, weights=self._weights) for word in STAGES[stage].words]
        if impatient or (trouble is not None and trouble.elsewhere):
            words += ["--claim-timeout", str(_SHORT_TIMEOUT)]
        if stage == "train":
            out = self.folder / str(STAGES[stage].training)
            if any(out.glob("checkpoint-*.pth")):
                words.append("--resume")
            elif out.exists() and any(out.iterdir()):
                words.append("--overwrite")

        def before() -> None:
            if note is not None:
                operations = FileOperations(self.folder, note, trouble.moment if trouble else None)
                prepare(trouble, operations, folder=self.folder)
                operations.watch()

        anew = trouble is not None and trouble.anew
        return start(words, folder=self.folder, errors=errors, prepare=before, modules=modules, anew=anew)

    def _write_photos(self) -> int:
        for part in ("images", "depth"):
            (self._source / part).mkdir(parents=True)
        for number in range(SHARDS * IMAGES):
            scene = render_scene(number, height=HEIGHT, width=WIDTH, objects=3)
            write_photo(self._source, f"{number:03d}.png", scene.image, scene.depth)
        return 0

    def _write_weights(self) -> int:
        """Write a checkpoint of dino-vits16 with random weights: enough to tell objects from the wall."""
        import timm
        import torch

        torch.manual_seed(0)
        network = timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0)
        torch.save(network.state_dict(), self._weights)
        return 0


def unfinished(folder: Path) -> list[str]:
    """List the hidden files below a folder, and the tars without a manifest."""
    found = [path.relative_to(folder) for path in folder.rglob("*")]
    names = set(found)
    return sorted(
        str(path)
        for path in found
        if path.name.startswith(".") or (path.suffix == ".tar" and path.with_suffix(".json") not in names)
    )


def unexpected_lines(lines: Sequence[str], *, code: int) -> list[str]:
    """Return the lines on stderr that are neither progress nor the one line on how a run ended."""
    ends = [line for line in lines if line.startswith("cuts3d: ")]
    bad = [line for line in lines if "Traceback" in line or "Error" in line.split(":")[0]]
    if code != 0 and len(ends) != 1:
        return [f"{len(ends)} lines say how it ended: {' | '.join(lines[-3:])}"]
    return bad


def content(path: Path) -> bytes:
    """Read a file; of a manifest, a model card and a training's metrics, only what does not change from run to run.

    Args:
        path: of a file; one that is missing has no content.
    """
    if not path.exists():
        return b"missing"
    data = path.read_bytes()
    if path.name == METRICS:
        return json.dumps(training_losses(path)).encode()
    if path.name == READABLE_CARD:
        return data.partition(b"## Versions")[0]
    if path.name == CARD:
        return json.dumps({**json.loads(data), "versions": None}, sort_keys=True).encode()
    manifest = json.loads(data) if path.suffix == ".json" else None
    if not isinstance(manifest, dict) or "inputs" not in manifest:
        return data
    inputs = {role: item["sha256"] for role, item in manifest["inputs"].items()}
    kept: dict[str, Any] = {name: value for name, value in manifest.items() if name not in _VOLATILE}
    return json.dumps({**kept, "inputs": inputs}, sort_keys=True).encode()


def training_losses(metrics: Path) -> list[tuple[int, Any]]:
    """Read the iterations of a training and their losses, without an incomplete line at the end of the file."""
    text = metrics.read_text(encoding="utf-8") if metrics.is_file() else ""
    whole = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [(each["iteration"], each["losses"]) for each in whole]


def _results(folder: Path) -> Iterator[Path]:
    """Find the files that must not depend on interruptions: a training that is stopped writes further checkpoints."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith((".", "events.out.", "checkpoint-")):
            yield path


def _copy_or_link(source: str, target: str) -> None:
    """Copy a file; detectors, which are large, and only read by the stages that follow, are linked."""
    (os.link if Path(source).parent.name.startswith("detector-") else shutil.copy2)(source, target)


def _strike(run: Fork, trouble: Trouble, *, at: float, note: Note) -> None:
    """Send a run a signal, or kill one of its processes, at a random time, unless it has ended before."""
    if trouble.kind == "dead process":
        _kill_one_of(run, trouble, at=at, note=note)
        return
    number = getattr(signal, trouble.kind)
    if number != signal.SIGKILL:
        wait_for(run.answers_signals)
    wait_for(lambda: time.monotonic() >= at or run.has_ended())
    if not run.has_ended():
        note.struck = "at a random time" if not trouble.anew else "a program that starts"
        run.send(number, alone=trouble.alone)


def _kill_one_of(run: Fork, trouble: Trouble, *, at: float, note: Note) -> None:
    """Kill one of the processes that a run has started, or those have, once there are any."""
    found: list[tuple[int, str]] = []

    def there_are() -> bool:
        if time.monotonic() >= at:
            found[:] = run.descendants()
        return bool(found) or run.has_ended()

    wait_for(there_are)
    if not run.has_ended() and found:
        process, kind = found[int(trouble.victim * len(found))]
        note.struck = kind
        with suppress(ProcessLookupError):  # it has ended
            os.kill(process, signal.SIGKILL)


def _wait(run: Fork, complaints: list[str]) -> int:
    try:
        return run.wait()
    except HungError as error:
        complaints.append(str(error))
        return -signal.SIGKILL


def _lines(errors: IO[bytes]) -> list[str]:
    errors.seek(0)
    return errors.read().decode(errors="replace").splitlines()


def _last_line(errors: IO[bytes]) -> str:
    return (_lines(errors) or [""])[-1]
