"""`cuts3d pseudo`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cuts3d_cli.cli.common import Json, MoreShards, Shards, expand_shards, leave, leave_after, run_stage
from cuts3d_cli.cli.console import say
from cuts3d_cli.cli.options import with_config
from cuts3d_cli.config import Config
from cuts3d_cli.errors import UsageError
from cuts3d_cli.wording import counted

if TYPE_CHECKING:
    from cuts3d_cli.engine.results import StageResult


@with_config("pseudo", "features", "run")
def pseudo(
    shards: Shards = None,
    more_shards: MoreShards = None,
    export_coco: Annotated[
        Path | None,
        typer.Option(
            "--export-coco",
            help="Write all masks into one COCO JSON; where every shard has its masks, cut nothing.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    *,
    config: Config,
    given: Collection[str],
) -> None:
    """Cut the pseudo-masks of every image: writes NAME-000.pseudo.tar beside each shard."""
    from cuts3d_cli.engine.sharing import Sharing
    from cuts3d_cli.files import check_target

    if export_coco and (Sharing.from_config(config.run).world_size > 1 or not config.run.wait):
        raise UsageError("--export-coco needs all shards: run it again without a fixed split and without --no-wait")
    if export_coco:
        check_target(export_coco, setting="export_coco")
    paths = expand_shards(shards, more_shards, config)
    of_the_cut = [name for name in given if not name.startswith("run.")]
    if export_coco and not of_the_cut and config.run.if_exists == "resume" and _are_cut(paths):
        _export(paths, export_coco)
        leave(failed=False)
    result = run_stage("pseudo", paths, config=config, json=json, rows=mask_rows)
    if export_coco:
        result.check_complete()
        _export(paths, export_coco)
    leave_after(result)


def _are_cut(shards: Sequence[Path]) -> bool:
    """Return whether all shards have masks, of whatever settings."""
    from cuts3d_cli.sidecars.finished import finished

    return all(finished(base, "pseudo") is not None for base in shards)


def _export(shards: Sequence[Path], path: Path) -> None:
    from cuts3d_cli.exports.exporting import Request, export

    exported = export(shards, Request(to="coco", out=path, if_exists="overwrite"), say=say)
    say(f"{path}: {counted(exported.instances, 'mask')} of {counted(exported.photos, 'image')}, as they are stored")


def mask_rows(result: StageResult) -> dict[str, str]:
    """Return rows about the masks, for the table that the stage ends with."""
    masks, good = result.count("masks"), result.count("samples_out")
    shapeless = result.count("no_structure")
    rows = {
        "masks": str(masks),
        "masks per image": f"{masks / good:.2f}" if good else "-",
        "images without a mask": str(result.count("without_mask")),
        "stopped at 'the rest'": str(result.count("stopped_early") - shapeless),
    }
    if shapeless:
        rows["without structure to cut"] = str(shapeless)
    rows |= {f"dropped: {reason}": str(number) for reason, number in result.dropped_by_reason().items()}
    if result.count("dense_fallbacks"):
        rows["eigenproblems solved densely"] = str(result.count("dense_fallbacks"))
    return rows
