"""Names of shards: how the files of one shard relate, and what people type to mean many of them.

A base shard is `NAME-000.tar`. Each stage writes a sidecar beside it, `NAME-000.depth.tar`, and each tar has a manifest
with its own name and the ending `.json`: `NAME-000.json`, `NAME-000.depth.json`. What self-training writes in every
round carries the name of its generation: `NAME-000.pseudo.st1.tar`, `NAME-000.predict.initial.tar`.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from cuts3d_cli.config import section_types
from cuts3d_cli.errors import Command, Setting, ShardError, UsageError
from cuts3d_cli.wording import listed

_GENERATION = re.compile(r"initial|st[1-9][0-9]{0,2}")
MAX_SHARDS = 1_000_000
"""One pattern may not stand for more files than this: beyond it, a slip of the finger is likelier."""
_GROUP = re.compile(r"<(?P<angle>[^<>{}]*)>|\{(?P<brace>[^<>{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
_RECURSIVE = re.compile(r"(?P<head>(?:.*?/)?)\*\*(?:/+(?P<tail>.*))?")
_MAX_DIGITS = 18


def stage_names() -> tuple[str, ...]:
    """Return the stages that write a sidecar, in the order in which they can run: the configuration says which."""
    return tuple(name for name, section in section_types().items() if section.sidecar)


def has_generations(stage: str) -> bool:
    """Return whether self-training has a stage's sidecars written anew in every round."""
    section = section_types().get(stage)
    return section is not None and section.sidecar and section.generations


def stage_of(path: Path) -> str | None:
    """Tell which stage a tar or a manifest belongs to, by its name alone.

    Args:
        path: `NAME-000.depth.tar`, `NAME-000.tar`, or the manifest of one.

    Returns:
        One of `stage_names()`, with its generation as in "pseudo.st1" if it has one, or None for a base shard (which
        `pack` or the user made).
    """
    stem, dot, ending = path.stem.rpartition(".")
    if not (stem and dot):
        return None
    if _GENERATION.fullmatch(ending):
        stem, dot, stage = stem.rpartition(".")
        return f"{stage}.{ending}" if stem and dot and has_generations(stage) else None
    return ending if ending in stage_names() else None


def in_generation(stage: str, generation: str | None) -> str:
    """Name a stage's sidecars of one generation.

    Args:
        stage: "pseudo" or "predict".
        generation: "initial", "st1", "st2", ...; None for the sidecars without one.

    Returns:
        As in "pseudo.st1".

    Raises:
        ValueError: there is no such stage or generation.
    """
    if generation is None:
        return stage
    if not has_generations(stage) or not _GENERATION.fullmatch(generation):
        raise ValueError(f"there is no generation {generation!r} of stage {stage!r}")
    return f"{stage}.{generation}"


def generation_of(round: int) -> str:
    """Name the detector that a round of training gives, and all that it makes: "initial", "st1", "st2", ..."""
    return "initial" if round == 0 else f"st{round}"


def masks_of(round: int) -> str:
    """Name the stage whose sidecars a round of training learns from: "pseudo", "pseudo.st1", ..."""
    return "pseudo" if round == 0 else in_generation("pseudo", generation_of(round))


def base_of(path: Path) -> Path:
    """Name the base shard that a sidecar or a manifest belongs to; a base shard is its own.

    Args:
        path: a tar or a manifest.

    Returns:
        The path of the base tar, in the same folder. It need not exist.
    """
    stage = stage_of(path)
    stem = path.stem if stage is None else path.stem[: -len(stage) - 1]
    return path.with_name(f"{stem}.tar")


def sidecar(base: Path, stage: str) -> Path:
    """Name the sidecar that a stage writes beside a base shard.

    Args:
        base: a base shard.
        stage: one of `stage_names()`, or one in a generation, as in "pseudo.st1".

    Returns:
        `NAME-000.STAGE.tar`, in the folder of the base shard.

    Raises:
        ValueError: the stage is unknown, or `base` is itself a sidecar.
    """
    if stage_of(Path(f"base.{stage}.tar")) != stage:
        raise ValueError(f"unknown stage {stage!r}, expected one of {', '.join(stage_names())}")
    if stage_of(base) is not None:
        raise ValueError(f"{base} is a sidecar, not a base shard")
    return base.with_name(f"{base.stem}.{stage}.tar")


def maker_of(stage: str) -> str:
    """Return the command that writes a stage's sidecars: those of a generation come from self-training."""
    return "selftrain" if "." in stage else stage


def failed_in(stage: str) -> str:
    """Say where images failed, in the same words in all messages: "failed in `cuts3d pseudo`".

    Args:
        stage: one of `stage_names()`, one in a generation, or "pack".
    """
    return f"failed in `cuts3d {maker_of(stage)}`"


