"""Normalized Cuts of many images at once, with torch, on any device: what `solve_ncut` does singly.

The operator, the start vector and the tolerance are those of `solve_ncut`, vectors are float64, and the result is made
canonical by the same code, so that bipartitions are the same.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from cuts3d_cli.config.cutting import Eigensolver
from cuts3d_cli.cut.affinity import EPSILON
from cuts3d_cli.cut.ncut import LANCZOS_TOLERANCE, Eigenpair, canonical, start_vector

MAX_STEPS = 400
"""Lanczos steps after which a graph is handed to the dense solver. Photos take some tens."""
_CHECK_EVERY = 6
"""Steps between two looks at the residuals: each look waits for the device."""
_BREAKDOWN = 1e-13
"""A next basis vector this short, before it is normalised, is rounding: the Krylov space is exhausted. The operator's
norm is 1."""


def second_eigenvectors(
    edges: Tensor, removed: Tensor, *, solver: Eigensolver = "lanczos", max_steps: int = MAX_STEPS
) -> list[Eigenpair]:
    """Compute the second smallest generalised eigenpair of each of some binarised graphs.

    Deflated Lanczos with full reorthogonalisation and without restarts: all graphs take a step together, each until its
    residual is small enough. Nothing that an image gets depends on the others, but for the order of sums.

    Args:
        edges: (B, K, K) bool, symmetric: True is a weight of 1, False one of `EPSILON`.
        removed: (B, K) bool, nodes that are taken out, see `cuts3d_cli.cut.affinity.without_nodes`.
        solver: "lanczos", or "dense": one graph after the other.
        max_steps: of Lanczos; graphs that need more are solved densely.

    Returns:
        An eigenpair for each graph, as `cuts3d_cli.cut.ncut.solve_ncut` gives it.

    Raises:
        ValueError: fewer than three nodes.
    """
    if edges.shape[-1] < 3:
        raise ValueError(f"a graph of {edges.shape[-1]} nodes cannot be cut")
    operator = _Operator(edges, removed)
    if solver == "dense":
        return [operator.solve_densely(place, fell_back=False) for place in range(len(edges))]
    found = _lanczos(operator, max_steps=min(max_steps, edges.shape[-1] - 1))
    return [operator.solve_densely(place, fell_back=True) if pair is None else pair for place, pair in enumerate(found)]


class _Operator:
    """D^-1/2 W D^-1/2 of each graph, with its trivial eigenvector D^1/2 1 moved away.

    W is all ones and zeros but for `EPSILON`, which is taken out of the product. The ones are held in float64: a
    product reads them once, which takes longer than the arithmetic, so single precision would be no more than twice as
    fast, and too coarse for `TIE_TOLERANCE`.
    """

    def __init__(self, edges: Tensor, removed: Tensor) -> None:
        self.graphs, self.nodes = removed.shape
        self.device = edges.device
        self._ones = edges.to(torch.float64)
        self._kept = (~removed).to(torch.float64)
        degrees = self._affinity_times(torch.ones_like(self._kept))
        self._scale = degrees.rsqrt()
        self._trivial = degrees.sqrt()
        self._trivial /= self._trivial.norm(dim=1, keepdim=True)

    def __call__(self, vectors: Tensor) -> Tensor:
        """Apply the operators to a vector each: (B, K) to (B, K), float64."""
        product = self._scale * self._affinity_times(self._scale * vectors)
        # Moves the trivial eigenvalue from 1 to -1: out of the way, also where the wanted one is not positive.
        return product - 2.0 * self._trivial * (self._trivial * vectors).sum(dim=1, keepdim=True)

    def pair(self, place: int, *, value: float, vector: Tensor, fell_back: bool | None = None) -> Eigenpair:
        """Return the eigenpair of a graph from an eigenvalue and an eigenvector, (K,), of the operator.

        Args:
            place: of the graph.
            value: the eigenvalue.
            vector: the eigenvector.
            fell_back: None if Lanczos found it; else the dense solver did, instead of Lanczos or as was asked.
        """
        mapped: NDArray[np.float64] = (self._scale[place] * vector).cpu().numpy()
        return Eigenpair(
            vector=canonical(mapped),
            value=1.0 - value,
            solver="lanczos" if fell_back is None else "dense",
            fell_back=bool(fell_back),
        )

    def solve_densely(self, place: int, *, fell_back: bool) -> Eigenpair:
        """Compute the eigenpair of one graph by a full decomposition."""
        scale = self._scale[place] * self._kept[place]
        matrix = (1.0 - EPSILON) * scale[:, None] * self._ones[place] * scale[None, :]
        matrix += EPSILON * self._scale[place][:, None] * self._scale[place][None, :]
        matrix -= 2.0 * self._trivial[place][:, None] * self._trivial[place][None, :]
        values, vectors = torch.linalg.eigh(matrix)
        return self.pair(place, value=float(values[-1]), vector=vectors[:, -1], fell_back=fell_back)

    def _affinity_times(self, vectors: Tensor) -> Tensor:
        near = self._kept * torch.bmm(self._ones, (self._kept * vectors)[:, :, None])[:, :, 0]
        return EPSILON * vectors.sum(dim=1, keepdim=True) + (1.0 - EPSILON) * near


def _lanczos(operator: _Operator, *, max_steps: int) -> list[Eigenpair | None]:
    """Compute the largest eigenpair of each graph; None where `max_steps` are too few."""
    graphs, nodes = operator.graphs, operator.nodes
    basis = torch.zeros((graphs, max_steps + 1, nodes), dtype=torch.float64, device=operator.device)
    diagonal, next_to = torch.zeros((2, graphs, max_steps), dtype=torch.float64, device=operator.device)
    first = torch.from_numpy(start_vector(nodes)).to(operator.device)
    basis[:, 0] = first / first.norm()
    found: list[Eigenpair | None] = [None] * graphs
    for step in range(max_steps):
        current = basis[:, step]
        following = operator(current)
        diagonal[:, step] = (current * following).sum(dim=1)
        known = basis[:, : step + 1]
        for _ in range(2):  # once leaves what rounding leaves; twice is enough
            overlap = torch.bmm(known, following[:, :, None])
            following = following - torch.bmm(known.transpose(1, 2), overlap)[:, :, 0]
        length = following.norm(dim=1)
        alive = length > _BREAKDOWN
        next_to[:, step] = torch.where(alive, length, 0.0)
        basis[:, step + 1] = torch.where(alive, 1.0 / length, 0.0)[:, None] * following
        if (step + 1) % _CHECK_EVERY and step + 1 < max_steps:
            continue
        tridiagonal = torch.stack([diagonal[:, : step + 1], next_to[:, : step + 1]]).cpu().numpy()
        for place in range(graphs):
            if found[place] is None and (ritz := _converged(*tridiagonal[:, place])) is not None:
                value, weights = ritz
                vector = torch.from_numpy(weights).to(operator.device) @ basis[place, : len(weights)]
                found[place] = operator.pair(place, value=value, vector=vector)
        if all(pair is not None for pair in found):
            break
    return found


def _converged(diagonal: NDArray[np.float64], next_to: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]] | None:
    """Return the largest Ritz pair in the basis, if its residual is small enough by ARPACK's rule.

    Args:
        diagonal, next_to: (m,) of the tridiagonal matrix; the last of `next_to` is the length of the residual vector. A
            zero in `next_to` says that the Krylov space ends there.
    """
    ends = np.flatnonzero(next_to == 0.0)
    size = int(ends[0]) + 1 if ends.size else len(diagonal)
    values, vectors = eigh_tridiagonal(
        diagonal[:size], next_to[: size - 1], select="i", select_range=(size - 1, size - 1)
    )
    residual = next_to[size - 1] * abs(vectors[-1, 0])
    if residual > LANCZOS_TOLERANCE * max(np.finfo(np.float64).eps ** (2 / 3), abs(values[0])):
        return None
    return float(values[0]), np.ascontiguousarray(vectors[:, 0])
