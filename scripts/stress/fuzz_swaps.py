"""Swaps of valid files: each file is whole, but not where it belongs. What reads them must notice, or not depend on it.

A result that differs from that of the untouched shards must come with an error, or a line, that names a file that was
touched, or with failed samples. In silence it is a finding.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from cuts3d_cli.config import resolve
from cuts3d_cli.errors import Cuts3dError, WeightsError
from cuts3d_cli.evaluation import shards as evaluation
from cuts3d_cli.inspection import verify
from cuts3d_cli.shards.names import sidecar
from cuts3d_cli.stages import confidence, merge, pseudo
from stress.fuzz_shards import OLDER, SHARDS, TRUTH, ShardFolder, read_members, settings, write_members


class SilentChangeError(Exception):
    """A result has changed, and nothing was said."""


@dataclass(kw_only=True)
class Outcome:
    """What a reader gives.

    Attributes:
        result: plain values; equal results are equal.
        said: lines that it prints on the way.
        failed: number of samples that it lists as failed.
    """

    result: Any
    said: list[str] = field(default_factory=list)
    failed: int = 0


@dataclass
class Made:
    """Shards, and what each reader makes of them untouched."""

    shards: ShardFolder
    expected: dict[str, Any] = field(default_factory=dict)


_KEPT: dict[Path, Made] = {}


def _evaluate(shards: ShardFolder, *, predicted: bool) -> Outcome:
    said: list[str] = []
    found = evaluation.run(
        shards.bases, ground_truth=shards.folder / TRUTH, say=said.append, predicted=predicted
    ).to_json()
    # What is said, and how many images failed, is not a result, but a word on it.
    del found["warnings"], found["failed"]
    return Outcome(result=found, said=said)


def _evaluate_masks(shards: ShardFolder) -> Outcome:
    return _evaluate(shards, predicted=False)


def _evaluate_predictions(shards: ShardFolder) -> Outcome:
    return _evaluate(shards, predicted=True)


def _learn(shards: ShardFolder) -> Outcome:
    """Read all training samples of an epoch."""
    from cuts3d_cli.detector.data import SampleStream, SkippedSample, training_shards
    from cuts3d_cli.detector.order import Position

    config = resolve(preset="tiny", environment={}, folder=shards.folder / "none").train
    found = training_shards(shards.bases, with_confidence=True)
    stream = iter(SampleStream(found, config=config, rank=0, world_size=1, start=Position()))
    hasher, failed = hashlib.sha256(), 0
    for _ in range(sum(shard.samples for shard in found)):
        _, sample = next(stream)
        if isinstance(sample, SkippedSample):
            failed += sample.reason is not None
            hasher.update(sample.key.encode())
            continue
        if isinstance(sample, Exception):
            raise sample
        instances = sample["instances"]
        hasher.update(f"{sample['shard']}/{sample['key']}".encode())
        hasher.update(sample["image"].numpy().tobytes())
        hasher.update(instances.gt_masks.dense().numpy().tobytes())
        hasher.update(instances.gt_boxes.tensor.numpy().tobytes())
    return Outcome(result=hasher.hexdigest(), failed=failed)


def _run(shards: ShardFolder, stage: str, run: Callable[..., Any], **further: Any) -> Outcome:
    """Run a stage, and take the bytes of its sidecars for the result."""
    result = run(shards.bases, config=settings(), **further)
    tars = [sidecar(base, stage) for base in shards.bases]
    shards.touched += [name for tar in tars for name in (tar.name, tar.with_suffix(".json").name)]
    return Outcome(
        result=[hashlib.sha256(tar.read_bytes()).hexdigest() for tar in tars],
        said=[str(shard.reason) for shard in result.broken],
        failed=len(result.failed),
    )


def _cut(shards: ShardFolder) -> Outcome:
    return _run(shards, "pseudo", pseudo.run)


def _score(shards: ShardFolder) -> Outcome:
    return _run(shards, "confidence", confidence.run)


def _merge(shards: ShardFolder) -> Outcome:
    said: list[str] = []
    outcome = _run(shards, "pseudo.st1", merge.run, round=1, say=lambda line: said.append(str(line)))
    outcome.said += said
    return outcome


def _verify(shards: ShardFolder) -> Outcome:
    """Check the shards; their files are the result, so that every change has to be told."""
    report = verify.run(shards.bases)
    digests = {
        name: hashlib.sha256((shards.folder / name).read_bytes()).hexdigest()
        for name in shards.files
        if name.startswith(tuple(base.removesuffix(".tar") for base in SHARDS)) and (shards.folder / name).exists()
    }
    return Outcome(result=digests, said=[*(item.line for item in report.problems), *report.mixed, *report.notes])


READERS: Mapping[str, tuple[Callable[[ShardFolder], Outcome], int]] = {
    "eval": (_evaluate_masks, 6),
    "eval --predicted": (_evaluate_predictions, 6),
    "train": (_learn, 6),
    "verify": (_verify, 4),
    "confidence": (_score, 2),
    "merge": (_merge, 3),
    "pseudo": (_cut, 1),
}
"""What reads the shards, and how often, in parts."""


def swap(rng: Random, folder: Path) -> None:
    """Put valid files where they do not belong, and read the shards."""
    made = _made(folder)
    name = rng.choices(list(READERS), [share for _, share in READERS.values()])[0]
    read = READERS[name][0]
    if name not in made.expected:
        made.expected[name] = read(made.shards).result
        made.shards.restore()
    try:
        what = change(rng, made.shards)
        touched = list(dict.fromkeys(made.shards.touched))
        try:
            found = read(made.shards)
        except Cuts3dError as error:
            if not _is_named([str(error)], touched) and not isinstance(error, WeightsError):
                raise SilentChangeError(f"{name} after {what}: the error names no file of these: {error}") from error
            return
        if found.result != made.expected[name] and not found.failed and not _is_named(found.said, touched):
            raise SilentChangeError(f"{name} after {what}: another result, and no word of it: {found.said}")
    finally:
        made.shards.restore()


def shards_in(folder: Path) -> ShardFolder:
    """Return the shards of a working folder, which are made when they are first asked for."""
    return _made(folder).shards


def _made(folder: Path) -> Made:
    if folder not in _KEPT:
        _KEPT[folder] = Made(ShardFolder(folder / "swaps"))
    return _KEPT[folder]


def _is_named(lines: list[str], touched: list[str]) -> bool:
    """Return whether a line names a file of a shard of which a file was touched."""
    bases = {f"{Path(name).name.partition('.')[0]}." for name in touched}
    return any(base in line for line in lines for base in bases)


def change(rng: Random, shards: ShardFolder) -> str:
    """Change some files. Returns what was done, in words."""
    changes = rng.choices(list(_CHANGES), list(_CHANGES.values()), k=rng.choice((1, 1, 1, 1, 2)))
    return "; ".join(make(rng, shards) for make in changes)


def _other_file(rng: Random, shards: ShardFolder) -> str:
    """Put a file, a manifest, or both of one sidecar in the place of another's of the same kind."""
    target = rng.choice(shards.sidecars(rng.choice(SHARDS)))
    ending = target[5:]
    alike = [f"{stem}{ending}" for stem in ("a-000", "a-001", "b-000") if f"{stem}{ending}" != target]
    others = [name for name in shards.sidecars() if name[:5] == target[:5] and name != target]
    return _put(rng, shards, rng.choice(alike if rng.random() < 0.7 else others), target)


