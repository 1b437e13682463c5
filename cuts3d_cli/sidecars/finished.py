"""Whether a sidecar of a base shard is finished, is what was written, and belongs to the base shard as it is now.

All that read sidecars find them here, so that each takes the same ones for good.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cuts3d_cli.errors import Part, ShardError
from cuts3d_cli.shards.freshness import check_content, differences, has_content
from cuts3d_cli.shards.manifest import Manifest, load_manifest
from cuts3d_cli.shards.names import command_for, manifest_path, sidecar
from cuts3d_cli.shards.reader import Sample, SidecarReader
from cuts3d_cli.wording import counted, listed


class FinishedSidecar(NamedTuple):
    """A sidecar that was finished.

    Attributes:
        tar: the sidecar.
        manifest: that was written with it.
    """

    tar: Path
    manifest: Manifest

    @property
    def failures(self) -> dict[str, str]:
        """Why samples of the base shard are not in the sidecar, by key."""
        return {item["key"]: item["reason"] for item in self.manifest.failed}

    def check_failed(self, key: str) -> None:
        """Make sure that a sample of the base shard that is not in the sidecar is one that failed.

        Raises:
            ShardError: the manifest lists no failure of it.
        """
        if key not in self.failures:
            raise ShardError(
                f"{self.tar} holds no sample {key}, and its manifest lists no failure of it: run ",
                command_for(self.tar, again=True),
            )

    def open(self) -> SidecarReader:
        """Open the sidecar for reading by keys; to be closed.

        Raises:
            ShardError: it is damaged, or holds other samples than its manifest says.
        """
        reader = SidecarReader(self.tar)
        expected = self.manifest.counts["samples_out"]
        if len(reader.keys) != expected or not self.failures.keys().isdisjoint(reader.keys):
            reader.close()
            raise ShardError(
                f"{self.tar} holds {counted(len(reader.keys), 'sample')}, and not the {expected} of its manifest: run ",
                command_for(self.tar, again=True),
            )
        return reader

    def samples(self) -> Iterator[Sample]:
        """Read the samples in order.

        Raises:
            ShardError: as `open`.
        """
        with self.open() as reader:
            for key in reader.keys:
                sample = reader.pick(key)
                assert sample is not None, "the key is one of its own"
                yield sample


def finished(base: Path, stage: str) -> FinishedSidecar | None:
    """Find the sidecar of a shard, if it was finished.

    Files are hashed only where their size or time of change differs from what the manifest says.

    Args:
        base: a base shard.
        stage: of the sidecar.

    Returns:
        The sidecar, or None if there is no sidecar, or no manifest.

    Raises:
        ShardError: the manifest is damaged, of another version or of another stage; the sidecar is not what was
            written; or it was made from another shard, or from this one as it was before.
    """
    tar = sidecar(base, stage)
    if not tar.exists() or not manifest_path(tar).exists():
        return None
    manifest = load_manifest(manifest_path(tar))
    if manifest.stage != stage:
        again = command_for(tar, again=True)
        raise ShardError(f"{manifest_path(tar)} is of stage {manifest.stage}, not {stage}: run ", again)
    check_content(tar, manifest)
    _check_source(base, tar, manifest)
    return FinishedSidecar(tar, manifest)


def require(base: Path, stage: str, *, further: Sequence[Part] = ()) -> FinishedSidecar:
    """Find the sidecar of a shard, which must be finished.

    Args:
        base: a base shard.
        stage: of the sidecar.
        further: ends the error's line; what else can be done.

    Raises:
        ShardError: there is none, and the line says how to make it; or as `finished`.
    """
    found = finished(base, stage)
    if found is None:
        tar = sidecar(base, stage)
        raise ShardError(f"{tar} is missing or unfinished: run ", command_for(tar), " first", *further)
    return found


def mixed_settings(found: Sequence[FinishedSidecar]) -> str | None:
    """Say that sidecars of one stage were not all made with the same settings and weights.

    Args:
        found: of some shards.

    Returns:
        A line that names the smallest group and what is different there; None if all are alike.
    """
    groups: dict[tuple[str, ...], list[FinishedSidecar]] = {}
    for item in found:
        groups.setdefault(_settings_of(item.manifest), []).append(item)
    if len(groups) < 2:
        return None
    most, *_, fewest = sorted(groups.values(), key=len, reverse=True)
    what = differences(most[0].manifest.config, fewest[0].manifest.config) or "other weights"
    return (
        f"{len(found)} sidecars of stage {found[0].manifest.stage} were made with {len(groups)} different settings:"
        f" {listed([item.tar for item in fewest])}, unlike {most[0].tar.name} ({what})"
    )


def _settings_of(manifest: Manifest) -> tuple[str, ...]:
    """Return what all sidecars of a run have in common: the configuration, and the weights that were given."""
    weights = sorted(f"{role} {digest.sha256}" for role, digest in manifest.inputs.items() if _is_weights(role))
    return manifest.config_hash, *weights


def _is_weights(role: str) -> bool:
    return role.partition("/")[0] in ("weights", "checkpoint")


def _check_source(base: Path, tar: Path, manifest: Manifest) -> None:
    """Make sure that a sidecar was made from a base shard as it is now.

    A sidecar that was made from other sidecars alone was made from these of the same base shard, of which one is enough
    to tell: the others may have been written again since.

    Raises:
        ShardError: it was made from another one.
    """
    source = manifest.inputs.get("base")
    if source is not None:
        if not has_content(base, source):
            raise ShardError(f"{tar} was made from another {base.name}: run ", command_for(tar), " again")
        return
    beside = {role: tar.with_name(f"{base.stem}.{role}.tar") for role in manifest.inputs if not _is_weights(role)}
    there = {role: path for role, path in beside.items() if path.exists() and manifest_path(path).exists()}
    recorded = {role: load_manifest(manifest_path(path)).sha256 for role, path in there.items()}
    if recorded and not any(manifest.inputs[role].sha256 == sha256 for role, sha256 in recorded.items()):
        names = listed([path.name for path in there.values()])
        raise ShardError(f"{tar} was made from another {names}: run ", command_for(tar), " again")
