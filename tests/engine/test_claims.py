from __future__ import annotations

import errno
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cuts3d_cli.engine import claims
from cuts3d_cli.engine.claims import Claim, ClaimLostError, HeldElsewhere, claim, claimed_or_left, tidy
from cuts3d_cli.errors import ShardError
from cuts3d_cli.files import temporary_name, this_process

LONG = 1000.0
ELSEWHERE = "0123456789-77-1"


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    return tmp_path / "s-000.pseudo.tar"


def names(tar: Path) -> list[str]:
    return sorted(os.listdir(tar.parent))


def claimed(tar: Path, *, timeout: float = LONG) -> Claim:
    found = claim(tar, timeout=timeout)
    assert isinstance(found, Claim)
    return found


def foreign(tar: Path, number: int = 0, *, age: float = 0.0, **changes: Any) -> Path:
    """A claim of a process on another machine, last touched some seconds ago."""
    path = tar.with_name(f".{tar.name}.{number}.claim")
    facts = {"owner": ELSEWHERE, "host": "node7", "token": f"t{number}", "beat": 0.1} | changes
    path.write_text(json.dumps(facts))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_claim_is_one_processs_until_it_is_released(tar: Path):
    with claimed(tar) as mine:
        assert names(tar) == [".s-000.pseudo.tar.0.claim"]
        mine.check()
        assert isinstance(claim(tar, timeout=LONG), HeldElsewhere)
        mine.check()
    assert names(tar) == []
    claimed(tar).release()
    assert names(tar) == []


def test_a_claim_has_its_owner_from_the_first_moment(tar: Path, monkeypatch: pytest.MonkeyPatch):
    """Else nobody could tell whose it is, were the process killed before it had written that down."""
    link, seen = os.link, []

    def linked(source: Path, target: Path) -> None:
        link(source, target)
        seen.append(json.loads(target.read_text())["owner"])

    monkeypatch.setattr(os, "link", linked)
    claimed(tar).release()
    assert seen == [str(this_process())]
    assert names(tar) == []


