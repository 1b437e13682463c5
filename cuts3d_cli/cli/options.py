"""Turns the fields of the configuration into command-line options, so that names, types and help are written once."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from cuts3d_cli.cli.effects import Idle, check_effects
from cuts3d_cli.cli.flags import TAKEN, Taken
from cuts3d_cli.config import (
    PRESET_HELP,
    PRESETS,
    Config,
    former_switches,
    in_present_terms,
    named_here,
    resolve,
    section_fields,
    section_types,
    words_of,
)
from cuts3d_cli.cut.methods import METHODS
from cuts3d_cli.depth.catalogue import ANY_TRANSFORMERS, DEPTHS
from cuts3d_cli.devices import require_one_device
from cuts3d_cli.errors import SettingError
from cuts3d_cli.wording import choose_one, did_you_mean

CHOICES: Mapping[tuple[str, str], Collection[str]] = {("pseudo", "method"): METHODS, ("depth", "backend"): DEPTHS}
"""(Section, field) -> the names that a field of text may have, where a table of another room has them."""
OPEN_CHOICES: Mapping[tuple[str, str], str] = {("depth", "backend"): ANY_TRANSFORMERS}
"""(Section, field) -> what begins names of `CHOICES` that are in no table."""


@dataclass(frozen=True)
class SomeFields:
    """Some fields of a section, for a command that has no use for the others.

    Attributes:
        section: its name.
        names: what the command reads.
        idle: fields whose options it takes nevertheless, hidden and with a warning, since scripts pass them to all
            stages alike.
    """

    section: str
    names: tuple[str, ...]
    idle: tuple[str, ...] = ()


def fields(section: str, *names: str, idle: tuple[str, ...] = ()) -> SomeFields:
    """Choose fields of a section, for `with_config`."""
    return SomeFields(section, names, idle)


Redirect = Callable[[Mapping[str, Any]], Mapping[str, str]]
"""Takes a command's own arguments and names sections to fill in place of others, as {"train": "selftrain"}."""


_PASSED = ("config", "given", "named", "stand_in")
"""Arguments of commands that are no options."""
DefaultPreset = Callable[[Mapping[str, Any]], str | None]
"""Takes a command's own arguments and names the preset where nobody names one; None for the paper's."""


