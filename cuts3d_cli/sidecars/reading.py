"""One pass over a sample that nobody trusts: it finds every flaw, or stops at the first.

Each kind has a generator that yields the flaws of a sample and returns its content. `decode` runs it to the first flaw,
`flaws` to its end, so that what one refuses is what the other reports.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from numpy.typing import NDArray

from cuts3d_cli.errors import Command, SampleError, ShardError
from cuts3d_cli.json_reading import JsonError, as_object, parse_json
from cuts3d_cli.shards.names import base_of
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.fields import Record
from cuts3d_cli.sidecars.npy import decode_npy

T = TypeVar("T")


class Flaw(NamedTuple):
    """Something that is wrong with a sample.

    Attributes:
        extension: of the member that is wrong; None where no single member is.
        reason: what is wrong, in one line.
    """

    extension: str | None
    reason: str


Reading = Generator[Flaw, None, T]
"""Yields flaws and returns the content, or what could be read of it in spite of them."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What other tars say of an image; a sidecar that says otherwise is flawed.

    Attributes:
        size: (height, width) of the photo; None if that is not known.
        masks: how many masks the photo has in the sidecar that this one follows; None if that is not known.
    """

    size: tuple[int, int] | None = None
    masks: int | None = None


NOTHING = Known()
"""No other tar was looked at."""


class Kind(Protocol):
    """What a module on a kind of sidecar has."""

    @property
    def MEMBERS(self) -> tuple[str, ...]:
        """Extensions of the members of a sample: all of them, and no others, belong into the sidecar."""

    @property
    def FOLLOWS(self) -> str | None:
        """The stage whose sidecar has the same samples; None where they are those of the base shard."""

    @property
    def encode(self) -> Callable[[Any], dict[str, bytes]]:
        """Gives the members of a sample, by extension, from its content."""

    def decode(self, sample: Sample, known: Known = NOTHING) -> Any:
        """Return the content of a sample. Raises SampleError or ShardError if anything is wrong with it."""

    def flaws(self, sample: Sample, known: Known = NOTHING) -> list[Flaw]:
        """Return all that is wrong with a sample."""


def decoded(reading: Reading[T | None], sample: Sample, what: str) -> T:
    """Return the content of a sample.

    Args:
        reading: of the sample.
        sample: that is read, for errors.
        what: the sidecar holds, for errors, such as "depth".

    Raises:
        ShardError: a JSON member is missing or damaged; the line names file and member.
        SampleError: anything else is missing or damaged.
    """
    flaw, content = first_flaw(reading)
    if flaw is None:
        assert content is not None, "a reading without a flaw returns its content"
        return content
    if flaw.extension is not None and flaw.extension.endswith("json"):
        raise damaged_record(sample, flaw)
    where = f"{flaw.extension}: " if flaw.extension else ""
    raise SampleError(f"the stored {what} cannot be read: {where}{flaw.reason}")


def first_flaw(reading: Reading[T]) -> tuple[Flaw | None, T | None]:
    """Run a reading to its first flaw. Returns the flaw, or the content of a sample that has none."""
    try:
        return next(reading), None
    except StopIteration as end:
        return None, end.value


def all_flaws(reading: Reading[T]) -> tuple[list[Flaw], T]:
    """Run a reading to its end. Returns the flaws, and what was read in spite of them."""
    found = []
    while True:
        try:
            found.append(next(reading))
        except StopIteration as end:
            return found, end.value


def damaged_record(sample: Sample, flaw: Flaw) -> ShardError:
    """Return the error of a JSON member. It names the file, the member and the command that tells more."""
    member = f"{sample.file or 'a sample'}: member {sample.key}.{flaw.extension}"
    what = f"is damaged: {flaw.reason}" if flaw.extension in sample.members else "is missing"
    if sample.file is None:
        return ShardError(f"{member} {what}")
    return ShardError(f"{member} {what}: check it with ", Command("verify", arguments=(str(base_of(sample.file)),)))


def stray_members(sample: Sample, members: Sequence[str]) -> Iterator[Flaw]:
    """Find members that are missing or do not belong there."""
    for name in members:
        if name not in sample.members:
            yield Flaw(name, "it is missing")
    for name in sample.members:
        if name not in members:
            yield Flaw(name, "it does not belong here")


def read_record(sample: Sample, extension: str, parse: Callable[[Record], T]) -> Reading[T | None]:
    """Read a JSON member.

    Args:
        sample: of a base shard or sidecar.
        extension: "json", "pseudo.json", ...
        parse: takes the fields; raises ValueError for one that is missing or impossible.

    Returns:
        What `parse` returns; None if the member is missing, which is not reported here, or damaged.
    """
    if extension not in sample.members:
        return None
    try:
        return parse(Record(as_object(parse_json(sample.members[extension]))))
    except JsonError as error:
        yield Flaw(extension, f"it {error}")
        return None
    except ValueError as error:
        yield Flaw(extension, str(error))
        return None


def read_array(sample: Sample, extension: str) -> Reading[NDArray[Any] | None]:
    """Read a `.npy` member. Returns None if it is missing, which is not reported here, or damaged."""
    if extension not in sample.members:
        return None
    try:
        return decode_npy(sample.members[extension])
    except ValueError as error:
        yield Flaw(extension, str(error))
        return None
