"""The formats by name. A new one costs a module and an entry.

The command line makes its help from this table, so the modules are imported only when a format is written.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cuts3d_cli.exports.options import Options
    from cuts3d_cli.exports.output import Output
    from cuts3d_cli.exports.photos import FoundPhoto

    Write = Callable[[Iterable[FoundPhoto], Output, Options], Mapping[str, int]]
    """Writes photos with their instances; returns what was changed in some instances -> in how many."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format.

    Attributes:
        name: as on the command line.
        writes: what it is, for people.
        function: "module:function", of the type `Write`.
        file: name of its only file, or of the one that lists what is in the others; "" for none.
        one_file: whether `file` is all that is written, unless photos are.
        takes: the options that it heeds, fields of `Options`.
        photos: whether the photos are written too unless it is told otherwise.
        classes: whether it keeps the number of an instance's class, where a detector knows several.
    """

    name: str
    writes: str
    function: str
    file: str = ""
    one_file: bool = False
    takes: frozenset[str] = frozenset()
    photos: bool = False
    classes: bool = False

    def load(self) -> Write:
        """Import the function that writes the format."""
        module, _, name = self.function.partition(":")
        write: Write = getattr(importlib.import_module(module), name)
        return write


_ROOM = "cuts3d_cli.exports"

FORMATS: Mapping[str, Format] = {
    item.name: item
    for item in (
        Format(
            name="coco",
            writes="a COCO JSON with scores",
            function=f"{_ROOM}.coco:write_coco",
            file="annotations.json",
            one_file=True,
            takes=frozenset({"category", "photos"}),
            classes=True,
        ),
        Format(
            name="coco-results",
            writes="COCO's format of results, for pycocotools' loadRes",
            function=f"{_ROOM}.coco:write_results",
            file="results.json",
            one_file=True,
            classes=True,
        ),
        Format(
            name="png",
            writes="a PNG a mask, and a table",
            function=f"{_ROOM}.png:write_masks",
            file="instances.csv",
            classes=True,
        ),
        Format(
            name="labelmap",
            writes="a 16-bit PNG a photo, its colours, and a table",
            function=f"{_ROOM}.png:write_label_maps",
            file="instances.csv",
            classes=True,
        ),
        Format(
            name="labelme",
            writes="a JSON a photo, for labelme",
            function=f"{_ROOM}.labelme:write_labelme",
            takes=frozenset({"category", "photos", "tolerance"}),
        ),
        Format(
            name="yolo",
            writes="polygons and photos, to train Ultralytics' models",
            function=f"{_ROOM}.yolo:write_yolo",
            takes=frozenset({"category", "photos", "tolerance"}),
            photos=True,
        ),
        Format(
            name="label-studio",
            writes="tasks with brush masks, for Label Studio",
            function=f"{_ROOM}.label_studio:write_tasks",
            file="tasks.json",
            takes=frozenset({"category", "photo_prefix"}),
        ),
        Format(
            name="cvat",
            writes="CVAT's XML with brush masks",
            function=f"{_ROOM}.cvat:write_cvat",
            file="annotations.xml",
            one_file=True,
            takes=frozenset({"category", "photos"}),
        ),
        Format(
            name="fiftyone",
            writes="a folder that FiftyOne loads as COCODetectionDataset",
            function=f"{_ROOM}.fiftyone:write_fiftyone",
            file="labels.json",
            takes=frozenset({"category", "photos"}),
            photos=True,
            classes=True,
        ),
        Format(
            name="numpy",
            writes="an .npz a photo",
            function=f"{_ROOM}.npz:write_arrays",
            classes=True,
        ),
    )
}
"""Name -> format."""
