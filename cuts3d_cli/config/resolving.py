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

from cuts3d_cli.config.fields import former_switches, limits_problem, section_fields, words_of
from cuts3d_cli.config.presets import PRESETS
from cuts3d_cli.config.sections import Config, section_types
from cuts3d_cli.config.training import PYRAMID_LEVELS, TrainConfig
from cuts3d_cli.errors import Part, Setting, SettingError, UsageError
from cuts3d_cli.wording import choose_one, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_FILE = "cuts3d.toml"
ENVIRONMENT_PREFIX = "CUTS3D_"
_PRESET_VARIABLE = "CUTS3D_PRESET"
NOT_SETTINGS = frozenset({"CUTS3D_CACHE", "CUTS3D_TEST_DATA"})
"""Variables with our prefix that are no fields of the configuration."""
_SWITCHES = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def resolve(
    *,
    preset: str | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    stored: tuple[Path, Mapping[str, Any]] | None = None,
    default_preset: str | None = None,
) -> Config:
    """Return the configuration in force.

    Args:
        preset: a name in `PRESETS`; else CUTS3D_PRESET, else `preset` in the file, else `default_preset`.
        overrides: section -> field -> value, from the command line or a call.
        environment: os.environ by default.
        folder: the folder of `cuts3d.toml`; the working folder by default.
        stored: the path and the content of another file, in place of `cuts3d.toml`; its values are checked on their
            own, so that an error names the file.
        default_preset: a name in `PRESETS`; None for "paper".

    Returns:
        The configuration, checked.

    Raises:
        SettingError: an unknown field, or a value of the wrong type or outside its limits; names file or variable.
        UsageError: an unknown preset or section.
    """
    # The preset comes first: all else is set on top of it.
    environ = os.environ if environment is None else environment
    path, content = stored or _default_file(folder)
    sections = dict(content)
    from_file = sections.pop("preset", None)
    given = preset or environ.get(_PRESET_VARIABLE)
    name = given or from_file or default_preset or "paper"
    if not isinstance(name, str) or name not in PRESETS:
        where = "" if given else f"{path}: "
        raise UsageError(f"{where}there is no preset '{name}': {choose_one(name, PRESETS)}")
    layers = _Layers(PRESETS[name])
    # The file
    for section, values in sections.items():
        if not isinstance(values, dict):
            raise UsageError(f"{path}: '{section}' must be a section, one of {', '.join(section_types())}")
        layers.put(section, values, where=str(path))
    if stored:
        layers.check()
    # Environment variables
    for variable, section, key, text in _variables(environ):
        layers.put(section, {key: text}, where=f"variable {variable}")
    # The command line
    for section, values in (overrides or {}).items():
        layers.put(section, values, where="")
    layers.check()
    return layers.config


def named_here() -> frozenset[str]:
    """Return the settings that variables, or `cuts3d.toml` in the working folder, set: "preset", "depth.backend", ...

    Both are taken as `resolve` has checked them.
    """
    stored = _default_file(None)[1]
    found = {"preset"} if os.environ.get(_PRESET_VARIABLE) or "preset" in stored else set()
    variables = [(section, {key: text}) for _, section, key, text in _variables(os.environ)]
    of_file = [(section, values) for section, values in stored.items() if section != "preset"]
    for section, values in (*of_file, *variables):
        found |= {f"{section}.{key}" for key in in_present_terms(section, values)}
    return frozenset(found)


