"""W2^2 by the Kantorovich dual, and where it is taken for that of the map."""
from __future__ import annotations

import numpy as np

from .grid import Grid
from .legendre import legendre_conjugate
from .transfer import average, interpolate_cubic

FINE, MOST_PARTS = 2**18, 16
"""Cells on which the dual cost is taken, about, and parts of a cell at most."""
MISPLACED = 1e-3
"""Mass out of its place that is worth the dual: an error of first order in the map's cost, which the dual does not
have."""
LEAST = 0.7
"""Of the map's cost: a dual below is that of a potential worse than the map, as between nearly equal densities."""


def kantorovich_dual(problem, phi):
    """``int (|x|^2 - 2 u**) dmu + int (|y|^2 - 2 u*) dnu`` with ``u = q + phi``, :attr:`pmapde.Solution.dual_cost`.

    On cells cut into parts, with the origin in the middle of the source's box: terms as large as its squared distance
    would cancel.
    """
    size = max(problem.grid.size, problem.target_grid.size)
    parts = min(max(int((FINE / size) ** (1 / problem.ndim)), 1), MOST_PARTS)
    middle = problem.grid.lower + problem.grid.lengths / 2
    source, target = (Grid(tuple(parts * n for n in grid.shape),
                           [(low - m, high - m) for (low, high), m in zip(grid.box, middle)])
                      for grid in (problem.grid, problem.target_grid))
    x, column = source.cell_centres(), (-1,) + (1,) * problem.ndim
    slopes, first, lower = (v.reshape(column) for v in (problem.slopes, target.lower, source.lower))
    u = (slopes * (x - lower)**2 / 2 + first * x).sum(axis=0)
    u += interpolate_cubic(phi, source.shape, problem.grid.periodic)
    conjugate = legendre_conjugate(u, source, target, between=True)
    total = 0.0
    for grid, coarse, values, potential in (
            (source, problem.grid, problem.source_values, legendre_conjugate(conjugate, target, source, between=True)),
            (target, problem.target_grid, problem.target_values, conjugate)):
        gains = (grid.cell_centres()**2).sum(axis=0) - 2 * potential
        total += float((average(gains, coarse.shape) * values).sum()) * coarse.cell_volume
    return total


def settled(problem, phi, cost, error, misplaced):
    """``(cost, error, how)``: W2^2 and the estimate of its error, from the cost of the map of ``phi``, an estimate of
    its error (NaN: none) and the mass it misplaces; ``how``: "map" or "dual".

    The dual is taken where data are rough; on smooth ones, which a coarse grid may make misplace as much, the cost
    stays that of the map, whose order is known.
    """
    if any(problem.grid.periodic) or not misplaced > MISPLACED:
        return cost, error, "map"
    dual = kantorovich_dual(problem, phi)
    error = float(np.fmax(error, abs(dual - cost)))
    return (dual, error, "dual") if problem.is_rough and dual > LEAST * cost else (cost, error, "map")
