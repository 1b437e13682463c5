"""`cuts3d predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cuts3d_cli.cli.common import (
    CHECKPOINT_HELP,
    NETWORK_FIELDS,
    OUTPUT_FIELDS,
    RAY_FIELDS,
    SHARING_FIELDS,
    TEAM_FIELDS,
    WORKER_FIELDS,
    Json,
    MoreShards,
    Shards,
    expand_shards,
    leave_after,
    run_stage,
)
from cuts3d_cli.cli.options import fields, with_config
from cuts3d_cli.config import Config
from cuts3d_cli.errors import UsageError


@with_config(
    "predict",
    fields("run", *NETWORK_FIELDS, *OUTPUT_FIELDS, *TEAM_FIELDS, *SHARING_FIELDS, *RAY_FIELDS, *WORKER_FIELDS),
)
def predict(
    checkpoint: Annotated[Path, typer.Option("--checkpoint", "-c", help=CHECKPOINT_HELP, show_default=False)],
    shards: Shards = None,
    more_shards: MoreShards = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="For photos, folders and patterns in place of shards: the folder for masks, pictures and a COCO JSON, "
            "as `cuts3d segment --checkpoint` writes them.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Detect the instances of every image: writes NAME-000.predict.tar beside each shard.

    \b
      cuts3d predict -c model-final.safetensors --shards shards
      cuts3d predict -c model-final.safetensors photos --out out
    """
    if out is not None:
        if shards:
            of_shards = "of shards `cuts3d export --source detections` writes what `cuts3d predict` found"
            raise UsageError(
                f"--out is for the results of photos, and has no effect with --shards: leave it out; {of_shards}"
            )
        if not more_shards:
            raise UsageError(
                "--out is for the results of photos, and none are named: add a photo or a folder of photos"
            )
        from cuts3d_cli.cli.segment import segment_photos
        from cuts3d_cli.recipes.segment import Segmenting

        photos = [Path(name) for name in more_shards]
        wanted = Segmenting(photos=photos, out=out, checkpoint=checkpoint, score=config.predict.min_score)
        segment_photos(wanted, config=config, json=json)
    if photo := next((name for name in more_shards or () if _is_photo(Path(name))), None):
        raise UsageError(f"{photo} is no shard: to detect in photos, name a folder for the results by --out")
    paths = expand_shards(shards, more_shards, config)
    result = run_stage("predict", paths, config=config, json=json, checkpoint=checkpoint)
    leave_after(result)


def _is_photo(path: Path) -> bool:
    """Tell whether a path is a photo, or a folder without shards that holds one."""
    from cuts3d_cli.images import IMAGE_EXTENSIONS

    endings = {item.suffix for item in path.rglob("*") if item.name[0] != "."} if path.is_dir() else {path.suffix}
    return ".tar" not in endings and any(ending[1:].lower() in IMAGE_EXTENSIONS for ending in endings)
