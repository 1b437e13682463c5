"""The permutohedral lattice compiled by Numba, for one core. Imported only where Numba is installed.

The arithmetic is that of `batched_crf`, operation by operation in the same order, so that both give the same digits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

LANES = 4
"""Columns that are filtered together: they fill a vector of four floats."""

_HALF = np.float32(0.5)


_NONE = np.uint32(0xFFFFFFFF)
"""In a table of vertices: a place that is free."""


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called; what was compiled is kept on the disk, if there is a place for it."""
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written to
        return numba.njit(function)


@_compiled
def _place_of(key: int, keys: NDArray[np.int64], vertices: NDArray[np.uint32]) -> Any:
    """Return where a key is in a hash table, or the free place where it belongs."""
    mask = np.uint64(len(keys) - 1)
    place = ((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(24)) & mask
    while vertices[place] != _NONE and keys[place] != key:
        place = (place + np.uint64(1)) & mask
    return place


@_compiled
def simplexes(
    features: NDArray[np.float64], scale: NDArray[np.float64], steps: NDArray[np.int64], bits: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the simplex of each point; see `batched_crf.simplexes`.

    Args:
        features: (d, N).
        scale: (d,), of the coordinates.
        steps: (d + 1,), from a key to that of the neighbour in each direction.
        bits: of a coordinate in a key.

    Returns:
        (N, d + 1) keys of the vertices, and (N, d + 1) barycentric weights.
    """
    d, points = features.shape
    keys = np.empty((points, d + 1), np.int64)
    weights = np.empty((points, d + 1), np.float32)
    elevated = np.empty(d + 1, np.float64)
    rounded = np.empty(d + 1, np.int64)
    difference = np.empty(d + 1, np.float64)
    rank = np.empty(d + 1, np.int64)
    at_rank = np.empty(d + 1, np.int64)
    shares = np.empty(d + 2, np.float64)
    half = np.int64(1) << (bits - 1)
    for point in range(points):
        # Onto the plane of d + 1 coordinates that sum to zero.
        total = 0.0
        for j in range(d, 0, -1):
            value = features[j - 1, point] * scale[j - 1]
            elevated[j] = total - j * value
            total = total + value
        elevated[0] = total
        # The nearest point whose coordinates are multiples of d + 1, and the order of the differences from it.
        surplus = np.int64(0)
        for i in range(d + 1):
            nearest = np.rint(elevated[i] / (d + 1))
            surplus += np.int64(nearest)
            rounded[i] = np.int64(nearest) * (d + 1)
            difference[i] = elevated[i] - rounded[i]
            rank[i] = 0
        for i in range(d + 1):
            for j in range(i + 1, d + 1):
                is_less = np.int64(difference[i] < difference[j])
                rank[i] += is_less
                rank[j] += 1 - is_less
        # Ranks and barycentric coordinates, after the coordinates' sum is brought back to zero.
        shares[:] = 0.0
        key = np.int64(0)
        for i in range(d + 1):
            rank[i] += surplus
            if rank[i] < 0:
                rank[i] += d + 1
                rounded[i] += d + 1
            elif rank[i] > d:
                rank[i] -= d + 1
                rounded[i] -= d + 1
            value = (elevated[i] - rounded[i]) / (d + 1)
            shares[d - rank[i]] += value
            shares[d + 1 - rank[i]] -= value
            if i < d:
                key += (rounded[i] + half) << (bits * i)
            at_rank[rank[i]] = i
        shares[0] += 1.0 + shares[d + 1]
        # From a vertex to the next, all coordinates grow by one, and one of them falls by d + 1: against a direction.
        keys[point, 0] = key
        weights[point, 0] = np.float32(shares[0])
        for vertex in range(1, d + 1):
            key -= steps[at_rank[d + 1 - vertex]]
            keys[point, vertex] = key
            weights[point, vertex] = np.float32(shares[vertex])
    return keys, weights


@_compiled
def number_vertices(
    keys: NDArray[np.int64], steps: NDArray[np.int64]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]:
    """Number the vertices by their first use, and find the neighbours of each.

    Args:
        keys: (N, d + 1), of the vertices of each point.
        steps: (d + 1,), from a key to that of the neighbour in each direction.

    Returns:
        (N, d + 1) vertices of each point; and two times (d + 1, M), the neighbours against and along each direction,
        M where there is none.
    """
    points, corners = keys.shape
    table_keys = np.empty(1 << 18, np.int64)
    table = np.full(1 << 18, _NONE, np.uint32)
    count = np.uint32(0)
    vertices = np.empty((points, corners), np.uint32)
    for point in range(points):
        for corner in range(corners):
            key = keys[point, corner]
            if point > 0 and keys[point - 1, corner] == key:
                vertices[point, corner] = vertices[point - 1, corner]
                continue
            place = _place_of(key, table_keys, table)
            if table[place] == _NONE:
                # A table that is half full is replaced by one of twice its size.
                if 2 * count >= len(table):
                    larger_keys = np.empty(2 * len(table), np.int64)
                    larger = np.full(2 * len(table), _NONE, np.uint32)
                    for old in range(len(table)):
                        if table[old] != _NONE:
                            place = _place_of(table_keys[old], larger_keys, larger)
                            larger_keys[place], larger[place] = table_keys[old], table[old]
                    table_keys, table = larger_keys, larger
                    place = _place_of(key, table_keys, table)
                table_keys[place], table[place] = key, count
                count += np.uint32(1)
            vertices[point, corner] = table[place]
    # Who is my neighbour in a direction has me as its neighbour against it.
    against = np.full((corners, count), count, np.uint32)
    along = np.full((corners, count), count, np.uint32)
    known = np.empty(count, np.int64)
    for place in range(len(table)):
        if table[place] != _NONE:
            known[table[place]] = table_keys[place]
    for direction in range(corners):
        for vertex in range(count):
            place = _place_of(known[vertex] + steps[direction], table_keys, table)
            if table[place] != _NONE:
                along[direction, vertex] = table[place]
                against[direction, table[place]] = vertex
    return vertices, against, along


@_compiled
def add_filtered(
    target: NDArray[np.float32],
    values: NDArray[np.float32],
    vertices: NDArray[np.uint32],
    weights: NDArray[np.float32],
    against: NDArray[np.uint32],
    along: NDArray[np.uint32],
    factor: Any,
) -> None:
    """Add a factor times filtered values: splat, blur, slice.

    Args:
        target: (N, LANES), added to.
        values: (N, LANES).
        vertices, weights: (N, d + 1), of each point.
        against, along: (d + 1, M), of each vertex.
        factor: float32.
    """
    points, corners = vertices.shape
    count = against.shape[1]
    grid = np.zeros((count + 1, LANES), np.float32)
    blurred = np.zeros((count + 1, LANES), np.float32)
    for point in range(points):
        for corner in range(corners):
            vertex, weight = vertices[point, corner], weights[point, corner]
            for lane in range(LANES):
                grid[vertex, lane] += weight * values[point, lane]
    for direction in range(corners):
        for vertex in range(count):
            low, high = against[direction, vertex], along[direction, vertex]
            for lane in range(LANES):
                blurred[vertex, lane] = grid[vertex, lane] + _HALF * (grid[low, lane] + grid[high, lane])
        grid, blurred = blurred, grid
    sums = np.zeros(LANES, np.float32)
    for point in range(points):
        sums[:] = 0
        for corner in range(corners):
            vertex, weight = vertices[point, corner], weights[point, corner]
            for lane in range(LANES):
                sums[lane] += weight * grid[vertex, lane]
        for lane in range(LANES):
            target[point, lane] += factor * sums[lane]
