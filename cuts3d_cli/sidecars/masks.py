"""The pseudo sidecar: the masks of every photo, and how they came about.

`KEY.pseudo.json` holds the masks that were cut from an image, `NAME-000.pseudo.tar`, or those of a round of
self-training, `NAME-000.pseudo.st1.tar`: predictions of the detector, and masks of the round before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.focal import FOCAL_SOURCES, Focal
from cuts3d_cli.cut.masks import Rle, decode_rle, encode_rle, rle_area, rle_box
from cuts3d_cli.files import to_json_bytes
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.fields import Record
from cuts3d_cli.sidecars.reading import NOTHING, Flaw, Known, Reading, decoded, read_record, stray_members

if TYPE_CHECKING:
    from cuts3d_cli.cut.image import CutResult, Instance

MEMBERS = ("pseudo.json",)
FOLLOWS = None
_CUT_FIELDS = ("iteration", "patch_mask", "bipartition", "source", "sink", "core", "crf_iou")
ORIGINS = ("prediction", "previous")
"""Where a mask of a round of self-training is from: the detector, or the round before."""


@dataclass(frozen=True, kw_only=True)
class InstanceCut:
    """How one mask was cut.

    Attributes:
        iteration: of the cut, from 0.
        patch_mask: (H, W), the mask on the patch grid, before the CRF.
        bipartition: (H, W), the semantic mask B that it was cut from.
        source: [row, column] of the node s.
        sink: [row, column] of the node t; None in 2D, or where the whole background is the sink.
        core: (H, W), all source nodes where there are several; None where s alone is one.
        crf_iou: IoU of the masks before and after the CRF, in [0, 1]; None without a CRF.
    """

    iteration: int
    patch_mask: Rle
    bipartition: Rle
    source: tuple[int, int]
    sink: tuple[int, int] | None
    core: Rle | None
    crf_iou: float | None


@dataclass(frozen=True, kw_only=True)
class StoredMask:
    """One mask.

    Attributes:
        segmentation: at the photo's size.
        box: x, y, width, height, pixels.
        area: pixels.
        score: the detector's, in [0, 1]; None where no detector found the mask.
        class_id: the detector's number of its class, from 0; None where the detector knows one class.
        origin: "prediction" or "previous" for a mask of a round of self-training, else None.
        cut: how it was cut; None for a mask of a detector or of a round of self-training.
    """

    segmentation: Rle
    box: tuple[float, float, float, float]
    area: int
    score: float | None = None
    class_id: int | None = None
    origin: str | None = None
    cut: InstanceCut | None = None

    @classmethod
    def of(cls, segmentation: Rle, *, cut: InstanceCut | None = None) -> StoredMask:
        """Return a mask with its box and area."""
        x, y, width, height = rle_box(segmentation)
        return cls(segmentation=segmentation, box=(x, y, width, height), area=rle_area(segmentation), cut=cut)

    def pixels(self) -> NDArray[np.bool_]:
        """Return the mask as (height, width) bool, at the photo's size."""
        return decode_rle(self.segmentation)


@dataclass(frozen=True, kw_only=True)
class DroppedCut:
    """A cut that gave no mask: its iteration, from 0, and why it was not kept."""

    iteration: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class ImageCut:
    """How the masks of one photo were cut.

    Attributes:
        grid: (H, W) of the patches; None where nothing was cut.
        stopped: why there were fewer cuts than asked for; None if all were done.
        dropped: cuts that gave no mask.
        focal: the photo's own focal length, if the point cloud was made with it.
    """

    grid: tuple[int, int] | None
    stopped: str | None
    dropped: Sequence[DroppedCut]
    focal: Focal | None = None


@dataclass(frozen=True, kw_only=True)
class StoredMasks:
    """The masks of one photo.

    Attributes:
        size: (height, width) of the photo, pixels.
        method: that cut them, such as "cuts3d", or the round of self-training, such as "st1".
        instances: in the order in which they were cut; in self-training, best first.
        cut: how they were cut; None for a round of self-training.
    """

    size: tuple[int, int]
    method: str
    instances: Sequence[StoredMask]
    cut: ImageCut | None = None


