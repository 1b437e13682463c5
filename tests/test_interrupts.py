from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cuts3d_cli import interrupts

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
GO_ON = "what is finished is kept, run the same command again to go on"
BUSY = {
    "python": "while True: time.monotonic()",
    "swallowing": "while True:\n    try:\n        time.sleep(600)\n    except BaseException: pass",
    "native code": "import ctypes; ctypes.CDLL(None).pause()\nctypes.CDLL(None).sleep(600)",
    "an import": "import importlib.abc\nclass Slow(importlib.abc.MetaPathFinder):\n    def find_spec(self, *_):\n"
    "        try:\n            time.sleep(600)\n        except KeyboardInterrupt as error:\n"
    "            raise ImportError('initialization failed') from error\n"
    "sys.meta_path.insert(0, Slow())\nimport something",
    "cleaning up": "try:\n    time.sleep(600)\nfinally:\n    time.sleep(600)",
}
GRACE = {BUSY["python"]: 30.0}
"""Seconds of grace where the main thread ends by itself, but perhaps slowly on a busy machine."""


def ended(tmp_path: Path, body: str, number: int, *, times: int = 1) -> tuple[int, str, list[str]]:
    """Exit code, stderr and files left by a command that does something when a signal comes."""
    script = tmp_path / "main.py"
    indented = "\n".join(f"      {line}" for line in body.splitlines())
    unfinished = f"Path({str(tmp_path / 'unfinished')!r})"
    script.write_text(
        "import sys, time\nfrom pathlib import Path\n"
        "from cuts3d_cli import interrupts\nfrom cuts3d_cli.cli import app\n"
        f"interrupts.GRACE = {GRACE.get(body, interrupts.GRACE)}\n"
        "def work(*_):\n"
        f"  with interrupts.unfinished({unfinished}):\n"
        f"    {unfinished}.touch()\n"
        f"    try:\n      print('busy', flush=True)\n{indented}\n"
        f"    finally:\n      {unfinished}.unlink(missing_ok=True)\n"
        "app.exit_code = work\n"
        "from cuts3d_cli.__main__ import main\nmain()\n"
    )
    command = [sys.executable, str(script)]
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "busy\n"
        time.sleep(0.2)
        for _ in range(times):
            running.send_signal(number)
            time.sleep(0.05)
        _, said = running.communicate(timeout=60)
    return running.returncode, said, sorted(path.name for path in tmp_path.iterdir() if path != script)


@pytest.mark.parametrize("body", BUSY.values(), ids=BUSY)
def test_a_signal_ends_whatever_is_going_on(tmp_path: Path, body: str):
    assert ended(tmp_path, body, signal.SIGINT) == (130, f"cuts3d: interrupted; {GO_ON}\n", [])


@pytest.mark.parametrize(("number", "word"), [(signal.SIGTERM, "terminated"), (signal.SIGHUP, "hung up")])
def test_other_signals_say_so(tmp_path: Path, number: signal.Signals, word: str):
    assert ended(tmp_path, BUSY["python"], number) == (128 + number, f"cuts3d: {word}; {GO_ON}\n", [])


def test_under_nohup_a_hangup_stays_ignored(tmp_path: Path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # children inherit it, as from `nohup`
    try:
        assert ended(tmp_path, "time.sleep(1)\nreturn 7", signal.SIGHUP)[0] == 7
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_last_line_says_what_the_command_has_set(tmp_path: Path):
    body = f"interrupts.go_on_by(lambda: 'add --resume')\n{BUSY['native code']}"
    said = ended(tmp_path, body, signal.SIGTERM)[1]
    assert said == "cuts3d: terminated; what is finished is kept, add --resume\n"


def test_impatience_changes_nothing(tmp_path: Path):
    code, said, left = ended(tmp_path, BUSY["cleaning up"], signal.SIGINT, times=5)
    assert (code, said, left) == (130, f"cuts3d: interrupted; {GO_ON}\n", [])


def test_a_handler_of_the_works_own_has_all_the_time_it_wants(tmp_path: Path):
    body = (
        "import signal\nsignal.signal(signal.SIGINT, lambda *_: None)\ntime.sleep(4)\n"
        "print('saved', file=sys.stderr)\nreturn 7"
    )
    code, said, _ = ended(tmp_path, body, signal.SIGINT)
    assert (code, said) == (7, "saved\n")


def test_signals_are_put_off_and_then_come(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(interrupts, "_state", interrupts._State())
    before = signal.signal(signal.SIGINT, interrupts._handle)
    told = []
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117 - it comes at the end of the block within
            with interrupts.held_back():
                # The mask is this thread's alone; the system gives the signal to another one.
                threading.Thread(target=time.sleep, args=(0.5,)).start()
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)
                told.append("done")
        assert told == ["done"]
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_was_swallowed_stops_the_publishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from cuts3d_cli.engine.claims import Claim, claim
    from cuts3d_cli.shards.writer import ShardWriter

    found = claim(tmp_path / "a.tar", timeout=100)
    assert isinstance(found, Claim)
    monkeypatch.setattr(interrupts, "_state", interrupts._State())
    with found, pytest.raises(SystemExit), ShardWriter(found.tar, before_publishing=found.check_before_publishing):
        monkeypatch.setattr(interrupts._state, "asked", int(signal.SIGTERM))
    assert os.listdir(tmp_path) == []
