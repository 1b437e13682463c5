"""Annotations in the XML of Pascal VOC: VOC itself, Clipart1k, Comic2k and Watercolor2k."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from cuts3d_cli.errors import DatasetError
from cuts3d_cli.evaluation.datasets.files import read_lines
from cuts3d_cli.evaluation.datasets.parsed import ParsedDataset, ParsedImage, box_instance
from cuts3d_cli.evaluation.metrics import Instance


def read_voc(annotations: Path, *lists: Path) -> ParsedDataset:
    """Read the XML files that lists of images name.

    Edges in the XML are 1-based pixels, both included: xmin 1 and xmax W span the width of the image. Objects that are
    marked as difficult become crowd regions: as in VOC's own protocol, a detection of one is neither right nor wrong.

    Args:
        annotations: folder of NAME.xml.
        lists: text files with a name on each line, such as ImageSets/Main/test.txt.

    Returns:
        The annotations; the images are numbered from 1 in the order of their names.

    Raises:
        DatasetError: a list or an XML file is missing or damaged.
    """
    names = sorted({line.split()[0] for path in lists for line in read_lines(path) if line.strip()})
    images = {number: _image(annotations / f"{name}.xml", name) for number, name in enumerate(names, start=1)}
    return ParsedDataset(images=images)


def _image(path: Path, name: str) -> ParsedImage:
    try:
        root = ElementTree.fromstring(path.read_bytes())
        instances = [_instance(item) for item in root.iterfind("object")]
        width, height = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("width", "height"))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}: the annotations are incomplete") from error
    except (ElementTree.ParseError, ValueError, OverflowError) as error:
        raise DatasetError(f"{path} is damaged ({error}): fetch it again") from error
    size = (width, height) if width > 0 and height > 0 else None
    return ParsedImage(file=f"{name}.jpg", size=size, instances=instances)


def _instance(item: ElementTree.Element) -> Instance:
    edges = [item.findtext(f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
    if None in edges:
        raise ValueError("an object has no complete bndbox")
    left, top, right, bottom = (float(edge or "") for edge in edges)
    difficult = (item.findtext("difficult") or "0").strip() == "1"
    return box_instance(left - 1, top - 1, right, bottom, crowd=difficult)
