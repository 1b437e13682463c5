"""Whatever stands in a manifest or a JSON member, commands end with a line and a code, and never with a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cuts3d_cli.shards.manifest import config_hash, load_manifest, save_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.shards.writer import ShardWriter
from stress.fuzz_mutations import mutated_json
from tests.support.photos import pack_photos
from tests.support.running import Ran
from tests.support.shapes import annotation, coco_file, image
from tests.support.stored import PSEUDO, boxes, store_features

STAGES = ("", "depth", "features", "pseudo", "confidence")
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "depth": ("depth", "--backend", "sensor", "--if-exists", "overwrite", "s-000.tar"),
    "verify": ("verify", "s-000.tar"),
    "pseudo": (*PSEUDO, "--method", "maskcut", "-n", "1", "--if-exists", "overwrite", "s-000.tar"),
    "confidence": ("confidence", "--source", "crf", "--if-exists", "overwrite", "s-000.tar"),
    "eval": ("eval", "--gt", "gt.json", "s-000.tar"),
    "inspect": ("inspect",),
    "inspect --json": ("inspect", "--json"),
}


@pytest.fixture
def whole(alone: Path, cuts3d: Callable[..., Ran], tmp_path: Path) -> Path:
    """A shard of one photo with its sidecars, and a ground truth."""
    (base,) = pack_photos(alone, 1)
    store_features(base, boxes())
    for command in (COMMANDS["pseudo"], COMMANDS["confidence"]):
        assert cuts3d(*command).code == 0
    coco_file(alone / "gt.json", [image(1, "p0.jpg", width=80, height=60)], [annotation(1, 1, (10, 10, 20, 20))])
    shutil.rmtree(alone / "source")
    return Path(shutil.copytree(alone, tmp_path / "whole"))


def damage_manifest(path: Path, rng: Random) -> None:
    """Damage a manifest, often only its configuration, whose hash then agrees with it."""
    values = json.loads(path.read_bytes())
    if rng.random() < 0.4:
        config = json.loads(mutated_json(rng, values["config"]).decode("latin-1"), strict=False)
        values["config"] = config
        if isinstance(config, dict):
            values["config_hash"] = config_hash(config)
        path.write_text(json.dumps(values))
    else:
        path.write_bytes(mutated_json(rng, values))


def damage_member(tar: Path, rng: Random) -> None:
    """Damage a JSON member; the manifest speaks of the tar as it is then."""
    (sample,) = read_shard(tar)
    name = rng.choice([name for name in sample.members if name.endswith("json")])
    with ShardWriter(tar) as writer:
        data = mutated_json(rng, json.loads(sample.members[name]))
        manifest = load_manifest(manifest_path(tar))
        writer.write(sample.key, {**sample.members, name: data})
    save_manifest(manifest_path(tar), replace(manifest, sha256=writer.sha256, size=writer.size))


def damaged(base: Path, rng: Random) -> Path:
    """Damage a JSON somewhere. Returns the tar that it is of."""
    stage = rng.choice(STAGES)
    tar = sidecar(base, stage) if stage else base
    try:
        damage_manifest(manifest_path(tar), rng) if rng.random() < 0.5 else damage_member(tar, rng)
    except (ValueError, RecursionError):  # of the damage: what is nested too deep, or no JSON, cannot be built upon
        manifest_path(tar).write_bytes(b"[" * 3_000_000)
    return tar


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.sampled_from(list(COMMANDS)))
def test_no_json_makes_a_traceback(whole: Path, cuts3d: Callable[..., Ran], seed: int, command: str):
    for path in Path.cwd().iterdir():
        path.unlink()
    shutil.copytree(whole, Path.cwd(), dirs_exist_ok=True)
    rng = Random(seed)
    tar = damaged(Path.cwd() / "s-000.tar", rng)
    words = list(COMMANDS[command])
    if words[0] == "inspect":
        words.append(rng.choice([tar, manifest_path(tar)]).name)
    ran = cuts3d(*words)
    assert ran.code in (0, 1, 2, 3)
    assert "Traceback" not in ran.err
    assert ran.code in (0, 3) or ran.err.count("cuts3d: ") == 1 or command == "verify"
