"""W2^2 by the Kantorovich dual, and where it is taken for that of the map."""
from __future__ import annotations

import math

import numpy as np

from .grid import Grid
from .legendre import legendre_conjugate
from .transfer import average, interpolate_cubic

FINE, EXTRAPOLATED = {2: 2**18, 3: 2**20}, {2: 2**16, 3: 2**20}
"""Cells on which the dual cost is taken, at most; and the finer of two grids from which it is extrapolated, where those
cut the cells of the problem: as good as four times as many in 2D (``tests/test_dual.py``), for a fraction of the time.
"""
MOST_PARTS = {2: 8, 3: 4}
"""Parts of a cell per axis, at most."""
MISPLACED, OF_SMOOTH = 1e-3, 5e-3
"""Mass out of its place that is worth the dual: an error of first order in the map's cost, which the dual does not
have; and on smooth data, where that is of second order and estimated from grid to grid."""
LEAST = 0.7
"""Of the map's cost: a dual below is that of a potential worse than the map, as between nearly equal densities."""


def _samples(grid, parts, origin):
    """The grid of cells cut into parts, or put together, with its origin elsewhere."""
    shape = tuple(max(math.floor(parts * n + 1e-9), 2) for n in grid.shape)
    return Grid(shape, [(low - x, high - x) for (low, high), x in zip(grid.box, origin)])


def _on(values, shape):
    """Values at the centres of cells on finer ones, or averaged over coarser ones."""
    if math.prod(shape) < values.size:
        return average(values, shape)
    return interpolate_cubic(values, shape, [False] * values.ndim)


def _axes(grid):
    """Cell centres along every axis, each of the shape in which it spreads over the grid."""
    return [grid.centres(axis).reshape([-1 if a == axis else 1 for a in range(grid.ndim)]) for axis in range(grid.ndim)]


def kantorovich_dual(problem, phi):
    """``int (|x|^2 - 2 u**) dmu + int (|y|^2 - 2 u*) dnu`` with ``u = q + phi``, :attr:`pmapde.Solution.dual_cost`.

    Of second order in the distance of the samples; extrapolated to none where grids are so small that cells are cut.
    """
    def parts(cells):
        return [min((cells[problem.ndim] / grid.size) ** (1 / problem.ndim), MOST_PARTS[problem.ndim])
                for grid in (problem.grid, problem.target_grid)]
    halves = [int(part / 2 + 1e-9) for part in parts(EXTRAPOLATED)]
    if min(halves) < 1:
        return _sampled(problem, phi, parts(FINE))
    coarse, fine = (_sampled(problem, phi, [times * half for half in halves]) for times in (1, 2))
    return fine + (fine - coarse) / 3


def _sampled(problem, phi, parts):
    """The dual with transforms between grids whose cells are cut into so many parts per axis, of source and target; or,
    for less than one, put together.

    The origin is the middle of the source's box: terms as large as its squared distance would cancel.
    """
    middle = problem.grid.lower + problem.grid.lengths / 2
    source, target = (_samples(*pair, middle) for pair in zip((problem.grid, problem.target_grid), parts))
    u = _on(phi, source.shape)
    for x, slope, first, low in zip(_axes(source), problem.slopes, target.lower, source.lower):
        u = u + (slope * (x - low)**2 / 2 + first * x)
    conjugate = legendre_conjugate(u, source, target, between=True)
    total = 0.0
    for grid, values, potential in (
            (source, problem.source_values, legendre_conjugate(conjugate, target, source, between=True)),
            (target, problem.target_values, conjugate)):
        gains = -2 * potential
        for x in _axes(grid):
            gains += x**2
        if grid.size < values.size:
            values = average(values, grid.shape)
        else:
            gains = average(gains, values.shape)
        total += float((gains * values).mean()) * grid.lengths.prod()
    return total


def settled(problem, phi, cost, error, misplaced):
    """``(cost, error, how)``: W2^2 and the estimate of its error, from the cost of the map of ``phi``, an estimate of
    its error (NaN: none) and the mass it misplaces; ``how``: "map" or "dual".

    The dual is taken where data are rough; on smooth ones, which a coarse grid may make misplace as much, the cost
    stays that of the map, whose order is known, and its error is no less than the difference to the dual where the map
    misplaces a lot.
    """
    known = not problem.is_rough and math.isfinite(error)
    if any(problem.grid.periodic) or not misplaced > (OF_SMOOTH if known else MISPLACED):
        return cost, error, "map"
    dual = kantorovich_dual(problem, phi)
    error = float(np.fmax(error, abs(dual - cost)))
    return (dual, error, "dual") if problem.is_rough and dual > LEAST * cost else (cost, error, "map")
