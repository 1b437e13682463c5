"""Which value of every field is in force, from all the places that may set it.

A value comes from the command line, else from a `CUTS3D_SECTION_FIELD` variable, else from `cuts3d.toml` in the working
folder, else from the preset.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from cuts3d_cli.config.fields import limits_problem, section_fields
from cuts3d_cli.config.presets import PRESETS
from cuts3d_cli.config.sections import Config
from cuts3d_cli.config.training import PYRAMID_LEVELS, TrainConfig
from cuts3d_cli.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_FILE = "cuts3d.toml"
ENVIRONMENT_PREFIX = "CUTS3D_"
NOT_SETTINGS = frozenset({"CUTS3D_CACHE", "CUTS3D_TEST_DATA"})
"""Variables with our prefix that are no fields of the configuration."""


def resolve(
    *,
    preset: str | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    stored: tuple[Path, Mapping[str, Any]] | None = None,
) -> Config:
    """Return the configuration in force.

    Args:
        preset: a name in `PRESETS`; else CUTS3D_PRESET, else `preset` in the file, else "paper".
        overrides: section -> field -> value, from the command line.
        environment: os.environ by default.
        folder: the folder of `cuts3d.toml`; the working folder by default.
        stored: the path and the content of another file, in place of `cuts3d.toml`; its values are checked on their
            own, so that an error names the file.

    Returns:
        The configuration, checked.

    Raises:
        UsageError: an unknown preset, section or field, or a value of the wrong type or outside its limits.
    """
    environ = os.environ if environment is None else environment
    path, content = stored or _default_file(folder)
    sections = dict(content)
    from_file = sections.pop("preset", None)
    given = preset or environ.get(ENVIRONMENT_PREFIX + "PRESET")
    name = given or from_file or "paper"
    if not isinstance(name, str) or name not in PRESETS:
        where = "" if given else f"{path}: "
        raise UsageError(f"{where}there is no preset '{name}': choose one of {', '.join(PRESETS)}")
    config = PRESETS[name]
    for section, values in sections.items():
        if not isinstance(values, dict):
            raise UsageError(f"{path}: '{section}' must be a section, one of {', '.join(_sections())}")
        config = _with(config, section, values, where=str(path))
    if stored:
        _check_limits(config, where=f"{path}: ")
    for variable, text in sorted(environ.items()):
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in NOT_SETTINGS | {"CUTS3D_PRESET"}:
            section, _, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
            config = _with(config, section, {key: text}, where=f"variable {variable}")
    for section, values in (overrides or {}).items():
        config = _with(config, section, values, where="command line")
    _check_limits(config)
    return config


def resolve_recorded(path: Path, section: str, values: Mapping[str, Any]) -> Config:
    """Return the defaults with one section as a file recorded it beside its results.

    Args:
        path: of the file, for messages.
        section: name of the section.
        values: field -> value. Fields of other versions are left out; those that were not recorded keep their defaults.

    Raises:
        UsageError: a value is of the wrong type or outside its limits; the line names the file.
    """
    known = {item.name for item, _ in section_fields(_sections()[section])}
    recorded = {key: value for key, value in values.items() if key in known}
    return resolve(preset="paper", stored=(path, {section: recorded}), environment={})


def _sections() -> dict[str, type]:
    return {item.name: type(getattr(Config(), item.name)) for item in dataclasses.fields(Config)}


def _default_file(folder: Path | None) -> tuple[Path, dict[str, Any]]:
    path = (folder or Path.cwd()) / CONFIG_FILE
    return path, read_toml(path) if path.is_file() else {}


def read_toml(path: Path) -> dict[str, Any]:
    """Read a file in TOML.

    Raises:
        UsageError: it is not valid TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error


def _with(config: Config, section: str, values: Mapping[str, Any], *, where: str) -> Config:
    sections = _sections()
    if section not in sections:
        raise UsageError(f"{where}: there is no section '{section}', the sections are {', '.join(sections)}")
    known = dict((item.name, kind) for item, kind in section_fields(sections[section]))
    changes = {}
    for key, value in values.items():
        if key not in known:
            raise UsageError(f"{where}: section '{section}' has no field '{key}', it has {', '.join(known)}")
        changes[key] = convert(value, known[key], where=f"{where}: {section}.{key}")
    return replace(config, **{section: replace(getattr(config, section), **changes)})


def convert(value: Any, kind: Any, *, where: str) -> Any:
    """Convert a value from TOML (typed), the environment (text) or the command line (typed) to the field's type."""
    if get_origin(kind) in (typing.Union, types.UnionType):
        inner = [option for option in get_args(kind) if option is not type(None)]
        if value is None or (isinstance(value, str) and value.lower() in ("", "none")):
            return None
        return convert(value, inner[0], where=where)
    if get_origin(kind) is Literal:
        for choice in get_args(kind):
            if value == choice or (isinstance(value, str) and value == str(choice)):
                return choice
        raise UsageError(f"{where} is '{value}': choose one of {', '.join(map(str, get_args(kind)))}")
    if get_origin(kind) is tuple:
        items = [item for item in value.split(",") if item.strip()] if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise UsageError(f"{where} is '{value}': it must be a list of numbers, as in 240,320")
        return tuple(convert(item, get_args(kind)[0], where=where) for item in items)
    if kind is bool:
        words = {
            "1": True,
            "true": True,
            "yes": True,
            "on": True,
            "0": False,
            "false": False,
            "no": False,
            "off": False,
        }
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        raise UsageError(f"{where} is '{value}': it must be true or false")
    if kind in (str, Path):
        if not isinstance(value, (str, Path)):
            raise UsageError(f"{where} is '{value}': it must be {'a path' if kind is Path else 'text'}, in quotes")
        return Path(os.path.expanduser(value)) if kind is Path else str(value)
    wanted = {int: "a whole number", float: "a number"}[kind]
    if isinstance(value, bool) or (kind is int and isinstance(value, float)):
        raise UsageError(f"{where} is '{value}': it must be {wanted}")
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{where} is '{value}': it must be {wanted}") from error


def _check_limits(config: Config, *, where: str = "") -> None:
    for section in _sections():
        values = getattr(config, section)
        for item in dataclasses.fields(values):
            if problem := limits_problem(item, getattr(values, item.name)):
                raise UsageError(f"{where}{section}.{item.name} {problem}")
    for section, train in (("train", config.train), ("selftrain", config.selftrain)):
        _check_training(f"{where}{section}", train)
    if not config.selftrain.score_thresholds:
        raise UsageError(f"{where}selftrain.score_thresholds is empty: name at least one threshold")


def _check_training(section: str, train: TrainConfig) -> None:
    if not train.min_sizes:
        raise UsageError(f"{section}.min_sizes is empty: name at least one size")
    if len(train.anchor_sizes) != PYRAMID_LEVELS:
        raise UsageError(
            f"{section}.anchor_sizes has {len(train.anchor_sizes)} sizes: there are {PYRAMID_LEVELS} levels"
        )
    if train.copy_paste_min > train.copy_paste_max:
        raise UsageError(
            f"{section}.copy_paste_min {train.copy_paste_min:g} is over copy_paste_max {train.copy_paste_max:g}"
        )