def with_config(
    *sections: str | SomeFields,
    redirect: Redirect | None = None,
    idle: Idle | None = None,
    default_preset: DefaultPreset | None = None,
    other_preset: tuple[str, str] | None = None,
    lead: Collection[str] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command `--preset`, `--set`, and an option for every field of some sections of the configuration.

    The command is called with the resolved configuration as its keyword argument `config`, in place of those options;
    one that has an argument `given` receives the names of the settings that stand on the command line, "preset" too;
    one that has an argument `named` those that a variable or file sets besides; one that has an argument `stand_in` the
    preset that was taken since nobody names one, or None.

    Args:
        sections: names of fields of `Config`; where two share a field's name, the later one's option is prefixed.
            Fields that are marked as advanced get no option of their own.
        redirect: names sections to fill in place of others, given the command's own arguments.
        idle: names sections and fields that have no effect beside the command's own arguments, with the reasons.
        default_preset: names the preset where neither the command line nor a variable or file does.
        other_preset: the preset that it may name, and when, as in ("objects", "with --depth-dir"): the help page shows
            both defaults.
        lead: arguments of the command's own whose options stand before those that people often change.

    Returns:
        A decorator for the function of a Typer command.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        # The command's own parameters, and --preset
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.name not in _PASSED]
        other, when = other_preset or ("paper", "")
        preset = typer.Option(help=PRESET_HELP, show_default=f"{other} {when}, else paper" if when else "paper")
        often = [_parameter("preset", Literal[tuple(PRESETS)], preset)]
        # An option for each field
        wholes = [wanted if isinstance(wanted, SomeFields) else _whole(wanted) for wanted in sections]
        names = [wanted.section for wanted in wholes]
        reads = {wanted.section: _read_fields(wanted, shards="shards" in signature.parameters) for wanted in wholes}
        of_run = reads.get("run", frozenset())
        one_device = "device" in of_run and "gpus" not in of_run and "gpus" not in signature.parameters
        places: dict[str, tuple[str, str]] = {}
        panels: dict[str, list[inspect.Parameter]] = {}
        renamed: list[tuple[str, str, Any]] = []
        for wanted in wholes:
            section = wanted.section
            for item, kind in _fields(section):
                facts = item.metadata
                if facts["advanced"] or item.name not in wanted.names + wanted.idle:
                    continue
                # Two sections may use the same word, as in --size; the later one says whose it is.
                word = (facts["word"] or item.name).replace("-", "_")
                name = word if word not in places else f"{section}_{item.name}"
                places[name] = (section, item.name)
                panel = None if facts["often"] else facts["panel"] or section_types()[section].title
                option = typer.Option(
                    *_flags(name, kind, facts["flags"]),
                    help=facts["help"],
                    metavar=_metavar(section, item.name, kind),
                    show_default=_shown(
                        item.default,
                        getattr(getattr(PRESETS[other], section), item.name) if when else item.default,
                        when,
                    ),
                    rich_help_panel=panel,
                    hidden=item.name in wanted.idle,
                    autocompletion=_completion(section, item.name),
                )
                into = panels.setdefault(panel, []) if panel else often
                into.append(_parameter(name, kind, option))
                if facts["word"]:
                    renamed.append((section, item.name, kind))
        # The names that options had before, where no other option has them
        old = []
        for section, key, kind in renamed:
            if key not in places:
                places[key] = (section, key)
                old.append(_parameter(key, kind, typer.Option(*_flags(key, kind, ()), hidden=True)))
        # The switches that fields have replaced
        for wanted in wholes:
            for switch, (field, _) in former_switches(section_types()[wanted.section]).items():
                if field in wanted.names + wanted.idle and switch not in places:
                    places[switch] = (wanted.section, switch)
                    old.append(_parameter(switch, bool, typer.Option(*_flags(switch, bool, ()), hidden=True)))
        # What people change comes first, how the work is done last
        panels.setdefault(section_types()["run"].title, []).append(_parameter("set", list[str], _set_option(names)))
        last = {section_types()["run"].title: 1, **{title: 2 for title in _panels("run")}}
        grouped = sorted(panels.items(), key=lambda group: last.get(group[0], 0))
        before = [parameter for parameter in own if parameter.name in lead]
        after = [parameter for parameter in own if parameter.name not in lead]
        fields_of_sections = [parameter for _, group in grouped for parameter in group]
        parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in (*before, *often, *after, *fields_of_sections, *old)
        ]

        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            # What stands on the command line
            overrides: dict[str, dict[str, Any]] = {}
            for name, (section, key) in places.items():
                value = arguments.pop(name)
                if value is not None:
                    overrides.setdefault(section, {})[key] = value.value if isinstance(value, Enum) else value
            by_option = {(section, key) for section, values in overrides.items() for key in values}
            for assignment in arguments.pop("set") or []:
                section, key, text = _assignment(assignment, names)
                if (section, key) in by_option:
                    raise SettingError(f"{section}.{key}", f"stands beside --set {assignment}: leave one out")
                overrides.setdefault(section, {})[key] = text
            overrides = {section: in_present_terms(section, values) for section, values in overrides.items()}
            # Options of one section may fill another one.
            read: dict[str, Collection[str]] = dict(reads)
            for section, instead in (redirect(arguments) if redirect else {}).items():
                overrides.setdefault(instead, {}).update(overrides.pop(section, {}))
                read[instead] = read.pop(section)
            preset = arguments.pop("preset")
            otherwise = default_preset(arguments) if default_preset else None
            config = resolve(preset=preset, overrides=overrides, default_preset=otherwise)
            check_choices(config)
            if one_device:
                require_one_device(config.run.device)
            check_effects(
                [(section, key) for section, values in overrides.items() for key in values],
                config=config,
                reads=read,
                idle=idle(arguments, config) if idle else {},
                preset=preset,
            )
            given = {f"{section}.{key}" for section, values in overrides.items() for key in values}
            given |= {"preset"} if preset is not None else set()
            passed = {
                "given": lambda: given,
                "named": lambda: given | named_here(),
                "stand_in": lambda: None if "preset" in given | named_here() else otherwise,
            }
            arguments |= {name: make() for name, make in passed.items() if name in signature.parameters}
            command(**arguments, config=config)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        options: dict[str, str] = {}
        for name, (section, key) in places.items():
            options.setdefault(f"{section}.{key}", name)
        setattr(run, TAKEN, Taken(options=options, sections=names, redirects=redirect is not None))
        return run

    return decorate


def _whole(section: str) -> SomeFields:
    return SomeFields(section, tuple(item.name for item, _ in _fields(section)))


