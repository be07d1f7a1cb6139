"""What solutions on successive grids tell: the start on the next grid, error estimates, Richardson extrapolation."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .reductions import advanced, combine, gradient_norm, rms
from .transfer import interpolate_cubic, interpolate_inside

SMOOTH_RATIOS = (3.0, 5.5)
"""Ratios of successive changes, 4 at second order,
at which data count as smooth and the next change is extrapolated."""

PROMISING = 0.4
"""Error of a start, as a share of the discretisation error: it may fall by 16 to the next grid, the latter by 4."""

EXTRAPOLATED_SHARE = 3e-5
"""Algebraic error left where results are extrapolated, as a share of the discretisation error: with ten times as much
an extrapolated cost is not of fourth order any more at 256^2, which ``tests/test_full_multigrid.py`` asserts."""

INCONSISTENT_SHARE = 1e-3
"""Of the discretisation error, the error of the map by a stencil too narrow, up to which results are extrapolated."""


@dataclass(frozen=True)
class Extrapolation:
    """Cost and displacement, extrapolated or not (``note`` says which, or why not), and estimates of their errors."""

    cost: float
    cost_error: float
    displacement: np.ndarray
    map_error: float
    note: str


def discretisation_error(before, change):
    """Error on a grid whose result differs by ``change`` from that on the next coarser one, which differed by
    ``before`` from its own (0: not known).

    Successive changes fall by 4 at second order, and the rest of the series is a third of the last; on rough data they
    fall by as little as 2, and the rest is as large as the last.
    """
    ratio = min(max(before / change, 2.0), 4.0) if before > 0 and change > 0 else 4.0
    return change / (ratio - 1)


class CoarserGrids:
    """The solutions on the grids done so far, coarse to fine;
    each grid has half the spacing of the one before (or nearly).

    On smooth data the error is ``c h^2 + O(h^4)`` with one function c on all grids, so the change from grid to grid
    falls by 4 (Richardson). ``sizes``: RMS of the gradient of the changes of the potential; ``costs``: W2^2 on every
    grid; ``scale``: the last change of the map, L2 under the source, relative to that of the potential, which knows
    neither where the mass is nor what differencing adds. It hardly changes from grid to grid. ``errors``: algebraic, of
    the potential (RMS of the gradient); ``corrected``: what was still to be corrected on the last grid, and the
    residual there, both at its start; ``missed``: the former as a share of the discretisation error, NaN if that start
    was not extrapolated.
    """

    def __init__(self):
        self.phi = self.change = self.grid = None
        self.sizes, self.costs, self.displacements, self.scale = [], [], [], 1.0
        self.errors, self.corrected, self.missed = [], (math.inf, 0.0), math.nan

    def add(self, operator, phi, first, last):
        """``phi`` solves on the grid of ``operator``; ``first`` and ``last`` are the steps there: its start, and where
        it ended."""
        grid = operator.grid
        self._book(first, last)
        if self.phi is not None:
            self.change = interpolate_cubic(self.phi, grid.shape, grid.periodic)
            combine(-1.0, self.change, 1.0, phi)
            self.sizes.append(gradient_norm(self.change, grid.spacing))
        self.phi, self.grid = phi, grid
        self.displacements = [*self.displacements[-1:], operator.displacement(phi)]
        self.costs.append(operator.cost(self.displacements[-1]))
        if self.last_size > 0:
            moved = _change(*self.displacements[::-1], grid)
            self.scale = math.sqrt(operator.cost(moved)) / self.last_size

    def _book(self, first, last):
        self.errors = [*self.errors[-1:], last.error]
        corrected = math.sqrt(max(last.change**2 - first.change**2, 0.0)) if last.newton_iterations else last.error
        self.corrected = corrected, first.residual
        self.missed = (corrected / discretisation_error(self.last_size, last.change) if first.change > 0
                       else math.nan)

    @property
    def last_size(self):
        """Size of the last change, 0 if there is none."""
        return self.sizes[-1] if self.sizes else 0.0

    def start(self, phi, grid):
        """Start on the finer ``grid``, and the RMS of the gradient of what extrapolation changed.

        On smooth data a quarter of the last change is added before interpolation,
        which leaves an error of higher order.
        """
        if smooth_changes(self.sizes):
            extrapolated = advanced(phi, 0.25, self.change)
            return interpolate_cubic(extrapolated, grid.shape, grid.periodic), 0.25 * self.sizes[-1]
        return interpolate_cubic(phi, grid.shape, grid.periodic), 0.0

    def start_error(self):
        """Estimated error of :meth:`start` (RMS of the gradient), and the largest residual there that agrees with it.

        The start on the last grid, made in the same way, had the error that was corrected there. It falls by 4 at
        least; to which comes what the iteration left on the coarser grids, which extrapolation amplifies.
        """
        if not smooth_changes(self.sizes) or len(self.errors) < 2:
            return math.inf, 0.0
        error, residual = self.corrected
        return 0.25 * error + 1.25 * self.errors[-1] + 0.25 * self.errors[-2], residual

    def promising(self):
        """Whether one of the next starts may be so good that it needs no iterations, as far as is known."""
        return not self.rough() and not self.missed > PROMISING

    def rough(self):
        """Whether the changes seen do not fall as on smooth data."""
        return len(self.sizes) >= 2 and not smooth_changes(self.sizes)

    def extrapolation(self, operator, displacement, change, wanted, inconsistency=0.0, algebraic=0.0):
        """Results on the finest grid, :class:`Extrapolation`; ``wanted``: None, "cost" or "map".

        ``change``: estimate of the RMS change of the map from the next coarser grid, NaN where that never got done.
        ``inconsistency``: error of the map that no finer grid reduces, and no change from grid to grid shows;
        ``algebraic``: what the iteration left, RMS of the gradient.
        """
        cost, grid = operator.cost(displacement), operator.grid
        if not self.displacements or not math.isfinite(change):
            note = "none" if wanted is None else "not done, no coarser grids"
            return Extrapolation(cost, math.nan, displacement, math.nan, note)
        if any(fine == coarse for fine, coarse in zip(grid.shape, self.grid.shape)):
            # what such an axis adds to the error shows in no change from grid to grid
            note = "none" if wanted is None else "not done, an axis is too short to be coarsened"
            return Extrapolation(cost, math.nan, displacement, math.nan, note)
        costs = [*self.costs, cost]
        error = discretisation_error(self.last_size, change)
        grid_error = self.scale * error
        map_error = grid_error + inconsistency
        beyond = 2 * math.sqrt(cost) * inconsistency  # W2^2 is the square of a norm of the displacement
        cost_error = abs(costs[-1] - costs[-2]) * (error / change if change > 0 else 1 / 3) + beyond
        if not wanted:
            return Extrapolation(cost, cost_error, displacement, map_error, "none")
        moved = _change(displacement, self.displacements[-1], grid)
        pairs = []
        if len(costs) > 2:
            before = _change(*self.displacements[::-1], self.grid)
            pairs = [tuple(np.diff(costs)[-2:]), (rms(before), rms(moved))]
        if not pairs or not all(_is_smooth(*pair) for pair in pairs):
            seen = " and ".join(f"{a / b:.2f}" for a, b in pairs if b)
            note = (f"not done, successive changes of cost and map do not fall by 4 as on smooth data: {seen}" if seen
                    else "not done, too few grids to see the order")
            return Extrapolation(cost, cost_error, displacement, map_error, note)
        if inconsistency > INCONSISTENT_SHARE * grid_error:
            note = f"not done, the stencil is too narrow for the Hessian: {inconsistency:.1e} of the map's error"
            return Extrapolation(cost, cost_error, displacement, map_error, note)
        finer, coarser = (costs[k] + (costs[k] - costs[k - 1]) / 3 for k in (-1, -2))
        # the differences are 15 times the errors at fourth order: careful estimates, of the map half as careful; to
        # which comes what the iteration may have left of the second-order errors. An order that was seen once only may
        # be seen by chance
        left = max(EXTRAPOLATED_SHARE, min(1.0, algebraic / error)) if len(costs) > 3 and error > 0 else 1.0
        cost_error = abs(finer - coarser) + left * cost_error + beyond
        if wanted == "map":
            displacement = displacement + moved / 3
            far = _change(displacement, self.displacements[-1] + before / 3, grid)
            map_error = math.sqrt(operator.cost(far)) / 8 + left * map_error + inconsistency
        return Extrapolation(finer, cost_error, displacement, map_error, wanted)


def _change(displacement, coarser, grid):
    """A displacement on ``grid`` less the interpolated one of the next coarser grid."""
    change = np.empty(displacement.shape)
    for part, out in zip(coarser, change):
        interpolate_inside(part, grid.shape, grid.periodic, out)
    combine(-1.0, change, 1.0, displacement)
    return change


def smooth_changes(sizes):
    """Whether the last two of the changes from grid to grid fall as on smooth data."""
    return len(sizes) >= 2 and _is_smooth(*sizes[-2:])


def _is_smooth(coarser, finer):
    return finer != 0 and SMOOTH_RATIOS[0] <= coarser / finer <= SMOOTH_RATIOS[1]

