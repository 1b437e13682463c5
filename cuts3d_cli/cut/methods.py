"""The methods by name, and what each has to bring.

Imports no library: the command line reads the names when it starts.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from cuts3d_cli.errors import UsageError
from cuts3d_cli.wording import choose_one

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from cuts3d_cli.config import CutSettings, PseudoConfig
    from cuts3d_cli.cut.ncut import Eigenpair
    from cuts3d_cli.cut.perspective import Perspective
    from cuts3d_cli.cut.types import Candidate

METHODS: dict[str, str] = {
    "cuts3d": "cuts3d_cli.cut.cuts3d:CutS3D",
    "maskcut": "cuts3d_cli.cut.maskcut:MaskCut",
}
"""Name -> "module:class" of a `Method`, which is imported when it is first asked for."""


class Rules(Protocol):
    """A method's rules on one image, for everything but the graph and its eigenproblems.

    An object of it can travel to another process, so that one process solves and another one cuts.
    """

    def is_complete(self, found: Sequence[Candidate]) -> bool:
        """Return whether no further cut is wanted after these."""

    def exhausted(self, found: Sequence[Candidate]) -> str | None:
        """Return why no further cut is possible after these; None if one is."""

    def removed(self, found: Sequence[Candidate]) -> NDArray[np.bool_]:
        """Return (H, W) bool: nodes that are out of the graph of the next eigenproblem."""

    def cut(self, pair: Eigenpair, found: Sequence[Candidate]) -> Sequence[Candidate] | str:
        """Return what the solution of the next eigenproblem leads to: candidates, or the reason to stop."""


class Method(ABC):
    """A way to cut instances out of the semantic graph of an image, whose nodes are its patches.

    All methods share the loop: an eigenvector of the graph, a cut, the next eigenvector without what was found. What
    differs is here. An object has no state of its own, and no constructor arguments.

    Attributes:
        ignores_found: the nodes of found instances take part in nothing any more, so that their entries in later
            eigenvectors mean nothing, and pictures leave them blank.
    """

    ignores_found: bool = True

    @abstractmethod
    def title(self, settings: CutSettings) -> str:
        """Return what pictures call the method, with its settings."""

    @abstractmethod
    def rules(
        self,
        depth: NDArray[np.float32] | None,
        *,
        grid: tuple[int, int],
        settings: CutSettings,
        view: Perspective | None = None,
    ) -> Rules:
        """Return the rules by which one image is cut.

        Args:
            depth: (H, W) in [0, 1], larger is farther, no NaN; None where the method needs none.
            grid: (H, W).
            settings: of the cut.
            view: metric depth in perspective; None where depth is not metric, or not asked for.

        Raises:
            UsageError: the settings do not fit the grid; see `check`.
            ValueError: the depth does not fit.
        """

    def needs_depth(self, settings: CutSettings) -> bool:
        """Return whether the method, with these settings, looks at depth."""
        return False

    def cuts_in_3d(self, settings: CutSettings) -> bool:
        """Return whether instances are LocalCuts at `tau_knn`, which Spatial Confidence repeats at other thresholds."""
        return False

    def unread(self, settings: CutSettings) -> dict[str, str]:
        """Return the settings that have no effect on the cut, each with the one that makes it so.

        Args:
            settings: of the cut; a method that does not say reads all of them.

        Returns:
            As in {"beta": "sharpen"}; "method" where the method has no use for it at all.
        """
        return {}

    def check(self, settings: CutSettings, grid: tuple[int, int]) -> None:  # noqa: B027 - others fit any grid
        """Check settings that only the grid, (H, W), shows to be impossible.

        Raises:
            UsageError: they are.
        """

    def importance(self, depth: NDArray[np.float32] | None, *, settings: CutSettings) -> NDArray[np.float32] | None:
        """Return how much depth sharpens the graph at each patch.

        Args:
            depth: as for `rules`.
            settings: of the cut.

        Returns:
            (H, W) float32 in [0, 1]; None where the graph is not sharpened.
        """
        return None

    def edges(
        self, affinity: NDArray[np.float32], importance: NDArray[np.float32] | None, *, settings: CutSettings
    ) -> NDArray[np.bool_]:
        """Return the edges of the graph: by default the affinities over the threshold, after sharpening.

        Args:
            affinity: (K, K) in [0, 1], the cosine similarity of the patches' features, K = H * W.
            importance: of the method, (H, W) in [0, 1], or None.
            settings: of the cut.

        Returns:
            (K, K) bool, symmetric.
        """
        from cuts3d_cli.cut.sharpening import graph_edges

        return graph_edges(affinity, importance, pairing=settings.pairing, tau_ncut=settings.graph_threshold)

    def batched_edges(self, affinity: Tensor, importance: Tensor | None, *, settings: CutSettings) -> Tensor:
        """Return the edges of several graphs, on the device that they are on: what `edges` gives for each.

        Args:
            affinity: (B, K, K) float32 in [0, 1].
            importance: (B, H, W) float32 in [0, 1], or None.
            settings: of the cut.

        Returns:
            (B, K, K) bool, symmetric.
        """
        from cuts3d_cli.cut.batched_graph import graph_edges

        return graph_edges(affinity, importance, pairing=settings.pairing, tau_ncut=settings.graph_threshold)


def unread(settings: PseudoConfig) -> dict[str, str]:
    """Return the fields of section `pseudo` that have no effect, each with the field that makes it so.

    Raises:
        UsageError: there is no such method.
    """
    method = get_method(settings.method)
    found = method.unread(settings)
    if not method.needs_depth(settings):
        # Of the settings that switch depth off, the one that cuts without it is the last.
        found |= dict.fromkeys(("depth_sampling", "depth_clip"), found.get("tau_knn", "method"))
    if settings.tau_ncut != "auto":
        found["edge_share"] = "tau_ncut"
    of_crf = ("crf_backend", "crf_iterations", "crf_min_iou", "crf_failed")
    return found | ({} if settings.crf else dict.fromkeys(of_crf, "crf"))


def without_camera(settings: PseudoConfig) -> str | None:
    """Return the field of section `pseudo` that leaves what is known of photos' cameras without effect.

    Returns:
        As in "cloud"; "focal" where it is set for all photos; None where cameras have an effect.
    """
    return unread(settings).get("focal") or ("focal" if settings.focal != "auto" else None)


def cuts_in_perspective(settings: PseudoConfig) -> bool:
    """Return whether masks of metric depth are cut in the point cloud in perspective."""
    return settings.cloud == "perspective" and "cloud" not in unread(settings)


def get_method(name: str) -> Method:
    """Return a method by its name in `METHODS`.

    Raises:
        UsageError: there is none of that name; the line lists those that there are.
    """
    if name not in METHODS:
        raise UsageError(f"pseudo.method is '{name}': {choose_one(name, METHODS)}")
    method: Method = pkgutil.resolve_name(METHODS[name])()
    return method
