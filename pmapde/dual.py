"""W2^2 by the Kantorovich dual, and where it is taken for that of the map."""
from __future__ import annotations

import math

from .legendre import legendre_conjugate
from .transfer import average, interpolate_cubic

FINE, MOST_PARTS = 2**18, 16
"""Cells on which the dual cost is taken, about, and parts of a cell at most."""
ERROR = 5e-3
"""Of the cost, estimated, that is worth the dual."""


def kantorovich_dual(problem, phi):
    """``int (|x|^2 - 2 u**) dmu + int (|y|^2 - 2 u*) dnu`` with ``u = q + phi``, :attr:`pmapde.Solution.dual_cost`."""
    parts = int((FINE / problem.grid.size) ** (1 / problem.ndim))
    parts = min(max(parts, 1 if problem.grid.size > FINE * MOST_PARTS else 2), MOST_PARTS)
    source, target = (grid.with_shape(tuple(parts * n for n in grid.shape))
                      for grid in (problem.grid, problem.target_grid))
    u = problem.quadratic(source.cell_centres()) + interpolate_cubic(phi, source.shape, problem.grid.periodic)
    conjugate = legendre_conjugate(u, source, target, between=True)
    total = 0.0
    for grid, coarse, values, potential in (
            (source, problem.grid, problem.source_values, legendre_conjugate(conjugate, target, source, between=True)),
            (target, problem.target_grid, problem.target_values, conjugate)):
        total += float((average((grid.cell_centres()**2).sum(axis=0) - 2 * potential, coarse.shape)
                        * values).sum()) * coarse.cell_volume
    return total


def settled(problem, phi, cost, error):
    """``(cost, error, how)``: W2^2 and the estimate of its error, from the cost of the map of ``phi`` and an estimate
    of its error (NaN: none); ``how``: "map" or "dual".

    Where data are rough the map misplaces mass, an error of first order in its cost that the dual does not have.
    """
    if any(problem.grid.periodic) or not problem.is_rough or error <= ERROR * cost:
        return cost, error, "map"
    dual = kantorovich_dual(problem, phi)
    if not dual > 0:  # all but equal densities
        return cost, error, "map"
    return dual, error if math.isnan(error) else max(error, abs(dual - cost)), "dual"
