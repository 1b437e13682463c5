"""One run of a stage in several processes of this machine, one for each GPU, which share the shards by claims.

The first process leads. It goes through the stage as a process alone does, up to the work itself: it compares settings,
finds inputs, and says what there is to say. Then it starts the others, each of which runs the same stage on its own
device, shows what they do as one progress, and waits for them.

A process that dies loses nothing: its claims are a dead process's, so that the others take its shards over, and in the
end the leader does what is left, or finds that nothing is. So the result, the messages and the exit code are those of a
process alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cuts3d_cli.config import ALL_GPUS, Config, spread
from cuts3d_cli.devices import devices_of
from cuts3d_cli.engine.processes import Tell, place_of, run_processes
from cuts3d_cli.engine.results import Progress, ShardResult, StageResult, Stamp, Work
from cuts3d_cli.errors import Message, Setting, SettingError
from cuts3d_cli.wording import Say, counted

Run = Callable[..., StageResult]
"""Runs a stage, as `stages.StageRun`; it can be pickled."""


def run_in_team(
    run: Run,
    shards: Sequence[Path],
    *,
    network: bool,
    config: Config,
    progress: Progress | None = None,
    say: Say | None = None,
    **arguments: Any,
) -> StageResult:
    """Run a stage in as many processes as section `run` names, each on a GPU of its own.

    The bytes are the same for any number.

    Args:
        run: of the stage.
        shards: base shards.
        network: whether it runs a neural network, which wants a GPU.
        config: as the stage takes it.
        progress: receives the events of all processes as those of one.
        say: prints a status line.
        arguments: further ones of `run`, which can be pickled.

    Returns:
        The results of all shards.

    Raises:
        SettingError: there are not so many GPUs.
        Cuts3dError: as `run` does, in whichever process.
    """
    if spread(config.run).gpus == 1:
        return run(shards, config=config, progress=progress, say=say, **arguments)
    if config.run.engine != "local":
        named = "device" if config.run.device == ALL_GPUS else "gpus"
        problem = f"is {getattr(config.run, named)}, which is for one machine: a task of Ray does one shard, on as many"
        raise SettingError(f"run.{named}", f"{problem} GPUs as ", Setting("run.ray_gpus"))
    devices = devices_of(config.run, network=network)
    speaker = _Speaker(say)

    def member(number: int, count: int, stamps: Mapping[Path, Stamp]) -> tuple[Any, ...]:
        own = _config_of(number, count, config=config, device=devices[number])
        return run, list(shards), own, arguments, stamps

    leader = _Leader(progress or Progress(), devices=devices, member=member, say=speaker)
    own = replace(config, run=replace(config.run, gpus=1, device=devices[0]))
    return run(shards, config=own, progress=leader, say=None if say is None else speaker, **arguments)


def _config_of(number: int, count: int, *, config: Config, device: str) -> Config:
    """Return the configuration of one of several processes: its device, and its part of the workers."""
    asked = config.run.workers
    own = replace(
        config.run,
        gpus=1,
        device=device,
        workers=None if asked is None else min(asked, max(asked // count + (number < asked % count), 1)),
        wait=False,  # the leader does that
        # Nothing was there when the leader began; here, what the others have finished would be refused.
        if_exists="resume" if config.run.if_exists == "fail" else config.run.if_exists,
    )
    return replace(config, run=own)


class _Speaker:
    """Prints lines; of those that each process says, one."""

    def __init__(self, say: Say | None) -> None:
        self._say = say
        self._said: set[str] = set()

    def __call__(self, line: str | Message) -> None:
        self._said.add(str(line))
        if self._say is not None:
            self._say(line)

    def once(self, line: str | Message) -> None:
        """Print a line, unless it was printed before."""
        if str(line) not in self._said:
            self(line)


class _Leader(Progress):
    """The progress of the leader: lets the others work, and passes on what they do, and what the leader does itself."""

    def __init__(
        self,
        listener: Progress,
        *,
        devices: Sequence[str],
        member: Callable[[int, int, Mapping[Path, Stamp]], tuple[Any, ...]],
        say: _Speaker,
    ) -> None:
        """Start no process yet.

        Args:
            listener: receives the events.
            devices: of the processes.
            member: number of a process, how many there are, and the state of all tars -> arguments of `_take_part`.
            say: prints a status line.
        """
        self._listener = listener
        self._devices = devices
        self._member = member
        self._say = say
        self._under_way: dict[int, Path] = {}
        self._finished: set[Path] = set()
        self._broken: dict[Path, Message] = {}
        self._lost: set[Path] = set()  # under way when a process died, which may just have finished them

    def conduct(self, work: Work) -> None:
        """Let the other processes do what is due, and then do what they have left."""
        due = work.look()
        count = min(len(self._devices), len(due))
        if count > 1:
            self._announce(count)
            run_processes(
                _take_part,
                [self._member(number, count, work.stamps) for number in range(count)],
                devices=self._devices[:count],
                heard=self._heard,
                died=self._died,
            )
            for shard, why in self._broken.items():
                if shard not in self._finished:
                    work.settle(ShardResult(shard=shard, status="broken", reason=why))
        elif due and len(self._devices) > 1:
            self._say("a single shard is left: one process does it")
        work.do()
        work.credit(self._finished | self._lost)

    def _announce(self, count: int) -> None:
        few = f": more shards, which are smaller, would occupy all {len(self._devices)}"
        where = place_of(self._devices[:count])
        self._say(
            f"{counted(count, 'process', 'processes')} share the shards, on {where}"
            + (few if count < len(self._devices) else "")
        )

    # ------------------------------------------------------------------------------------- what the leader does itself

    def compared(self) -> None:
        self._listener.compared()

    def replacing(self, what: Message) -> None:
        self._listener.replacing(what)

    def begin(self, shards: Sequence[tuple[Path, int | None]]) -> None:
        self._listener.begin(shards)

    def skip(self, shard: Path) -> None:
        self._listener.skip(shard)

    def due(self, shard: Path, *, why: str) -> None:
        self._listener.due(shard, why=why)

    def start(self, shard: Path, *, why: str) -> None:
        self._listener.start(shard, why=why)

    def advance(self, *, failed: bool, shard: Path | None = None) -> None:
        self._listener.advance(failed=failed, shard=shard)

    def finish(self, shard: Path) -> None:
        self._listener.finish(shard)

    def elsewhere(self, shard: Path) -> None:
        if shard not in self._finished:
            self._listener.elsewhere(shard)

    def broken(self, shard: Path, *, why: Message) -> None:
        if shard not in self._broken:
            self._broken[shard] = why
            self._listener.broken(shard, why=why)

    def give_up(self, shard: Path, *, why: str) -> None:
        self._listener.give_up(shard, why=why)

    def wait(self, shards: Sequence[Path], *, owners: Sequence[str]) -> None:
        self._listener.wait(shards, owners=owners)

    # --------------------------------------------------------------------------------------------- what the others tell

    def _heard(self, number: int, kind: str, *content: Any) -> None:
        """Receive what a process tells."""
        getattr(self, f"_they_{kind}")(number, *content)

    def _they_start(self, number: int, shard: Path, why: str) -> None:
        self._under_way[number] = shard
        self._listener.start(shard, why=why)

    def _they_advance(self, number: int, failed: bool) -> None:
        self._listener.advance(failed=failed, shard=self._under_way[number])

    def _they_finish(self, number: int, shard: Path) -> None:
        self._under_way.pop(number, None)
        self._finished.add(shard)
        self._listener.finish(shard)

    def _they_give_up(self, number: int, shard: Path, why: str) -> None:
        self._under_way.pop(number, None)
        self._listener.give_up(shard, why=why)

    def _they_break(self, number: int, shard: Path, why: Message) -> None:
        self._under_way.pop(number, None)
        self.broken(shard, why=why)

    def _they_say(self, number: int, line: str | Message) -> None:
        self._say.once(line)

    def _died(self, number: int, why: str) -> None:
        line = f"warning: a process on {self._devices[number]} has ended ({why})"
        if (shard := self._under_way.pop(number, None)) is not None:
            self._lost.add(shard)
            self._listener.give_up(shard, why=f"{line}: {shard.name} will be done by another")
        else:
            self._say(line)


class _Through(Exception):
    """A process has done all that it can: what a stage does then is the leader's."""


