"""`cuts3d verify --fix`: runs again what made a damaged file, with the configuration that its manifest holds."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from cuts3d_cli.config import PAPER, Config, RunConfig, as_dict, resolve
from cuts3d_cli.engine.driver import maker_of
from cuts3d_cli.engine.results import Progress
from cuts3d_cli.errors import Cuts3dError
from cuts3d_cli.features.extractor import FeatureExtractor
from cuts3d_cli.inspection.verify import Problem, Verified, run, sidecar_order
from cuts3d_cli.shards.manifest import Manifest, digest_file, load_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.stages import confidence, depth, features, pack, pseudo
from cuts3d_cli.stages.features import Say

_NOWHERE = Path(os.devnull)
_PASSES = 3


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """What is to be done about one damaged file.

    Attributes:
        base: the base shard.
        stage: to run again; "pack" for the base shard itself, "" for a file to delete.
        file: that is damaged.
        command: that makes it anew.
        config: of that command; None where it is not known.
        obstacle: why the command cannot be run without the user; None if it can.
    """

    base: Path
    stage: str
    file: Path
    command: str
    config: Config | None
    obstacle: str | None


def remedies(found: Verified, *, run_config: RunConfig) -> list[Remedy]:
    """What is to be done about the problems of some shards: one remedy a file, in the order in which they can be run.

    The configuration is that of the file's own manifest, else that of another shard's manifest of the same stage.
    """
    wanted: dict[tuple[Path, str], Problem] = {}
    for problem in found.problems:
        wanted.setdefault((problem.base, problem.stage or str(problem.file)), problem)
    remedies = [_remedy(problem, found, run_config) for problem in wanted.values()]
    return sorted(remedies, key=lambda item: (str(item.base), _order(item.stage)))


def fix(
    shards: Sequence[Path], found: Verified, *, run_config: RunConfig, progress: Progress | None, say: Say
) -> Verified:
    """Run again what made the damaged files, as far as that needs no one, and verify anew.

    Args:
        shards: base shards.
        found: what `verify.run` found there.
        run_config: device, workers, ...
        progress: told how far each stage is.
        say: told what is run, and what cannot be.

    Returns:
        What is wrong now.
    """
    told: set[str] = set()
    for _ in range(_PASSES):
        todo = [item for item in remedies(found, run_config=run_config) if item.obstacle is None]
        if not todo:
            break
        for item in todo:
            say(f"{item.file}: {item.command}")
            try:
                _run(item, progress=progress, say=say)
            except Cuts3dError as error:
                line = f"{item.file}: cannot be made anew: {error}"
                if line not in told:
                    say(line)
                told.add(line)
        found = run(shards)
    return found


def _order(stage: str) -> tuple[int, int]:
    return (9999, 0) if not stage else (-2, 0) if stage == pack.STAGE else sidecar_order(stage)


def _remedy(problem: Problem, found: Verified, run_config: RunConfig) -> Remedy:
    base, stage = problem.base, problem.stage
    if not stage:
        command = f"rm {shlex.quote(str(problem.file))}"
        return Remedy(base=base, stage="", file=problem.file, command=command, config=None, obstacle=None)
    tar = base if stage == pack.STAGE else sidecar(base, stage)
    own = found.manifests.get(tar)
    manifest = own or next((other for other in found.manifests.values() if other.stage == stage), None)
    if stage == pack.STAGE:
        command, obstacle, config = *_packing(base, own), None
    else:
        config = _config(manifest, run_config) if manifest else None
        command = _command(base, stage, config)
        obstacle = _obstacle(stage, manifest, config)
    return Remedy(base=base, stage=stage, file=tar, command=command, config=config, obstacle=obstacle)


def _config(manifest: Manifest, run_config: RunConfig) -> Config | None:
    """The configuration that a manifest holds; None if this version cannot take it."""
    try:
        stored = resolve(preset="paper", overrides=manifest.config, environment={}, folder=_NOWHERE)
    except (Cuts3dError, AttributeError, TypeError):
        return None
    run = replace(run_config, max_image_pixels=stored.run.max_image_pixels, if_exists="overwrite")
    return replace(stored, run=run)


def _command(base: Path, stage: str, config: Config | None) -> str:
    words = ["cuts3d", maker_of(stage), "--shards", str(base)]
    if "." not in stage:
        words += ["--if-exists", "overwrite"]
        if stage == "predict":
            words += ["--checkpoint", "FILE"]
    for section in fields(Config) if config and "." not in stage else ():
        values, usual = as_dict(getattr(config, section.name)), as_dict(getattr(PAPER, section.name))
        if section.name == "run":
            values = {"max_image_pixels": values["max_image_pixels"]}
        words += [
            word
            for name, value in values.items()
            if value != usual[name]
            for word in ("--set", f"{section.name}.{name}={_text(value)}")
        ]
    return shlex.join(words)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _obstacle(stage: str, manifest: Manifest | None, config: Config | None) -> str | None:
    if "." in stage:
        return "it is of a round of self-training, whose steps depend on one another"
    if stage == "predict":
        return "its manifest does not say where the checkpoint lies"
    if manifest is None:
        return "no manifest says how it was made: pass the options of that run"
    if config is None:
        return "its configuration is of another version of cuts3d"
    given = {role: digest for role, digest in manifest.inputs.items() if role.partition("/")[0] == "weights"}
    if stage == "depth" and given:
        return f"it was made with --weights {next(iter(given.values())).file}, and its manifest does not say where"
    if given:
        try:
            weights = FeatureExtractor(config).weights
            if digest_file(weights).sha256 == given["weights"].sha256:
                return None
        except (Cuts3dError, KeyError) as error:
            return f"its weights are not here: {error}"
        return f"it was made with --weights {given['weights'].file}, and its manifest does not say where they lie"
    return None


def _packing(base: Path, manifest: Manifest | None) -> tuple[str, str | None]:
    """How to pack a base shard again; only a folder without depth maps can be found again."""
    root = str(manifest.info.get("root", "SOURCE")) if manifest else "SOURCE"
    config: Mapping[str, Any] = manifest.config if manifest else {}
    words = ["cuts3d", "pack", root, "--out", str(base.parent), "--name", _set_of(base)]
    words += ["--shard-size", str(config["shard_size"])] if "shard_size" in config else []
    words += ["--depth-dir", "FOLDER"] if config.get("depth") else []
    obstacle = None
    if manifest is None:
        obstacle = "no manifest says what it was packed from: restore the file, or pack its photos again"
    elif config.get("source") != "folder" or config.get("depth"):
        obstacle = "its manifest does not say where the COCO JSON or the depth maps lie"
    elif not Path(root).is_dir():
        obstacle = f"the photos are no longer in {root}"
    return shlex.join(words), obstacle


def _set_of(base: Path) -> str:
    """NAME of NAME-000.tar, as `pack --name` takes it."""
    return re.sub(r"-[0-9]+$", "", base.stem)


def _run(item: Remedy, *, progress: Progress | None, say: Say) -> None:
    if not item.stage:
        item.file.unlink(missing_ok=True)
    elif item.stage == pack.STAGE:
        _pack_again(item, progress=progress)
    else:
        assert item.config is not None
        if item.stage == "depth":
            depth.run([item.base], config=item.config, progress=progress)
        elif item.stage == "features":
            features.run([item.base], config=item.config, progress=progress, say=say)
        elif item.stage == "pseudo":
            pseudo.run([item.base], config=item.config, progress=progress, say=say)
        else:
            confidence.run([item.base], config=item.config, progress=progress)


def _pack_again(item: Remedy, *, progress: Progress | None) -> None:
    path = manifest_path(item.base)
    manifest = load_manifest(path)
    path.unlink()  # a tar without a manifest is unfinished: of all shards of the source, this one is packed again
    limits = manifest.config.get("run", {})
    pack.run(
        source=Path(manifest.info["root"]),
        out=item.base.parent,
        name=_set_of(item.base),
        shard_size=manifest.config["shard_size"],
        max_image_pixels=limits.get("max_image_pixels", RunConfig().max_image_pixels),
        progress=progress,
    )