def encode(stored: StoredMasks) -> dict[str, bytes]:
    """Return the members of a sample."""
    record: dict[str, Any] = {
        "method": stored.method,
        "height": stored.size[0],
        "width": stored.size[1],
        "instances": [mask_record(item) | _history(item) for item in stored.instances],
    }
    if stored.cut:
        record |= {
            "grid": list(stored.cut.grid) if stored.cut.grid else None,
            "stopped": stored.cut.stopped,
            "dropped": [{"iteration": item.iteration, "reason": item.reason} for item in stored.cut.dropped],
        }
        if focal := stored.cut.focal:
            record["focal"] = {"x": focal.x, "y": focal.y, "source": focal.source}
    return {"pseudo.json": to_json_bytes(record)}


def decode(sample: Sample, known: Known = NOTHING) -> StoredMasks:
    """Read a sample of a pseudo sidecar.

    Args:
        sample: of the sidecar.
        known: the size of the photo.

    Raises:
        ShardError: the JSON is missing or damaged, or is of a photo of another size.
        SampleError: there are other members.
    """
    return decoded(_read(sample, known), sample, "masks")


def flaws(sample: Sample, known: Known = NOTHING) -> list[Flaw]:
    """Return all that is wrong with a sample of a pseudo sidecar."""
    return list(_read(sample, known))


def from_cut(result: CutResult, *, size: tuple[int, int], method: str, focal: Focal | None = None) -> StoredMasks:
    """Return what is stored of the masks that were cut from a photo.

    Args:
        result: of the cut.
        size: (height, width) of the photo.
        method: that cut them.
        focal: the photo's own focal length, if the point cloud was made with it.
    """
    candidates = result.extraction.candidates
    grid = (candidates[0].mask.shape[0], candidates[0].mask.shape[1]) if candidates else None
    return StoredMasks(
        size=size,
        method=method,
        instances=[_from_instance(item) for item in result.instances],
        cut=ImageCut(
            grid=grid,
            stopped=result.extraction.stopped,
            dropped=[DroppedCut(iteration=item["iteration"], reason=item["reason"]) for item in result.dropped],
            focal=focal,
        ),
    )


def node_position(node: int, grid: tuple[int, ...]) -> tuple[int, int]:
    """Return (row, column) of a node, which is a row-major index into the grid (H, W)."""
    return node // grid[1], node % grid[1]


def node_index(position: tuple[int, int], grid: tuple[int, int]) -> int:
    """Return the row-major index of the node at (row, column) of the grid (H, W)."""
    return position[0] * grid[1] + position[1]


def mask_record(item: StoredMask) -> dict[str, Any]:
    """Return the fields of a mask that each record has, whatever it comes from."""
    return {"segmentation": item.segmentation, "bbox": list(item.box), "area": item.area}


def parse_mask(fields: Record, size: tuple[int, int]) -> StoredMask:
    """Read the fields that `mask_record` writes.

    Raises:
        ValueError: one is missing or impossible.
    """
    segmentation = fields.mask("segmentation", size)
    box, area = fields.box("bbox"), fields.whole("area")
    if area != rle_area(segmentation):
        fields.refuse(f"its area is not that of its mask, {rle_area(segmentation)}")
    return StoredMask(segmentation=segmentation, box=box, area=area)


def photo_flaw(extension: str, size: tuple[int, int], known: Known) -> Flaw | None:
    """Return what is wrong where a record is of a photo of another (height, width)."""
    if known.size is None or known.size == size:
        return None
    return Flaw(extension, f"it is of a photo of {size[1]}x{size[0]}, not {known.size[1]}x{known.size[0]}")


def _history(item: StoredMask) -> dict[str, Any]:
    """Return the fields that tell where a mask is from."""
    cut = item.cut
    if cut is None:
        return {"score": item.score, "origin": item.origin}
    if item.score is not None or item.origin is not None:
        raise ValueError("a mask that was cut has no score and no origin")
    return {
        "iteration": cut.iteration,
        "patch_mask": cut.patch_mask,
        "bipartition": cut.bipartition,
        "source": list(cut.source),
        "sink": None if cut.sink is None else list(cut.sink),
        "crf_iou": cut.crf_iou,
        **({} if cut.core is None else {"core": cut.core}),
    }


