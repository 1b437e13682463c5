from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from cuts3d_cli import files
from cuts3d_cli.files import Owner, parse_owner, this_process

LINUX = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system does not say when a process started")


def test_an_owner_is_what_its_text_says():
    own = this_process()
    assert parse_owner(str(own)) == own
    assert own.process == os.getpid()
    assert len(own.machine) == 10
    for text in ("", "x", "None", f"{own}-1", f"{own.machine}-{own.process}"):
        assert parse_owner(text) is None


def test_only_what_has_ended_here_is_dead():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    own = this_process()
    _, start = files._state_and_start(child.pid)
    running = Owner(own.machine, child.pid, start)
    assert not own.is_dead
    assert not running.is_dead
    child.communicate()
    assert running.is_dead
    assert not replace(running, machine="0" * 10).is_dead  # another machine's, of which nothing is known


@LINUX
def test_a_number_that_another_process_has_got_since_is_dead():
    own = this_process()
    assert own.start > 0
    assert replace(own, start=own.start - 1).is_dead
    assert not replace(own, start=0).is_dead


@LINUX
def test_a_process_that_nobody_has_waited_for_is_dead():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    _, start = files._state_and_start(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Owner(files.machine(), child.pid, start).is_dead
    child.wait()
