"""The settings of the cut: those that the method itself takes, and the section `pseudo` around them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from cuts3d_cli.config.fields import Section, option

Separation = Literal["local", "component"]
Pairing = Literal["mean", "max", "min", "product"]
Source = Literal["seed", "core"]
Sink = Literal["eigenvector", "background"]
Capacity = Literal["gaussian", "exponential", "inverse", "distance"]
Eigensolver = Literal["lanczos", "dense"]
DepthSampling = Literal["nearest", "area"]
Cloud = Literal["paper", "perspective"]
CrfBackend = Literal["auto", "lattice", "pydensecrf"]
CrfFailed = Literal["drop", "keep"]
AfterSmall = Literal["solve", "continue"]


@dataclass(frozen=True, kw_only=True)
class CutSettings:
    """What `cut/` needs to know to cut an image (paper: Tables 15 and 16; 'open' marks what the paper leaves open)."""

    sharpen: bool = option(True, "Spatial Importance Sharpening of the semantic graph by depth.")
    cut: Separation = option(
        "local",
        "How an instance is taken out of the semantic mask: LocalCut in 3D, or the 2D connected component.",
    )
    instances: int | Literal["all"] = option(
        3,
        "N: cuts per image, so at most as many masks; all goes on until only background is left (not in the paper).",
        limits=(1, 100),
        flags=("-n", "--max-instances"),
        often=True,
    )
    tau_ncut: float | Literal["auto"] | None = option(
        None,
        "Threshold of the semantic graph. Raising it splits more. Default: what suits the backbone (DINO: 0.13); auto "
        "chooses it by the share of edges in the first photos.",
        limits=(0.0, 1.0),
    )
    tau_knn: float | Literal["auto"] = option(
        0.115,
        "Longest edge in the point cloud, in units of the image's side. Lower separates closer objects; auto goes by"
        " the spacing of the patch grid (not in the paper).",
        limits=(1e-6, 2.0),
        often=True,
    )
    cloud: Cloud = option(
        "paper",
        "Point cloud of LocalCut: the paper's, with depth in [0, 1], or in perspective where depth is metric (not in"
        " the paper).",
        later=True,
    )
    focal: float | Literal["auto"] = option(
        "auto",
        "With --cloud perspective: the focal length, in units of the photo's longer side; auto takes each photo's own,"
        " from its intrinsics or EXIF data, else 0.9.",
        limits=(0.05, 100.0),
        later=True,
    )
    concavity: float | Literal["off"] = option(
        "off",
        "How much more concave than the surface around it an edge of the point cloud may be: objects meet in concave"
        " edges. 0.02 to 0.1 is usual (not in the paper).",
        limits=(0.0, 2.0),
        later=True,
    )
    border: float | Literal["off"] = option(
        "off",
        "Drop a mask as background whose contact with the photo's border is over this share of the perimeter of a disc"
        " of its area; 0.25 is usual (not in the paper).",
        limits=(0.0, 10.0),
        later=True,
    )
    planes: float | Literal["off"] = option(
        "off",
        "With --cloud perspective: take planes out of the masks that cover at least this share of the patches and lie"
        " along the photo's border, as table, floor and wall; 0.15 is usual (not in the paper).",
        limits=(0.01, 1.0),
        later=True,
    )
    measured: float | Literal["off"] = option(
        "off",
        "With --cloud perspective: drop a mask where the sensor measured depth at less than this share of its pixels;"
        " 0.3 is usual (not in the paper).",
        limits=(0.01, 1.0),
        later=True,
    )
    parts: int | Literal["off"] = option(
        "off",
        "With --cloud perspective: take a mask apart where depth on a grid this many times as fine shows several"
        " surfaces; 2 is usual (not in the paper).",
        limits=(2, 4),
        later=True,
    )
    beta: float = option(
        0.45, "Lower bound of the Spatial Importance. Raising it sharpens flat regions more.", limits=(0.0, 1.0)
    )
    sigma: float = option(1.0, "Gaussian of the Spatial Importance, in patches (open).", limits=(1e-3, 1e3))
    pairing: Pairing = option("mean", "How the importance of two patches becomes that of their pair (open).")
    source: Source = option(
        "seed",
        "Source of LocalCut: the patch of the outermost eigenvector entry, or also those around it (not in the paper).",
    )
    core_share: float = option(
        0.1,
        "With --source core: share of the semantic mask, its outermost entries, that the source is taken from.",
        limits=(0.0, 1.0),
        advanced=True,
    )
    sink: Sink = option(
        "eigenvector",
        "Sink of LocalCut: the patch of smallest eigenvector entry, or all outside the mask (open).",
    )
    knn: int = option(16, "Neighbours of a point in the point cloud (open).", limits=(1, 1000))
    background_level: float = option(
        1.0, "Depth given to points outside the semantic mask; 1 is farthest (open).", limits=(-10.0, 10.0)
    )
    capacity: Capacity = option("gaussian", "How the cost of cutting an edge depends on its length (open).")
    eigensolver: Eigensolver = option(
        "lanczos", "Eigensolver; dense is exact LAPACK, much slower, and the fall-back of lanczos."
    )
    min_area: float = option(
        0.01, "Drop instances that cover at most this share of the patches (open).", limits=(0.0, 1.0)
    )
    rest_iou: float = option(
        0.9,
        "Stop when a cut overlaps 'all that is left' with at least this IoU (open). Raising it cuts on longer.",
        limits=(0.0, 1.0),
    )
    after_small: AfterSmall = option(
        "solve",
        "What follows a cut that is too small: the next eigenproblem, or another cut in the same semantic mask, which"
        " finds the same with half of the eigenproblems (not in the paper).",
        later=True,
    )
    retries: int = option(
        0, "Further cuts that make up for dropped ones, until N masks are found (not in the paper).", limits=(0, 100)
    )

    @property
    def graph_threshold(self) -> float:
        """The threshold of the semantic graph, in [0, 1].

        Raises:
            ValueError: it is still left to the backbone or its features; see `cuts3d_cli.features.threshold`.
        """
        if not isinstance(self.tau_ncut, float):
            raise ValueError("tau_ncut is not set: take the backbone's, with for_backbone")
        return self.tau_ncut


@dataclass(frozen=True, kw_only=True)
class PseudoConfig(CutSettings, Section):
    """How masks are cut: the method and its settings, how depth comes to the patches, and the CRF."""

    title = "Cutting"
    sidecar = True
    generations = True

    edge_share: float = option(
        0.7,
        "With --tau-ncut auto: the share of pairs of patches that are edges (not in the paper).",
        limits=(0.01, 0.99),
        shapes_output=False,
        advanced=True,
        before="tau_knn",
    )
    # Which methods there are is `cut.methods.METHODS`' to say.
    method: str = option("cuts3d", "cuts3d, or maskcut: the 2D rules of CutLER, as a baseline.", before="sharpen")
    crf: bool = option(True, "Refine the masks by a dense CRF.", before="instances")
    depth_sampling: DepthSampling = option(
        "nearest",
        "How depth comes to patch resolution: the pixel at a patch's centre, or the average over it (open).",
        before="source",
    )
    depth_clip: float = option(
        0.0,
        "Percent of the nearest and of the farthest pixels to clip before depth is stretched (not in the paper).",
        limits=(0.0, 49.0),
    )
    crf_size: int = option(480, "Side at which the CRF works, pixels.", limits=(16, 4096))
    crf_backend: CrfBackend = option(
        "auto",
        "What computes the CRF: a lattice of our own (auto), on CUDA where the graphs are there, or pydensecrf, which"
        " gives the same masks more slowly and has to be installed.",
        later=True,
    )
    crf_iterations: int = option(10, "Iterations of the CRF.", limits=(1, 1000))
    crf_min_iou: float = option(
        0.5, "Drop a mask that the CRF changes to less than this IoU with itself.", limits=(0.0, 1.0)
    )
    crf_failed: CrfFailed = option(
        "drop",
        "What becomes of a mask that the CRF changes too much: dropped, or kept as it was cut.",
        later=True,
    )
    specks: float | Literal["off"] = option(
        "off",
        "Close gaps of a few pixels in a mask, and take out pieces that still stand alone and cover less than this"
        " share of it; 0.05 is usual (not in the paper).",
        limits=(0.0, 1.0),
        later=True,
    )


_Settings = TypeVar("_Settings", bound=CutSettings)


def for_backbone(settings: _Settings, *, tau_ncut: float | None) -> _Settings:
    """Fill in the threshold of the semantic graph where it is left to the backbone.

    Args:
        settings: of the cut.
        tau_ncut: what suits the backbone, in [0, 1]; None: that is not known.

    Returns:
        The settings, `tau_ncut` set if it is known.
    """
    return settings if settings.tau_ncut is not None else replace(settings, tau_ncut=tau_ncut)


def in_2d(settings: _Settings) -> _Settings:
    """Return the settings without what looks at depth: no sharpening, and instances by the 2D connected component.

    A method that needs depth in any case still does.
    """
    return replace(settings, sharpen=False, cut="component")
