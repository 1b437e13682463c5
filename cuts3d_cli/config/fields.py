"""What a section of the configuration is made of: fields with a default, a help text and limits, each stated once."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints


class Section:
    """What a section says of itself, besides its fields.

    Attributes:
        title: heads its options in help texts.
        sidecar: whether a stage of the section's name writes a sidecar beside each base shard.
        generations: whether self-training has that stage's sidecars written anew in every round.
    """

    title: ClassVar[str]
    sidecar: ClassVar[bool] = False
    generations: ClassVar[bool] = False

    def unread(self) -> dict[str, str]:
        """Return the fields that have no effect beside the others, each with the field that makes it so."""
        return {}


def option(
    default: Any,
    help_text: str,
    *,
    limits: tuple[float, float] | None = None,
    flags: tuple[str, ...] = (),
    shapes_output: bool = True,
    advanced: bool = False,
    before: str | None = None,
    later: bool = False,
    word: str | None = None,
    often: bool = False,
    panel: str | None = None,
    former: tuple[str, Mapping[bool, str]] | None = None,
) -> Any:
    """Return a field with its help text.

    Args:
        default: the default value.
        help_text: one sentence or two, for the command line and `config show`.
        limits: the least and the greatest value of a number, or of each number of a list; every number has them.
        flags: further names on the command line.
        shapes_output: False for fields that change how fast a result comes, not what it is. They stay out of the
            configuration's hash, so that changing them makes no finished shard stale.
        advanced: True for fields without an option of their own: `--set field=value`, the file and the environment
            still change them.
        before: in a section that extends another one, the field of the other that this one is listed before. Fields of
            the extending section are listed last otherwise.
        later: True for fields that older manifests lack: at their defaults they are left out of what is recorded, so
            that finished shards stay finished.
        word: name on the command line, where the field's own would not say what it is of; the field's own stays as a
            hidden option.
        often: True for what people change first; help pages begin with it.
        panel: heading in help pages, where it is not the section's; such fields come last.
        former: name of the switch that this field has replaced, and the field's values for the switch's. Files,
            variables and, hidden, the command line still take the switch.
    """
    facts = {
        "help": help_text,
        "limits": limits,
        "flags": flags,
        "shapes_output": shapes_output,
        "advanced": advanced,
        "before": before,
        "later": later,
        "word": word,
        "often": often,
        "panel": panel,
        "former": former,
    }
    return field(default=default, metadata=facts)


def words_of(kind: Any) -> tuple[str, ...]:
    """Return the words that a field takes in place of a number, as in `float | Literal["auto"]`."""
    parts = get_args(kind)
    in_place = {int, float}.intersection(parts)
    return tuple(word for part in parts for word in _choices(part)) if in_place else ()


def _choices(kind: Any) -> tuple[str, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def section_fields(section: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    """Return the fields of a section with their resolved types, in the order in which people see them."""
    hints = get_type_hints(section)
    return [(item, hints[item.name]) for item in _ordered(section)]


def _ordered(section: Any) -> list[dataclasses.Field[Any]]:
    """Return the fields of a section, those that name a field to stand before in front of it."""
    fields = dataclasses.fields(section)
    ordered = [item for item in fields if item.metadata["before"] is None]
    for item in fields:
        if item.metadata["before"] is not None:
            place = [other.name for other in ordered].index(item.metadata["before"])
            ordered.insert(place, item)
    return ordered


def former_switches(section: type) -> dict[str, tuple[str, Mapping[bool, str]]]:
    """Return the switches that fields of a section have replaced: name -> field, and its values for the switch's."""
    return {
        item.metadata["former"][0]: (item.name, item.metadata["former"][1])
        for item in dataclasses.fields(section)
        if item.metadata["former"]
    }


def as_dict(section: Any) -> dict[str, Any]:
    """Return a section as plain JSON values: paths become text."""
    return {
        item.name: str(value) if isinstance(value := getattr(section, item.name), Path) else value
        for item in _ordered(section)
    }


def output_dict(section: Any, *, unread: Collection[str] = ()) -> dict[str, Any]:
    """Return those fields of a section that shape what is written: what its manifest records and hashes.

    Args:
        section: an object of the section.
        unread: fields that have no effect, besides those that the section itself knows. They are recorded with their
            defaults, so that nobody's results are stale for a setting that changes nothing.
    """
    shaping = {item.name for item in dataclasses.fields(section) if item.metadata["shapes_output"]}
    without_effect = {*section.unread(), *unread}
    defaults = {item.name: item.default for item in dataclasses.fields(section) if item.name in without_effect}
    values = {key: defaults.get(key, value) for key, value in as_dict(section).items() if key in shaping}
    later = {item.name: item.default for item in dataclasses.fields(section) if item.metadata["later"]}
    return {key: value for key, value in values.items() if key not in later or value != later[key]}


def limits_problem(item: dataclasses.Field[Any], value: Any) -> str | None:
    """Return what is wrong with a value outside its field's limits, to follow the field's name; None if nothing is."""
    if item.metadata["limits"] is None or value is None:
        return None
    if isinstance(value, str):  # a word that is allowed in place of a number
        return None
    low, high = item.metadata["limits"]
    numbers = value if isinstance(value, tuple) else (value,)
    if all(isinstance(number, str) or low <= number <= high for number in numbers):  # a word, such as "auto"
        return None
    return f"is {','.join(map(str, numbers))}: it must lie between {low} and {high}"