def _from_instance(item: Instance) -> StoredMask:
    candidate = item.candidate
    return StoredMask.of(
        item.segmentation,
        cut=InstanceCut(
            iteration=candidate.iteration,
            patch_mask=encode_rle(item.patch_mask),
            bipartition=encode_rle(candidate.bipartition),
            source=node_position(candidate.source, candidate.mask.shape),
            sink=None if candidate.sink is None else node_position(candidate.sink, candidate.mask.shape),
            core=None if candidate.core is None else encode_rle(candidate.core),
            crf_iou=None if item.crf_iou is None else round(item.crf_iou, 6),
        ),
    )


def _read(sample: Sample, known: Known) -> Reading[StoredMasks | None]:
    yield from stray_members(sample, MEMBERS)
    stored = yield from read_record(sample, "pseudo.json", _parse)
    if stored and (flaw := photo_flaw("pseudo.json", stored.size, known)):
        yield flaw
    return stored


def _parse(fields: Record) -> StoredMasks:
    size = fields.size()
    cut = None
    if any(name in fields.values for name in ("grid", "stopped", "dropped")):
        cut = ImageCut(
            grid=_parse_grid(fields),
            stopped=fields.text("stopped") if fields.has("stopped") else None,
            dropped=[
                DroppedCut(iteration=item.whole("iteration"), reason=item.text("reason"))
                for item in fields.objects("dropped", each="dropped cut", missing=())
            ],
            focal=_parse_focal(fields) if fields.has("focal") else None,
        )
    instances = fields.objects("instances", each="instance")
    grid = cut.grid if cut else None
    if grid is None and any(item.has(name) for item in instances for name in _CUT_FIELDS):
        fields.fail("grid")
    return StoredMasks(
        size=size,
        method=fields.text("method", missing=""),
        instances=[_parse_instance(item, size, grid) for item in instances],
        cut=cut,
    )


def _parse_grid(fields: Record) -> tuple[int, int] | None:
    if not fields.has("grid"):
        return None
    grid = fields.pair("grid")
    return grid if min(grid) > 0 else fields.fail("grid")


def _parse_focal(fields: Record) -> Focal:
    focal = fields.object("focal")
    source = next((name for name in FOCAL_SOURCES if focal.values.get("source") == name), None)
    if source is None:
        focal.fail("source")
    x, y = focal.number("x"), focal.number("y")
    try:
        return Focal(x=x, y=y, source=source)
    except ValueError as error:
        fields.refuse(f"it {error}")


def _parse_instance(fields: Record, size: tuple[int, int], grid: tuple[int, int] | None) -> StoredMask:
    mask = parse_mask(fields, size)
    if grid is not None and any(fields.has(name) for name in _CUT_FIELDS):
        return replace(mask, cut=_parse_cut(fields, grid))
    return replace(
        mask,
        score=fields.share("score") if fields.has("score") else None,
        origin=fields.choice("origin", ORIGINS) if fields.has("origin") else None,
    )


def _parse_cut(fields: Record, grid: tuple[int, int]) -> InstanceCut:
    return InstanceCut(
        iteration=fields.whole("iteration", least=0),
        patch_mask=fields.mask("patch_mask", grid),
        bipartition=fields.mask("bipartition", grid),
        source=_parse_node(fields, "source", grid),
        sink=_parse_node(fields, "sink", grid) if fields.has("sink") else None,
        core=fields.mask("core", grid) if fields.has("core") else None,
        crf_iou=fields.share("crf_iou") if fields.has("crf_iou") else None,
    )


def _parse_node(fields: Record, name: str, grid: tuple[int, int]) -> tuple[int, int]:
    row, column = fields.pair(name)
    return (row, column) if row < grid[0] and column < grid[1] else fields.fail(name)
