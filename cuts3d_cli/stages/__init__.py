"""The stages: each goes through base shards and writes one sidecar beside each. `STAGES` lists them.

`pack`, which makes the base shards, is none of them, and `export` writes no tar.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cuts3d_cli.config import Config
from cuts3d_cli.engine.results import Progress, StageResult
from cuts3d_cli.engine.team import run_in_team
from cuts3d_cli.wording import Say


class StageRun(Protocol):
    """Runs a stage: the one signature that all have."""

    def __call__(
        self,
        shards: Sequence[Path],
        *,
        config: Config,
        progress: Progress | None = None,
        say: Say | None = None,
        **arguments: Any,
    ) -> StageResult:
        """Run the stage.

        Args:
            shards: base shards.
            config: the section of the stage's name, `run`, and what else the stage needs.
            progress: receives progress events.
            say: prints a status line.
            arguments: what the stage needs besides the configuration, by the names in `Stage.arguments`.

        Returns:
            The results of all shards.
        """


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage that writes sidecars.

    Attributes:
        run: runs it. It can be pickled, so that a task of a cluster can be given it.
        network: whether it puts images through a neural network, and therefore wants a GPU.
        arguments: names of what `run` needs besides the configuration. No manifest records them, so that such a stage
            cannot be run again without the user.
    """

    run: StageRun
    network: bool
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Imported:
    """The function `run` of a module, which is imported when it is first called: to list the stages is cheap."""

    module: str

    def __call__(self, shards: Sequence[Path], **arguments: Any) -> StageResult:
        """Import the module and run its stage, as `StageRun`."""
        result: StageResult = importlib.import_module(self.module).run(shards, **arguments)
        return result


STAGES: Mapping[str, Stage] = {
    "depth": Stage(run=Imported("cuts3d_cli.stages.depth"), network=True),
    "features": Stage(run=Imported("cuts3d_cli.stages.features"), network=True),
    "pseudo": Stage(run=Imported("cuts3d_cli.stages.pseudo"), network=True),
    "confidence": Stage(run=Imported("cuts3d_cli.stages.confidence"), network=False),
    "predict": Stage(run=Imported("cuts3d_cli.stages.predict"), network=True, arguments=("checkpoint",)),
    "merge": Stage(run=Imported("cuts3d_cli.stages.merge"), network=False, arguments=("round",)),
}
"""The stages by name. All but `merge`, which writes "pseudo.st1", write the sidecars of their own name."""


def run_stage(
    name: str,
    shards: Sequence[Path],
    *,
    config: Config,
    progress: Progress | None = None,
    say: Say | None = None,
    **arguments: Any,
) -> StageResult:
    """Run a stage on this machine, in as many processes as section `run` names GPUs.

    Args:
        name: of `STAGES`.
        shards, config, progress, say, arguments: as `StageRun`.

    Returns:
        The results of all shards.

    Raises:
        SettingError: there are not so many GPUs.
        Cuts3dError: as the stage does.
    """
    stage = STAGES[name]
    return run_in_team(stage.run, shards, network=stage.network, config=config, progress=progress, say=say, **arguments)
