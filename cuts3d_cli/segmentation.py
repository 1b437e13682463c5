"""The instances of one image, as plain data in memory: what a cut or a detector found, and how.

It stands below everything that makes, draws, stores or evaluates it, and knows none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.wording import counted

_drawing: list[Callable[[Segmentation], bytes]] = []


@dataclass(frozen=True, kw_only=True, eq=False)
class Instance:
    """One instance of an image.

    Attributes:
        mask: (h, w) bool, at the image's size.
        box: (4,) float32, x0, y0, x1, y1 in pixels; x1 and y1 are the edges behind the last pixel.
        score: in [0, 1].
        area: pixels of the mask.
        confidence: (H, W) float32 in [0, 1], Spatial Confidence on the patch grid (Eq. 4); None where there is none.
        class_id: the detector's number of its class, from 0; None where there is one class.
    """

    mask: NDArray[np.bool_]
    box: NDArray[np.float32]
    score: float
    area: int
    confidence: NDArray[np.float32] | None = None
    class_id: int | None = None

    def __repr__(self) -> str:
        """Return a line, without the arrays."""
        box = ", ".join(f"{float(edge):g}" for edge in self.box)
        of_class = "" if self.class_id is None else f", class {self.class_id}"
        return f"<Instance of {counted(self.area, 'pixel')} in [{box}]: score {self.score:.2f}{of_class}>"


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """One iteration of a cut, at patch resolution.

    Attributes:
        eigenvector: (H, W), NaN where a patch takes no part any more; None: not known.
        bipartition: (H, W) bool, the semantic mask B.
        instance: (H, W) bool, what was taken out of it; None where nothing was.
        source: (row, column) of the patch s; None for none.
        sink: (row, column) of the patch t; None for none.
        outcome: the result in a few words: "kept", "dropped: too small".
        mask: index of the instance that it led to; None where it led to none.
        number: of the iteration, from 1; those of which nothing is left count too. None where it is not known.
    """

    eigenvector: NDArray[np.floating[Any]] | None
    bipartition: NDArray[np.bool_]
    instance: NDArray[np.bool_] | None
    source: tuple[int, int] | None
    sink: tuple[int, int] | None
    outcome: str
    mask: int | None = None
    number: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """The instances of one image. Iterating gives them one by one, as `Instance`.

    Attributes:
        image: (h, w, 3) uint8, RGB, upright.
        masks: (N, h, w) bool.
        boxes: (N, 4) float32, x0, y0, x1, y1 in pixels; x1 and y1 are the edges behind the last pixel.
        scores: (N,) float32 in [0, 1]: of a cut in 3D the mean Spatial Confidence, of a cut in 2D 1, of a detector its
            own.
        confidence: (N, H, W) float32 in [0, 1], Spatial Confidence on the patch grid; None where it was not computed.
        classes: (N,) int64, the detector's number of each class, from 0; None where there is one class.
        depth: (h, w) float32 in [0, 1], larger is farther, NaN where nothing was measured; None without depth.
        importance: (H, W) float32, Spatial Importance (Eq. 3); None where the graph was not sharpened.
        cuts: the iterations that led to the masks; None where a detector found them.
        stopped: why there were fewer cuts than asked for; None where there were as many.
        title: what made it, in a few words.
        seconds: wall-clock seconds by step.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    confidence: NDArray[np.float32] | None = None
    classes: NDArray[np.int64] | None = None
    depth: NDArray[np.float32] | None = None
    importance: NDArray[np.float32] | None = None
    cuts: Sequence[Cut] | None = None
    stopped: str | None = None
    title: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of instances."""
        return len(self.masks)

    def __repr__(self) -> str:
        """Return a line, without the arrays."""
        height, width = self.image.shape[:2]
        return (
            f"<Segmentation of {width}x{height} pixels:"
            f" {counted(len(self), 'instance')}{self.title and ' by '}{self.title}>"
        )

    def _repr_png_(self) -> bytes | None:
        """Return the picture that a notebook shows of it as a cell's last value; None where nobody can draw."""
        return _drawing[-1](self) if _drawing else None

    @overload
    def __getitem__(self, index: int) -> Instance: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | NDArray[Any]) -> Segmentation: ...

    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[Any]) -> Instance | Segmentation:
        """Return one instance, or some of them, as in `result[result.scores > 0.8]`.

        Args:
            index: a number; or a slice, a list of numbers, or (N,) bool.

        Raises:
            IndexError: it is something else, or outside the instances.
        """
        numbers = np.arange(len(self))
        if isinstance(index, slice):
            chosen = numbers[index]
        else:
            wanted = np.asarray(index)
            if not wanted.size and not isinstance(index, np.ndarray):  # an empty list has no type of its own
                wanted = wanted.astype(np.intp)
            if wanted.ndim > 1 or (wanted.ndim == 0 and wanted.dtype.kind not in "iu"):
                raise IndexError("an index is a number, a slice, a list of numbers, or (N,) bool")
            chosen = numbers[wanted]
        if np.ndim(chosen) == 0:
            place = int(chosen)
            return Instance(
                mask=self.masks[place],
                box=self.boxes[place],
                score=float(self.scores[place]),
                area=int(self.masks[place].sum()),
                confidence=None if self.confidence is None else self.confidence[place],
                class_id=None if self.classes is None else int(self.classes[place]),
            )
        places = {int(old): new for new, old in enumerate(chosen)}
        return replace(
            self,
            masks=self.masks[chosen],
            boxes=self.boxes[chosen],
            scores=self.scores[chosen],
            confidence=None if self.confidence is None else self.confidence[chosen],
            classes=None if self.classes is None else self.classes[chosen],
            cuts=self.cuts
            and [replace(cut, mask=None if cut.mask is None else places.get(cut.mask)) for cut in self.cuts],
        )

    def __iter__(self) -> Iterator[Instance]:
        """Return the instances one by one."""
        return (self[index] for index in range(len(self)))


def show_by(draw: Callable[[Segmentation], bytes]) -> None:
    """Let notebooks show segmentations. Drawing stands above this module.

    Args:
        draw: returns a PNG.
    """
    _drawing[:] = [draw]
