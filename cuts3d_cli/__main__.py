"""The executable: signals first, since what comes then takes a while to import."""

from __future__ import annotations

import sys
from contextlib import suppress

from cuts3d_cli import interrupts


def main() -> None:
    """Run the command line and leave with its exit code."""
    interrupts.install()
    code = 1
    try:
        from cuts3d_cli.cli.app import exit_code

        code = exit_code()
        interrupts.ignore()  # all is done and said
    except BaseException:
        if interrupts.asked() is None:
            raise
    if line := interrupts.last_line():
        with suppress(OSError):  # a terminal that has gone takes no last line
            print(line, file=sys.stderr, flush=True)
        interrupts.leave()
    sys.exit(code)


if __name__ == "__main__":
    main()
