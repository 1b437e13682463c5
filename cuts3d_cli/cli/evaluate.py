"""`cuts3d eval`: a detector on datasets, masks in shards, and the list of datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cuts3d_cli.cli.common import (
    CHECKPOINT_HELP,
    NETWORK_FIELDS,
    TEAM_FIELDS,
    Json,
    MoreShards,
    Shards,
    expand_shards,
    leave,
)
from cuts3d_cli.cli.console import say, stderr, stdout
from cuts3d_cli.cli.options import fields, with_config
from cuts3d_cli.config import Config, EvalConfig
from cuts3d_cli.errors import DatasetError, FileError, Message, Parts, Setting, UsageError
from cuts3d_cli.evaluation.datasets.catalogue import BENCHMARKS

if TYPE_CHECKING:
    from cuts3d_cli.cli.evaluate_tables import Kind
    from cuts3d_cli.evaluation.published import Setting as Rows
    from cuts3d_cli.evaluation.report import BenchmarkReport

_DATASETS, _SHARDS = EvalConfig.title, "Masks in shards"
_ROWS: Mapping[str, Rows] = {"paper": "zero-shot", "in-domain": "in-domain"}
"""--compare -> setting of the published rows."""


def _idle(arguments: Mapping[str, Any], config: Config) -> Mapping[str, Parts]:
    """Return what has no effect where no detector is run."""
    if arguments.get("list_datasets"):
        return dict.fromkeys(("predict", "run"), ("with ", Setting("list_datasets", True)))
    sections = ("eval", "predict", "run")
    return {} if arguments.get("checkpoint") else dict.fromkeys(sections, ("without ", Setting("checkpoint")))


@with_config("eval", "predict", fields("run", *NETWORK_FIELDS, *TEAM_FIELDS), idle=_idle)
def evaluate(
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            "-c",
            help=CHECKPOINT_HELP,
            show_default=False,
            rich_help_panel=_DATASETS,
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset",
            "-d",
            help=f"What to evaluate it on; may be repeated. {', '.join(BENCHMARKS)}; paper: the six of the paper; all; "
            "or a COCO JSON of your own, with --images.",
            show_default=False,
            rich_help_panel=_DATASETS,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            help="Folder that your own COCO JSON's file names start from.",
            show_default=False,
            rich_help_panel=_DATASETS,
        ),
    ] = None,
    list_datasets: Annotated[
        bool,
        typer.Option(
            "--list", help="Print what belongs where below --root, and what is there.", rich_help_panel=_DATASETS
        ),
    ] = False,
    compare: Annotated[
        Literal["paper", "in-domain"] | None,
        typer.Option(
            "--compare",
            help="Put published figures of CutS3D, CutLER and CuVLER below: paper, of detectors that saw ImageNet "
            "alone; in-domain, of those self-trained on COCO.",
            show_default=False,
            rich_help_panel=_DATASETS,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            min=1,
            help="Only so many images of each dataset, evenly spread.",
            show_default=False,
            rich_help_panel=_DATASETS,
        ),
    ] = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Evaluate what is there of a dataset that is not complete.", rich_help_panel=_DATASETS
        ),
    ] = False,
    detections: Annotated[
        Path | None,
        typer.Option(
            "--detections",
            help="Folder where detections are kept, so that a run that was stopped goes on. Default: detections, "
            "beside the checkpoint.",
            show_default=False,
            rich_help_panel=_DATASETS,
        ),
    ] = None,
    export_coco: Annotated[
        Path | None,
        typer.Option(
            "--export-coco",
            help="Also write all detections into this folder, as DATASET.json in COCO's format of results.",
            show_default=False,
            rich_help_panel=_DATASETS,
        ),
    ] = None,
    csv: Annotated[
        bool, typer.Option("--csv", help="Print the result as CSV on stdout.", rich_help_panel=_DATASETS)
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the result as Markdown on stdout.", rich_help_panel=_DATASETS)
    ] = False,
    shards: Shards = None,
    more_shards: MoreShards = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option(
            "--gt",
            help="The ground truth of the shards: a COCO JSON with boxes or masks, of any classes.",
            show_default=False,
            rich_help_panel=_SHARDS,
        ),
    ] = None,
    predicted: Annotated[
        bool,
        typer.Option(
            "--predicted", help="Evaluate what `cuts3d predict` found, not the pseudo-masks.", rich_help_panel=_SHARDS
        ),
    ] = False,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Measure class-agnostic AP and AR, by boxes and masks.

    \b
    A detector on datasets:
      cuts3d eval --list --root /data
      cuts3d eval -c model-final.safetensors -d coco -d voc --root /data
      cuts3d eval -c model-final.safetensors -d my.json --images photos
    Masks in shards, or what `cuts3d predict` found:
      cuts3d eval --shards shards --gt instances_val2017.json [--predicted]
    """
    formats = {"--json": json, "--csv": csv, "--markdown": markdown}
    if sum(formats.values()) > 1:
        named = " and ".join(name for name, wanted in formats.items() if wanted)
        raise UsageError(f"{named} are several formats: pass one of them")
    of_datasets: dict[str, object] = {
        "--dataset": dataset,
        "--images": images,
        "--compare": compare,
        "--limit": limit,
        "--partial": partial,
        "--detections": detections,
        "--export-coco": export_coco,
    }
    tables = {"--csv": csv, "--markdown": markdown}
    of_shards = {"--gt": ground_truth, "--shards": shards or more_shards, "--predicted": predicted}
    if list_datasets:
        _refuse(
            {"--checkpoint": checkpoint} | of_datasets | tables | of_shards,
            "has no effect with --list, which shows the datasets and runs nothing: leave one of the two out",
        )
        _list_datasets(config.eval.root, json=json)
        return
    if checkpoint is not None:
        _refuse(
            of_shards,
            "is for results in shards, and --checkpoint is for a detector on datasets: name these by --dataset; or, for"
            " shards, run `cuts3d predict --checkpoint FILE`, then `cuts3d eval --predicted --gt FILE`",
        )
        from cuts3d_cli.cli.evaluate_tables import print_benchmark
        from cuts3d_cli.cli.progress import StageProgress
        from cuts3d_cli.evaluation.benchmark import run_checkpoint
        from cuts3d_cli.evaluation.datasets.loading import IncompleteDatasetError
        from cuts3d_cli.evaluation.selection import Selection

        if not dataset:
            raise UsageError(
                "no dataset was named: pass --dataset, for example --dataset coco; `cuts3d eval --list` shows them"
            )
        setting = _ROWS[compare] if compare else None
        selection = Selection(dataset=dataset, root=config.eval.root, images=images, limit=limit, partial=partial)
        try:
            with StageProgress(stderr, name="eval", unit="dataset") as progress:
                report = run_checkpoint(
                    checkpoint,
                    selection,
                    config=config.run,
                    wanted=config.predict,
                    export=export_coco,
                    detections=detections,
                    say=say,
                    progress=progress,
                )
        except IncompleteDatasetError as error:
            raise DatasetError(f"{error} (--partial)") from error
        kind: Kind = "json" if json else "csv" if csv else "markdown" if markdown else "table"
        print_benchmark(report, kind=kind, compare=setting, console=stdout, errors=stderr)
        _record(checkpoint, report)
        leave(failed=report.failed)
    _refuse(of_datasets, "is for a detector on datasets, and no detector is named: add --checkpoint FILE")
    if ground_truth is None:
        _refuse(of_shards, "is for results in shards, which need a ground truth: name its COCO JSON by --gt")
        raise UsageError(
            "pass a detector and datasets (--checkpoint, --dataset), or shards and their ground truth (--shards, --gt);"
            " `cuts3d eval --list` shows the datasets"
        )
    _refuse(tables, "is for a detector on datasets: for shards take --json")
    _evaluate_shards(
        expand_shards(shards, more_shards, config), ground_truth=ground_truth, predicted=predicted, json=json
    )