def command_for(tar: Path, *, again: bool = False) -> Command:
    """Return the command that writes a sidecar or a base shard, for messages.

    Args:
        tar: the sidecar, the base shard, or the manifest of one.
        again: it is there, and to be written again.
    """
    settings = (Setting("run.if_exists", "overwrite"),) if again else ()
    stage = stage_of(tar)
    if stage is None:
        return Command("pack", settings=settings)
    return Command(maker_of(stage), shards=base_of(tar), settings=settings)


def manifest_path(tar: Path) -> Path:
    """Name the manifest of a base shard or sidecar.

    Args:
        tar: `NAME-000.tar` or `NAME-000.STAGE.tar`.

    Returns:
        The same name, ending in `.json` in place of `.tar`.
    """
    return tar.with_suffix(".json")


def expand(specs: Sequence[str]) -> list[Path]:
    """List the base shards that arguments stand for.

    Understood are: a tar; a range, `a-<000..999>.tar` or `a-{000..999}.tar`, whose zeros are kept and of which a
    pattern may hold several; a list, `{train,val}-000.tar`; a glob; a folder (its base shards, sorted); a `.txt` file
    with one of these on each line, `#` starting a comment, relative to the folder of the file. Ranges and globs may be
    mixed. A name that exists is taken as it stands, whatever characters it holds.

    Sidecars that a glob or folder happens to match are left out. A sidecar given by its own name is left out when its
    base shard is given too (a glob that the shell has expanded), and is an error otherwise.

    Args:
        specs: one or many arguments, as the shell passed them.

    Returns:
        Paths of existing base shards, without duplicates, in the order given.

    Raises:
        UsageError: a pattern is malformed, a sidecar or another file is named, or nothing is given.
        ShardError: a named shard is missing, or a glob or folder holds none.
    """
    if not specs:
        raise UsageError("no shards are given: name a tar, a range such as 'a-<000..009>.tar', a glob or a folder")
    unique: dict[str, Path] = {}
    for spec in specs:
        for path in _of_argument(_at_home(spec)):
            unique.setdefault(os.path.abspath(path), path)
    paths = list(unique.values())
    _refuse_missing(paths)
    return _without_sidecars(paths)


def only_set(folder: Path) -> list[Path]:
    """Return the base shards of a folder, if they are one set: all named `NAME-000.tar`, with one NAME.

    Args:
        folder: where to look.

    Returns:
        Paths of the base shards, sorted.

    Raises:
        UsageError: the folder holds none, or more than one set.
    """
    bases = [folder / tar.name for tar in _tars_in(folder) if stage_of(tar) is None]
    names = sorted({re.sub(r"-?[0-9]+$", "", base.stem) for base in bases})
    if len(names) != 1:
        found = f"this folder holds {len(names)} sets of them ({listed(names)}): " if names else ""
        example = Setting("shards", "in1k-<000..999>.tar")
        raise UsageError(f"no shards were named: {found}name yours, for example ", example)
    return bases


def _at_home(spec: str) -> str:
    if "\0" in spec:
        raise UsageError(f"{spec!r} has a NUL character, which no file name can have")
    try:
        os.fsencode(spec)
    except UnicodeEncodeError as error:
        raise UsageError(f"{spec!r} has a character that no file name can have") from error
    return os.path.expanduser(spec)


def _of_argument(spec: str) -> Iterator[Path]:
    if spec.endswith(".txt") and not os.path.isdir(spec):
        yield from _of_list_file(Path(spec))
    else:
        yield from _of_spec(spec, folder="")


def _of_spec(spec: str, *, folder: str) -> Iterator[Path]:
    """List what one argument, or one line of a list file in `folder`, stands for. `folder` is never a pattern."""
    if not spec.strip():
        raise UsageError("an empty shard name is given: is a shell variable unset?")
    if "://" in spec or spec.startswith("pipe:"):
        raise UsageError(f"{spec} is not a local file: shards are read from local folders, copy it first")
    names = [spec] if os.path.lexists(os.path.join(folder, spec)) else _of_pattern(spec)
    for name in names:
        path = Path(folder, name)
        if os.path.isdir(path):  # unlike those of Path, false for a name that is too long
            yield from _of_folder(path)
        elif glob.has_magic(name) and not os.path.lexists(path):
            yield from _of_glob(os.path.join(glob.escape(folder), name))
        else:
            yield _checked_name(path)


def _checked_name(path: Path) -> Path:
    if path.suffix == ".tar":
        return path
    if not os.path.lexists(path):
        raise ShardError(f"{path} does not exist: expected a .tar, a folder of them, or a .txt list")
    if path.name.endswith((".tgz", ".gz", ".bz2", ".xz", ".zst")):
        raise UsageError(f"{path} is compressed: unpack it to a plain .tar, so that samples can be found in it")
    if path.suffix == ".json":
        raise UsageError(f"{path} is not a shard: pass {base_of(path)}, whose manifest it may be")
    raise UsageError(f"{path} is not a shard: expected a .tar, a folder of them, or a .txt list")


