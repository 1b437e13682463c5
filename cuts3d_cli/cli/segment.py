"""`cuts3d segment`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cuts3d_cli.cli.common import (
    CHECKPOINT_HELP,
    NETWORK_FIELDS,
    OUTPUT_FIELDS,
    WORKER_FIELDS,
    Json,
    leave,
    say_how_to_go_on,
    tell_preset,
)
from cuts3d_cli.cli.console import say, stderr, stdout
from cuts3d_cli.cli.options import fields, with_config
from cuts3d_cli.cli.pack import INTRINSICS_HELP, OF_MAPS
from cuts3d_cli.cli.spelling import running, spelled
from cuts3d_cli.config import Config, default_preset
from cuts3d_cli.errors import Parts, Setting
from cuts3d_cli.exports.formats import FORMATS

if TYPE_CHECKING:
    from cuts3d_cli.recipes.segment import Segmented, Segmenting

OF_DETECTORS = ("detectron2_config", "test_settings", "test_min_size", "nms", "max_detections")
"""Fields of section `predict` that have an option; the lowest score is `--score`."""


def _idle(arguments: Mapping[str, Any], config: Config) -> Mapping[str, Parts]:
    if arguments.get("checkpoint"):
        return dict.fromkeys(("pseudo", "features", "depth", "pack"), ("with ", Setting("checkpoint")))
    of_maps: dict[str, Parts] = {f"pack.{name}": ("without ", Setting("depth_dir")) for name in OF_MAPS}
    return {"predict": ("without ", Setting("checkpoint"))} | ({} if arguments.get("depth_dir") else of_maps)


def _preset(arguments: Mapping[str, Any]) -> str | None:
    return default_preset(metric_depth=bool(arguments.get("depth_dir")))


@with_config(
    "pseudo",
    "features",
    "depth",
    fields("pack", *OF_MAPS),
    fields("predict", *OF_DETECTORS),
    fields("run", *NETWORK_FIELDS, *WORKER_FIELDS, *OUTPUT_FIELDS, "graphs"),
    idle=_idle,
    default_preset=_preset,
    other_preset=("objects", "with --depth-dir"),
    lead=("out", "depth_dir"),
)
def segment(
    photos: Annotated[
        list[Path],
        typer.Argument(help="Photos, folders of photos, quoted patterns; or one COCO JSON.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.", show_default=False)],
    depth_dir: Annotated[
        Path | None,
        typer.Option(
            "--depth-dir",
            help="Folder of depth maps, named like the photos: 16-bit PNG, TIFF, .npy, .npz or PFM. Without it depth "
            "is estimated, or, where no network's weights are to be had, the photos are cut in 2D.",
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", "-c", help=f"Run a detector in place of cutting. {CHECKPOINT_HELP}", show_default=False
        ),
    ] = None,
    score: Annotated[
        float | None,
        typer.Option(
            "--score",
            min=0.0,
            max=1.0,
            help="With --checkpoint: the score that a detection must exceed.",
            show_default="0.5",
        ),
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help=f"What to write, of {', '.join(FORMATS)}; may be repeated.",
            show_default="coco and png",
        ),
    ] = None,
    category: Annotated[
        str | None, typer.Option("--category", help="Name of the only category.", show_default="object")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Folder that a COCO JSON's file names start from.", show_default=False),
    ] = None,
    intrinsics: Annotated[Path | None, typer.Option("--intrinsics", help=INTRINSICS_HELP, show_default=False)] = None,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Draw every photo.")] = True,
    keep_shards: Annotated[
        bool, typer.Option("--keep-shards", help="Leave the shards in OUT/shards, for the other commands.")
    ] = False,
    json: Json = False,
    *,
    config: Config,
    given: Collection[str],
    named: Collection[str],
    stand_in: str | None,
) -> None:
    """Segment photos: writes masks, pictures and a COCO JSON into one folder.

    \b
      cuts3d segment photos --depth-dir depth --out out
      cuts3d segment photo.jpg 'more/*.png' --out out -n 5
      cuts3d segment photos --checkpoint model-final.safetensors --score 0.6 --out out
    """
    from cuts3d_cli.recipes.segment import DEFAULT_FORMATS, Segmenting

    wanted = Segmenting(
        photos=photos,
        out=out,
        images=images,
        depth_dir=depth_dir,
        intrinsics=intrinsics,
        checkpoint=checkpoint,
        score=score,
        formats=tuple(to or DEFAULT_FORMATS),
        category=category,
        pictures=pictures,
        keep_shards=keep_shards,
        preset_note=None if stand_in is None else tell_preset(stand_in, has_maps=depth_dir is not None),
    )
    segment_photos(wanted, config=config, json=json, given=given, named=named)


def segment_photos(
    wanted: Segmenting, *, config: Config, json: bool, given: Collection[str] = (), named: Collection[str] = ()
) -> NoReturn:
    """Segment photos, print what came out, and end the command.

    Args:
        wanted: photos, and where the results go.
        config: the configuration.
        json: print JSON in place of a table.
        given: names of the settings that the user typed.
        named: those, and names of the settings that a variable or file sets.
    """
    from cuts3d_cli.cli.progress import StageProgress
    from cuts3d_cli.cli.tables import print_json
    from cuts3d_cli.recipes.segment import run

    def bar(name: str) -> StageProgress:
        say(f"== {name}")
        return StageProgress(stderr, name=name)

    say_how_to_go_on(config)
    result = run(replace(wanted, spell=spelled), config=config, bar=bar, say=say, given=given, named=named)
    if json:
        print_json(result.to_json())
    else:
        _print(result)
    _print_failures(result)
    leave(failed=result.failed)


def _print(result: Segmented) -> None:
    """Print what came out as a table on stdout."""
    from cuts3d_cli.cli.tables import print_words

    rows = [("photos", str(result.photos)), ("instances", str(result.instances))]
    counts = {"photos without an instance": result.empty, "failed": len(result.failed)}
    rows += [(what, str(number)) for what, number in counts.items() if number]
    rows += result.written.items()
    name = running() or "segment"
    print_words(rows, title=f"cuts3d {name}{': finished before' * result.finished_before}", console=stdout)


def _print_failures(result: Segmented) -> None:
    from cuts3d_cli.cli.tables import print_failures
    from cuts3d_cli.shards.names import failed_in

    failures = [
        {"file": item["file"], "reason": f"{failed_in(item['stage'])}: {item['reason']}"} for item in result.failed
    ]
    print_failures(failures, errors=stderr, more=f"see `failed` in {result.out / 'segment.json'}")
