"""The way in from Python: photos in memory in, `Segmentation`s out. Nothing here prints or writes a file.

`from cuts3d_cli import segment` is the way to reach it.
"""

from cuts3d_cli.api.coco import coco_dataset, to_coco
from cuts3d_cli.api.detector import Detector
from cuts3d_cli.api.segmenter import Segmenter, segment
from cuts3d_cli.figures.segmentation_sheet import draw
from cuts3d_cli.figures.sheet import png_bytes
from cuts3d_cli.segmentation import show_by

__all__ = ["Detector", "Segmenter", "coco_dataset", "draw", "segment", "to_coco"]

show_by(lambda segmentation: png_bytes(draw(segmentation)))