class _Member(Progress):
    """The progress of one of the other processes: tells the leader."""

    def __init__(self, tell: Tell, *, stamps: Mapping[Path, Stamp]) -> None:
        self._tell = tell
        self._stamps = stamps

    def conduct(self, work: Work) -> None:
        # What was finished since the leader began is finished, also where finished results are written again.
        work.stamps.update(self._stamps)
        work.do()
        raise _Through

    def start(self, shard: Path, *, why: str) -> None:
        self._tell("start", shard, why)

    def advance(self, *, failed: bool, shard: Path | None = None) -> None:
        self._tell("advance", failed)

    def finish(self, shard: Path) -> None:
        self._tell("finish", shard)

    def give_up(self, shard: Path, *, why: str) -> None:
        self._tell("give_up", shard, why)

    def broken(self, shard: Path, *, why: Message) -> None:
        self._tell("break", shard, why)


def _take_part(
    tell: Tell,
    run: Run,
    shards: Sequence[Path],
    config: Config,
    arguments: Mapping[str, Any],
    stamps: Mapping[Path, Stamp],
) -> None:
    """Run a stage in one of several processes, as long as there are shards that no other one holds."""
    with suppress(_Through):
        run(
            shards,
            config=config,
            progress=_Member(tell, stamps=stamps),
            say=lambda line: tell("say", line),
            **arguments,
        )
