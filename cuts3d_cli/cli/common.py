"""What the commands share: exit codes, the options for shards, and running a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from cuts3d_cli import interrupts
from cuts3d_cli.cli.console import say, stderr, stdout
from cuts3d_cli.cli.spelling import spelled
from cuts3d_cli.config import ALL_GPUS, Config, spread
from cuts3d_cli.config.resolving import convert
from cuts3d_cli.errors import Message, Setting, SettingError, ShardError

if TYPE_CHECKING:
    from cuts3d_cli.engine.results import StageResult

DONE, FAILURE, USAGE, FAILED_SAMPLES = 0, 1, 2, 3
EXIT_CODES = (
    "Exit codes: 0 done, 1 failure, 2 usage, 3 finished with failed samples, 129 hung up (SIGHUP), 130 interrupted"
    " (Ctrl-C), 141 nobody reads the output (SIGPIPE), 143 terminated (SIGTERM)."
)
SHARING_FIELDS = ("claim_timeout", "wait", "split", "rank", "world_size")
"""Fields of section `run` that say how processes share the shards."""
TEAM_FIELDS = ("gpus",)
"""Fields of section `run` for commands that can work on several GPUs at once."""
RAY_FIELDS = ("engine", "ray_address", "ray_gpus")
"""Fields of section `run` that name a Ray cluster."""
NETWORK_FIELDS = ("device", "batch_size", "precision")
"""Fields of section `run` for commands that run a network."""
WORKER_FIELDS = ("workers", "worker_memory", "worker_timeout")
"""Fields of section `run` for commands that work in several processes."""
OUTPUT_FIELDS = ("max_image_pixels", "if_exists")
"""Fields of section `run` for commands that make something of photos."""
CHECKPOINT_HELP = (
    "A detector: of `cuts3d train`, or of detectron2 (.pth, .pkl), as the authors of CutLER and CutS3D publish theirs."
)
"""Of the option `--checkpoint`, and of `--init`."""

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Shards = Annotated[
    list[str] | None,
    typer.Option(
        "--shards",
        help="Base shards: 'in1k-<000..999>.tar' or 'in1k-{000..999}.tar' (quoted), a glob, a folder, a list, a tar.",
        show_default=False,
    ),
]
MoreShards = Annotated[
    list[str] | None,
    typer.Argument(help="More shards, as when the shell has expanded {000..999}.", show_default=False),
]
Gpus = Annotated[
    str,
    typer.Option(
        "--gpus",
        metavar="[INTEGER|all]",
        help="GPUs of this machine that share each batch, one process each. all: every one, as with --device cuda:all.",
    ),
]
FoundSource = Annotated[
    Literal["masks", "detections"],
    typer.Option("--source", help="The pseudo-masks, or what `cuts3d predict` found."),
]
FoundGeneration = Annotated[
    str | None,
    typer.Option("--generation", help="Those of a round of self-training: initial, st1, st2, ...", show_default=False),
]


def expand_shards(shards: list[str] | None, more: list[str] | None, config: Config) -> list[Path]:
    """Return the shards that are named on the command line or in the configuration, else the only set that is here."""
    from cuts3d_cli.shards.names import expand, only_set

    specs = [*(shards or []), *(more or [])] or ([config.run.shards] if config.run.shards else [])
    if specs:
        try:
            return expand(specs)
        except ShardError as error:
            _explain_results(specs, error)
            raise
    found = only_set(Path())
    say(f"shards: {found[0]}" + (f" to {found[-1]} ({len(found)})" if len(found) > 1 else ""))
    return found


def _explain_results(specs: Sequence[str], error: ShardError) -> None:
    """Say where the shards are of a folder that `segment` wrote.

    Raises:
        ShardError: in place of the other one, where one of the names is such a folder.
    """
    from cuts3d_cli.stages.own_results import KEPT_SHARDS, RECORD, results_in

    for folder in map(Path, specs):
        for found in results_in(folder, [RECORD]):
            if KEPT_SHARDS in found.names:
                raise ShardError(
                    f"{folder} holds results of segment: name its shards, {folder / KEPT_SHARDS}"
                ) from error
            again = ("run it again with ", Setting("keep_shards", True, command="segment"))
            raise ShardError(f"{folder} holds results of segment, which has left no shards: ", *again) from error


def gpus_of_training(gpus: str, config: Config) -> tuple[str, int]:
    """Return the device of a training and the number of GPUs that share its batches.

    Args:
        gpus: as `--gpus` takes it.
        config: in force, with the device that was asked for.

    Raises:
        SettingError: it is no such number, or there are not so many GPUs.
    """
    from cuts3d_cli.devices import training_gpus

    count = convert(gpus, int | Literal["all"], setting="gpus")
    if count != "all" and count < 1:
        raise SettingError("gpus", f"is '{count}': it must be at least 1")
    if config.run.device == ALL_GPUS and count not in (1, "all"):
        say(Message("warning: ", Setting("gpus"), " has no effect with ", Setting("run.device", ALL_GPUS)))
    return training_gpus(count, device=config.run.device)


def tell_preset(preset: str, *, has_maps: bool) -> Message:
    """Return which preset was taken, since nobody named one, and why.

    Args:
        preset: that was taken, as `config.default_preset` names it.
        has_maps: whether depth maps of the photos are given.
    """
    if not has_maps:
        return Message(f"preset {preset}, since no depth maps are given")
    return Message(f"preset {preset}, since depth maps are given: ", Setting("preset", "paper"), " takes the paper's")


Rows = Callable[["StageResult"], Mapping[str, str]]
"""Further rows of the table that a stage ends with: what -> value."""


def run_stage(
    name: str, shards: Sequence[Path], *, config: Config, json: bool, rows: Rows | None = None, **arguments: Any
) -> StageResult:
    """Run a stage, here or on a cluster, with a progress bar, and print its result.

    Args:
        name: of the stage.
        shards: base shards.
        config: the configuration.
        json: print JSON in place of a table.
        rows: further rows of the table.
        arguments: what the stage needs besides, as `Stage.arguments` names them.

    Returns:
        The result.
    """
    from cuts3d_cli import stages

    say_how_to_go_on(config)
    run: Callable[..., StageResult] = partial(stages.run_stage, name, say=say)
    if config.run.engine == "ray" and spread(config.run).gpus == 1:
        from cuts3d_cli.engine.ray import run_on_ray

        stage = stages.STAGES[name]
        run = partial(run_on_ray, stage.run, stage=name, network=stage.network)
    return show(name, partial(run, shards, config=config, **arguments), json=json, rows=rows)


def say_how_to_go_on(config: Config) -> None:
    """Let the last line after a signal say how to go on where the same command would begin again, or refuse."""
    wanted = {"overwrite": "replace", "fail": "resume"}.get(config.run.if_exists)
    if wanted is not None:
        way = spelled(Message("run the same command with ", Setting("run.if_exists", wanted), " to go on"))
        interrupts.go_on_by(lambda: way)


def show(name: str, run: Callable[..., StageResult], *, json: bool, rows: Rows | None = None) -> StageResult:
    """Run something over shards with a progress bar and print its result.

    Args:
        name: of the stage.
        run: runs it, with a progress as its keyword argument `progress`.
        json: print JSON in place of a table.
        rows: further rows of the table.

    Returns:
        The result.
    """
    from cuts3d_cli.cli.progress import StageProgress
    from cuts3d_cli.cli.tables import print_failures, print_json, print_stage

    with StageProgress(stderr, name=name) as progress:
        result = run(progress=progress)
    if json:
        print_json(result.to_json())
        print_failures(result.failed, errors=stderr)
    else:
        print_stage(result, rows=rows(result) if rows else None, console=stdout, errors=stderr)
    return result


def leave(*, failed: object) -> NoReturn:
    """End the command with the exit code that says whether samples failed."""
    raise typer.Exit(FAILED_SAMPLES if failed else DONE)


def leave_after(result: StageResult) -> NoReturn:
    """End the command of a stage with the exit code that its result asks for.

    Raises:
        ShardError: shards could not be done.
    """
    result.check_complete()
    nothing = not result.count("samples_in") and all(shard.status != "held" for shard in result.shards)
    if nothing and result.shards:
        say(f"warning: {_nothing_to_do(result)}")
    leave(failed=result.failed or nothing)


def _nothing_to_do(result: StageResult) -> str:
    """Return why a stage had no image to work on."""
    if before := result.count("failed_before"):
        what = f"all {before} images" if before > 1 else "the one image"
        return f"there was nothing to do: {what} failed in an earlier stage, whose manifests say why"
    return "the shards hold no images"
