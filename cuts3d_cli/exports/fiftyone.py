"""FiftyOne: a folder of its type COCODetectionDataset, `labels.json` and the photos in `data`.

https://docs.voxel51.com/user_guide/import_datasets.html#cocodetectiondataset
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cuts3d_cli.exports.coco import write_coco
from cuts3d_cli.exports.options import Options
from cuts3d_cli.exports.output import Output
from cuts3d_cli.exports.photos import FoundPhoto


def write_fiftyone(photos: Iterable[FoundPhoto], out: Output, options: Options) -> Mapping[str, int]:
    """Write the folder.

    Args:
        photos: with their instances.
        out: where to.
        options: file, title, category, photos.

    Returns:
        Nothing is lost, so nothing is counted.
    """
    return write_coco(photos, out, options, folder="data")
