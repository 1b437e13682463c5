"""The command line: the commands by name, and the one place that turns errors into exit codes."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from cuts3d_cli import __version__
from cuts3d_cli.commands import detector, evaluation, looking, masks, setup
from cuts3d_cli.commands.common import DONE, FAILURE, INTERRUPTED, TERMINATED, say
from cuts3d_cli.errors import Cuts3dError

app = typer.Typer(
    name="cuts3d",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Unsupervised instance segmentation by cutting semantics in 3D.\n\n"
    "From photos to masks: pack -> depth -> pseudo. To see it on one photo: cuts3d viz photo.jpg",
    epilog="Exit codes: 0 done, 1 failure, 2 usage, 3 finished with failed samples, 130 interrupted.",
)
weights_app = typer.Typer(no_args_is_help=True, help="Weights of the backbones: list, fetch, check.")
config_app = typer.Typer(no_args_is_help=True, help="The configuration.")
app.add_typer(weights_app, name="weights")
app.add_typer(config_app, name="config")

for command in (
    masks.pack,
    masks.depth,
    masks.features,
    masks.pseudo,
    masks.confidence,
    looking.viz,
    detector.train,
    detector.selftrain,
    detector.predict,
):
    app.command()(command)
app.command("eval")(evaluation.evaluate)
app.command()(looking.verify)
app.command()(looking.inspect)
app.command()(setup.doctor)
weights_app.command("list")(setup.weights_list)
weights_app.command("pull")(setup.weights_pull)
weights_app.command("verify")(setup.weights_verify)
config_app.command("show")(setup.config_show)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"cuts3d {__version__}")
        raise typer.Exit(DONE)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code.

    Args:
        arguments: without the program's name; sys.argv by default.
    """
    # As with Ctrl-C, what is half written is taken away; batch systems end jobs like this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    sys.exit(exit_code(arguments))


def exit_code(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; sys.argv by default.

    Returns:
        0 done, 1 failure, 2 usage, 3 finished with failed samples, 130 interrupted.
    """
    try:
        app(args=arguments, prog_name="cuts3d", standalone_mode=True)
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else FAILURE if leave.code else DONE
        if code == INTERRUPTED:  # how typer hands on Ctrl-C
            say("cuts3d: interrupted; what is finished is kept, run the same command again to go on")
        return code
    except Cuts3dError as error:
        say(f"cuts3d: {' '.join(str(error).split())}")
        return error.exit_code
    except OSError as error:
        say(f"cuts3d: {error.filename or 'the system'}: {error.strerror or error}")
        return FAILURE
    return DONE
