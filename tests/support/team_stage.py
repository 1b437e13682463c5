"""A stage that several processes run in tests, in a module that they can import: it copies photos, with accidents."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cuts3d_cli.config import Config
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.errors import ShardError, WeightsError
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.wording import Say


def run(
    shards: Sequence[Path],
    *,
    config: Config,
    progress: Progress | None = None,
    say: Say | None = None,
    accident: str = "none",
    patience: float = 0.0,
) -> StageResult:
    """Copy the photos of some shards. The second photo of each fails. LOG beside them tells who does which shard.

    Args:
        accident: what happens in the midst of shard "s-1.tar", in a process that takes part, once or each time.
        patience: seconds that each photo takes.
    """
    if say is not None:
        say("the stage begins")

    def outcomes(base: Path) -> Iterator[Outcome]:
        with open(base.with_name("LOG"), "a", encoding="ascii") as log:
            log.write(f"{base.name} {os.getpid()} {config.run.device} {config.run.workers}\n")
        for place, sample in enumerate(read_shard(base)):
            time.sleep(patience)
            if place == 1:
                yield Outcome(key=sample.key, failure="it is the second")
                _happen(accident, base)
            else:
                yield Outcome(key=sample.key, members={"depth.json": sample.members["jpg"]}, counts={"masks": 2})
        if say is not None:
            say("a line of each process")

    result = run_shards(
        shards,
        stage="depth",
        config={"depth": {}},
        inputs=lambda base: {"base": base},
        outcomes=outcomes,
        if_exists=config.run.if_exists,
        sharing=Sharing.from_config(config.run),
        progress=progress,
    )
    if say is not None:
        say(f"{result.count('samples_in')} photos in the end")
    return result


def _happen(accident: str, base: Path) -> None:
    if base.name != "s-1.tar":
        return
    if accident == "broken":
        raise ShardError(f"{base} is damaged")
    if accident == "error":
        raise WeightsError("the weights are damaged")
    if multiprocessing.parent_process() is None:
        return  # the leader has no accidents
    if accident == "killed" and _is_first(base):
        os.kill(os.getpid(), signal.SIGKILL)
    if accident == "killed again":
        os.kill(os.getpid(), signal.SIGKILL)
    if accident == "surprise" and _is_first(base):
        raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")


def _is_first(base: Path) -> bool:
    try:
        os.close(os.open(base.with_name("ACCIDENT"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