def _read_fields(wanted: SomeFields, *, shards: bool) -> frozenset[str]:
    """Return the fields that a command reads; one that works on shards reads where they lie."""
    return frozenset(wanted.names) | ({"shards"} if shards and wanted.section == "run" else set())


def check_choices(config: Config) -> None:
    """Check the fields whose names are in a table of another room, wherever their values come from.

    Raises:
        SettingError: a name is not in its table; the line lists those that are.
    """
    for (section, field), choices in CHOICES.items():
        value = getattr(getattr(config, section), field)
        start = OPEN_CHOICES.get((section, field))
        if value not in choices and not (start and value.startswith(start)):
            named = (*choices, f"{start}OWNER/NAME", f"{start}FOLDER") if start else choices
            raise SettingError(f"{section}.{field}", f"is '{value}': {choose_one(value, named)}")


def _metavar(section: str, key: str, kind: Any) -> str | None:
    """Return how a help page shows the values of a field that Typer cannot tell: names in a table, and words."""
    if choices := CHOICES.get((section, key)):
        start = OPEN_CHOICES.get((section, key))
        return f"[{'|'.join((*choices, f'{start}...') if start else choices)}]"
    words = words_of(kind)
    return f"[{'INTEGER' if int in get_args(kind) else 'FLOAT'}|{'|'.join(words)}]" if words else None


def _set_option(sections: Sequence[str]) -> Any:
    advanced = [item.name for name in sections for item, _ in _fields(name) if item.metadata["advanced"]]
    further = f" Further fields: {', '.join(advanced)}." if advanced else ""
    return typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help=f"Set any field of the configuration, as `config show` prints it; may be repeated.{further}",
        show_default=False,
        rich_help_panel=section_types()["run"].title,
    )


def _panels(section: str) -> set[str]:
    """Return the headings of those fields that do not stand under their section's."""
    return {item.metadata["panel"] for item, _ in _fields(section) if item.metadata["panel"]}


def _completion(section: str, key: str) -> Callable[[str], list[str]] | None:
    """Return what completes the value of a field that is in a table; None for all others."""
    if (section, key) == ("features", "backbone"):
        return complete_backbone
    if (section, key) not in CHOICES:
        return None
    return lambda incomplete: [name for name in CHOICES[section, key] if name.startswith(incomplete)]


def complete_backbone(incomplete: str) -> list[str]:
    """Return the backbones of the table that begin like a word."""
    from cuts3d_cli.features.catalogue import BACKBONES

    return [name for name in BACKBONES if name.startswith(incomplete)]


def _fields(section: str) -> list[tuple[Any, Any]]:
    return section_fields(section_types()[section])


def _names(section: str) -> set[str]:
    return {item.name for item, _ in _fields(section)} | former_switches(section_types()[section]).keys()


def _assignment(text: str, sections: Sequence[str]) -> tuple[str, str, str]:
    """Return section, field and value of `field=value` or `section.field=value`."""
    target, equals, value = text.partition("=")
    if not equals:
        raise SettingError("set", f"{text}: write it as FIELD=VALUE")
    section, dot, key = target.strip().rpartition(".")
    if not dot:
        owners = [name for name in sections if key in _names(name)]
        if len(owners) != 1:
            every = [item.name for name in sections for item, _ in _fields(name)]
            unknown = f"is no field here{did_you_mean(key, every)}"
            problem = f"is in {' and '.join(owners)}: write SECTION.{key}=VALUE" if owners else unknown
            raise SettingError("set", f"{text}: '{key}' {problem}")
        section = owners[0]
    return section, key, value.strip()


def _parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    inner = kind
    if get_origin(kind) in (typing.Union, types.UnionType):
        inner = next(part for part in get_args(kind) if part is not type(None))
    # typer wants a fixed number of values, ours are one word, as in 240,320; nor does it take a word or a number.
    if get_origin(inner) is tuple or words_of(kind):
        inner = str
    annotation: Any = Annotated[inner | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _flags(name: str, kind: Any, further: tuple[str, ...]) -> tuple[str, ...]:
    word = name.replace("_", "-")
    return (f"--{word}/--no-{word}" if kind is bool else f"--{word}", *further)


def _shown(default: Any, other: Any, when: str) -> str | bool:
    """Return how a help page shows a default, with the other one where that depends; False where there is none."""
    if other != default:
        return f"{_in_words(default)}; {_in_words(other)} {when}"
    return False if default is None else _in_words(default)


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    return "none" if value is None else str(value)
