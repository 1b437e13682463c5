"""The photos that a recipe names: the shards they become, and their size on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cuts3d_cli.stages.listing import list_source
from cuts3d_cli.stages.pack import plan_shards


@dataclass(frozen=True, kw_only=True)
class Source:
    """Photos and the shards that they become.

    Attributes:
        name: of the shards.
        source, images, depth_dir, out: as in `pack.run`.
        files: bytes of the photos of each base shard.
        images_of: number of photos of each base shard.
        map_bytes: bytes of a sensor's map, on average; 0 without maps.
        root: the folder that the photos' file names start from.
    """

    name: str
    source: Path
    images: Path | None
    depth_dir: Path | None
    out: Path
    files: Mapping[Path, int] = field(default_factory=dict)
    images_of: Mapping[Path, int] = field(default_factory=dict)
    map_bytes: float = 0.0
    root: Path = Path()

    @property
    def bases(self) -> list[Path]:
        """The base shards, in order."""
        return list(self.images_of)

    def listed(self, *, shard_size: int) -> Source:
        """Return the source with `files`, `images_of`, `map_bytes` and `root`.

        Args:
            shard_size: images per shard.

        Raises:
            UsageError: there are no photos, or the source is neither a folder nor a COCO JSON.
        """
        leave_out = [self.depth_dir] if self.depth_dir is not None else []
        listing = list_source(self.source, images=self.images, leave_out=leave_out)
        planned = plan_shards(listing.photos, out=self.out, name=self.name, shard_size=shard_size)
        maps = _first_sizes(self.depth_dir)
        return replace(
            self,
            files={base: sum(_size(listing.root / photo.file) for photo in photos) for base, photos in planned.items()},
            images_of={base: len(photos) for base, photos in planned.items()},
            map_bytes=sum(maps) / len(maps) if maps else 0.0,
            root=listing.root,
        )


def _size(path: Path) -> int:
    """Return the bytes of a file; 0 where it cannot be read, which `pack` reports."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return 0


def _first_sizes(folder: Path | None, *, count: int = 100) -> list[int]:
    """Return the sizes of the first files of a folder."""
    sizes: list[int] = []
    for path in folder.rglob("*") if folder is not None else ():
        if len(sizes) == count:
            break
        if path.is_file():
            sizes.append(path.stat().st_size)
    return sizes
