"""A recipe: one TOML file that says from which photos, by which settings, and on what it is evaluated.

It holds the sections of `cuts3d.toml`, a `preset`, and the section `[recipe]`. Its paths start from its own folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from cuts3d_cli.config.fields import limits_problem, option, section_fields
from cuts3d_cli.config.resolving import convert, read_toml, resolve
from cuts3d_cli.config.sections import Config
from cuts3d_cli.errors import Part, SettingError, UsageError
from cuts3d_cli.wording import absence, did_you_mean

SECTION = "recipe"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """What the detectors are evaluated on: the section `[recipe.evaluate.NAME]`."""

    ground_truth: Path = option(MISSING, "A COCO JSON with boxes or masks, of any classes.")
    photos: Path | None = option(
        None, "The folder that its file names start from. Default: the JSON's own, or `images`."
    )
    depth_dir: Path | None = option(None, "Folder of sensor depth maps, named like the photos.")
    pseudo: bool | None = option(
        None, "Cut and evaluate pseudo-masks on it, too. Default: where depth can be had.", flags=()
    )


@dataclass(frozen=True, kw_only=True)
class RecipeSection:
    """What is learned from, and where everything goes: the section `[recipe]`."""

    photos: Path = option(MISSING, "A folder of photos (any layout), or a COCO JSON.")
    images: Path | None = option(None, "Folder that a COCO JSON's file names start from.")
    depth_dir: Path | None = option(None, "Folder of sensor depth maps, named like the photos.")
    name: str = option("train", "Shards are named NAME-000.tar, ...")
    out: Path = option(Path("out"), "Folder for shards, detectors and results.")
    gpus: int = option(1, "GPUs of this machine to work on, one process each.", limits=(1, 1024))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All of it.

    Attributes:
        file: the recipe's own path.
        source: the section `[recipe]`.
        evaluate: evaluation sets by name, in the order of the file.
        config: all other sections; `CUTS3D_*` variables and `--set` go before the file.
    """

    file: Path
    source: RecipeSection
    evaluate: Mapping[str, EvaluationSet]
    config: Config

    def error(self, key: str, *problem: Part) -> SettingError:
        """Return an error that names the file and the key."""
        return SettingError(key, *problem, where=str(self.file))


def read_recipe(path: Path, *, assignments: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Recipe:
    """Read a recipe and check all that can be checked without reading photos.

    Args:
        path: the TOML file.
        assignments: "section.field=value", from the command line.
        environment: os.environ by default.

    Returns:
        The recipe, its paths joined to its folder.

    Raises:
        UsageError: it is missing or no TOML, a key is missing, unknown, or of the wrong type or outside its limits; the
            line names the file and the key.
    """
    if not path.is_file():
        raise UsageError(f"{path} {absence(path)}: name a recipe, a TOML file with a section [{SECTION}]")
    content = read_toml(path)
    own = content.pop(SECTION, None)
    if not isinstance(own, dict):
        raise UsageError(f"{path}: the section [{SECTION}] is missing: it names the photos")
    sets = own.pop("evaluate", {})
    if not isinstance(sets, dict) or not all(isinstance(values, dict) for values in sets.values()):
        raise UsageError(f"{path}: {SECTION}.evaluate must hold sections, as in [{SECTION}.evaluate.val]")
    for name in sets:
        if not _NAME.fullmatch(name):
            raise UsageError(f"{path}: {SECTION}.evaluate.{name}: use letters, digits, '_' and '-'")
    recipe = Recipe(
        file=path,
        source=_section(RecipeSection, own, path=path, name=SECTION),
        evaluate={
            name: _section(EvaluationSet, values, path=path, name=f"{SECTION}.evaluate.{name}")
            for name, values in sets.items()
        },
        config=resolve(
            overrides=assigned(assignments), environment=environment, stored=(path, _at_home(content, path.parent))
        ),
    )
    _check(recipe)
    return recipe


def assigned(assignments: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return section -> field -> value of assignments, as in "section.field=value".

    Raises:
        SettingError: one is written in another way.
    """
    found: dict[str, dict[str, str]] = {}
    for text in assignments:
        target, equals, value = text.partition("=")
        section, dot, key = target.strip().partition(".")
        if not (equals and dot):
            raise SettingError("assignments", f"{text}: write it as SECTION.FIELD=VALUE")
        found.setdefault(section, {})[key] = value.strip()
    return found


def _section(kind: type[_T], values: Mapping[str, Any], *, path: Path, name: str) -> _T:
    known = {item.name: (item, of) for item, of in section_fields(kind)}
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise SettingError(
                f"{name}.{key}", f"is no field: it has {', '.join(known)}{did_you_mean(key, known)}", where=str(path)
            )
        item, of = known[key]
        found[key] = convert(value, of, setting=f"{name}.{key}", where=str(path))
        if problem := limits_problem(item, found[key]):
            raise SettingError(f"{name}.{key}", problem, where=str(path))
    for key, (item, _) in known.items():
        if item.default is MISSING and key not in found:
            raise SettingError(f"{name}.{key}", f"is missing: {item.metadata['help']}", where=str(path))
    section = kind(**found)
    places = {
        item.name: path.parent / value
        for item in fields(section)  # type: ignore[arg-type]
        if isinstance(value := getattr(section, item.name), Path)
    }
    return replace(section, **places)  # type: ignore[type-var]


def _at_home(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The sections with paths that start from the recipe's folder."""
    kinds = {
        name: {item.name for item, kind in section_fields(type(values)) if kind in (Path, Path | None)}
        for name, values in vars(Config()).items()
    }
    return {
        section: {
            key: str(folder / Path(value).expanduser())
            if isinstance(value, str) and key in kinds.get(section, ())
            else value
            for key, value in values.items()
        }
        if isinstance(values, dict)
        else values
        for section, values in content.items()
    }


def _check(recipe: Recipe) -> None:
    places = {f"{SECTION}.photos": recipe.source.photos, f"{SECTION}.images": recipe.source.images}
    folders = {f"{SECTION}.images": recipe.source.images, f"{SECTION}.depth_dir": recipe.source.depth_dir}
    for name, wanted in recipe.evaluate.items():
        section = f"{SECTION}.evaluate.{name}"
        places[f"{section}.ground_truth"] = wanted.ground_truth
        folders |= {f"{section}.photos": wanted.photos, f"{section}.depth_dir": wanted.depth_dir}
    for key, path in places.items():
        if path is not None and not path.exists():
            raise recipe.error(key, f"is {path}, which does not exist")
    for name, wanted in recipe.evaluate.items():
        if wanted.ground_truth.is_dir():
            key = f"{SECTION}.evaluate.{name}.ground_truth"
            raise recipe.error(key, f"is {wanted.ground_truth}, which is a folder: name a COCO JSON")
    for key, path in folders.items():
        if path is not None and not path.is_dir():
            raise recipe.error(key, f"is {path}, which is no folder")
    if recipe.config.run.if_exists == "fail":
        raise recipe.error(
            "run.if_exists", "is 'fail': a recipe resumes where it was stopped, take resume, replace or overwrite"
        )
    if recipe.config.run.engine != "local":
        raise recipe.error("run.engine", f"is '{recipe.config.run.engine}': a recipe runs on this machine, take local")
