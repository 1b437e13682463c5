"""All pseudo-masks of some shards as one COCO JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cuts3d_cli._version import __version__
from cuts3d_cli.files import atomic_write_json
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars.finished import require
from cuts3d_cli.sidecars.masks import StoredMasks, decode, mask_record
from cuts3d_cli.sidecars.photos import photo_facts


@dataclass(frozen=True, kw_only=True)
class Exported:
    """How much was written."""

    images: int
    annotations: int


def export_coco(shards: Sequence[Path], path: Path) -> Exported:
    """Write the pseudo-masks of shards as one COCO JSON of a single category.

    Image ids are those of the base shards where all of them are different, else they are counted from 1. Annotation ids
    start at 1, since COCO's evaluation takes 0 for "no match". Images without a mask are in the file too; images that
    failed are not.

    Args:
        shards: base shards with finished pseudo sidecars.
        path: of the JSON; it appears only when it is whole.

    Returns:
        The number of images and annotations.

    Raises:
        ShardError: a pseudo sidecar is missing or damaged.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    found = list(_stored(shards))
    ids = [facts.get("id") for facts, _ in found]
    unique = all(isinstance(item, int) for item in ids) and len(set(ids)) == len(ids)
    for number, (facts, stored) in enumerate(found, start=1):
        image_id = facts["id"] if unique else number
        images.append(
            {
                "id": image_id,
                "file_name": facts["source"],
                "width": stored.size[1],
                "height": stored.size[0],
            }
        )
        annotations += [
            {
                "id": len(annotations) + offset,
                "image_id": image_id,
                "category_id": 1,
                **mask_record(instance),
                "iscrowd": 0,
            }
            for offset, instance in enumerate(stored.instances, start=1)
        ]
    atomic_write_json(
        path,
        {
            "info": {"description": f"pseudo-masks by cuts3d {__version__}"},
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "fg", "supercategory": "fg"}],
        },
        indent=None,
    )
    return Exported(images=len(images), annotations=len(annotations))


def _stored(shards: Sequence[Path]) -> Iterator[tuple[Mapping[str, Any], StoredMasks]]:
    """Read the facts and the masks of each image, in the order of the shards; only what is exported of the masks."""
    for base in shards:
        with require(base, "pseudo").open() as masks:
            for sample in read_shard(base):
                if found := masks.get(sample.key):
                    stored = decode(found)
                    plain = [replace(item, cut=None) for item in stored.instances]
                    yield photo_facts(sample), replace(stored, instances=plain)
