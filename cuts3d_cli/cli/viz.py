"""`cuts3d viz`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from cuts3d_cli.cli.common import CHECKPOINT_HELP, WORKER_FIELDS, Json, Shards, expand_shards, leave, tell_preset
from cuts3d_cli.cli.console import print_line, say, stderr
from cuts3d_cli.cli.options import fields, with_config
from cuts3d_cli.cli.pack import INTRINSICS_HELP
from cuts3d_cli.cli.spelling import spelled
from cuts3d_cli.config import Config, default_preset
from cuts3d_cli.errors import Command, Message, Parts, Setting, SettingError, UsageError

VIZ_FIELDS = ("device", "precision", "max_image_pixels")
"""Fields of section `run` that drawing has a use for."""
_OF_SHARDS = ("batch_size", *WORKER_FIELDS, "graphs", "if_exists")


def _idle(arguments: Mapping[str, Any], config: Config) -> Mapping[str, Parts]:
    """Return what has no effect on a picture of detections, of a sample in shards, or of a photo with its map."""
    cutting = ("pseudo", "features", "depth", "pack")
    if arguments.get("checkpoint"):
        return dict.fromkeys(cutting, ("with ", Setting("checkpoint")))
    detecting: dict[str, Parts] = {"predict": ("without ", Setting("checkpoint"))}
    if arguments.get("shards"):
        return detecting | dict.fromkeys(
            (*cutting, "run"), ("with ", Setting("shards"), ", which draws what is stored")
        )
    if arguments.get("depth_file"):
        return detecting | {"depth": ("with ", Setting("depth_file"))}
    return detecting | {"pack": ("without ", Setting("depth_file"))}


def _preset(arguments: Mapping[str, Any]) -> str | None:
    """Return the preset where nobody names one; None where nothing is cut."""
    if arguments.get("checkpoint") or arguments.get("shards"):
        return None
    return default_preset(metric_depth=bool(arguments.get("depth_file")))


@with_config(
    "pseudo",
    "features",
    "depth",
    "predict",
    fields("pack", "depth_invalid", "depth_orientation"),
    fields("run", *VIZ_FIELDS, idle=_OF_SHARDS),
    idle=_idle,
    default_preset=_preset,
    other_preset=("objects", "with --depth"),
    lead=("depth_file", "out"),
)
def viz(
    photos: Annotated[
        list[Path] | None, typer.Argument(help="A photo; or several, folders, quoted patterns.", show_default=False)
    ] = None,
    depth_file: Annotated[
        Path | None,
        typer.Option(
            "--depth",
            help="Its depth map: a 16-bit PNG, TIFF, .npy, .npz or PFM, larger is farther. Of several photos the "
            "folder of their maps.",
            show_default=False,
        ),
    ] = None,
    intrinsics: Annotated[Path | None, typer.Option("--intrinsics", help=INTRINSICS_HELP, show_default=False)] = None,
    shards: Shards = None,
    key: Annotated[
        str | None,
        typer.Option("--key", help="With --shards: the sample to draw.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The picture, a PNG or JPEG; of several photos the folder of their pictures. Default: "
            "NAME.cuts3d.png, or the folder cuts3d-pictures.",
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", "-c", help=f"Draw what a detector finds. {CHECKPOINT_HELP}", show_default=False),
    ] = None,
    open_picture: Annotated[bool, typer.Option("--open", help="Open the picture when it is done.")] = False,
    json: Json = False,
    *,
    config: Config,
    named: Collection[str],
    stand_in: str | None,
) -> None:
    """Draw how photos are cut: depth, Spatial Importance, each cut, and the masks; or what a detector finds in them."""
    from cuts3d_cli.cli.tables import print_json
    from cuts3d_cli.inspection import viz as stage
    from cuts3d_cli.inspection.viz_many import are_many

    _check_source(photos, shards=shards, key=key)
    _check_effect(
        {"depth_file": depth_file, "intrinsics": intrinsics, "checkpoint": checkpoint if shards is not None else None},
        beside=Setting("shards") if shards is not None else Setting("checkpoint") if checkpoint is not None else None,
    )
    note = None if stand_in is None else tell_preset(stand_in, has_maps=depth_file is not None)
    if photos and are_many(photos):
        _draw_many(
            photos,
            depth=depth_file,
            intrinsics=intrinsics,
            checkpoint=checkpoint,
            preset_note=note,
            named=named,
            out=out,
            open_pictures=open_picture,
            json=json,
            config=config,
        )
    image = photos[0] if photos else None
    if image is not None and checkpoint is not None:
        drawn = stage.draw_detections(image, checkpoint=checkpoint, out=out, config=config, say=say)
    elif image is not None:
        drawn = stage.draw_photo(
            image,
            depth_file=depth_file,
            intrinsics=intrinsics,
            preset_note=note,
            named=named,
            out=out,
            config=config,
            say=say,
            spell=spelled,
        )
    else:
        from cuts3d_cli.inspection.viz_sample import draw_sample

        drawn = draw_sample(expand_shards(shards, None, config), key=key or "", out=out, say=say)
    if json:
        print_json(drawn.to_json())
    else:
        print_line(str(drawn.path))
    if open_picture:
        typer.launch(str(drawn.path))


def _check_source(photos: Sequence[Path] | None, *, shards: Sequence[str] | None, key: str | None) -> None:
    """Make sure that what is to be drawn is named, once.

    Raises:
        UsageError: it is not; the line says what is missing.
    """
    if photos and shards is not None:
        problem = " has no effect beside photos: name photos alone, or "
        raise UsageError(Setting("shards"), problem, Setting("shards"), " and ", Setting("key"), " alone")
    if photos and key is not None:
        problem = "names a sample in shards, and photos are named: leave it out, or name "
        raise SettingError("key", problem, Setting("shards"), " in place of the photos")
    if shards is not None and key is None:
        command = Command("inspect", arguments=("SHARD.tar",))
        problem = " says which shards, and not which sample in them: name it by "
        raise UsageError(Setting("shards"), problem, Setting("key"), "; ", command, " lists the keys")
    if not photos and shards is None:
        missing = "name the shards that hold the sample, by " if key is not None else "name a photo, or a sample by "
        also = () if key is not None else (" and ", Setting("key"))
        raise UsageError("nothing to draw: ", missing, Setting("shards"), *also)


def _check_effect(options: Mapping[str, object], *, beside: Setting | None) -> None:
    """Refuse options that have no effect beside another one.

    Args:
        options: name -> value, None where it was not given.
        beside: the other one, if it was given: shards, of which is drawn what is stored, or a detector.

    Raises:
        SettingError: one of them was given.
    """
    for name, value in options.items():
        if value is not None and beside is not None:
            why = ", which draws what is stored" if beside.name == "shards" else ", which cuts nothing"
            raise SettingError(name, "has no effect with ", beside, f"{why}: leave it out")


def _draw_many(
    photos: Sequence[Path],
    *,
    depth: Path | None,
    intrinsics: Path | None,
    checkpoint: Path | None,
    preset_note: Message | None,
    named: Collection[str],
    out: Path | None,
    open_pictures: bool,
    json: bool,
    config: Config,
) -> NoReturn:
    """Draw several photos, and end the command."""
    from cuts3d_cli.cli.progress import StageProgress
    from cuts3d_cli.cli.tables import print_failures, print_json
    from cuts3d_cli.inspection.viz_many import draw_many

    with StageProgress(stderr, name="viz", unit="folder") as progress:
        drawn = draw_many(
            photos,
            depth=depth,
            intrinsics=intrinsics,
            checkpoint=checkpoint,
            preset_note=preset_note,
            named=named,
            out=out,
            config=config,
            say=say,
            spell=spelled,
            progress=progress,
        )
    if json:
        print_json(drawn.to_json())
    else:
        for picture in drawn.pictures:
            print_line(str(picture.path))
    print_failures(drawn.failed, errors=stderr, more="--json lists all of them")
    if open_pictures and drawn.pictures:
        typer.launch(str(drawn.out))
    leave(failed=drawn.failed)
