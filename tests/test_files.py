from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cuts3d_cli import files
from cuts3d_cli.errors import SettingError
from cuts3d_cli.files import Owner, check_folder, check_target, parse_owner, this_process

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


def test_places_for_results_are_looked_at_before_the_work(tmp_path: Path):
    check_target(tmp_path / "m.json", setting="export_coco")
    check_folder(tmp_path / "a" / "b", setting="out")
    (tmp_path / "file").touch()
    for path, said in (
        (tmp_path, "which is a folder: name a file"),
        (tmp_path / "none" / "m.json", f"but there is no folder {tmp_path / 'none'}: make it first"),
    ):
        with pytest.raises(SettingError, match=rf"^export_coco is {path}, {said}"):
            check_target(path, setting="export_coco")
    with pytest.raises(SettingError, match="file is no folder: choose another one"):
        check_folder(tmp_path / "file" / "b", setting="out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_told_before_the_work(tmp_path: Path):
    tmp_path.chmod(0o500)
    for check in (check_target, check_folder):
        with pytest.raises(SettingError, match="cannot be written to"):
            check(tmp_path / "a", setting="out")
