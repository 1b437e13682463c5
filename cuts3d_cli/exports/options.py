"""What an export is asked for, besides the photos."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the formats write what was found; each heeds those options that its entry in the table names.

    Attributes:
        file: name of the file, for formats of one file.
        title: what it is, such as "pseudo-masks by cuts3d 0.2.0".
        category: name of the only category.
        photos: whether to write the photos too.
        photo_prefix: what stands before the path of each photo; None for what is usual in the format.
        tolerance: by how many pixels polygons may deviate from the edges of masks.
    """

    file: str
    title: str
    category: str = "object"
    photos: bool = False
    photo_prefix: str | None = None
    tolerance: float = 1.0
