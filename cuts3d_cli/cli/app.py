"""The command line: the commands by name, and the one place that turns errors into exit codes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from cuts3d_cli import interrupts
from cuts3d_cli._version import __version__
from cuts3d_cli.cli import (
    confidence,
    config,
    depth,
    doctor,
    evaluate,
    export,
    export_detector,
    features,
    inspect,
    pack,
    predict,
    pseudo,
    report,
    run,
    segment,
    selftrain,
    train,
    verify,
    viz,
    weights,
)
from cuts3d_cli.cli.command import PlainCommand
from cuts3d_cli.cli.common import DONE, EXIT_CODES, FAILURE
from cuts3d_cli.cli.console import say, silence
from cuts3d_cli.cli.spelling import COMMANDS, set_running, spelled
from cuts3d_cli.errors import Cuts3dError

app = typer.Typer(
    name="cuts3d",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Unsupervised instance segmentation by cutting semantics in 3D.\n\n"
    "From photos to masks and pictures: cuts3d segment photos --out out. To see every step of one photo: cuts3d viz "
    "photo.jpg. For a million photos: pack -> depth -> pseudo.",
    epilog=EXIT_CODES,
)

GROUPS: Mapping[str, typer.Typer] = {
    "weights": typer.Typer(
        no_args_is_help=True, help="Weights of backbones, depth networks and ResNets: list, fetch, check."
    ),
    "config": typer.Typer(no_args_is_help=True, help="The configuration."),
}

_COMMANDS: Mapping[str, Callable[..., None]] = {
    "segment": segment.segment,
    "pack": pack.pack,
    "depth": depth.depth,
    "features": features.features,
    "pseudo": pseudo.pseudo,
    "confidence": confidence.confidence,
    "viz": viz.viz,
    "train": train.train,
    "selftrain": selftrain.selftrain,
    "predict": predict.predict,
    "eval": evaluate.evaluate,
    "export": export.export,
    "report": report.report,
    "export-detector": export_detector.export_detector,
    "run": run.run,
    "verify": verify.verify,
    "inspect": inspect.inspect,
    "doctor": doctor.doctor,
    "weights list": weights.weights_list,
    "weights pull": weights.weights_pull,
    "weights verify": weights.weights_verify,
    "config show": config.config_show,
}


def add_command(name: str, command: Callable[..., None]) -> None:
    """Add a command to the command line.

    Args:
        name: as it is typed, with its group if it has one: "depth", "weights pull".
        command: its function.
    """
    COMMANDS[name] = command
    group, _, last = name.rpartition(" ")
    (GROUPS[group] if group else app).command(last, cls=PlainCommand, epilog=EXIT_CODES)(command)


def _add_group(name: str, group: typer.Typer) -> None:
    def note(context: typer.Context) -> None:
        set_running(f"{name} {context.invoked_subcommand}")

    group.callback()(note)
    app.add_typer(group, name=name)


for _name, _group in GROUPS.items():
    _add_group(_name, _group)
for _name, _command in _COMMANDS.items():
    add_command(_name, _command)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"cuts3d {__version__}")
        raise typer.Exit(DONE)


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    set_running(context.invoked_subcommand)
    # Of the processes that torchrun starts for a training on this machine, the first one speaks for all.
    if context.invoked_subcommand == "train" and int(os.environ.get("LOCAL_RANK", "0")):
        silence()


def exit_code(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; sys.argv by default.

    Returns:
        0 done, 1 failure, 2 usage, 3 finished with failed samples, 128 + n ended by signal n.
    """
    set_running(None)
    try:
        app(args=arguments, prog_name="cuts3d", standalone_mode=True)
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else FAILURE if leave.code else DONE
        if code == interrupts.INTERRUPTED and not interrupts.asked():  # typer's way with Ctrl-C, and training's own
            say(f"cuts3d: interrupted; {interrupts.how_to_go_on()}")
        return code
    except Cuts3dError as error:
        say(f"cuts3d: {' '.join(spelled(error).split())}")
        return error.exit_code
    except OSError as error:
        say(f"cuts3d: {error.filename or 'the system'}: {error.strerror or error}")
        return FAILURE
    return DONE
