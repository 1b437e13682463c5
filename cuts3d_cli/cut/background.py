"""What tells background from objects, by the shape and the place of a mask alone (not in the paper)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def border_contact(mask: NDArray[np.bool_]) -> float:
    """Compute how much of a mask lies along the border of the photo.

    Floor, wall and table reach far along it; an object that the photo cuts off touches it with a part of its outline.

    Args:
        mask: (H, W) bool, at least one node.

    Returns:
        The number of nodes on the border, corners counted once for each side, over the perimeter of a disc of the
        mask's area; 0 where the mask touches no side.
    """
    contact = sum(int(np.count_nonzero(side)) for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    return contact / (2.0 * math.sqrt(math.pi * np.count_nonzero(mask)))
