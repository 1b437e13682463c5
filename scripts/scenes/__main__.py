"""Render RGB-D scenes with instance masks into a folder.

    bash scripts/scenes.sh OUT --count 20 --seed 0

writes OUT/images/NNN.png, OUT/depth/NNN.png (uint16 millimetres along the optical axis, 0 is no measurement) and
OUT/annotations.json (COCO, one category, RLE masks).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from scenes.files import write_scenes
from scenes.layout import Kind


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: of the command line; those of this process by default.

    Raises:
        SystemExit: an argument is invalid.
    """
    parser = argparse.ArgumentParser(
        prog="scenes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where to write the scenes")
    parser.add_argument("--count", type=int, default=20, help="number of scenes (20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first scene (0)")
    parser.add_argument(
        "--kind", choices=[*get_args(Kind), "both"], default="touching", help="how the objects stand (touching)"
    )
    parser.add_argument("--objects", type=int, help="objects per scene (3, 4 and 5 in turn)")
    parser.add_argument("--height", type=int, default=480, help="height of the images, pixels (480)")
    parser.add_argument("--width", type=int, default=640, help="width of the images, pixels (640)")
    parser.add_argument("--workers", type=int, default=1, help="processes that render (1)")
    options = parser.parse_args(arguments)
    try:
        path = write_scenes(
            options.folder,
            count=options.count,
            seed=options.seed,
            kind=options.kind,
            objects=options.objects,
            height=options.height,
            width=options.width,
            workers=options.workers,
        )
    except ValueError as error:
        parser.error(str(error))
    print(f"{options.count} scenes in {path.parent}")


if __name__ == "__main__":
    main()