def _other_base(rng: Random, shards: ShardFolder) -> str:
    """Put another base shard, its manifest, or both in the place of one."""
    target = rng.choice(SHARDS)
    return _put(rng, shards, rng.choice([name for name in (*SHARDS, "b-000.tar") if name != target]), target)


def _older(rng: Random, shards: ShardFolder) -> str:
    """Put back masks that were cut with other settings."""
    target = f"{rng.choice(SHARDS)[:5]}.pseudo.tar"
    return _put(rng, shards, f"{OLDER}/{target}", target)


def _put(rng: Random, shards: ShardFolder, source: str, target: str) -> str:
    pairs = [(source, target), (source.replace(".tar", ".json"), target.replace(".tar", ".json"))]
    pairs = rng.choice((pairs[:1], pairs[1:], pairs, pairs))
    keeps_time, exchanged = rng.random() < 0.5, rng.random() < 0.2 and not source.startswith(OLDER)
    for one, other in [*pairs, *((b, a) for a, b in pairs if exchanged)]:
        content, time = shards.files[one]
        shards.put(other, content, time=time if keeps_time else None)
    how = " <-> " if exchanged else " -> "
    return ", ".join(f"{one}{how}{other}" for one, other in pairs) + (" (cp -p)" if keeps_time else "")


