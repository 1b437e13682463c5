"""Checks shards and all that was made from them."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cuts3d_cli.engine.results import Progress
from cuts3d_cli.errors import SampleError, ShardError
from cuts3d_cli.inspection.missing import missing_shards
from cuts3d_cli.shards.manifest import Manifest, digest_file, load_manifest
from cuts3d_cli.shards.names import base_of, manifest_path, sidecar, stage_names, stage_of
from cuts3d_cli.shards.reader import Sample, SidecarReader, read_shard
from cuts3d_cli.sidecars import Flaw, Known, kind_of, masks, photos
from cuts3d_cli.sidecars.finished import FinishedSidecar, mixed_settings
from cuts3d_cli.stages.pack import STAGE as PACK
from cuts3d_cli.wording import counted, listed

LEFT_OVER_AFTER = 3600.0
"""Seconds without a change after which a temporary file is one that nobody writes to any more."""
_TEMPORARY = re.compile(r"\.(?P<name>.+\.(?:tar|json))\.[^/]*tmp")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is wrong.

    Attributes:
        base: the base shard that the file belongs to.
        stage: of the file; "pack" for the base shard itself, "" for what is left over.
        file: that is damaged, missing or stale.
        member: in it, or a sample's key; None where it is the whole file.
        reason: what is wrong.
    """

    base: Path
    stage: str
    file: Path
    member: str | None
    reason: str

    @property
    def line(self) -> str:
        """Return the problem in a line."""
        return f"{self.file}: {f'{self.member}: ' if self.member else ''}{self.reason}"


@dataclass(kw_only=True)
class VerifyReport:
    """What a check of shards has found.

    Attributes:
        files: how many tars were read.
        samples: how many samples they hold.
        problems: all of them, file by file.
        notes: what could not be checked, and what is odd without being wrong.
        mixed: a line for each stage whose sidecars were not made with the same settings.
        manifests: of the sidecars and base shards that have one.
    """

    files: int = 0
    samples: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    manifests: dict[Path, Manifest] = field(default_factory=dict)

    @property
    def is_well(self) -> bool:
        """Return whether nothing is wrong."""
        return not (self.problems or self.mixed)


def run(shards: Sequence[Path], *, progress: Progress | None = None) -> VerifyReport:
    """Check base shards, their sidecars of all stages and generations, and the manifests of all.

    Of every tar: its structure; size and SHA-256, numbers and stage against its manifest; that what it was made from is
    still the same; that it has the samples of its base shard, in their order, less those that failed; and that every
    member can be decoded. Of all together: that no base shard is gone, and that the sidecars of a stage were made with
    the same settings. Holds one sample at a time, and the keys of one shard.

    Args:
        shards: base shards.
        progress: receives progress events.

    Returns:
        What was found. Nothing is changed.
    """
    watcher = progress or Progress()
    watcher.begin([(base, None) for base in shards])
    found = VerifyReport()
    around = _around(shards)
    for base in shards:
        watcher.start(base, why="")
        _Shard(base, around.get(base.resolve(), []), found, watcher).check()
        watcher.finish(base)
    _check_together(shards, found)
    return found


def _check_together(shards: Sequence[Path], found: VerifyReport) -> None:
    """Look for base shards that are gone, and for sidecars of mixed settings."""
    for base, reason in missing_shards(shards, found.manifests):
        found.problems.append(Problem(base=base, stage=PACK, file=base, member=None, reason=reason))
    by_stage: dict[str, list[FinishedSidecar]] = {}
    for tar, manifest in found.manifests.items():
        if stage := stage_of(tar):
            by_stage.setdefault(stage, []).append(FinishedSidecar(tar, manifest))
    lines = (mixed_settings(by_stage[stage]) for stage in sorted(by_stage, key=sidecar_order))
    found.mixed += [line for line in lines if line]


def sidecar_order(stage: str) -> tuple[int, int]:
    """Return a key that sorts stages, and those in generations, so that each comes after what it is made from."""
    name, _, generation = stage.partition(".")
    number = -1 if not generation else 0 if generation == "initial" else int(generation.removeprefix("st"))
    return number, stage_names().index(name)