def test_a_draft_that_the_owner_sweeps_is_no_error(tar: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever gets a shard removes what earlier ones have left, and with it the drafts of those that come too late."""
    link, owners = os.link, []

    def linked(source: Path, target: Path) -> None:
        if not owners:
            owners.append(foreign(tar))
            source.unlink()
        link(source, target)

    monkeypatch.setattr(os, "link", linked)
    assert claim(tar, timeout=LONG) == HeldElsewhere("node7, process 77")
    assert names(tar) == [owners[0].name]


def test_a_draft_that_was_swept_by_an_owner_who_has_finished_is_written_again(
    tar: Path, monkeypatch: pytest.MonkeyPatch
):
    link, swept = os.link, []

    def linked(source: Path, target: Path) -> None:
        if not swept:
            swept.append(source)
            source.unlink()
        link(source, target)

    monkeypatch.setattr(os, "link", linked)
    claimed(tar).release()
    assert len(swept) == 1
    assert names(tar) == []


def test_a_file_system_without_hard_links_will_do(tar: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with claimed(tar):
        assert names(tar) == [".s-000.pseudo.tar.0.claim"]
        assert isinstance(claim(tar, timeout=LONG), HeldElsewhere)
    assert names(tar) == []


def test_a_link_whose_answer_was_lost_is_ones_own(tar: Path, monkeypatch: pytest.MonkeyPatch):
    link = os.link

    def linked(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", linked)
    claimed(tar).release()
    assert names(tar) == []


@pytest.mark.parametrize("expired", [False, True])
def test_of_many_at_once_one_gets_it(tar: Path, expired: bool):
    gate = threading.Barrier(16)
    if expired:
        foreign(tar, age=50)

    def race(_: int) -> Claim | HeldElsewhere:
        gate.wait()
        return claim(tar, timeout=10)

    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(race, range(16)))
    (winner,) = [item for item in found if isinstance(item, Claim)]
    winner.check()
    winner.release()
    assert names(tar) == []


def test_a_claim_of_another_machine_is_respected_until_it_expires(tar: Path):
    foreign(tar, age=50)
    found = claim(tar, timeout=60)
    assert found == HeldElsewhere("node7, process 77")
    with claimed(tar, timeout=40) as mine:
        mine.check()
        assert names(tar) == [".s-000.pseudo.tar.0.claim", ".s-000.pseudo.tar.1.claim"]
        assert isinstance(claim(tar, timeout=40), HeldElsewhere)
    assert names(tar) == []


def test_a_claim_never_expires_before_its_owner_has_missed_some_beats(tar: Path):
    foreign(tar, age=50, beat=15.0)
    assert isinstance(claim(tar, timeout=1), HeldElsewhere)
    foreign(tar, age=61, beat=15.0)
    claimed(tar, timeout=1).release()


def test_a_process_that_died_on_this_machine_is_noticed_at_once(tar: Path):
    child = os.fork()
    if child == 0:
        claim(tar, timeout=LONG)
        os._exit(9)
    os.waitpid(child, 0)
    assert names(tar) == [".s-000.pseudo.tar.0.claim"]
    claimed(tar).release()
    assert names(tar) == []


def test_what_was_cut_short_in_the_writing_expires_too(tar: Path):
    path = tar.with_name(f".{tar.name}.0.claim")
    path.touch()
    assert claim(tar, timeout=5) == HeldElsewhere("another process")
    os.utime(path, (time.time() - 6,) * 2)
    claimed(tar, timeout=5).release()
    assert names(tar) == []


def test_a_process_that_was_asleep_finds_out_and_leaves_the_others_claim(tar: Path):
    with claimed(tar) as slow:
        foreign(tar, 1)
        with pytest.raises(ClaimLostError, match=r"s-000\.pseudo\.tar: another process"):
            slow.check()
    assert names(tar) == [".s-000.pseudo.tar.1.claim"]


def test_a_claim_that_was_released_and_made_anew_is_anothers(tar: Path):
    with claimed(tar) as slow:
        foreign(tar, 0)
        with pytest.raises(ClaimLostError):
            slow.check()
    assert names(tar) == [".s-000.pseudo.tar.0.claim"]


def test_claims_are_touched_and_say_when_they_are_lost(tar: Path):
    with claimed(tar, timeout=0.4) as mine:
        path = tar.with_name(names(tar)[0])
        os.utime(path, (1, 1))
        end = time.monotonic() + 30
        while path.stat().st_mtime == 1:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert not mine.lost
        foreign(tar, 3)
        while not mine.lost:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_slow_rescuer_does_not_outbid_a_living_claim(tar: Path, monkeypatch: pytest.MonkeyPatch):
    """Between its look and its bid the expired claim is taken over, done and released, and a new one begins."""
    foreign(tar, age=50)
    original, others = claims._create, []

    def create(path: Path, number: int, *, beat: float) -> Claim | None:
        if number == 1 and not others:
            foreign(tar)  # another token, just now
            others.append(number)
        return original(path, number, beat=beat)

    monkeypatch.setattr(claims, "_create", create)
    assert claim(tar, timeout=10) == HeldElsewhere("node7, process 77")
    assert others == [1]
    assert names(tar) == [".s-000.pseudo.tar.0.claim"]


def test_a_slow_newcomer_sees_who_has_outbid_the_dead(tar: Path):
    foreign(tar, 1)  # number 0 is gone already: its release was cut short
    assert isinstance(claim(tar, timeout=LONG), HeldElsewhere)
    assert names(tar) == [".s-000.pseudo.tar.1.claim"]


def test_temporary_files_of_earlier_owners_are_swept_and_only_those(tar: Path):
    own = temporary_name(tar)
    stale = [
        tar.with_name(f".s-000.pseudo.tar.{ELSEWHERE}.00000000.tmp"),
        tar.with_name(f".s-000.pseudo.json.{ELSEWHERE}.00000000.tmp"),
    ]
    others = [tar.with_name(".s-000.pseudo.tar.notes.tmp"), tar.with_name(f".s-0.tar.{ELSEWHERE}.00000000.tmp")]
    for path in (own, *stale, *others):
        path.touch()
    with claimed(tar) as mine:
        mine.sweep()
    assert names(tar) == sorted(path.name for path in (own, *others))


def test_what_was_left_is_found_by_its_shard(tmp_path: Path):
    tars = [tmp_path / f"s-{number}.depth.tar" for number in range(4)]
    foreign(tars[0])
    temporary_name(tars[1]).touch()
    temporary_name(tars[2].with_suffix(".json")).touch()
    (tmp_path / ".s-3.depth.tar").touch()
    assert claimed_or_left([*tars, tmp_path / "none" / "a.tar"]) == set(tars[:3])


def test_tidying_leaves_the_living_alone(tar: Path):
    path = tar.with_name(f".s-000.pseudo.tar.{ELSEWHERE}.00000000.tmp")
    path.touch()
    foreign(tar)
    tidy(tar, timeout=LONG)
    assert len(names(tar)) == 2
    foreign(tar, age=50)
    tidy(tar, timeout=10)
    assert names(tar) == []


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path):
    with pytest.raises(ShardError, match=r"s\.tar cannot be written: No such file"):
        claim(tmp_path / "none/s.tar", timeout=LONG)


def test_a_full_disk_leaves_no_claim(tar: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(claims.json, "dump", fail)
    with pytest.raises(ShardError, match=r"tar cannot be written: No space left"):
        claim(tar, timeout=LONG)
    assert names(tar) == []


def test_a_claim_tells_people_whose_it_is(tar: Path):
    with claimed(tar):
        facts = json.loads(tar.with_name(names(tar)[0]).read_text())
    assert facts["owner"] == str(this_process())
    assert set(facts) == {"owner", "host", "token", "beat"}
