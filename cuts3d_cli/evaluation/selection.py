"""What a detector is evaluated on: benchmarks and COCO JSONs by name, and which of their images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cuts3d_cli.errors import SettingError, UsageError
from cuts3d_cli.evaluation.datasets.catalogue import BENCHMARKS, GROUPS
from cuts3d_cli.evaluation.datasets.loading import Dataset, open_benchmark, open_own
from cuts3d_cli.wording import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a detector is evaluated on.

    Attributes:
        dataset: names of benchmarks, of `GROUPS`, or COCO JSONs of the user's own; each may be several, separated by
            commas.
        root: the folder of the benchmarks; not needed for a user's own JSON.
        images: the folder of the photos of the user's own JSON.
        limit: most images of each dataset, evenly spread; None for all.
        partial: take what is there of incomplete datasets.
    """

    dataset: Sequence[str]
    root: Path | None = None
    images: Path | None = None
    limit: int | None = None
    partial: bool = False

    def names(self) -> list[str]:
        """Return the datasets one by one, each once.

        Raises:
            UsageError: a name is unknown, there is none, or `images` goes with no JSON or with several.
        """
        # Resolve lists and groups; the name of a file may have a comma in it.
        words = [word.strip() for name in self.dataset for word in ([name] if _is_file(name) else name.split(","))]
        groups = [GROUPS[word]() if word in GROUPS else (word,) for word in words if word]
        names = list(dict.fromkeys(itertools.chain.from_iterable(groups)))
        known = ", ".join((*BENCHMARKS, *GROUPS))
        if not names:
            raise UsageError(f"no dataset was named: the datasets are {known}, and a COCO JSON of your own")
        # What is no benchmark must be a single JSON with a folder of photos.
        own = [name for name in names if name not in BENCHMARKS]
        for name in own:
            if not _is_file(name):
                meant = did_you_mean(name, (*BENCHMARKS, *GROUPS))
                raise UsageError(
                    f"there is no dataset '{name}', nor a file of that name: the datasets are {known}{meant}"
                )
        if self.images is None and own:
            raise UsageError(f"{own[0]}: name the folder of its photos (images)")
        if self.images is not None and len(own) != 1:
            there = f"{len(own)} are named: evaluate them one by one" if own else "none is named: leave it out"
            raise SettingError("images", f"is the folder of the photos of one COCO JSON of your own, and {there}")
        return names

    def open(self, name: str, *, say: Callable[[str], None]) -> Dataset:
        """Open one of the datasets.

        Args:
            name: one of `names`.
            say: prints a status line before what takes long.

        Raises:
            UsageError: the folder of the benchmarks was not named, or the user's own JSON is unusable.
            DatasetError: the dataset is missing, incomplete or damaged.
        """
        if name in BENCHMARKS:
            if self.root is None:
                raise UsageError(f"{name}: name the folder of the datasets (root)")
            return open_benchmark(BENCHMARKS[name], self.root, partial=self.partial, say=say)
        if self.images is None:
            raise UsageError(f"{name}: name the folder of its photos (images)")
        return open_own(Path(name), self.images, partial=self.partial)

    def image_ids(self, dataset: Dataset) -> list[int]:
        """Return the ids of the images to evaluate, in order: all of them, or `limit` from first to last."""
        numbers = sorted(dataset.paths)
        if self.limit is None or self.limit >= len(numbers):
            return numbers
        return [numbers[place * len(numbers) // self.limit] for place in range(self.limit)]


def _is_file(name: str) -> bool:
    return name not in BENCHMARKS and name not in GROUPS and Path(name).is_file()
