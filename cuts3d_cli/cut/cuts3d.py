"""CutS3D's extraction: Normalized Cut on a sharpened graph, then LocalCut, one instance an iteration (Sec. 3.1-3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config import CutSettings
from cuts3d_cli.config.cutting import AfterSmall
from cuts3d_cli.cut.background import border_contact
from cuts3d_cli.cut.bipartition import Bipartition, bipartition, connected_component, core
from cuts3d_cli.cut.cloud import Surface
from cuts3d_cli.cut.iterations import NO_STRUCTURE_REASON
from cuts3d_cli.cut.localcut import LocalGraph, choose_sink, cut_graph, grid_spacing, local_graph, longest_edge
from cuts3d_cli.cut.masks import mask_iou
from cuts3d_cli.cut.methods import Method
from cuts3d_cli.cut.ncut import TIE_TOLERANCE, Eigenpair, argmax_first
from cuts3d_cli.cut.parts import parts_of
from cuts3d_cli.cut.perspective import Perspective, surface_of
from cuts3d_cli.cut.sharpening import spatial_importance
from cuts3d_cli.cut.types import Candidate
from cuts3d_cli.errors import Setting, SettingError

REST_REASON = "the cut predicts the rest of the image"
UNMEASURED_REASON = "no depth: too little of it was measured"
BORDER_REASON = "background: it lies along the border of the photo"
PLANE_REASON = "background: it lies in a plane along the border of the photo"
SMALL_REASON = "too small"
MAX_EIGENPROBLEMS = 60
"""Most eigenproblems of an image whose number of instances is not limited."""
PATIENCE: Mapping[AfterSmall, int] = {"solve": 10, "continue": 3}
"""So many eigenproblems in a row without an instance, and nothing but background is left. Many of them find no more
than a few patches, unless those are passed over."""
MOST_SMALL = 10
"""Most cuts in one semantic mask that are too small; then it tells nothing but noise."""


def check_tau_knn(tau_knn: float | Literal["auto"], grid: tuple[int, int]) -> None:
    """Check that a threshold does not take every object apart (not in the paper).

    Raises:
        SettingError: tau_knn is under the distance of diagonal neighbours on the grid.
    """
    spacing = grid_spacing(grid)
    if tau_knn != "auto" and tau_knn < spacing:
        raise SettingError(
            "pseudo.tau_knn",
            f"{tau_knn:g} is under the diagonal spacing of the {grid[0]}x{grid[1]} grid, {spacing:.4f}, and would take"
            " every object apart: raise it, take 'auto', or give the backbone a larger ",
            Setting("features.size"),
        )


class CutS3D(Method):
    """CutS3D: a graph that depth sharpens, and LocalCut in 3D; both can be left out.

    Each iteration solves the Normalized Cut on what is left, and removes the instance that it found, also one that is
    dropped for its size: the next iteration would find it again. Up to `retries` further iterations make up for dropped
    ones (not in the paper). It stops early when a cut predicts "the rest", the inverse of all instances so far.

    With `after_small` "continue", an iteration takes what is too small out of its semantic mask and cuts again, from
    the outermost patch of what is left: those patches would each ask for an eigenproblem of their own (not in the
    paper).
    """

    def title(self, settings: CutSettings) -> str:
        """Return the name with the steps that are taken."""
        if not self.needs_depth(settings):
            return "Normalized Cut in 2D"
        steps = ["sharpened"] if settings.sharpen else []
        local = "LocalCut in perspective" if settings.cloud == "perspective" else "LocalCut"
        steps.append(local if settings.cut == "local" else "2D component")
        return f"CutS3D ({', '.join(steps)})"

    def needs_depth(self, settings: CutSettings) -> bool:
        """Return whether the graph is sharpened or instances are cut in 3D."""
        return settings.sharpen or settings.cut == "local"

    def cuts_in_3d(self, settings: CutSettings) -> bool:
        """Return whether instances are LocalCuts."""
        return settings.cut == "local"

    def unread(self, settings: CutSettings) -> dict[str, str]:
        """Return the settings of the steps that are left out."""
        found = {} if settings.sharpen else dict.fromkeys(("beta", "sigma", "pairing"), "sharpen")
        if settings.cut != "local":
            local = ("tau_knn", "source", "core_share", "sink", "knn", "background_level", "capacity")
            ours = ("cloud", "focal", "concavity", "planes", "measured", "parts", "after_small")
            found |= dict.fromkeys((*local, *ours), "cut")
        else:
            found |= {} if settings.source == "core" else {"core_share": "source"}
            metric = () if settings.cloud == "perspective" else ("focal", "planes", "measured", "parts")
            found |= dict.fromkeys(metric, "cloud")
        return found | ({"retries": "instances"} if settings.instances == "all" else {})

    def check(self, settings: CutSettings, grid: tuple[int, int]) -> None:
        """Check that `tau_knn` fits the grid, where LocalCut uses it.

        Raises:
            UsageError: it is under the distance of diagonal neighbours.
        """
        if settings.cut == "local":
            check_tau_knn(settings.tau_knn, grid)

    def importance(self, depth: NDArray[np.float32] | None, *, settings: CutSettings) -> NDArray[np.float32] | None:
        """Return the Spatial Importance, (H, W) float32 in [beta, 1], where the graph is sharpened."""
        if depth is None or not settings.sharpen:
            return None
        return spatial_importance(depth, sigma=settings.sigma, beta=settings.beta)

    def rules(
        self,
        depth: NDArray[np.float32] | None,
        *,
        grid: tuple[int, int],
        settings: CutSettings,
        view: Perspective | None = None,
    ) -> Cuts3dRules:
        """Return the rules for one image; see `Method.rules`."""
        self.check(settings, grid)
        rules = Cuts3dRules(grid=grid, depth=depth, settings=settings, view=view)
        # Once an image: it goes along to whoever makes the cuts.
        _ = rules.surface
        return rules


@dataclass(frozen=True, kw_only=True)
class Cuts3dRules:
    """CutS3D's rules on one image: see `CutS3D`, and `cuts3d_cli.cut.methods.Rules`.

    Attributes:
        grid: (H, W).
        depth: (H, W) in [0, 1], larger is farther, no NaN. None only if neither sharpening nor LocalCut is asked for.
        settings: of the cut.
        view: metric depth in perspective; None where depth is not metric, or not asked for.
    """

    grid: tuple[int, int]
    depth: NDArray[np.floating] | None
    settings: CutSettings
    view: Perspective | None = None

    def __post_init__(self) -> None:
        """Check that they fit each other.

        Raises:
            ValueError: depth is missing, of another shape, not finite, or outside [0, 1].
        """
        if self.depth is None:
            if self.settings.sharpen or self.settings.cut == "local":
                raise ValueError("sharpening and LocalCut need a depth map")
        elif self.depth.shape != self.grid or not (self.depth.min() >= 0.0 and self.depth.max() <= 1.0):
            raise ValueError(f"depth must be {self.grid} and within [0, 1], it is {self.depth.shape}")

    def is_complete(self, found: Sequence[Candidate]) -> bool:
        """Return whether there are enough instances, or as many cuts as are allowed."""
        wanted = self.settings.instances
        if wanted == "all":
            return False
        return _instances(found) >= wanted or _eigenproblems(found) >= wanted + self.settings.retries

    def exhausted(self, found: Sequence[Candidate]) -> str | None:
        """Return why nothing is left to be cut; None if something is."""
        left = np.count_nonzero(~self.removed(found))
        if left < 3:
            return "all patches belong to instances"
        if self.settings.instances != "all":
            return None
        if left <= self.settings.min_area * self.grid[0] * self.grid[1]:
            return "what is left is too small"
        solved, patience = _eigenproblems(found), PATIENCE[self.settings.after_small]
        if solved >= MAX_EIGENPROBLEMS:
            return f"{MAX_EIGENPROBLEMS} eigenproblems were solved"
        # What has no depth may well be an object: it is no sign that only background is left.
        last = (item for item in reversed(found) if item.dropped in (None, UNMEASURED_REASON))
        if solved - 1 - next((item.eigenproblem for item in last), -1) >= patience:
            return f"the last {patience} eigenproblems gave no instance"
        return None

    def removed(self, found: Sequence[Candidate]) -> NDArray[np.bool_]:
        """Return (H, W) bool: the nodes of all instances so far, dropped ones too."""
        removed = np.zeros(self.grid, dtype=bool)
        for item in found:
            removed |= item.mask
        return removed

    def cut(self, pair: Eigenpair, found: Sequence[Candidate]) -> Sequence[Candidate] | str:
        """Return the instances that the next eigenvector leads to, or why there is none."""
        if not pair.has_structure:
            return NO_STRUCTURE_REASON
        removed = self.removed(found)
        split = bipartition(pair.vector, self.grid, removed=removed)
        # The rest undivided, all of its entries equal, is "the rest" as well.
        if split is None or (found and mask_iou(split.mask, ~removed) >= self.settings.rest_iou):
            return REST_REASON
        if self.settings.cut == "component" or self.depth is None:
            return [self._candidate(pair, split, found, mask=connected_component(split.mask, split.seed))]
        return self._local_cut(pair, split, found)

    @cached_property
    def surface(self) -> Surface | None:
        """The surface of the scene; None where nothing is cut in 3D."""
        if self.depth is None or self.settings.cut != "local":
            return None
        return surface_of(self.depth, self.view, settings=self.settings)

    def _local_cut(self, pair: Eigenpair, split: Bipartition, found: Sequence[Candidate]) -> Sequence[Candidate]:
        settings, surface = self.settings, self.surface
        assert surface is not None

        # Planes that are background take no part.
        if self.view is not None and self.view.planes is not None:
            left = split.mask & ~self.view.planes
            if not left.any():
                return [self._candidate(pair, split, found, mask=split.mask, dropped=PLANE_REASON)]
            split = _within(split, left)

        # The LocalCut; what is too small may be passed over.
        graph = local_graph(surface, split.mask, k=settings.knn, longest=self._tau_knn)
        whole = self._cut_once(pair, split, found, graph=graph)
        if whole.dropped == SMALL_REASON and settings.after_small == "continue":
            return self._pass_over(pair, split, found, graph=graph, small=whole)
        return self._take_apart(whole, split, found)

    def _pass_over(
        self,
        pair: Eigenpair,
        split: Bipartition,
        found: Sequence[Candidate],
        *,
        graph: LocalGraph,
        small: Candidate,
    ) -> Sequence[Candidate]:
        """Return what was too small, as one find, and what the first cut led to that was not."""
        for _ in range(MOST_SMALL - 1):
            left = split.mask & ~small.mask
            if not left.any():
                break
            graph = graph.without(small.mask)
            inner = _within(split, left)
            whole = self._cut_once(pair, inner, (*found, small), graph=graph)
            if whole.dropped != SMALL_REASON:
                return [small, *self._take_apart(whole, inner, (*found, small))]
            small = replace(small, mask=small.mask | whole.mask)
        return [small]

    def _cut_once(
        self, pair: Eigenpair, split: Bipartition, found: Sequence[Candidate], *, graph: LocalGraph
    ) -> Candidate:
        """Return one LocalCut, from the seed of the bipartition."""
        settings, surface = self.settings, self.surface
        assert surface is not None
        nodes = core(split, share=settings.core_share) if settings.source == "core" else None
        source = split.seed if nodes is None else np.flatnonzero(nodes)
        sink = None
        if settings.sink == "eigenvector":
            sink = choose_sink(
                pair.vector, source=source, removed=self.removed(found).reshape(-1), tolerance=TIE_TOLERANCE
            )
        mask = cut_graph(
            graph,
            split.mask,
            source=source,
            sink=sink,
            tau_knn=self._tau_knn,
            concavity=self._concavity,
            capacity=settings.capacity,
        )
        return self._candidate(pair, split, found, mask=mask, sink=sink, nodes=nodes)

    def _take_apart(self, whole: Candidate, split: Bipartition, found: Sequence[Candidate]) -> Sequence[Candidate]:
        """Return the instances of a LocalCut: what is one from patch to patch may be several on the finer grid."""
        settings, surface = self.settings, self.surface
        assert surface is not None
        # A part of it may have depth where the whole has too little.
        if whole.dropped not in (None, UNMEASURED_REASON):
            return [whole]
        parts = parts_of(
            whole.mask, surface, tau_knn=self._tau_knn, concavity=self._concavity, min_area=settings.min_area
        )
        if len(parts) == 1:
            return [whole]
        candidates: list[Candidate] = []
        for part in parts:
            inner = _within(split, part)
            candidates.append(
                replace(
                    whole,
                    iteration=len(found) + len(candidates),
                    mask=part,
                    source=inner.seed,
                    core=core(inner, share=settings.core_share) if settings.source == "core" else None,
                    sink=None if whole.sink is None or part.reshape(-1)[whole.sink] else whole.sink,
                    dropped=self._rejection(part),
                )
            )
            if settings.instances != "all" and _instances([*found, *candidates]) >= settings.instances:
                break
        return candidates

    @property
    def _tau_knn(self) -> float:
        assert self.surface is not None
        return longest_edge(self.settings.tau_knn, spacing=self.surface.spacing)

    @property
    def _concavity(self) -> float | None:
        return None if self.settings.concavity == "off" else self.settings.concavity

    def _candidate(
        self,
        pair: Eigenpair,
        split: Bipartition,
        found: Sequence[Candidate],
        *,
        mask: NDArray[np.bool_],
        sink: int | None = None,
        nodes: NDArray[np.bool_] | None = None,
        dropped: str | None = None,
    ) -> Candidate:
        return Candidate(
            iteration=len(found),
            bipartition=split.mask,
            mask=mask,
            source=split.seed,
            core=nodes,
            sink=sink,
            vector=pair.vector.reshape(self.grid),
            dropped=dropped or self._rejection(mask),
        )

    def _rejection(self, mask: NDArray[np.bool_]) -> str | None:
        if mask.mean() <= self.settings.min_area:
            return SMALL_REASON
        if self.settings.border != "off" and border_contact(mask) > self.settings.border:
            return BORDER_REASON
        view, least = self.view, self.settings.measured
        if least != "off" and view is not None and view.measured is not None and view.measured[mask].mean() < least:
            return UNMEASURED_REASON
        return None


def _instances(found: Sequence[Candidate]) -> int:
    return sum(item.dropped is None for item in found)


def _eigenproblems(found: Sequence[Candidate]) -> int:
    return found[-1].eigenproblem + 1 if found else 0


def _within(split: Bipartition, mask: NDArray[np.bool_]) -> Bipartition:
    """Return a part of a bipartition, with the seed that is the most foreground node in it."""
    seed = argmax_first(split.outward.reshape(-1), mask.reshape(-1))
    return Bipartition(mask=mask, seed=seed, outward=split.outward)
