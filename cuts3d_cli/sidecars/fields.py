"""The fields of JSON members that speak of photos and masks, each checked when it is read.

A damaged run-length code would have pycocotools write past its memory; a damaged number would come out as a wrong mask.
"""

from __future__ import annotations

from cuts3d_cli.config import MAX_IMAGE_PIXELS
from cuts3d_cli.cut.masks import Rle, check_rle
from cuts3d_cli.json_reading import Fields, is_number, is_whole


class Record(Fields):
    """The fields of a member, or of an object in one."""

    def size(self) -> tuple[int, int]:
        """Return (height, width) of an image, pixels."""
        height, width = (self.whole(name, least=1, most=MAX_IMAGE_PIXELS) for name in ("height", "width"))
        return (height, width) if height * width <= MAX_IMAGE_PIXELS else self.fail("height")

    def pair(self, name: str) -> tuple[int, int]:
        """Return two whole numbers, 0 or more."""
        first, second = self.list_of(name, is_whole, count=2)
        return (first, second) if min(first, second) >= 0 else self.fail(name)

    def box(self, name: str) -> tuple[float, float, float, float]:
        """Return a box [x, y, width, height]."""
        x, y, width, height = map(float, self.list_of(name, is_number, count=4))
        return x, y, width, height

    def mask(self, name: str, size: tuple[int, int]) -> Rle:
        """Return a whole run-length code of a mask of the size (height, width)."""
        try:
            code = check_rle(self.values.get(name))
        except ValueError as error:
            self.refuse(f"its {name} {error}")
        if tuple(code["size"]) != size:
            self.refuse(f"its {name} has the size (height, width) {code['size']}, not {list(size)}")
        return code
