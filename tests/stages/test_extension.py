"""A stage with a sidecar costs four files: one each in `stages`, `sidecars` and `cli`, and a section in `config`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cuts3d_cli.cli import app as app_module
from cuts3d_cli.cli.common import Json, MoreShards, Shards, expand_shards, leave, run_stage
from cuts3d_cli.cli.options import with_config
from cuts3d_cli.cli.spelling import COMMANDS
from cuts3d_cli.config import PRESETS, Config, Section, output_dict
from cuts3d_cli.config.fields import option
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.errors import SampleError
from cuts3d_cli.files import to_json_bytes
from cuts3d_cli.shards.names import sidecar, stage_names
from cuts3d_cli.shards.reader import Sample, read_shard
from cuts3d_cli.shards.writer import ShardWriter
from cuts3d_cli.sidecars import KINDS
from cuts3d_cli.sidecars.fields import Record
from cuts3d_cli.sidecars.photos import photo
from cuts3d_cli.sidecars.reading import NOTHING, Flaw, Known, Reading, decoded, read_record, stray_members
from cuts3d_cli.stages import STAGES, Imported, Stage
from tests.support.photos import pack_photos
from tests.support.running import Ran

# ------------------------------------------------------------------------------------------- a section of `config`


@dataclass(frozen=True, kw_only=True)
class BrightnessConfig(Section):
    """How bright a photo is."""

    title = "Brightness"
    sidecar = True

    scale: float = option(1.0, "The number that white becomes.", limits=(0.1, 1000.0))


@dataclass(frozen=True, kw_only=True)
class WiderConfig(Config):
    """The configuration with one more section."""

    brightness: BrightnessConfig = BrightnessConfig()


# --------------------------------------------------------------------------------------------- sidecars/brightness

kind = ModuleType("brightness")
kind.MEMBERS = ("brightness.json",)  # type: ignore[attr-defined]
kind.FOLLOWS = None  # type: ignore[attr-defined]


def encode(mean: float) -> dict[str, bytes]:
    return {"brightness.json": to_json_bytes({"mean": mean})}


def decode(sample: Sample, known: Known = NOTHING) -> float:
    return decoded(_read(sample), sample, "brightness")


def flaws(sample: Sample, known: Known = NOTHING) -> list[Flaw]:
    return list(_read(sample))


def _read(sample: Sample) -> Reading[float | None]:
    yield from stray_members(sample, ("brightness.json",))
    return (yield from read_record(sample, "brightness.json", lambda fields: _mean(fields)))


def _mean(fields: Record) -> float:
    return fields.number("mean")


kind.encode, kind.decode, kind.flaws = encode, decode, flaws  # type: ignore[attr-defined]

# ----------------------------------------------------------------------------------------------- stages/brightness


def run(
    shards: Sequence[Path], *, config: Any, progress: Progress | None = None, say: Any = None, **arguments: Any
) -> StageResult:
    def outcomes(base: Path) -> Iterator[Outcome]:
        for sample in read_shard(base):
            try:
                mean = float(np.asarray(photo(sample)).mean()) / 255 * config.brightness.scale
                yield Outcome(key=sample.key, members=encode(mean))
            except SampleError as error:
                yield Outcome(key=sample.key, failure=str(error))

    return run_shards(
        shards,
        stage="brightness",
        config={"brightness": output_dict(config.brightness)},
        inputs=lambda base: {"base": base},
        outcomes=outcomes,
        if_exists=config.run.if_exists,
        progress=progress,
    )


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The four files, and nothing else."""
    presets: Mapping[str, Config] = {
        name: WiderConfig(**{item.name: getattr(preset, item.name) for item in dataclasses.fields(preset)})
        for name, preset in PRESETS.items()
    }
    monkeypatch.setattr("cuts3d_cli.config.sections.Config", WiderConfig)
    monkeypatch.setattr("cuts3d_cli.config.resolving.PRESETS", presets)
    monkeypatch.setattr("cuts3d_cli.inspection.fix.PAPER", presets["paper"])
    monkeypatch.setitem(KINDS, "brightness", kind)  # type: ignore[call-overload]
    monkeypatch.setitem(sys.modules, "brightness_stage", ModuleType("brightness_stage"))
    sys.modules["brightness_stage"].run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(STAGES, "brightness", Stage(run=Imported("brightness_stage"), network=False))  # type: ignore[call-overload]

    # cli/brightness
    @with_config("brightness", "run")
    def brightness(
        shards: Shards = None, more_shards: MoreShards = None, json: Json = False, *, config: Config
    ) -> None:
        """Measure how bright every photo is."""
        leave(
            failed=run_stage("brightness", expand_shards(shards, more_shards, config), config=config, json=json).failed
        )

    monkeypatch.setattr(app_module.app, "registered_commands", [*app_module.app.registered_commands])
    app_module.add_command("brightness", brightness)
    yield
    del COMMANDS["brightness"]


def test_it_runs_resumes_and_is_verified_and_mended(registered: None, cuts3d: Callable[..., Ran], alone: Path):
    (base,) = pack_photos(alone, 3)
    assert "brightness" in stage_names()
    # It runs, and its options are those of its section.
    ran = cuts3d("brightness", "--shards", base, "--scale", 100)
    assert ran.code == 0, ran.err
    tar = sidecar(base, "brightness")
    values = [decode(sample) for sample in read_shard(tar)]
    assert len(values) == 3
    assert all(20 < value < 80 for value in values)
    assert "Brightness" in cuts3d("brightness", "--help").out
    assert cuts3d("brightness", "--scale", 0).line.startswith("cuts3d: --scale is 0")
    # It resumes, and another setting is refused.
    assert "finished before" in cuts3d("brightness", "--shards", base, "--scale", 100).out
    refused = cuts3d("brightness", "--shards", base, "--scale", 10)
    assert "other settings (s-000.brightness.tar): --scale 100.0 -> 10.0: --if-exists replace" in refused.line
    first = tar.read_bytes()
    assert cuts3d("brightness", "--shards", base, "--scale", 10, "--if-exists", "replace").code == 0
    assert tar.read_bytes() != first
    # It is verified; its sidecar is none of the base shards that a folder stands for.
    assert cuts3d("verify", "--shards", alone).code == 0
    with ShardWriter(tar) as writer:
        for number, sample in enumerate(read_shard(base)):
            writer.write(sample.key, {"brightness.json": b'{"mean": "bright"}' if number else b'{"mean": 1}'})
    ran = cuts3d("verify", "--shards", alone)
    assert ran.code == 1
    assert "its mean is" in ran.out
    assert "cuts3d brightness --shards" in ran.out


def test_a_damaged_one_is_written_again(registered: None, cuts3d: Callable[..., Ran], alone: Path):
    (base,) = pack_photos(alone, 2)
    assert cuts3d("brightness", "--shards", base, "--scale", 100, "--if-exists", "replace").code == 0
    tar = sidecar(base, "brightness")
    whole = tar.read_bytes()
    tar.write_bytes(whole[:600] + b"#" + whole[601:])
    assert cuts3d("verify", "--shards", alone).code == 1
    assert cuts3d("verify", "--shards", alone, "--fix").code == 0
    assert tar.read_bytes() == whole