def _variables(environ: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    """Return the variables that set fields: each with section, field and value, sorted."""
    found = []
    for variable, text in sorted(environ.items()):
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in NOT_SETTINGS | {_PRESET_VARIABLE}:
            section, _, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
            found.append((variable, section, key, text))
    return found


def resolve_recorded(path: Path, section: str, values: Any) -> Config:
    """Return the defaults with one section as a file recorded it beside its results.

    Args:
        path: of the file, for messages.
        section: name of the section.
        values: field -> value, as the file has them. Fields of other versions are left out; those that were not
            recorded keep their defaults.

    Raises:
        UsageError: there are none, or a value is of the wrong type or outside its limits; the line names the file.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"{path}: its manifest records no settings of section '{section}'")
    known = {item.name for item, _ in section_fields(section_types()[section])}
    recorded = {key: value for key, value in values.items() if key in known}
    return resolve(preset="paper", stored=(path, {section: recorded}), environment={})


def in_present_terms(section: str, values: Mapping[str, Any], *, where: str = "") -> dict[str, Any]:
    """Return settings with the switches of older versions as the fields that have replaced them.

    Args:
        section: its name.
        values: field or former switch -> value.
        where: the file or variable that sets them, for errors.

    Raises:
        SettingError: a switch is neither on nor off, or stands beside its field.
    """
    formers = former_switches(section_types()[section]) if section in section_types() else {}
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key not in formers:
            found[key] = value
            continue
        field, meant = formers[key]
        if field in values:
            raise SettingError(
                f"{section}.{key}", "is now ", Setting(f"{section}.{field}"), ": leave it out", where=where
            )
        found[field] = meant[convert(value, bool, setting=f"{section}.{key}", where=where)]
    return found


class _Layers:
    """A configuration while values are put into it, with the file or variable that set each of them last."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._where: dict[str, str] = {}

    def put(self, section: str, values: Mapping[str, Any], *, where: str) -> None:
        """Set fields of a section.

        Raises:
            SettingError: an unknown field, or a value of the wrong type.
            UsageError: an unknown section.
        """
        sections = section_types()
        if section not in sections:
            source = f"{where}: " if where else ""
            meant = did_you_mean(section, sections)
            raise UsageError(f"{source}there is no section '{section}', the sections are {', '.join(sections)}{meant}")
        known = {item.name: kind for item, kind in section_fields(sections[section])}
        changes = {}
        for key, value in in_present_terms(section, values, where=where).items():
            setting = f"{section}.{key}"
            if key not in known:
                names = f"it has {', '.join(known)}{did_you_mean(key, known)}"
                problem = f"is no setting: section '{section}' has no field '{key}', {names}"
                raise SettingError(setting, problem, where=where)
            changes[key] = convert(value, known[key], setting=setting, where=where)
            self._where[setting] = where
        self.config = replace(self.config, **{section: replace(getattr(self.config, section), **changes)})

    def check(self) -> None:
        """Check the limits of all fields, and fields against one another.

        Raises:
            SettingError: a field is outside its limits, or does not fit another.
        """
        for section in section_types():
            values = getattr(self.config, section)
            for item in dataclasses.fields(values):
                if problem := limits_problem(item, getattr(values, item.name)):
                    raise self._error(f"{section}.{item.name}", problem)
        for section, train in (("train", self.config.train), ("selftrain", self.config.selftrain)):
            self._check_training(section, train)
        if not self.config.selftrain.score_thresholds:
            raise self._error("selftrain.score_thresholds", "is empty: name at least one threshold")

    def _check_training(self, section: str, train: TrainConfig) -> None:
        if not train.min_sizes:
            raise self._error(f"{section}.min_sizes", "is empty: name at least one size")
        if len(train.anchor_sizes) != PYRAMID_LEVELS:
            problem = f"has {len(train.anchor_sizes)} sizes: there are {PYRAMID_LEVELS} levels"
            raise self._error(f"{section}.anchor_sizes", problem)
        if train.copy_paste_min > train.copy_paste_max:
            least, greatest = f"{section}.copy_paste_min", Setting(f"{section}.copy_paste_max")
            raise self._error(least, f"{train.copy_paste_min:g} is over ", greatest, f" {train.copy_paste_max:g}")

    def _error(self, setting: str, *problem: Part) -> SettingError:
        return SettingError(setting, *problem, where=self._where.get(setting, ""))


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


def convert(value: Any, kind: Any, *, setting: str, where: str = "") -> Any:
    """Return a value from TOML (typed), the environment (text), the command line or a call as the field's type.

    Args:
        value: to convert.
        kind: the field's type.
        setting: the field's name, for errors.
        where: the file or variable that sets it, for errors.

    Raises:
        SettingError: the value is of another type, or none of the choices.
    """

    def error(problem: str) -> SettingError:
        return SettingError(setting, f"is '{value}': {problem}", where=where)

    # Optional fields, and those that take a word in place of a number
    if get_origin(kind) in (typing.Union, types.UnionType):
        options = get_args(kind)
        if type(None) in options and (value is None or (isinstance(value, str) and value.lower() in ("", "none"))):
            return None
        words = words_of(kind)
        if value in words:
            return value
        others = [option for option in options if option is not type(None)]
        inner = next((option for option in others if get_origin(option) is not Literal), others[0])
        try:
            return convert(value, inner, setting=setting, where=where)
        except SettingError as wrong:
            if not words:
                raise
            raise error(f"{wrong.args[1].partition(': ')[2]}, or {' or '.join(words)}") from None
    # Choices
    if get_origin(kind) is Literal:
        for choice in get_args(kind):
            if value == choice or (isinstance(value, str) and value == str(choice)):
                return choice
        raise error(choose_one(value, map(str, get_args(kind))))
    # Lists
    if get_origin(kind) is tuple:
        items = [item for item in value.split(",") if item.strip()] if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise error("it must be a list of numbers, as in 240,320")
        return tuple(convert(item, get_args(kind)[0], setting=setting, where=where) for item in items)
    # Switches
    if kind is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _SWITCHES:
            return _SWITCHES[value.lower()]
        raise error("it must be true or false")
    # Text and paths
    if kind in (str, Path):
        if not isinstance(value, (str, Path)):
            raise error(f"it must be {'a path' if kind is Path else 'text'}, in quotes")
        return Path(os.path.expanduser(value)) if kind is Path else str(value)
    # Numbers
    wanted = {int: "a whole number", float: "a number"}[kind]
    if isinstance(value, bool) or (kind is int and isinstance(value, float)):
        raise error(f"it must be {wanted}")
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError) as failure:
        raise error(f"it must be {wanted}") from failure
