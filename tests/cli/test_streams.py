"""What a command does where its output cannot be written, or where there is too little memory."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes and limits of POSIX")
PREPARE = "from cuts3d_cli.cli import streams, tables\nstreams.install()\n"


def ran(code: str, ending: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of a script, its output going where `ending` says; the script's own exit code."""
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(PREPARE + code)} {ending}"
    script = f"{command}; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(
        ["bash", "-c", script], env=dict(os.environ) | environment, capture_output=True, text=True, check=False
    )


def test_a_name_that_an_ascii_terminal_cannot_show():
    done = ran("print('Stra\\u00dfe \\udc80 \\u732b')", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Stra\\xdfe \\udc80 \\u732b\n", "")
    done = ran("tables.print_json({'file': 'Stra\\u00dfe \\udc80'})", PYTHONIOENCODING="ascii")
    assert json.loads(done.stdout) == {"file": "Straße \udc80"}
    done = ran("tables.print_json({'file': 'Stra\\u00dfe'})", PYTHONIOENCODING="utf-8")
    assert '"Straße"' in done.stdout


def test_a_reader_that_has_gone_ends_the_command_quietly():
    done = ran("for n in range(100_000): print(n)", "| head -1")
    assert (done.returncode, done.stdout, done.stderr) == (141, "0\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told_once():
    done = ran(
        "from cuts3d_cli.errors import FileError\n"
        "try: print('x' * 100_000)\n"
        "except FileError as error: raise SystemExit(str(error))",
        "> /dev/full",
    )
    assert (done.returncode, done.stderr) == (1, "standard output cannot be written: No space left on device\n")
    done = ran("import sys\nprint('lost', file=sys.stderr)\nprint('done')", "2> /dev/full")
    assert (done.returncode, done.stdout) == (0, "done\n")


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("{cuts3d} weights list --json | true", "141", ""),
        ("{cuts3d} --version > /dev/full", "1", "cuts3d: standard output cannot be written: No space left on device"),
        ("(ulimit -v 100000; {cuts3d} doctor)", "1", None),  # whichever library asks first has the word
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="limits and devices of Linux")
def test_the_executable_itself(tmp_path: Path, line: str, code: str, said: str | None):
    script = line.format(cuts3d=f"{shlex.quote(sys.executable)} -m cuts3d_cli") + "; echo ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split()[-1] == code
    assert said is None or done.stderr.strip() == said
    assert "Traceback" not in done.stderr