def _refuse(options: Mapping[str, object], why: str) -> None:
    """Raise UsageError if one of some options was given."""
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(f"{given[0]} {why}")


def _record(checkpoint: Path, report: BenchmarkReport) -> None:
    """Put the results into the detector's model card, if there is one that can be written."""
    from cuts3d_cli.detector import CARD
    from cuts3d_cli.evaluation.benchmark import record_benchmarks

    try:
        if record_benchmarks(checkpoint, report):
            say(f"{checkpoint.with_name(CARD)}: holds the results on whole datasets now")
    except FileError as error:
        say(Message("warning: the results are not in the model card: ", *error.parts))


def _list_datasets(root: Path, *, json: bool) -> None:
    from cuts3d_cli.cli.evaluate_tables import print_datasets
    from cuts3d_cli.cli.tables import print_json
    from cuts3d_cli.evaluation.datasets.loading import list_datasets

    found = list_datasets(root)
    if json:
        print_json([item.to_json() for item in found])
    else:
        print_datasets(found, root=root, console=stdout)


def _evaluate_shards(shards: Sequence[Path], *, ground_truth: Path, predicted: bool, json: bool) -> None:
    from cuts3d_cli.cli.evaluate_tables import print_evaluation
    from cuts3d_cli.cli.tables import print_json
    from cuts3d_cli.evaluation.shards import run

    result = run(shards, ground_truth=ground_truth, say=say, predicted=predicted)
    if json:
        print_json(result.to_json())
    else:
        print_evaluation(result, console=stdout)
