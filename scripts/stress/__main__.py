"""Stress tests of the commands and readers of cuts3d.

fuzz           damaged input for everything that reads files or arguments; counts what does not end well
torture        interrupts commands, mostly while they write, and compares their output with that of undisturbed runs
golden         records what the commands write, or compares it with an earlier record

`bash scripts/stress.sh TEST --help` shows the options of each.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

TESTS = {
    "fuzz": "stress.fuzz",
    "torture": "stress.torture",
    "golden": "stress.golden",
}
"""Name -> module, which is imported when it is needed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one test.

    Args:
        arguments: its name and its own arguments; those of this process by default.

    Returns:
        The exit code: 1 if something is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="stress", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("test", choices=TESTS, metavar="TEST", help=", ".join(TESTS))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the test")
    options = parser.parse_args(arguments)
    code: int = importlib.import_module(TESTS[options.test]).main(options.arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
