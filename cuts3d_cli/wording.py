"""Pieces of messages: the first line of an error, the first of many names, a share as percent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from cuts3d_cli.errors import Message

Say = Callable[[str | Message], None]
"""Prints a status line for the user, such as "fetching weights of dino-vitb8 from ..."."""
Spell = Callable[[Message], str]
"""Puts a line into the words of whoever reads it: `str` names settings, the command line its options."""
SHOWN_NAMES = 3
"""Names that a message lists before it goes on with dots."""


def first_line(error: BaseException, *, otherwise: str = "no message") -> str:
    """Return the first line of an error's message, or another text where it has none."""
    return (str(error).strip().splitlines() or [otherwise])[0]


def cause(error: BaseException) -> str:
    """Return the first line of an error, or its type where it has no message, without a full stop at its end."""
    return first_line(error, otherwise=type(error).__name__).strip().rstrip(".: ")


def listed(names: Sequence[object]) -> str:
    """Return the first of some names, for a message: "a, b, c, ..."."""
    return ", ".join(map(str, names[:SHOWN_NAMES])) + (", ..." if len(names) > SHOWN_NAMES else "")


def enumerated(names: Sequence[str]) -> str:
    """Return names as in "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def choose_one(given: object, names: Iterable[str]) -> str:
    """Return the names that there are, and the one that may have been meant, to end an error."""
    known = list(names)
    return f"choose one of {', '.join(known)}{did_you_mean(given, known)}"


def did_you_mean(given: object, names: Iterable[str]) -> str:
    """Return " (did you mean NAME?)" for the name that is most alike; nothing where none is."""
    known = list(names)
    alike = [name for name in known if given and name.startswith(str(given))]
    alike += get_close_matches(str(given), known, n=1)
    return f" (did you mean {alike[0]}?)" if alike else ""


def absence(path: Path) -> str:
    """Return why a path cannot be read as a file: it "is a folder", or "does not exist"."""
    return "is a folder" if path.is_dir() else "does not exist"


def size_of(amount: int) -> str:
    """Return a number of bytes as people read it: in gigabytes, or megabytes."""
    return f"{amount / 1e9:.1f} GB" if amount >= 1e9 else f"{amount / 1e6:.1f} MB"


def percent(share: float | None) -> str:
    """Return a share as percent with one decimal, or a dash where it is undefined."""
    return "-" if share is None else f"{100 * share:.1f}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: "1 image", "2 images"; `plural` where an s does not make it."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def be(number: int) -> str:
    """Return the verb that goes with a number of things: "is" with one, else "are"."""
    return "is" if number == 1 else "are"
