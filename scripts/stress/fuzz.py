"""Feed damaged and misplaced input to everything that reads files or arguments, and count what does not end well.

    bash scripts/stress.sh fuzz --cases 1000000                 # over all targets, about half an hour
    bash scripts/stress.sh fuzz --target manifest --case 123    # one case again, with its traceback

Each case takes a valid input, such as a shard, a manifest or a ground truth, and changes it: fields, headers with valid
checksums, numbers, nesting, bytes. The only acceptable outcomes are a result, or one of the project's own errors with a
message of one line that names the file, within ten seconds and half a gigabyte. `swap` puts valid files where they do
not belong, such as another shard's sidecar under a shard's name: a result that differs must not come in silence.
`command` does both to whole command lines, and looks at their exit codes. Cases run in forks of this process, so that a
crash of the interpreter is a finding like any other. A case is determined by its target and number.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from cuts3d_cli.errors import Cuts3dError, SampleError
from stress.forks import fork, memory_folder
from stress.fuzz_commands import command
from stress.fuzz_swaps import swap
from stress.fuzz_targets import TARGETS as DAMAGE
from stress.fuzz_targets import Target
from stress.moments import Note

TARGETS: dict[str, tuple[Target, int]] = {**DAMAGE, "swap": (swap, 8), "command": (command, 3)}
"""Targets by name, each with its share of all cases, in parts."""
SECONDS = 10
"""Limit on the processor time of a case; that on wall-clock time is six times as much."""
MEGABYTES = 512
"""Limit on the memory of a case, over what the process had before."""
CHUNK = 20_000
"""Cases per process."""


class OverlongError(BaseException):
    """A case did not end in time. Not an Exception, or the code under test might catch it as one of its own."""


def run_case(name: str, number: int, folder: Path) -> str | None:
    """Run one case.

    Args:
        name: of a target.
        number: of the case.
        folder: for its files; may hold those of earlier cases.

    Returns:
        The finding; None if the case ended well.
    """
    target, _ = TARGETS[name]
    before, imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(sys.modules)
    try:
        with _time_limit():
            target(random.Random(f"{name}:{number}"), folder)
    except (Cuts3dError, SampleError) as error:
        if len(str(error).splitlines()) != 1:
            return f"the message of {type(error).__name__} is not one line: {str(error)!r}"
    except OverlongError:
        return f"it took more than {SECONDS} s"
    except Exception as error:
        return f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    # What the first case imports is not its own.
    return f"it took {grown} MB" if grown > MEGABYTES and len(sys.modules) == imported else None


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Raise OverlongError once the time is up."""

    def stop(*_: object) -> None:
        raise OverlongError

    timers = {signal.ITIMER_PROF: (signal.SIGPROF, SECONDS), signal.ITIMER_REAL: (signal.SIGALRM, 6 * SECONDS)}
    before = {kind: signal.signal(kind, stop) for kind, _ in timers.values()}
    for timer, (_, seconds) in timers.items():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for kind, handler in before.items():
            signal.signal(kind, handler)


def run_chunk(name: str, first: int, count: int, case: Note, findings: Note) -> int:
    """Run cases in this process.

    Args:
        name: of a target.
        first: number of the first case.
        count: number of cases.
        case: receives the number of the case that runs.
        findings: counts those that do not end well.

    Returns:
        0, the exit code.
    """
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        os.chdir(folder)
        for number in range(first, first + count):
            case.number = number
            problem = run_case(name, number, Path(folder))
            if problem is not None:
                findings.number += 1
                _print(f"{name} {number}: {problem}")
        os.chdir("/")
    return 0


def _print(text: str) -> None:
    print(text.encode("ascii", "backslashreplace").decode(), flush=True)


def run_all(names: Sequence[str], cases: int, *, first: int) -> int:
    """Run cases in forks of this process, and continue after those that die.

    Args:
        names: of targets.
        cases: number of cases over all targets.
        first: number of the first case of each.

    Returns:
        The number of findings.
    """
    findings = total = 0
    parts = sum(TARGETS[name][1] for name in names)
    for name in names:
        begun, found, number = time.perf_counter(), 0, first
        end = first + -(-cases * TARGETS[name][1] // parts)
        while number < end:
            count, case, noted = min(CHUNK, end - number), Note(), Note()
            code = fork(functools.partial(run_chunk, name, number, count, case, noted)).wait(None)
            found += noted.number
            number += count
            if code != 0:
                number = case.number + 1
                found += 1
                _print(f"{name} {number - 1}: the process ended with {code}")
        seconds = time.perf_counter() - begun
        _print(f"{name}: {end - first} cases, {found} findings, {seconds:.0f} s")
        findings, total = findings + found, total + end - first
    _print(f"{total} cases, {findings} findings")
    return findings


def main(arguments: Sequence[str]) -> int:
    """Run the command line.

    Args:
        arguments: of the command line.

    Returns:
        1 if there are findings.
    """
    parser = argparse.ArgumentParser(
        prog="stress fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=10_000, help="cases over all targets (10000)")
    parser.add_argument("--target", choices=TARGETS, help="one target only")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (0)")
    parser.add_argument("--case", type=int, help="run only this case of --target")
    options = parser.parse_args(arguments)
    names = [options.target] if options.target else list(TARGETS)
    if options.case is not None:
        with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
            os.chdir(folder)
            problem = run_case(names[0], options.case, Path(folder))
        _print(problem or "no finding")
        return int(problem is not None)
    return int(run_all(names, options.cases, first=options.first) > 0)
