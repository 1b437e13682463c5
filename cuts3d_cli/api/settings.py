"""Settings as keyword arguments: one flat name for each field of the sections that concern a single photo."""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import numpy as np

from cuts3d_cli.config import PRESETS, Config, Precision, section_fields
from cuts3d_cli.config.fields import limits_problem
from cuts3d_cli.config.resolving import convert
from cuts3d_cli.cut.methods import METHODS
from cuts3d_cli.depth.catalogue import DEPTHS, is_depth
from cuts3d_cli.effects import unread
from cuts3d_cli.errors import Cuts3dError, HubUnreachableError, SampleError, SettingError, without_full_stop
from cuts3d_cli.features.catalogue import BACKBONES, is_backbone
from cuts3d_cli.wording import choose_one

SECTIONS = ("pseudo", "features", "depth", "confidence")
"""Sections whose fields are settings of a cut. Where two share a name, it is the first one's."""

_LOG = logging.getLogger("cuts3d_cli")
_PACKAGE = Path(__file__).parents[1]


def configure(
    *,
    preset: str | None = None,
    config: Config | None = None,
    settings: Mapping[str, Any],
    sections: Sequence[str] = SECTIONS,
) -> Config:
    """Return the configuration that keyword arguments ask for. Files and variables play no part.

    Args:
        preset: a name in `PRESETS`; None for "paper".
        config: a whole configuration in place of a preset.
        settings: field -> value, or section__field -> value.
        sections: whose fields are settings. Where two share a name, it is the first one's.

    Raises:
        SettingError: an unknown preset or field, or a value of the wrong type or outside its limits.

    Warns:
        UserWarning: a field has no effect beside the others.
    """
    if config is None:
        name = "paper" if preset is None else preset
        if not isinstance(name, str) or name not in PRESETS:
            raise SettingError("preset", f"is {name!r}: {choose_one(name, PRESETS)}")
        config = PRESETS[name]
    elif preset is not None:
        raise SettingError("preset", "does not go with config, which is a whole configuration: leave one of them out")
    elif not isinstance(config, Config):
        raise SettingError("config", f"is a {type(config).__name__}: give a Config")
    for name, value in settings.items():
        section, field = _field_of(name, sections)
        checked = _checked(name, value, section=section, field=field)
        config = replace(config, **{section: replace(getattr(config, section), **{field: checked})})
    # Names that tables of other rooms have.
    for name, value, table, is_known in (
        ("method", config.pseudo.method, METHODS, METHODS.__contains__),
        ("backend", config.depth.backend, DEPTHS, is_depth),
        ("backbone", config.features.backbone, BACKBONES, is_backbone),
    ):
        if not is_known(value):
            raise SettingError(name, f"is '{value}': {choose_one(value, table)}")
    for name in settings:
        section, field = _field_of(name, sections)
        values = getattr(config, section)
        if (decisive := unread(section, values).get(field)) is not None:
            given = f"{decisive}={getattr(values, decisive)!r}"
            warn(f"{name} has no effect with {given}")
    return config


def require_setting(name: str) -> None:
    """Refuse what is no setting of a cut.

    Args:
        name: as `configure` takes it.

    Raises:
        SettingError: there is no such field.
    """
    _field_of(name, SECTIONS)


def warn(text: str) -> None:
    """Warn at the line that called the package, however many of its frames, and of its decorators, lie between.

    Args:
        text: what to say.

    Warns:
        UserWarning: it.
    """
    level, frame = 1, inspect.currentframe()
    while frame is not None and _is_own(frame.f_code.co_filename):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def _is_own(file: str) -> bool:
    """Tell whether a file of code is the package's, or that of the decorators that `contextlib` makes."""
    return file == contextlib.__file__ or Path(file).is_relative_to(_PACKAGE)