def _missing(rng: Random, shards: ShardFolder) -> str:
    """Remove a file."""
    name = rng.choice([name for name in shards.files if name[:5] in {base[:5] for base in SHARDS}])
    shards.remove(name)
    return f"rm {name}"


def _other_samples(rng: Random, shards: ShardFolder) -> str:
    """Write a tar again with samples left out, doubled, renamed, exchanged, or in another order."""
    name = rng.choice([*SHARDS, *(item for base in SHARDS for item in shards.sidecars(base))])
    samples = read_members(shards.files[name][0])
    keys = list(samples)
    kind = rng.choice(("left out", "renamed", "exchanged", "turned round", "with members in another order"))
    if kind == "left out":
        del samples[rng.choice(keys)]
    elif kind == "renamed":
        samples = {(f"{key}x" if key == keys[0] else key): value for key, value in samples.items()}
    elif kind == "exchanged":
        samples = dict(zip(keys, reversed(list(samples.values())), strict=True))
    elif kind == "turned round":
        samples = {key: samples[key] for key in reversed(keys)}
    else:
        samples = {key: dict(reversed(list(value.items()))) for key, value in samples.items()}
    forged = kind in ("left out", "renamed", "turned round") and rng.random() < 0.4
    _rewrite(shards, name, samples, forged=forged)
    return f"{name}: samples {kind}" + (", and its manifest's digest with it" if forged else "")


def _other_members(rng: Random, shards: ShardFolder) -> str:
    """Write a tar again with an array of another type or shape, or with other digits in its JSON."""
    name = rng.choice([item for base in SHARDS for item in shards.sidecars(base)])
    samples = read_members(shards.files[name][0])
    members = samples[rng.choice(list(samples))]
    extension = rng.choice(list(members))
    data = members[extension]
    if extension.endswith("npy"):
        array = np.load(io.BytesIO(data))
        array = rng.choice(
            (array.astype(np.float32), array.astype(np.int64), array[..., ::-1], array[:, :-1], array[:0], array * 0)
        )
        buffer = io.BytesIO()
        np.save(buffer, array)
        members[extension] = buffer.getvalue()
    elif extension.endswith("json"):
        members[extension] = _other_digit(rng, data)
    else:
        other = rng.choice(list(samples.values()))[extension]
        members[extension] = other if other != data else data[:-1]
    _rewrite(shards, name, samples)
    return f"{name}: another {extension}"


def _other_digit(rng: Random, data: bytes) -> bytes:
    """Change a digit."""
    places = [place for place, byte in enumerate(data) if chr(byte).isdigit()]
    if not places:
        return data + b" "
    changed = bytearray(data)
    place = rng.choice(places)
    changed[place] = ord("1") + (changed[place] - ord("0")) % 9
    return bytes(changed)


def _rewrite(
    shards: ShardFolder, name: str, samples: Mapping[str, Mapping[str, bytes]], *, forged: bool = False
) -> None:
    content = write_members(samples)
    shards.put(name, content)
    if forged:
        path = name.replace(".tar", ".json")
        facts = json.loads(shards.files[path][0])
        facts |= {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        facts["mtime_ns"] = (shards.folder / name).stat().st_mtime_ns
        shards.put(path, json.dumps(facts).encode())


_CHANGES: Mapping[Callable[[Random, ShardFolder], str], int] = {
    _other_file: 5,
    _other_base: 2,
    _older: 2,
    _missing: 1,
    _other_samples: 3,
    _other_members: 3,
}
"""What is done to the shards, and how often, in parts."""
