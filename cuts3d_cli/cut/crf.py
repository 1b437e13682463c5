"""Dense CRF refinement of masks, with the parameters of MaskCut; one lattice serves all masks of an image.

Two libraries do it, with the same masks: a lattice of our own, see `lattice` and, for a device, `batched_crf`; and
pydensecrf, see `densecrf`, which not everybody has.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config.cutting import CrfBackend
from cuts3d_cli.cut import lattice
from cuts3d_cli.errors import SettingError


def check_backend(backend: CrfBackend) -> None:
    """Make sure that what is to compute the CRF is there.

    Raises:
        SettingError: it is not.
    """
    if backend == "pydensecrf" and importlib.util.find_spec("pydensecrf") is None:
        problem = "is pydensecrf, which is not installed: pip install 'cuts3d[pydensecrf]', or take lattice"
        raise SettingError("pseudo.crf_backend", problem)


def refine_masks(
    image: NDArray[np.uint8],
    masks: Iterable[NDArray[np.bool_]],
    *,
    iterations: int,
    backend: CrfBackend = "auto",
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float32]]]:
    """Refine masks along the edges of the image (MaskCut's CRF).

    Args:
        image: (h, w, 3) uint8, RGB.
        masks: each (h, w) bool.
        iterations: of mean-field inference.
        backend: "pydensecrf", else our own lattice.

    Yields:
        For each mask: the refined mask, (h, w) bool, and the foreground probability, (h, w) float32.

    Raises:
        SettingError: as `check_backend`.
    """
    check_backend(backend)
    if backend == "pydensecrf":
        from cuts3d_cli.cut.densecrf import refine

        yield from refine(image, masks, iterations=iterations)
        return
    for probability in lattice.foreground(image, list(masks), iterations=iterations):
        yield probability > 0.5, probability
