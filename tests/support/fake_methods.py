"""Two graph-cut methods that the product does not have, and a command line that knows them.

`python -m tests.support.fake_methods '[["pseudo", "--method", "halves"], ...]'` adds both to the table of methods, runs
the commands one after the other and prints, as JSON, how each ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cuts3d_cli.config import CutSettings
from cuts3d_cli.cut.bipartition import bipartition
from cuts3d_cli.cut.cuts3d import CutS3D
from cuts3d_cli.cut.iterations import NO_STRUCTURE_REASON
from cuts3d_cli.cut.methods import METHODS, Method, Rules
from cuts3d_cli.cut.ncut import Eigenpair
from cuts3d_cli.cut.perspective import Perspective
from cuts3d_cli.cut.types import Candidate
from tests.support.running import Ran

FAKES = {"halves": "tests.support.fake_methods:Halves", "layers": "tests.support.fake_methods:Layers"}


class Halves(Method):
    """One mask an image: the foreground of the first bipartition, of a graph with a higher threshold of its own."""

    def title(self, settings: CutSettings) -> str:
        return "Halves"

    def edges(
        self, affinity: NDArray[np.float32], importance: NDArray[np.float32] | None, *, settings: CutSettings
    ) -> NDArray[np.bool_]:
        return affinity > self._threshold(settings)

    def batched_edges(self, affinity: Tensor, importance: Tensor | None, *, settings: CutSettings) -> Tensor:
        return affinity > self._threshold(settings)

    def rules(
        self,
        depth: NDArray[np.float32] | None,
        *,
        grid: tuple[int, int],
        settings: CutSettings,
        view: Perspective | None = None,
    ) -> Rules:
        return HalvesRules(grid=grid)

    def _threshold(self, settings: CutSettings) -> float:
        return settings.graph_threshold + 0.1


@dataclass(frozen=True, kw_only=True)
class HalvesRules:
    grid: tuple[int, int]

    def is_complete(self, found: Sequence[Candidate]) -> bool:
        return len(found) == 1

    def exhausted(self, found: Sequence[Candidate]) -> str | None:
        return None

    def removed(self, found: Sequence[Candidate]) -> NDArray[np.bool_]:
        return np.zeros(self.grid, dtype=bool)

    def cut(self, pair: Eigenpair, found: Sequence[Candidate]) -> Sequence[Candidate] | str:
        split = bipartition(pair.vector, self.grid) if pair.has_structure else None
        if split is None:
            return NO_STRUCTURE_REASON
        candidate = Candidate(
            iteration=0,
            bipartition=split.mask,
            mask=split.mask,
            source=split.seed,
            sink=None,
            vector=pair.vector.reshape(self.grid),
        )
        return [candidate]


class Layers(CutS3D):
    """CutS3D with an importance of its own: near patches matter more."""

    def title(self, settings: CutSettings) -> str:
        return "Layers"

    def importance(self, depth: NDArray[np.float32] | None, *, settings: CutSettings) -> NDArray[np.float32] | None:
        return None if depth is None else np.float32(settings.beta) * (1 - depth)


def run(line: Sequence[str]) -> Ran:
    from cuts3d_cli.cli.app import exit_code  # the options list the methods that are there when this is imported

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = exit_code(list(line))
    return Ran(code=code, out=out.getvalue(), err=err.getvalue())


if __name__ in ("__main__", "__mp_main__"):  # this command line, and its worker processes
    METHODS.update(FAKES)
if __name__ == "__main__":
    print(json.dumps([dataclasses.asdict(run(line)) for line in json.loads(sys.argv[1])]))
