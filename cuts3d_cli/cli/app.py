"""The command line: the commands by name, and the one place that turns errors into exit codes."""

from __future__ import annotations

from typing import Annotated

import typer

from cuts3d_cli import interrupts
from cuts3d_cli._version import __version__
from cuts3d_cli.cli import detector, looking, masks, setup
from cuts3d_cli.cli import evaluate as evaluation
from cuts3d_cli.cli import run as recipe
from cuts3d_cli.cli.common import DONE, FAILURE, say
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
app.command()(recipe.run)
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
        if code == interrupts.INTERRUPTED and not interrupts.asked():  # typer's way with Ctrl-C, and training's own
            say(f"cuts3d: interrupted; {interrupts.HOW_TO_GO_ON}")
        return code
    except Cuts3dError as error:
        say(f"cuts3d: {' '.join(str(error).split())}")
        return error.exit_code
    except OSError as error:
        say(f"cuts3d: {error.filename or 'the system'}: {error.strerror or error}")
        return FAILURE
    return DONE
