"""The errors that users see. Each is one line: what is wrong, where, and the way out.

A line is made of text, settings and commands, so that everybody reads it in their own words. In Python a setting reads
`pseudo.tau_knn` and a command `cuts3d depth`; the command line turns them into the option and the command that can be
typed, `--tau-knn` and `cuts3d depth --shards s-000.tar` (`cuts3d_cli.cli.spelling`):

    raise ShardError(f"{tar} is missing: run ", Command("depth", shards=base), " first")
    raise SettingError("pseudo.tau_knn", f"{tau} is under {spacing}: raise it, or enlarge ", Setting("features.size"))

`cuts3d_cli.cli.app` alone turns errors into exit codes: 0 done, 1 failure, 2 usage, 3 finished with failed samples,
128 + n ended by signal n.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Setting:
    """A setting, in a message.

    Attributes:
        name: section and field, as in "pseudo.tau_knn"; an argument of the function that was called has no section.
        value: what to set it to; None speaks of the setting itself.
        command: the command that takes it, where it is not the one that is running.
        elsewhere: words before it where it is not the command that is running, as in "pack with ".
    """

    name: str
    value: Value = None
    command: str | None = None
    elsewhere: str = ""

    def __str__(self) -> str:
        return self.elsewhere + (self.name if self.value is None else f"{self.name}={self.value!r}")


@dataclass(frozen=True)
class Command:
    """A command to run, in a message.

    Attributes:
        name: as in "depth" or "weights pull".
        arguments: what follows the name.
        shards: the base shard that it is for.
        settings: what it is to be run with; each has a value.
    """

    name: str
    arguments: tuple[str, ...] = ()
    shards: Path | None = None
    settings: tuple[Setting, ...] = ()

    def __str__(self) -> str:
        values = " and ".join(map(str, self.settings))
        return f"`{' '.join(('cuts3d', self.name, *self.arguments))}`" + (f" with {values}" if values else "")


Part = str | Setting | Command
"""What messages are made of."""
Parts = tuple[Part, ...]
"""A piece of a message, such as the way out that ends an error."""


class Message:
    """A line for the user that is no error, made of the same parts.

    Attributes:
        parts: one after the other.
    """

    def __init__(self, *parts: Part) -> None:
        """Keep the parts."""
        self.parts = parts

    def __str__(self) -> str:
        return one_line("".join(map(str, self.parts)))


class Cuts3dError(Exception):
    """A failure that is explained in one line, whatever names of files are in it. Exit code 1."""

    exit_code = 1

    def __init__(self, *parts: Part) -> None:
        """Keep the parts of the line. All errors can be pickled, as worker processes and clusters do."""
        super().__init__(*parts)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the line. An error that adds to another begins or ends with them."""
        return self.args

    def rename(self, name_of: Callable[[str], str]) -> None:
        """Name the settings in the line as an interface does that has other names for them.

        Args:
            name_of: from section and field, as in "depth.weights", to that name.
        """
        self.args = tuple(
            replace(part, name=name_of(part.name)) if isinstance(part, Setting) else part for part in self.args
        )

    def __str__(self) -> str:
        return one_line("".join(map(str, self.parts)))


class UsageError(Cuts3dError):
    """The command line, environment or configuration file asks for something impossible. Exit code 2."""

    exit_code = 2


class SettingError(UsageError):
    """A setting or an argument is unknown, of the wrong type, out of range, or does not fit the others.

    Attributes:
        setting: its name, as in "pseudo.tau_knn".
    """

    def __init__(self, setting: str, *problem: Part, where: str = "") -> None:
        """Say what is wrong with a setting.

        Args:
            setting: its name.
            problem: what follows the name in the line.
            where: the file or variable that sets it; empty for a command line or a call.
        """
        super().__init__(setting, *problem)
        self.setting = setting
        self._where = where

    def rename(self, name_of: Callable[[str], str]) -> None:
        """Name the settings in the line by other names, this one too unless a file or variable sets it."""
        super().rename(name_of)
        if not self._where:
            self.setting = name_of(self.setting)
            self.args = (self.setting, *self.args[1:])

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the line: where it is set, its name, and the problem."""
        # In a file or variable it goes by its own name, not by that of an option.
        head: tuple[Part, ...] = (f"{self._where}: ", self.setting) if self._where else (Setting(self.setting),)
        return (*head, " ", *self.args[1:])


class OccupiedError(UsageError):
    """The place that was named for results holds something that is not to be replaced: it must be another one.

    Whatever the command, and whatever is there: a stranger's files, results that were changed by hand or that another
    version wrote, or the command's own results where none are to be replaced.
    """


class FileError(Cuts3dError):
    """A file cannot be written, or cannot be read."""


class ShardError(FileError):
    """A shard, sidecar or manifest is missing, damaged or does not fit its neighbours."""


class UnwritableError(ShardError):
    """A shard, its manifest or its claim cannot be written, as on a full disk: no other shard could be, either."""


class DatasetError(Cuts3dError):
    """A benchmark is not where it was looked for, or incomplete, or its annotations are damaged."""


class WeightsError(Cuts3dError):
    """Model weights are missing, damaged, or belong to another architecture."""


class HubUnreachableError(WeightsError):
    """Weights are not in the cache and the model hub cannot be reached (or is switched off)."""


class SampleError(Cuts3dError):
    """One image cannot be processed. Never stops a shard: the reason is recorded in the manifest."""


class DepthMissingError(Cuts3dError):
    """A method needs depth, none is given, and none can be estimated."""


def one_line(text: str) -> str:
    """Return a text with spaces in place of its line breaks."""
    return " ".join(text.splitlines())


def parts_of(message: Any) -> tuple[Part, ...]:
    """Return the parts of an error, of a `Message`, or of what is to be said as it is."""
    return message.parts if isinstance(message, (Cuts3dError, Message)) else (str(message),)


def without_full_stop(error: Cuts3dError) -> Parts:
    """Return the parts of an error's line, to be a part of another, without the full stop at its end."""
    *first, last = parts_of(error)
    return (*first, last.rstrip(". ") if isinstance(last, str) else last)