class in_keywords(contextlib.ContextDecorator):
    """Lets errors leave the package as a program wants them, around a block or a function.

    They name settings by the keywords that `configure` takes: `depth__weights`, not `depth.weights`. Their line says
    all that is to be known, so that neither the frames of the package nor the errors of the libraries below are shown
    with it; at level DEBUG the logger `cuts3d_cli` gets them.
    """

    def __init__(self, *, without_hub: str = "") -> None:
        """Keep no state: threads share what decorates a function.

        Args:
            without_hub: the way out that ends the line of a `HubUnreachableError`.
        """
        self._without_hub = without_hub

    def __enter__(self) -> None:
        """Do nothing yet."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, frames: object) -> None:
        """Raise an error of the package anew."""
        __tracebackhide__ = True  # IPython and pytest leave out this frame
        if not isinstance(error, Cuts3dError):
            return
        _LOG.debug("%s", error, exc_info=error)
        if isinstance(error, HubUnreachableError) and self._without_hub:
            error.args = (*without_full_stop(error), self._without_hub)
        error.rename(keyword_of)
        raise error.with_traceback(None) from None


def keyword_of(setting: str) -> str:
    """Return the keyword argument that stands for a setting; its own name where there is none.

    Args:
        setting: section and field, as in "depth.weights".
    """
    section, dot, field = setting.partition(".")
    if dot and section in ("run", "predict"):  # `device`, and the settings of a detector
        return field
    if not dot or section not in SECTIONS:
        return setting
    first = next((other for other in SECTIONS if field in {item.name for item, _ in _fields(other)}), None)
    return field if first == section else f"{section}__{field}"


def check_errors(errors: str) -> None:
    """Make sure that it is "raise" or "return", what becomes of photos of a batch that cannot be used.

    Raises:
        SettingError: it is neither.
    """
    if errors not in ("raise", "return"):
        raise SettingError("errors", f"is {errors!r}: choose one of raise, return")


def returned(error: SampleError, *, errors: str) -> SampleError:
    """Return the error of a photo of a batch as it takes the place of a result.

    Args:
        error: why the photo cannot be used.
        errors: "raise" or "return".

    Raises:
        SampleError: the same, where `errors` is "raise".
    """
    if errors == "raise":
        raise error
    error.rename(keyword_of)
    return error.with_traceback(None)  # whose frames hold the photo


def check_device(device: Any) -> None:
    """Refuse what is no name of a device; whether there is such a device shows when it is needed.

    Raises:
        SettingError: it is no text.
    """
    if not isinstance(device, str):
        raise SettingError("device", f"is {device!r}: give a name, as in 'cpu' or 'cuda:1'")


def check_precision(precision: Any) -> None:
    """Refuse what is no precision; whether the device can compute in it shows when it is needed.

    Raises:
        SettingError: it is none of `Precision`.
    """
    if precision not in get_args(Precision):
        raise SettingError("precision", f"is {precision!r}: {choose_one(str(precision), get_args(Precision))}")


def check_count(name: str, value: Any, *, least: int) -> None:
    """Check an argument that counts something.

    Raises:
        SettingError: it is no whole number, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise SettingError(name, f"is {value!r}: it must be a whole number, at least {least}")


def _field_of(name: str, sections: Sequence[str]) -> tuple[str, str]:
    """Return the section and the field that a keyword argument stands for."""
    fields = {section: [item.name for item, _ in _fields(section)] for section in sections}
    section, separator, field = name.partition("__")
    if separator:
        if field in fields.get(section, ()):
            return section, field
    else:
        for section in sections:
            if name in fields[section]:
                return section, name
    known = [field for section in sections for field in fields[section]]
    if meant := _by_option(name, sections):
        raise SettingError(name, f"is no setting: it is {meant} here")
    alike = get_close_matches(field or name, known, n=1)
    hint = f"did you mean {alike[0]}?" if alike else f"the fields are {', '.join(dict.fromkeys(known))}"
    raise SettingError(name, f"is no setting: {hint}")


def _by_option(name: str, sections: Sequence[str]) -> str:
    """Return the keyword for what the command line has another name for; "" where there is none."""
    for section in sections:
        for item, _ in _fields(section):
            options = (*item.metadata["flags"], item.metadata["word"] or "")
            if name.replace("_", "-") in [option.lstrip("-") for option in options if option]:
                return keyword_of(f"{section}.{item.name}")
    return ""


def _checked(name: str, value: Any, *, section: str, field: str) -> Any:
    """Return a value as the type of its field, which the keyword argument `name` stands for.

    Raises:
        SettingError: it is of another type, or outside the field's limits.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    item, kind = next((item, kind) for item, kind in _fields(section) if item.name == field)
    converted = convert(value, kind, setting=name)
    if problem := limits_problem(item, converted):
        raise SettingError(name, problem)
    return converted


def _fields(section: str) -> list[tuple[Any, Any]]:
    return section_fields(type(getattr(Config(), section)))
