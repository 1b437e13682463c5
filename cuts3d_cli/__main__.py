"""The executable: signals and output first, since what comes then takes a while to import."""

from __future__ import annotations

import re
import sys
from contextlib import suppress

from cuts3d_cli import interrupts
from cuts3d_cli.cli import streams

_NO_MEMORY = re.compile(r"failed to map segment|cannot allocate memory|can't start new thread", re.IGNORECASE)
"""What libraries say, in errors of many types, when they are not given memory."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    code = 1
    try:
        interrupts.install()
        streams.install()
        from cuts3d_cli.cli.app import exit_code
        from cuts3d_cli.cli.quiet import quiet_libraries

        quiet_libraries()
        code = exit_code()
        interrupts.ignore()  # all is done and said
    except BaseException as error:
        if interrupts.asked() is None:
            if not _lacks_memory(error):
                raise
            print(
                "cuts3d: there is not enough memory: raise its limit (`ulimit -v` shows it), or use smaller batches and"
                " fewer worker processes",
                file=sys.stderr,
            )
    if line := interrupts.last_line():
        with suppress(OSError):  # a terminal that has gone takes no last line
            print(line, file=sys.stderr, flush=True)
        interrupts.leave()
    sys.exit(code)


def _lacks_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one that it came from, is for want of memory."""
    while error is not None:
        if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


if __name__ == "__main__":
    main()
