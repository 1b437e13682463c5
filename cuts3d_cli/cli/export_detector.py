"""`cuts3d export-detector`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cuts3d_cli.cli.common import CHECKPOINT_HELP, Json
from cuts3d_cli.cli.console import print_line, say
from cuts3d_cli.cli.options import with_config
from cuts3d_cli.config import Config


@with_config("predict")
def export_detector(
    checkpoint: Annotated[Path, typer.Argument(help=CHECKPOINT_HELP, show_default=False)],
    to: Annotated[
        Literal["detectron2", "torchscript", "onnx"],
        typer.Option(
            "--to",
            help="detectron2: a .pth and a YAML file for its DefaultPredictor; torchscript, onnx: the network from the "
            "resized photo to boxes, scores, classes and small masks.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the files.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of an earlier export.")] = False,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Write a detector for other programs, and check that they compute the same.

    \b
      cuts3d export-detector model-final.safetensors --to detectron2 --out d2
      cuts3d export-detector cutler_cascade_final.pth --to onnx --out onnx --test-min-size 480
    """
    from cuts3d_cli.cli.tables import print_json
    from cuts3d_cli.detector.train import require_detectron2

    require_detectron2()
    from cuts3d_cli.detector.exporting import export_detector as run
    from cuts3d_cli.detector.loading import load_detector

    stored = load_detector(checkpoint, config.predict, say=say)
    result = run(stored, to=to, out=out, overwrite=overwrite, say=say)
    if result.comparison is not None:
        say(f"compared with the detector: {result.comparison}")
    if json:
        print_json(result.to_json())
    else:
        for path in result.files:
            print_line(str(path))
