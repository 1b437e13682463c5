"""Normalized Cut: the eigenvector of the second smallest eigenvalue of (Z - W) x = lambda Z x (Sec. 3.1)."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.linalg import blas
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from cuts3d_cli.config.cutting import Eigensolver
from cuts3d_cli.cut.affinity import EPSILON, without_nodes

TIE_TOLERANCE = 1e-7
"""Eigenvector entries closer than this, relative to the largest, are the same number computed twice.

Nodes with the same neighbours have the same exact entry, and solvers differ in its last digits; without a tolerance the
seed would depend on rounding."""


LANCZOS_TOLERANCE = 1e-10
"""Largest residual of an eigenpair, relative to the eigenvalue of the operator (its largest possible one is 1)."""

NO_STRUCTURE = 1e-6
"""A second eigenvalue this close to 1, that of a graph whose edges are all equal, means that nothing hangs together
more than anything else: the eigenvector is noise."""


@dataclass(frozen=True, kw_only=True)
class Eigenpair:
    """Solution of the Normalized Cut.

    Attributes:
        vector: (K,) float64, scaled so that its largest absolute entry is +1.
        value: the eigenvalue, in [0, 2].
        solver: what solved it.
        fell_back: Lanczos did not converge and the dense solver was used.
    """

    vector: NDArray[np.float64]
    value: float
    solver: Eigensolver
    fell_back: bool = False

    @property
    def has_structure(self) -> bool:
        """Whether the vector tells anything about the graph (not in the paper)."""
        return self.value < 1.0 - NO_STRUCTURE


def solve_ncut(
    edges: NDArray[np.bool_] | NDArray[np.float64],
    *,
    removed: NDArray[np.bool_] | None = None,
    solver: Eigensolver = "lanczos",
) -> Eigenpair:
    """Compute the second smallest generalised eigenpair of the binarised graph.

    The sign of an eigenvector is arbitrary and the rules that follow depend on it, so it is fixed here: the entry of
    largest absolute value (the first of them, within `TIE_TOLERANCE`) is positive.

    Args:
        edges: (K, K), symmetric: True or 1.0 is a weight of 1, False or 0.0 one of `EPSILON`. Float64 saves a
            conversion where the same graph is solved several times.
        removed: (K,) bool, nodes that are taken out, see `cuts3d_cli.cut.affinity.without_nodes`.
        solver: "lanczos", or "dense" (LAPACK, as MaskCut calls it).

    Returns:
        The eigenpair. If Lanczos does not converge, the dense solution, marked as such.

    Raises:
        ValueError: fewer than three nodes.
    """
    if len(edges) < 3:
        raise ValueError(f"a graph of {len(edges)} nodes cannot be cut")
    if removed is None:
        removed = np.zeros(len(edges), dtype=bool)
    if solver == "dense":
        value, vector = _dense(edges, removed)
        return Eigenpair(vector=canonical(vector), value=value, solver="dense")
    try:
        value, vector = _lanczos(np.asarray(edges, dtype=np.float64), (~removed).astype(np.float64))
    except ArpackError:
        value, vector = _dense(edges, removed)
        return Eigenpair(vector=canonical(vector), value=value, solver="dense", fell_back=True)
    return Eigenpair(vector=canonical(vector), value=value, solver="lanczos")


def argmax_first(values: NDArray[np.floating], candidates: NDArray[np.bool_] | None = None) -> int:
    """Return the index of the largest value; of those equal within `TIE_TOLERANCE`, the first.

    Args:
        values: (K,) floats on the scale of 1.
        candidates: (K,) bool, the nodes to choose from; all by default.

    Returns:
        The index.

    Raises:
        ValueError: there is no candidate.
    """
    allowed = np.ones(len(values), dtype=bool) if candidates is None else candidates
    if not allowed.any():
        raise ValueError("no node to choose from")
    best = values[allowed].max()
    return int(np.flatnonzero(allowed & (values >= best - TIE_TOLERANCE))[0])


def start_vector(count: int) -> NDArray[np.float64]:
    """Return the vector that Lanczos starts from, (K,) float64, always the same.

    A constant can be orthogonal to the wanted vector on symmetric input; a fixed random vector is not.
    """
    return np.random.default_rng(0).standard_normal(count)


def _lanczos(weights: NDArray[np.float64], kept: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Compute the largest eigenpair of D^-1/2 W D^-1/2 but for the trivial one, D^1/2 1; mapped back by D^-1/2."""
    count = len(weights)

    def affinity_times(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        # The matrix is symmetric: reading one half of it is faster. Its transpose has the order that BLAS wants.
        near = kept * blas.dsymv(1.0, weights.T, kept * vector)
        return EPSILON * vector.sum() + (1.0 - EPSILON) * near

    degrees = affinity_times(np.ones(count))
    scale = 1.0 / np.sqrt(degrees)
    trivial = np.sqrt(degrees)
    trivial /= np.linalg.norm(trivial)

    def multiply(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        vector = vector.reshape(-1)
        product = scale * affinity_times(scale * vector)
        # Moves the trivial eigenvalue from 1 to -1: out of the way, also where the wanted one is not positive.
        return product - 2.0 * trivial * (trivial @ vector)

    start = start_vector(count)
    operator = LinearOperator((count, count), matvec=multiply, dtype=np.float64)
    options: dict[str, Any] = {}
    if "rng" in inspect.signature(eigsh).parameters:  # where SciPy draws restart vectors itself, from here
        options["rng"] = np.random.default_rng(0)
    # On binarised cosine graphs one small Krylov space is mostly enough, and every product reads the whole matrix.
    krylov = min(count - 1, 12)
    values, vectors = eigsh(
        operator, k=1, which="LA", v0=start, ncv=krylov, tol=LANCZOS_TOLERANCE, maxiter=1000, **options
    )
    return 1.0 - float(values[0]), scale * vectors[:, 0]


def _dense(
    edges: NDArray[np.bool_] | NDArray[np.float64], removed: NDArray[np.bool_]
) -> tuple[float, NDArray[np.float64]]:
    affinity = np.where(without_nodes(np.asarray(edges, dtype=bool), removed), 1.0, EPSILON)
    degrees = np.diag(affinity.sum(axis=1))
    values, vectors = linalg.eigh(degrees - affinity, degrees, subset_by_index=[1, 2])
    return float(values[0]), vectors[:, 0]


def canonical(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an eigenvector with its sign and its scale fixed: its largest absolute entry is +1.

    Args:
        vector: (K,) float64, not all zero.

    Returns:
        (K,) float64.
    """
    magnitude = np.abs(vector)
    vector = vector / magnitude.max()
    return vector if vector[argmax_first(np.abs(vector))] > 0 else -vector