def _tars_in(folder: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ShardError(f"folder {folder} cannot be listed: {error.strerror}") from error
    return [folder / name for name in names if _is_tar_name(name)]


def _is_tar_name(name: str) -> bool:
    return name.endswith(".tar") and not name.startswith(".")


def _of_folder(folder: Path) -> list[Path]:
    tars = _tars_in(folder)
    bases = [tar for tar in tars if stage_of(tar) is None]
    if not bases:
        holds = "only sidecars" if tars else "no .tar"
        raise ShardError(f"folder {folder} holds {holds}: make base shards of photos with `cuts3d pack`")
    return bases


def _of_glob(pattern: str) -> list[Path]:
    tars: list[Path] = []
    for path in map(Path, sorted(_matches(pattern))):
        if os.path.isdir(path):
            tars.extend(_tars_in(path))
        elif _is_tar_name(path.name):
            tars.append(path)
    bases = [tar for tar in tars if stage_of(tar) is None]
    if not bases and tars:
        raise ShardError(f"{pattern!r} matches only sidecars: pass base shards such as {base_of(tars[0])}")
    if not bases:
        raise ShardError(f"no shard matches {pattern!r}: check the folder and the ending .tar")
    return bases


def _matches(pattern: str) -> set[str]:
    """List what a pattern matches. `**` follows no links to folders, which may lead round in circles."""
    match = _RECURSIVE.fullmatch(pattern)
    if match is None:
        return set(glob.glob(pattern))
    found: set[str] = set()
    head, tail = match["head"], match["tail"]
    for top in glob.glob(head) if glob.has_magic(head) else [head]:
        for folder, folders, files in os.walk(top or os.curdir):
            folders[:] = [name for name in folders if not name.startswith(".")]
            place = folder if top else os.path.relpath(folder, os.curdir)
            found |= (
                _matches(os.path.join(glob.escape(place), tail)) if tail else {os.path.join(place, n) for n in files}
            )
    return found


def _of_list_file(path: Path) -> Iterator[Path]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ShardError(f"list file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ShardError(f"list file {path} is not UTF-8 text: save it as such") from error
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()]
    if not any(lines):
        raise ShardError(f"list file {path} names no shards: write one on each line")
    for line in filter(None, lines):
        if line.endswith(".txt"):
            raise UsageError(f"list file {path} names another list, {line}: name its shards instead")
        yield from _of_spec(_at_home(line), folder=str(path.parent))


def _of_pattern(spec: str) -> Iterator[str]:
    """Replace each `<..>` and `{..}` of a pattern by its values, the last one running fastest, as the shell does."""
    pieces: list[Sequence[str]] = []
    end, count = 0, 1
    for match in _GROUP.finditer(spec):
        pieces += [[_checked_literal(spec[end : match.start()], spec)], _values(match, spec)]
        count *= len(pieces[-1])
        _check_count(count, spec)  # before the next range is written out
        end = match.end()
    pieces.append([_checked_literal(spec[end:], spec)])
    return map("".join, itertools.product(*pieces))


def _check_count(count: int, spec: str) -> None:
    if count > MAX_SHARDS:
        raise UsageError(f"{spec!r} stands for more than {MAX_SHARDS} shards: check its ranges")


def _checked_literal(literal: str, spec: str) -> str:
    if set(literal) & set("<>{}"):
        raise UsageError(f"{spec!r} has a bracket without its partner, or brackets in brackets: write <000..999>")
    return literal


def _values(match: re.Match[str], spec: str) -> list[str]:
    inside = match["angle"] if match["angle"] is not None else match["brace"]
    if limits := _RANGE.fullmatch(inside):
        first, last = limits.groups()
        if max(len(first), len(last)) > _MAX_DIGITS:
            raise UsageError(f"{match[0]!r} in {spec!r} has numbers of more than {_MAX_DIGITS} digits")
        step = 1 if int(first) <= int(last) else -1
        numbers = range(int(first), int(last) + step, step)
        _check_count(len(numbers), spec)
        padded = any(len(text) > 1 and text.startswith("0") for text in (first, last))
        width = max(len(first), len(last)) if padded else 0
        return [str(number).zfill(width) for number in numbers]
    if match["brace"] is not None and "," in inside:
        return inside.split(",")
    raise UsageError(f"{match[0]!r} in {spec!r} is not a range: write <000..999> or {{000..999}}, or a list {{a,b}}")


def _refuse_missing(paths: Sequence[Path]) -> None:
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        shown = listed(missing)
        raise ShardError(f"{len(missing)} of {len(paths)} shards are missing: {shown} (shorten the range or make them)")


def _without_sidecars(paths: Sequence[Path]) -> list[Path]:
    bases = [path for path in paths if stage_of(path) is None]
    given = {os.path.abspath(path) for path in bases}
    for path in paths:
        base = base_of(path)
        if os.path.abspath(base) not in given:
            raise UsageError(f"{path} is a sidecar of stage {stage_of(path)}: pass its base shard {base}")
    return bases
