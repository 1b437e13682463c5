"""Repairs what `cuts3d verify` finds: runs again what wrote a damaged file, as its manifest says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from cuts3d_cli.config import PAPER, Config, RunConfig, as_dict, resolve
from cuts3d_cli.engine.results import Progress
from cuts3d_cli.errors import Command, Cuts3dError, Message, Setting, parts_of
from cuts3d_cli.features.extractor import FeatureExtractor
from cuts3d_cli.inspection.verify import Problem, VerifyReport, run, sidecar_order
from cuts3d_cli.shards.manifest import Manifest, digest_file
from cuts3d_cli.shards.names import maker_of, manifest_path, sidecar
from cuts3d_cli.stages import STAGES, pack
from cuts3d_cli.wording import Say

_NOWHERE = Path(os.devnull)
_PASSES = 3


@dataclass(frozen=True, kw_only=True)
class Fix:
    """How to repair one damaged file.

    Attributes:
        base: the base shard.
        stage: to run again; "pack" for the base shard itself, "" for a file to delete.
        file: the damaged file.
        command: writes it again; None where it is to be deleted.
        config: of that command; None where it is not known.
        source: the folder of photos that "pack" reads.
        obstacle: why the command cannot be run without the user; None if it can.
    """

    base: Path
    stage: str
    file: Path
    command: Command | None
    config: Config | None = None
    source: Path | None = None
    obstacle: Message | None = None


def find_fixes(report: VerifyReport, *, run_config: RunConfig) -> list[Fix]:
    """Return how to repair what is wrong with some shards: one fix a file, in the order in which they can be run.

    The configuration is that of the file's own manifest, else that of another shard's manifest of the same stage.
    """
    wanted: dict[tuple[Path, str], Problem] = {}
    for problem in report.problems:
        wanted.setdefault((problem.base, problem.stage or str(problem.file)), problem)
    fixes = [_fix(problem, report, run_config) for problem in wanted.values()]
    return sorted(fixes, key=lambda item: (str(item.base), _order(item.stage)))


def repair(
    shards: Sequence[Path], report: VerifyReport, *, run_config: RunConfig, progress: Progress | None, say: Say
) -> VerifyReport:
    """Run again what wrote the damaged files, as far as that needs no user, and verify again.

    Args:
        shards: base shards.
        report: what `verify.run` found there.
        run_config: device, workers, ...
        progress: receives progress events of each stage.
        say: prints what is run, and what cannot be.

    Returns:
        What is wrong now.
    """
    told: set[str] = set()
    # What is written again makes stale what was made from it: that is found in the next pass.
    for _ in range(_PASSES):
        todo = [item for item in find_fixes(report, run_config=run_config) if item.obstacle is None]
        if not todo:
            break
        for item in todo:
            say(Message(f"{item.file}: ", item.command or "delete it"))
            try:
                _run(item, progress=progress, say=say)
            except Cuts3dError as error:
                line = Message(f"{item.file}: cannot be written again: ", *error.parts)
                if str(line) not in told:
                    say(line)
                told.add(str(line))
        shards = list(dict.fromkeys([*shards, *(item.base for item in todo if item.base.exists())]))
        report = run(shards)
    return report


def _order(stage: str) -> tuple[int, int]:
    return (9999, 0) if not stage else (-2, 0) if stage == pack.STAGE else sidecar_order(stage)


def _fix(problem: Problem, report: VerifyReport, run_config: RunConfig) -> Fix:
    base, stage = problem.base, problem.stage
    if not stage:
        return Fix(base=base, stage="", file=problem.file, command=None)
    if stage == pack.STAGE:
        manifest = report.manifests.get(base) or _manifest_beside(base, report)
        return Fix(
            base=base,
            stage=stage,
            file=base,
            command=_packing(base, manifest),
            config=_pack_config(manifest) if manifest else None,
            source=Path(_root_of(manifest)) if manifest else None,
            obstacle=_packing_obstacle(manifest),
        )
    tar = sidecar(base, stage)
    own = report.manifests.get(tar)
    manifest = own or next((other for other in report.manifests.values() if other.stage == stage), None)
    config = _config(manifest, run_config) if manifest else None
    return Fix(
        base=base,
        stage=stage,
        file=tar,
        command=_command(base, stage, config),
        config=config,
        obstacle=_obstacle(stage, manifest, config),
    )


def _manifest_beside(base: Path, report: VerifyReport) -> Manifest | None:
    """Return the manifest of a base shard that was packed together with one that is gone; None if there is none."""
    if base.exists():
        return None
    others = ((other, manifest) for other, manifest in report.manifests.items() if manifest.stage == pack.STAGE)
    return next((manifest for other, manifest in others if _set_of(other) == _set_of(base)), None)


def _config(manifest: Manifest, run_config: RunConfig) -> Config | None:
    """Return the configuration to write a sidecar again with; None if this version cannot take it.

    What the manifest has from the inputs follows them: masks that were cut anew are scored up to their own threshold.
    """
    try:
        stored = resolve(preset="paper", overrides=manifest.own_config(), environment={}, folder=_NOWHERE)
    except (Cuts3dError, AttributeError, TypeError):
        return None
    run = replace(run_config, max_image_pixels=stored.run.max_image_pixels, if_exists="overwrite")
    return replace(stored, run=run)


def _command(base: Path, stage: str, config: Config | None) -> Command:
    """Return the command that writes a sidecar again; a round of self-training needs no settings to be told."""
    if "." in stage:
        return Command(maker_of(stage), shards=base)
    settings = [Setting("run.if_exists", "overwrite")]
    settings += [Setting(name, "FILE") for name in STAGES[stage].arguments]
    for section in fields(config) if config else ():
        values, usual = as_dict(getattr(config, section.name)), as_dict(getattr(PAPER, section.name))
        if section.name == "run":
            values = {"max_image_pixels": values["max_image_pixels"]}
        settings += [
            Setting(f"{section.name}.{name}", _value(value)) for name, value in values.items() if value != usual[name]
        ]
    return Command(maker_of(stage), shards=base, settings=tuple(settings))


def _value(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


def _obstacle(stage: str, manifest: Manifest | None, config: Config | None) -> Message | None:
    """Return why a stage cannot be run again without the user."""
    if "." in stage:
        return Message("it is of a round of self-training, whose steps depend on one another")
    if arguments := STAGES[stage].arguments:
        return Message(f"its manifest does not say where the {' and '.join(arguments)} lies")
    if manifest is None:
        return Message("no manifest says how it was made: set what that run was told")
    if config is None:
        return Message("its configuration is of another version of cuts3d")
    given = {role: digest for role, digest in manifest.inputs.items() if role.partition("/")[0] == "weights"}
    if not given:
        return None
    # Weights of a backbone may be in the cache; others are the user's own.
    section = "features" if "features" in manifest.config else stage
    if section == "features":
        try:
            weights = FeatureExtractor(config).weights
            if digest_file(weights).sha256 == given["weights"].sha256:
                return None
        except (Cuts3dError, KeyError) as error:
            return Message("its weights are not here: ", *parts_of(error))
    used = Setting(f"{section}.weights", next(iter(given.values())).file, command=stage)
    return Message("it was made with ", used, ", and its manifest does not say where that lies")


def _packing(base: Path, manifest: Manifest | None) -> Command:
    """Return the command that packs a base shard again."""
    root = (_root_of(manifest) if manifest else "") or "SOURCE"
    config: Mapping[str, Any] = manifest.config if manifest else {}
    settings = [Setting("out", str(base.parent)), Setting("name", _set_of(base))]
    settings += [Setting("pack.shard_size", config["shard_size"])] if "shard_size" in config else []
    settings += [Setting("depth_dir", "FOLDER")] if config.get("depth") else []
    of_maps = ("depth_scale", "depth_invalid", "depth_orientation")
    settings += [Setting(f"pack.{name}", config[name]) for name in of_maps if name in config]
    return Command("pack", arguments=(root,), settings=tuple(settings))


def _packing_obstacle(manifest: Manifest | None) -> Message | None:
    """Return why a base shard cannot be packed again; only a folder without depth maps can be found again."""
    if manifest is None:
        return Message("no manifest says what it was packed from: restore the file, or pack its photos again")
    if manifest.config.get("source") != "folder" or manifest.config.get("depth"):
        return Message("its manifest does not say where the COCO JSON or the depth maps lie")
    if _pack_config(manifest) is None:
        return Message("its configuration is of another version of cuts3d")
    root = _root_of(manifest)
    return None if root and Path(root).is_dir() else Message(f"the photos are no longer in {root or 'a known folder'}")


def _pack_config(manifest: Manifest) -> Config | None:
    """Return the configuration that a base shard was packed with; None if this version cannot take it."""
    recorded = manifest.config
    values = {"pack": {"shard_size": recorded.get("shard_size")}, "run": recorded.get("run", {})}
    try:
        return resolve(preset="paper", overrides=values, environment={}, folder=_NOWHERE)
    except (Cuts3dError, AttributeError, TypeError):
        return None


def _root_of(manifest: Manifest) -> str:
    """Return the folder that a base shard was packed from; empty where the manifest does not say it."""
    root = manifest.info.get("root")
    return root if isinstance(root, str) else ""


def _set_of(base: Path) -> str:
    """Return NAME of NAME-000.tar, as `pack` takes it."""
    return re.sub(r"-[0-9]+$", "", base.stem)


def _run(item: Fix, *, progress: Progress | None, say: Say) -> None:
    if not item.stage:
        item.file.unlink(missing_ok=True)
    elif item.stage == pack.STAGE:
        _pack_again(item, progress=progress)
    else:
        assert item.config is not None
        STAGES[item.stage].run([item.base], config=item.config, progress=progress, say=say)


def _pack_again(item: Fix, *, progress: Progress | None) -> None:
    assert item.config is not None
    assert item.source is not None
    # A tar without a manifest is unfinished: of all shards of the source, this one is packed again.
    manifest_path(item.base).unlink(missing_ok=True)
    packing = pack.Packing(source=item.source, out=item.base.parent, name=_set_of(item.base))
    pack.run(packing, config=item.config, progress=progress)
