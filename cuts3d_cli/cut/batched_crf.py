"""The dense CRF of several images at once, in torch, on any device: `lattice` with sparse sums in place of loops.

Sums run in the order of the points, also on a GPU, so that the same images give the same digits every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cuts3d_cli.cut.lattice_points import (
    BILATERAL_COMPAT,
    GAUSSIAN_COMPAT,
    TINY,
    Packing,
    bilateral_features,
    blur_gain,
    position_features,
    prior_logits,
)

COLUMNS = 4
"""Masks of an image that are filtered together; with more, memory would grow with their number."""


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """The permutohedral lattice of one image's points, or of those of several images, one after the other.

    Attributes:
        vertices: (N, d + 1) int64, the vertices of the simplex that each point lies in.
        weights: (N, d + 1) float32, its barycentric coordinates in it.
        neighbours: (2, d + 1, M) int64, of each vertex against and along each direction; M where there is none.
        order: (N * (d + 1),) int64, the entries of `vertices` sorted by vertex, those of a vertex by point.
        offsets: (M + 1,) int64, where the entries of each vertex begin in that order.
    """

    vertices: Tensor
    weights: Tensor
    neighbours: Tensor
    order: Tensor
    offsets: Tensor

    @property
    def dimensions(self) -> int:
        """The number d of dimensions of the points."""
        return self.vertices.shape[1] - 1

    def filtered(self, values: Tensor) -> Tensor:
        """Splat, blur and slice values.

        Args:
            values: (N, C) float32.

        Returns:
            (N, C) float32, without the factor `blur_gain`.
        """
        corners = self.vertices.shape[1]
        entries = (self.weights.unsqueeze(2) * values.unsqueeze(1)).flatten(0, 1)[self.order]
        grid = torch.segment_reduce(entries, "sum", offsets=self.offsets, axis=0, unsafe=True, initial=0.0)
        for direction in range(corners):
            padded = torch.cat([grid, grid.new_zeros(1, grid.shape[1])])
            against, along = self.neighbours[0, direction], self.neighbours[1, direction]
            grid = grid + 0.5 * (padded[against] + padded[along])
        sums = self.weights[:, :1] * grid[self.vertices[:, 0]]
        for corner in range(1, corners):
            sums = sums + self.weights[:, corner : corner + 1] * grid[self.vertices[:, corner]]
        return sums


def simplexes(features: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """Find the simplex of the lattice that each point lies in.

    Args:
        features: (d, N) float64.
        packing: of d dimensions.

    Returns:
        (N, d + 1) int64, a key of each of its vertices, and (N, d + 1) float32, the barycentric coordinates.
    """
    d, points = features.shape
    # Onto the plane of d + 1 coordinates that sum to zero.
    elevated: list[Tensor] = []
    total = torch.zeros_like(features[0])
    for j in range(d, 0, -1):
        value = features[j - 1] * float(packing.scale[j - 1])
        elevated.insert(0, total - j * value)
        total = total + value
    position = torch.stack([total, *elevated])
    # The nearest point whose coordinates are multiples of d + 1, and the order of the differences from it.
    nearest = torch.round(position / (d + 1)).to(torch.int64)
    rounded, surplus = nearest * (d + 1), nearest.sum(dim=0)
    difference = position - rounded
    rank = surplus.repeat(d + 1, 1)
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            is_less = difference[i] < difference[j]
            rank[i] += is_less
            rank[j] += ~is_less
    wrap = (d + 1) * ((rank < 0).to(torch.int64) - (rank > d).to(torch.int64))
    rank, rounded = rank + wrap, rounded + wrap
    # Barycentric coordinates, and the keys of the vertices.
    shares = torch.zeros(d + 2, points, dtype=torch.float64, device=features.device)
    keys = torch.zeros(d + 1, points, dtype=torch.int64, device=features.device)
    for i in range(d + 1):
        value = ((position[i] - rounded[i]) / (d + 1)).unsqueeze(0)
        shares.scatter_add_(0, (d - rank[i]).unsqueeze(0), value)
        shares.scatter_add_(0, (d + 1 - rank[i]).unsqueeze(0), -value)
    shares[0] += 1.0 + shares[d + 1]
    half = 1 << (packing.bits - 1)
    for vertex in range(d + 1):
        for i in range(d):
            coordinate = rounded[i] + vertex - (d + 1) * (rank[i] > d - vertex).to(torch.int64)
            keys[vertex] += (coordinate + half) << (packing.bits * i)
    return keys.T.contiguous(), shares[: d + 1].T.to(torch.float32).contiguous()


def build(features: Tensor) -> Lattice:
    """Build the lattice of points, (d, N) float64, on their device."""
    packing = Packing.of(len(features))
    keys, weights = simplexes(features, packing)
    known, vertices = torch.unique(keys.flatten(), return_inverse=True)
    order = torch.argsort(vertices, stable=True)
    uses = torch.bincount(vertices, minlength=len(known))
    # Each vertex looks for its neighbours among the sorted keys.
    steps = torch.from_numpy(packing.steps).to(known.device)
    wanted = torch.stack([known - steps.unsqueeze(1), known + steps.unsqueeze(1)])
    places = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
    return Lattice(
        vertices=vertices.view(keys.shape),
        weights=weights,
        neighbours=torch.where(known[places] == wanted, places, len(known)),
        order=order,
        offsets=torch.cat([uses.new_zeros(1), torch.cumsum(uses, 0)]),
    )


def join(lattices: Sequence[Lattice]) -> Lattice:
    """Lay the lattices of several images side by side: one lattice of all their points, which shares no vertex."""
    if len(lattices) == 1:
        return lattices[0]
    counts = [len(item.offsets) - 1 for item in lattices]
    entries = [item.order.numel() for item in lattices]
    before = [sum(counts[:i]) for i in range(len(lattices))]
    entries_before = [sum(entries[:i]) for i in range(len(lattices))]
    whole = sum(counts)
    return Lattice(
        vertices=torch.cat([item.vertices + n for item, n in zip(lattices, before, strict=True)]),
        weights=torch.cat([item.weights for item in lattices]),
        neighbours=torch.cat(
            [
                torch.where(item.neighbours == own, whole, item.neighbours + n)
                for item, n, own in zip(lattices, before, counts, strict=True)
            ],
            dim=2,
        ),
        order=torch.cat([item.order + n for item, n in zip(lattices, entries_before, strict=True)]),
        offsets=torch.cat(
            [
                lattices[0].offsets[:1],
                *(item.offsets[1:] + n for item, n in zip(lattices, entries_before, strict=True)),
            ]
        ),
    )


def normalised(lattice: Lattice) -> Lattice:
    """Return a lattice whose filter is the kernel normalised symmetrically: its weights carry the factor of a point."""
    gain = float(np.float32(blur_gain(lattice.dimensions)))
    spread = gain * lattice.filtered(torch.ones_like(lattice.weights[:, :1]))
    factors = 1.0 / _root(spread + float(TINY))
    return Lattice(
        vertices=lattice.vertices,
        weights=lattice.weights * factors,
        neighbours=lattice.neighbours,
        order=lattice.order,
        offsets=lattice.offsets,
    )


class PositionLattices:
    """The lattice of the positions alone, which is the same for all images of a size, made once a size."""

    def __init__(self) -> None:
        """Hold none yet."""
        self._known: dict[tuple[int, int, str], Lattice] = {}

    def of(self, size: tuple[int, int], *, device: str) -> Lattice:
        """Return the normalised lattice of the pixels of an image, (height, width)."""
        key = (*size, device)
        if key not in self._known:
            self._known = {key: normalised(build(torch.from_numpy(position_features(*size)).to(device)))}
        return self._known[key]


def foreground(
    images: Sequence[NDArray[np.uint8]],
    masks: Sequence[Sequence[NDArray[np.bool_]]],
    *,
    iterations: int,
    device: str,
    positions: PositionLattices | None = None,
) -> list[list[NDArray[np.float32]]]:
    """Infer the foreground probability of the masks of several images: all of them in one product.

    Args:
        images: (h, w, 3) uint8, RGB, all of one size.
        masks: those of each image, (h, w) bool.
        iterations: of mean-field inference.
        device: of torch.
        positions: lattices that earlier calls made.

    Returns:
        (h, w) float32 for each mask of each image.
    """
    found: list[list[NDArray[np.float32]]] = [[] for _ in images]
    used = [index for index, some in enumerate(masks) if some]
    if not used:
        return found
    size = (images[0].shape[0], images[0].shape[1])
    alone = (positions or PositionLattices()).of(size, device=device)
    colours = [normalised(build(torch.from_numpy(bilateral_features(images[index])).to(device))) for index in used]
    kernels = [(join([alone] * len(used)), GAUSSIAN_COMPAT), (join(colours), BILATERAL_COMPAT)]
    constant = _messages(kernels, torch.ones(len(used) * size[0] * size[1], 1, device=device), factor=1.0)
    # The columns of an image with fewer masks than others are left over.
    for start in range(0, max(len(masks[index]) for index in used), COLUMNS):
        groups = [masks[index][start : start + COLUMNS] for index in used]
        prior = np.zeros((len(used), size[0] * size[1], max(map(len, groups))), dtype=np.float32)
        for values, group in zip(prior, groups, strict=True):
            if group:
                values[:, : len(group)] = prior_logits(group)
        logits = torch.from_numpy(prior).to(device).flatten(0, 1)
        bias, probability = constant - logits, _logistic(-logits)
        for _ in range(iterations):
            probability = _logistic(_messages(kernels, probability, factor=-2.0, start=bias))
        columns = probability.view(len(used), *size, -1).cpu().numpy()
        for index, values, group in zip(used, columns, groups, strict=True):
            found[index] += [np.ascontiguousarray(values[..., column]) for column in range(len(group))]
    return found


def _messages(
    kernels: Sequence[tuple[Lattice, float]], values: Tensor, *, factor: float, start: Tensor | None = None
) -> Tensor:
    """Return the start, or zeros, plus a factor times the messages of values, (N, C)."""
    total = torch.zeros_like(values) if start is None else start
    for lattice, compat in kernels:
        whole = float(np.float32(factor * (compat * blur_gain(lattice.dimensions))))
        total = total + whole * lattice.filtered(values)
    return total


def _logistic(negative: Tensor) -> Tensor:
    """Return 1 / (1 + exp(x))."""
    if negative.device.type != "cpu":
        return 1.0 / (1.0 + torch.exp(negative))
    with np.errstate(over="ignore"):  # to infinity, whose inverse is 0
        return 1.0 / (1.0 + torch.from_numpy(np.exp(negative.numpy())))


def _root(values: Tensor) -> Tensor:
    """Return the square root. On a CPU roots and exponentials are NumPy's: the compiled lattice has those, too."""
    return torch.sqrt(values) if values.device.type != "cpu" else torch.from_numpy(np.sqrt(values.numpy()))
