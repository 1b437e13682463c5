"""Finished results of other settings: nothing takes their place unless the user asked for it, and it is said first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cuts3d_cli.config import IfExists
from cuts3d_cli.engine.results import Progress
from cuts3d_cli.errors import Message, Part, Setting, ShardError, UsageError
from cuts3d_cli.shards.freshness import changed_values
from cuts3d_cli.shards.manifest import InputDigest, Manifest, digest_file, load_manifest
from cuts3d_cli.shards.names import manifest_path
from cuts3d_cli.wording import SHOWN_NAMES, listed

Given = Mapping[str, Path | InputDigest]
"""What a tar is made from, by role: files, or digests of what is no single file."""
Differences = Mapping[str, tuple[str, str]]
"""Setting -> its value then and now, as people read them."""
UNSET = "(unset)"
TO_KEEP: Sequence[Part] = ("to keep them, work in another folder, with links to the base shards",)
"""How to keep results that lie beside the base shards they were made from."""


class OtherSettingsError(UsageError):
    """A stage would replace finished results of other settings."""


@dataclass(frozen=True, kw_only=True)
class OwnSettings:
    """The settings of a run, as far as they shape its results, to be compared with those of results that exist.

    Files that the user names, such as weights, count as settings; what an earlier stage wrote does not.

    Attributes:
        stage: whose results they shape.
        config: as manifests record it.
        files: role of an input -> the setting that names it, as in {"weights": "features.weights"}.
        derived: values of the configuration that follow from the inputs, and that nobody has set.
    """

    stage: str
    config: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    derived: Collection[str] = ()

    def other_values(self, tar: Path) -> Differences:
        """Return the values by which a finished tar differs from what this run would write.

        Args:
            tar: what would be written.

        Returns:
            The differences; none where there is no tar, where it is unfinished, or where no manifest tells.
        """
        manifest = self._manifest(tar)
        found = changed_values(manifest.config, self.config) if manifest is not None else {}
        return {name: values for name, values in found.items() if name not in self.derived}

    def other_files(self, tar: Path, inputs: Given) -> Differences:
        """Return the files that the user named for a finished tar and that are others now.

        Args:
            tar: what would be written.
            inputs: what it would be made from.

        Returns:
            The differences, as `other_values`.
        """
        manifest = self._manifest(tar) if self.files else None
        if manifest is None:
            return {}
        found: dict[str, tuple[str, str]] = {}
        for role, setting in self.files.items():
            found |= _other_file(manifest, inputs, role=role, setting=setting)
        return found

    def _manifest(self, tar: Path) -> Manifest | None:
        if not tar.is_file() or not manifest_path(tar).is_file():
            return None
        try:
            manifest = load_manifest(manifest_path(tar))
        except ShardError:  # whoever checks whether the tar is fresh reports it
            return None
        return manifest if manifest.stage == self.stage else None


def _other_file(manifest: Manifest, inputs: Given, *, role: str, setting: str) -> Differences:
    """Return the difference between a file that the user named then and the one named now, if they are not the same.

    The role of a folder stands before the names of its files, as in "weights/model.safetensors".
    """

    def own(roles: Iterable[str]) -> list[str]:
        return sorted(item for item in roles if item.partition("/")[0] == role)

    before, now = own(manifest.inputs), own(inputs)
    if not (before and now):
        # A role that comes or goes with another one is no choice of the user's: stored features need no weights.
        others = (set(manifest.inputs) - set(before), set(inputs) - set(now))
        if before == now or others[0] != others[1]:
            return {}
    digests: list[InputDigest] = []
    for item in now:
        given = inputs[item]
        known = manifest.inputs.get(item)
        digests.append(given if isinstance(given, InputDigest) else digest_file(given, known=known))
    if before == now and all(
        manifest.inputs[item].sha256 == new.sha256 for item, new in zip(now, digests, strict=True)
    ):
        return {}
    return {setting: (_named([manifest.inputs[item] for item in before]), _named(digests))}


def _named(digests: Sequence[InputDigest]) -> str:
    """Return the names of files with the first digits of their digests: two files may have one name."""
    return listed([f"{item.file} ({item.sha256[:8]})" for item in digests]) or UNSET


def settle(
    found: Mapping[Path, Differences],
    *,
    if_exists: IfExists,
    progress: Progress,
    to_keep: Sequence[Part] = TO_KEEP,
) -> None:
    """Refuse to replace results of other settings, or say that they will be.

    Args:
        found: all tars that the run would write, with the differences of those that hold other results.
        if_exists: "resume" refuses; "replace" and "overwrite" do not.
        progress: receives what will be replaced.
        to_keep: how the results can be kept, for the error.

    Raises:
        OtherSettingsError: it is refused; the line says how many, what differs, and both ways out.
    """
    others = {tar: differences for tar, differences in found.items() if differences}
    if not others:
        return
    several = "1 shard" if len(found) == 1 else f"{len(others)} of {len(found)} shards"
    what: list[Part] = [f" finished results of other settings ({listed([tar.name for tar in others])}): "]
    what += listed_differences(others.values())
    if if_exists in ("replace", "overwrite"):
        progress.replacing(Message(f"replacing in {several}", *what))
        return
    replace = Setting("run.if_exists", "replace")
    hold = "holds" if len(others) == 1 else "hold"
    raise OtherSettingsError(f"{several} {hold}", *what, ": ", replace, " replaces them; ", *to_keep)


def listed_differences(found: Iterable[Differences]) -> list[Part]:
    """Return the settings that differ, each with all its values of before and the one of now."""
    before: dict[str, dict[str, None]] = {}
    now: dict[str, str] = {}
    for differences in found:
        for name, (old, new) in differences.items():
            before.setdefault(name, {})[old] = None
            now[name] = new
    parts: list[Part] = []
    for name in sorted(now)[:SHOWN_NAMES]:
        parts += [", " if parts else "", Setting(name), f" {' or '.join(before[name])} -> {now[name]}"]
    return parts + ([f", and {len(now) - SHOWN_NAMES} more"] if len(now) > SHOWN_NAMES else [])


class _Settled(Exception):
    """Nothing forbids the work of a stage."""


class _Comparing(Progress):
    """Ends a stage once its settings were compared with those of results that exist."""

    def __init__(self, listener: Progress) -> None:
        self._listener = listener

    def replacing(self, what: Message) -> None:
        self._listener.replacing(what)

    def compared(self) -> None:
        raise _Settled


def compare_settings(run: Callable[[Progress], object], *, progress: Progress | None = None) -> None:
    """Compare a stage's settings with those of results that exist, without work.

    Args:
        run: runs the stage with a progress.
        progress: receives which results the stage would replace.

    Raises:
        OtherSettingsError: it would refuse to replace them.
        Cuts3dError: it cannot even begin.
    """
    try:
        run(_Comparing(progress or Progress()))
    except _Settled:
        return
