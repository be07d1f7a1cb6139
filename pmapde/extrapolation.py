"""What solutions on successive grids tell: the start on the next grid, error estimates, Richardson extrapolation."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .linear.solver import gradient_norm
from .transfer import interpolate_cubic, interpolate_inside

SMOOTH_RATIOS = (3.0, 5.5)
"""Ratios of successive changes, 4 at second order, at which data count as smooth and the next change is extrapolated."""


@dataclass(frozen=True)
class Extrapolation:
    """Cost and displacement, extrapolated or not (``note`` says which, or why not), and estimates of their errors."""

    cost: float
    cost_error: float
    displacement: np.ndarray
    map_error: float
    note: str


class CoarserGrids:
    """The solutions on the grids done so far, coarse to fine; each grid has half the spacing of the one before (or nearly).

    On smooth data the error is ``c h^2 + O(h^4)`` with one function c on all grids, so the change from grid to grid falls
    by 4 (Richardson). ``sizes``: RMS of the gradient of the changes of the potential; ``costs``: W2^2 on every grid.
    """

    def __init__(self):
        self.phi = self.change = self.grid = self.displacement = None
        self.sizes, self.costs = [], []

    def add(self, operator, phi):
        """``phi`` solves on the grid of ``operator``."""
        grid = operator.grid
        if self.phi is not None:
            self.change = phi - interpolate_cubic(self.phi, grid.shape, grid.periodic)
            self.sizes.append(gradient_norm(self.change, grid.spacing))
        self.phi, self.grid, self.displacement = phi, grid, operator.displacement(phi)
        self.costs.append(operator.cost(self.displacement))

    def start(self, phi, grid):
        """Start on the finer ``grid``, and the RMS of the gradient of what extrapolation changed.

        On smooth data a quarter of the last change is added before interpolation, which leaves an error of higher order.
        """
        if len(self.sizes) >= 2 and _is_smooth(*self.sizes[-2:]):
            return interpolate_cubic(phi + 0.25 * self.change, grid.shape, grid.periodic), 0.25 * self.sizes[-1]
        return interpolate_cubic(phi, grid.shape, grid.periodic), 0.0

    def extrapolation(self, operator, displacement, wanted):
        """Results on the finest grid, :class:`Extrapolation`; ``wanted``: None, "cost" or "map"."""
        cost = operator.cost(displacement)
        if self.displacement is None or self.grid.shape == operator.grid.shape:  # no coarser grid, or never got here
            note = "none" if wanted is None else "not done, no coarser grids"
            return Extrapolation(cost, math.nan, displacement, math.nan, note)
        costs = [*self.costs, cost]
        moved = displacement - _refined(self.displacement, operator.grid)
        last = math.sqrt(float(np.vdot(moved, moved)) / operator.grid.size)
        ratio = min(max(self.sizes[-1] / last, 2.0), 4.0) if self.sizes and last > 0 else 4.0
        cost_error, map_error, note = abs(costs[-1] - costs[-2]) / (ratio - 1), last / (ratio - 1), "none"
        if wanted is None:
            return Extrapolation(cost, cost_error, displacement, map_error, note)
        changes = np.diff(costs)
        if len(changes) < 2 or not _is_smooth(changes[-2], changes[-1]) or not _is_smooth(self.sizes[-1], last):
            seen = [f"{a / b:.2f}" if b else "none" for a, b in ((*changes[-2:],), (self.sizes[-1], last))] \
                if len(changes) > 1 else ["none"]
            note = f"not done, ratios of successive changes ({', '.join(seen)}) are not those of smooth data (4)"
            return Extrapolation(cost, cost_error, displacement, map_error, note)
        finer, coarser = costs[-1] + changes[-1] / 3, costs[-2] + changes[-2] / 3
        cost, cost_error = finer, abs(finer - coarser)  # 15 times its error at fourth order: a careful estimate
        if wanted == "map":
            displacement, map_error = displacement + moved / 3, math.nan
        return Extrapolation(cost, cost_error, displacement, map_error, wanted)


def _is_smooth(coarser, finer):
    return finer != 0 and SMOOTH_RATIOS[0] <= coarser / finer <= SMOOTH_RATIOS[1]


def _refined(displacement, grid):
    return np.stack([interpolate_inside(part, grid.shape, grid.periodic) for part in displacement])
