"""The barycentric projection of an entropic plan whose blur is about a cell or less: the map where the equation's own
misplaces mass.

Sinkhorn's iteration is the parabolic Monge-Ampère flow in explicit steps of length epsilon (Berman, Numer. Math. 145,
2020). Between the point masses of cells it is a discretisation that keeps the masses of all cells, however they jump,
at an error of the map of O(epsilon) on smooth data, and of a cell at a jump of the map: it is left out where the
equation's second order is to be had.
"""
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .conservation import repeated
from .density import GridDensity
from .dual import settled
from .entropic import sinkhorn
from .problem import TransportProblem
from .solution import at_centres, checked
from .status import Status
from .transfer import average
from .transport import PiecewiseAffineMap

BLUR = {2: 0.7, 3: 1.0}
"""``sqrt(epsilon)`` in cells: below a half the plan is that of point masses, whose map is noisy and folds; above one
the blur is what misplaces mass (measured: ``docs/hard_data.md``)."""
MARGINALS, LATE = 2e-3, 1e-2
"""L1 distance of the plan's source marginal from the source: asked for, and good enough when time is up."""
CONVEXITY = 1e-3
"""Share of the affine map of box onto box in it: where the source is thin the projection is constant on patches of
cells, to many digits, and could not be inverted."""
UNEQUAL = 2
"""Ratio of the squares of the cells' widths, of source and target together, up to which they are nearly cubic."""
LARGEST = {2: 2**20, 3: 2**21}
"""Cells beyond which none are cut."""


def cells_of(problem, parts):
    """``problem`` between the masses of its cells, cut into ``parts`` per axis: constant on the whole ones."""
    def cut(masses, grid):
        return GridDensity(repeated(masses, parts), grid.with_shape(tuple(parts * n for n in grid.shape)), points=True)
    return TransportProblem(cut(problem.source_masses, problem.grid), cut(problem.target_masses, problem.target_grid),
                            floor=0.0)


def is_for(problem):
    """Whether cells are nearly cubic, so that the blur of one temperature is about a cell on every axis, and not too
    many."""
    areas = problem.grid.spacing * problem.target_grid.spacing
    return areas.max() <= UNEQUAL * areas.min() and cells_on_either_side(problem) <= LARGEST[problem.ndim]


def cells_on_either_side(problem):
    """The larger number."""
    return max(problem.grid.size, problem.target_grid.size)


def barycentric(problem, failed, parts, max_seconds=math.inf, threads=None):
    """The solution of ``problem`` by the entropic plan between cells cut into ``parts`` per axis.

    ``failed``: that of the equation, whose history and counters are kept. ``MARGINALS_MET`` on success; what a map must
    do is checked as for the equation's. Where the marginals are too far off it has no map but that of ``failed``.
    """
    cells = cells_of(problem, parts)
    epsilon = BLUR[problem.ndim]**2 * float((cells.grid.spacing * cells.target_grid.spacing).max())
    plan = sinkhorn(cells, epsilon, tolerance=MARGINALS, max_seconds=max_seconds, threads=threads)
    blur = math.sqrt(epsilon)
    if not plan.success and not plan.marginal_error[-1] <= LATE:  # not worth straightening, which knows no time
        return replace(failed, status=plan.status, push_forward_error=math.nan, blur=blur)
    centres, column = cells.grid.cell_centres(), (-1,) + (1,) * problem.ndim
    slopes, offsets, lower = (values.reshape(column) for values in (problem.slopes, problem.offsets, cells.grid.lower))
    affine = slopes * (centres - lower) + offsets
    displacement = (1 - CONVEXITY) * plan.displacement + CONVEXITY * (affine - centres)
    if not np.isfinite(displacement).all():
        return replace(failed, status=Status.NONFINITE, push_forward_error=math.nan, blur=blur)
    transport_map = PiecewiseAffineMap(cells.grid, problem.target_grid, displacement)
    source = repeated(problem.source_masses, parts)
    transport_map, status, checks = checked(transport_map, source, problem.target_masses, Status.CONVERGED, finely=True)
    displacement = transport_map.displacement
    cost = float(((displacement**2).sum(axis=0) * source).sum()) * cells.grid.cell_volume
    phi = average(plan.displacement_potential, problem.grid.shape)
    phi -= phi.mean()
    cost, error, how = settled(problem, phi, cost, math.nan, checks["push_forward_error"])
    stats = {**failed.stats, "cost": how, "sinkhorn": {
        "epsilon": epsilon, "sweeps": plan.stats["sweeps"], "marginal_error": float(plan.marginal_error[-1])}}
    return replace(failed, problem=problem, status=Status.MARGINALS_MET if status is Status.CONVERGED else status,
                   displacement_potential=phi, displacement=at_centres(transport_map, problem.grid),
                   cost=cost, cost_error=error, map_error=math.nan, algebraic_error=math.nan, extrapolation="none",
                   residual=math.nan, tolerance=0.0, drift=math.nan, margin=math.nan, narrow_mass=0.0,
                   subdivision=parts, swapped=False, blur=blur, stats=stats,
                   transport_map=transport_map, **checks)