def _around(shards: Sequence[Path]) -> dict[Path, list[Path]]:
    """List sidecars, manifests and temporary files beside the shards, by base shard; lists each folder once."""
    found: dict[Path, list[Path]] = {}
    wanted = {base.resolve() for base in shards}
    for folder in dict.fromkeys(base.parent for base in shards):
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            raise ShardError(f"folder {folder} cannot be listed: {error.strerror}") from error
        for path in paths:
            match = _TEMPORARY.fullmatch(path.name)
            name = Path(match["name"]) if match else path
            if name.suffix in (".tar", ".json"):
                base = base_of(path.with_name(name.name)).resolve()
                if base in wanted:
                    found.setdefault(base, []).append(path)
    return found


class _Shard:
    """Checks one base shard and what lies around it."""

    def __init__(self, base: Path, around: Sequence[Path], found: VerifyReport, watcher: Progress) -> None:
        self.base, self.found, self.watcher = base, found, watcher
        self.around = around
        self.sizes: dict[str, tuple[int, int] | None] | None = {}
        self.hashes: dict[Path, str] = {}

    def check(self) -> None:
        self._base()
        stages = {stage for path in self.around if not _TEMPORARY.fullmatch(path.name) and (stage := stage_of(path))}
        for stage in sorted(stages, key=sidecar_order):
            self._sidecar(stage)
        for path in self.around:
            if _TEMPORARY.fullmatch(path.name):
                self._left_over(path)

    def _problem(self, stage: str, file: Path, reason: str, member: str | None = None) -> None:
        self.found.problems.append(Problem(base=self.base, stage=stage, file=file, member=member, reason=reason))

    def _flaws(self, stage: str, file: Path, sample: Sample, flaws: Sequence[Flaw]) -> None:
        for flaw in flaws:
            member = f"{sample.key}.{flaw.extension}" if flaw.extension else sample.key
            self._problem(stage, file, flaw.reason, member)

    def _base(self) -> None:
        count = before = 0
        self.found.files += 1
        try:
            for sample in read_shard(self.base, whole=False):
                before = len(self.found.problems)
                flaws, size = photos.flaws_and_size(sample)
                self._flaws(PACK, self.base, sample, flaws)
                assert self.sizes is not None
                self.sizes[sample.key] = size
                count += 1
                self.watcher.advance(failed=len(self.found.problems) > before)
        except ShardError as error:
            self._problem(PACK, self.base, _without(str(error), self.base))
            self.sizes = None
        self.found.samples += count
        if not manifest_path(self.base).exists():
            self.found.notes.append(f"{self.base}: it has no manifest, so that only its content was checked")
            return
        manifest = self._manifest(self.base, PACK)
        if manifest and self.sizes is not None:
            self._numbers(self.base, PACK, manifest, count)

    def _sidecar(self, stage: str) -> None:
        tar = sidecar(self.base, stage)
        if not tar.exists():
            self._problem(stage, tar, "it is missing, though its manifest is there")
            return
        self.found.files += 1
        manifest = self._manifest(tar, stage)
        keys = self._samples(tar, stage)
        if keys is None:
            return
        self.found.samples += len(keys)
        if manifest:
            self._numbers(tar, stage, manifest, len(keys))
            self._inputs(tar, stage, manifest)
        self._alignment(tar, stage, manifest, keys)

    def _samples(self, tar: Path, stage: str) -> list[str] | None:
        """Check the members of a sidecar. Returns its keys; None if it cannot be read to its end."""
        kind = kind_of(stage)
        keys: list[str] = []
        counts = _mask_counts(sidecar(self.base, kind.FOLLOWS)) if kind.FOLLOWS else {}
        try:
            for sample in read_shard(tar, whole=False):
                keys.append(sample.key)
                known = Known(size=(self.sizes or {}).get(sample.key), masks=counts.get(sample.key))
                self._flaws(stage, tar, sample, kind.flaws(sample, known))
        except ShardError as error:
            self._problem(stage, tar, _without(str(error), tar))
            return None
        return keys

    def _manifest(self, tar: Path, stage: str) -> Manifest | None:
        """Check that there is a manifest, and that it speaks of this tar."""
        path = manifest_path(tar)
        if not path.exists():
            self._problem(stage, tar, "it has no manifest: the run that wrote it was cut off")
            return None
        try:
            manifest = load_manifest(path)
        except ShardError as error:
            self._problem(stage, path, _without(str(error), path))
            return None
        self.found.manifests[tar] = manifest
        if manifest.stage != stage:
            self._problem(stage, path, f"it is of stage {manifest.stage}, not {stage}")
        try:
            size = tar.stat().st_size
            if size != manifest.size:
                self._problem(stage, tar, f"it has {size} bytes, {manifest.size} were written")
            elif self._hash(tar) != manifest.sha256:
                self._problem(stage, tar, "its content has changed since it was written: the SHA-256 is another")
        except (OSError, ShardError) as error:
            self._problem(stage, tar, f"it cannot be read: {error}")
        return manifest

    def _numbers(self, tar: Path, stage: str, manifest: Manifest, samples: int) -> None:
        counts, failed = manifest.counts, len(manifest.failed)
        if counts.get("samples_out") != samples:
            self._problem(
                stage, tar, f"it holds {counted(samples, 'sample')}, its manifest says {counts.get('samples_out')}"
            )
        if counts.get("failed") != failed or counts.get("samples_in") != counts.get("samples_out", 0) + failed:
            self._problem(
                stage,
                manifest_path(tar),
                f"its counts do not add up: {counts.get('samples_in')} samples in, {counts.get('samples_out')} out,"
                f" {counts.get('failed')} failed, {failed} listed",
            )

    def _inputs(self, tar: Path, stage: str, manifest: Manifest) -> None:
        """Check that what it was made from, as far as that lies beside it, is still the same."""
        for role, digest in manifest.inputs.items():
            # The shard may have had another name then.
            path = tar.with_name(Path(digest.file).name)
            if role == "base":
                path = self.base
            elif stage_of(path) == role:
                path = sidecar(self.base, role)
            elif path.suffix != ".tar" or base_of(path) != base_of(tar):
                continue
            if not path.is_file():
                self._problem(stage, tar, f"it was made from {path.name} ({role}), which is not there")
            elif self._hash(path) != digest.sha256:
                self._problem(stage, tar, f"it was made from another {path.name} ({role}) than is there now")

    def _alignment(self, tar: Path, stage: str, manifest: Manifest | None, keys: Sequence[str]) -> None:
        """Check that it has the samples of what it was made from, in their order, less those that failed."""
        source, expected = self.base, list(self.sizes) if self.sizes is not None else None
        if follows := kind_of(stage).FOLLOWS:
            source = sidecar(self.base, follows)
            try:
                with SidecarReader(source) as reader:
                    expected = list(reader.keys)
            except ShardError:  # told where that sidecar is looked at
                expected = None
        if expected is None:
            return
        places = {key: place for place, key in enumerate(expected)}
        last = -1
        for key in keys:
            place = places.get(key)
            if place is None:
                self._problem(stage, tar, f"{source.name} has no such sample", key)
            elif place < last:
                self._problem(stage, tar, f"it stands elsewhere than in {source.name}", key)
            else:
                last = place
        if manifest is None:
            return
        failed = {str(item.get("key")) for item in manifest.failed}
        accounted = failed.union(keys)
        lost = [key for key in expected if key not in accounted]
        if lost:
            shown = listed(lost)
            self._problem(
                stage,
                tar,
                f"{len(lost)} of {len(expected)} samples are neither in it nor among its failed ones: {shown}",
            )

    def _left_over(self, path: Path) -> None:
        try:
            age = time.time() - path.stat().st_mtime
        except OSError:  # its writer has just finished with it
            return
        if age >= LEFT_OVER_AFTER:
            self._problem("", path, "it is left over from a run that was cut off")
        else:
            self.found.notes.append(f"{path}: a run is writing it, or was cut off less than an hour ago")

    def _hash(self, path: Path) -> str:
        if path not in self.hashes:
            self.hashes[path] = digest_file(path).sha256
        return self.hashes[path]


def _mask_counts(tar: Path) -> dict[str, int]:
    """Count the masks of each sample of a pseudo sidecar; nothing where it is damaged, which is reported with it."""
    try:
        return {sample.key: len(masks.decode(sample).instances) for sample in read_shard(tar)}
    except (ShardError, SampleError):
        return {}


def _without(message: str, path: Path) -> str:
    """Return a reader's message without the file that it begins with, which stands before it anyway."""
    return message.removeprefix(f"{path}").lstrip(": ")
