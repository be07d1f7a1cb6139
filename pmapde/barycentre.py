"""Wasserstein barycentres: the density whose maps to the given ones average to the identity."""
from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Integral, Real

import numpy as np

from .density import GridDensity, floored
from .grid import Grid
from .problem import ZERO_FLOOR, TransportProblem, placed, zero_floor
from .solver import solve
from .status import SolverError, Status
from .stepping import PseudoTransient
from .transport import PiecewiseAffineMap

FLOOR = 1e-7
"""Default floor of the densities: what is thinner carries nothing, and makes the first maps hard."""
ERROR_SHARE, CELL_SHARE = 0.1, 0.003
"""What is left of the gradient: of the estimated error of the maps, and of the width of a cell."""
STALLED, GRAIN = 0.7, 0.05
"""A gradient below ``GRAIN`` cells that falls by less in an iteration has reached the grain of the push-forwards."""


@dataclass(frozen=True, eq=False)
class Barycentre:
    """The result of :func:`pmapde.wasserstein_barycentre`.

    Attributes
    ----------
    density : ndarray, (*shape)
        Cell averages, of mass one.
    grid : Grid
    status : Status
    success : bool
    solutions : list of Solution
        From the density of the last iteration to every given one; ``T_i`` are their maps.
    objective : ndarray, (iterations,)
        ``sum_i w_i W2^2(density, density_i)``, decreasing but for the discretisation error.
    gradient : ndarray, (iterations,)
        RMS of ``sum_i w_i T_i(x) - x`` under the density (length units); zero at the barycentre. It bounds what is
        missing: a step lowers the objective by at least its square (Zemel & Panaretos 2019, Bernoulli 25, Lemma 2).
    tolerance : float
        What it was driven below.
    """

    density: np.ndarray
    grid: Grid
    status: Status
    objective: np.ndarray
    gradient: np.ndarray
    tolerance: float
    solutions: list = field(repr=False)

    @property
    def success(self):
        return self.status.success


def wasserstein_barycentre(densities, weights=None, *, grid=None, grids=None, floor=None, tolerance=None,
                           max_iterations=30, threads=None, callback=None, throw=False):
    """The density that minimises ``sum_i w_i W2^2(density, density_i)`` (Agueh & Carlier 2011).

    Fixed point of ``rho -> (sum_i w_i T_i)_# rho`` with the Brenier maps ``T_i`` of ``rho`` to the given densities
    (Alvarez-Esteban, del Barrio, Cuesta-Albertos & Matran 2016, Theorem 3.6): a gradient step of length one, that
    converges in a few iterations. From the mixture of the densities on the averaged box; where they have zeros, which a
    mixture has on both sides of the maps, from the normal distribution with the averaged mean and deviations. Every
    iteration solves one transport problem a density. Second order on smooth data (the grain of push-forwards on rough
    ones).

    Parameters
    ----------
    densities : sequence of array_like, GridDensity or LogDensity
        At least two; cell averages, any normalisation.
    weights : sequence of float, optional
        Positive, any normalisation; equal by default.
    grid : Grid, optional
        Of the barycentre. By default the cells of the first density on the box averaged with the weights, which is
        where the barycentre lives.
    grids : Grid or sequence of Grid, optional
        Boxes of the densities, where they are arrays off the unit box or LogDensities; one for all or one each.
    floor : float, optional
        As in :class:`TransportProblem`, for the densities given; 1e-7, or 1e-4 where they have zeros.
    tolerance : float, optional
        RMS of ``sum_i w_i T_i - id`` to stop at, in length units. By default a tenth of the estimated discretisation
        error of the maps, at most 0.003 cells; or where, far below a cell, it no longer falls.
    max_iterations : int
    threads : int, optional
    callback : callable, optional
        Called with ``(iteration, objective, gradient)``.
    throw : bool
        Raise :class:`SolverError` instead of returning what failed.

    Returns
    -------
    Barycentre

    Raises
    ------
    TypeError, ValueError
        One sentence naming the argument, what was received and what to do.

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> x = (np.arange(48) + 0.5) / 48
    >>> bump = lambda at: np.exp(-((x[:, None] - at)**2 + (x - 0.5)**2) / (2 * 0.1**2))
    >>> middle = pmapde.wasserstein_barycentre([bump(0.35), bump(0.65)])         # two translates: the one half-way
    >>> error = abs(middle.density - bump(0.5) / bump(0.5).mean()).max() / middle.density.max()
    >>> middle.success, bool(error < 0.02)
    (True, True)
    """
    densities, weights = list(densities), _weights(weights, densities)
    if grids is None or isinstance(grids, Grid):
        grids = [grids] * len(densities)
    if not isinstance(grids, (list, tuple)) or any(not isinstance(box, Grid | None) for box in grids):
        raise TypeError(f"`grids` must be a pmapde.Grid or a list of them, one a density, got {grids!r}.")
    if not (isinstance(max_iterations, Integral) and max_iterations > 0):
        raise ValueError(f"`max_iterations` must be a positive integer, got {max_iterations!r}.")
    if tolerance is not None and not isinstance(tolerance, Real):
        raise TypeError(f"`tolerance` must be a number, got {tolerance!r}.")
    if len(grids) != len(densities):
        raise ValueError(f"`grids` must be one Grid or one for each of the {len(densities)} densities, "
                         f"got {len(grids)}.")
    targets = [placed(density, box, None, f"densities[{index}]", None)
               for index, (density, box) in enumerate(zip(densities, grids))]
    grid = _common_grid([own for _, own in targets], weights, grid)
    zeros = zero_floor([target.values for target, _ in targets if isinstance(target, GridDensity)])
    floor = (zeros or FLOOR) if floor is None else floor
    problems = [TransportProblem(np.ones(grid.shape), target, grid=grid, target_grid=own, floor=floor)
                for target, own in targets]
    parts = [_on_common_grid(problem) for problem in problems]
    values = sum(w * part for w, part in zip(weights, parts))
    if zeros and not any(grid.periodic):
        values = _normal(weights, parts, grid)
    # plans' maps do not change with the density as the gradient says; one scheme, whatever the density
    method = PseudoTransient(scheme="monotone" if grid.ndim == 2 else "centred", entropic=False)
    objective, gradient, goal, status = [], [], math.nan, Status.MAX_STEPS
    for _ in range(max_iterations):
        values = floored(values, zero_floor([values]))
        problems = [problem.with_source(values, "density") for problem in problems]
        solutions = [solve(problem, method, threads=threads) for problem in problems]
        source = problems[0].source_values
        displacement = sum(w * solution.displacement for w, solution in zip(weights, solutions))
        objective.append(float(sum(w * solution.cost for w, solution in zip(weights, solutions))))
        gradient.append(math.sqrt(float(((displacement**2).sum(axis=0) * source).sum()) * grid.cell_volume))
        if callback is not None:
            callback(len(gradient), objective[-1], gradient[-1])
        failed = [solution.status for solution in solutions if not solution.success]
        if failed:
            status = failed[0]
            break
        cell, errors = float(grid.spacing.max()), [solution.map_error for solution in solutions]
        goal = (np.nanmin([ERROR_SHARE * max(errors), CELL_SHARE * cell]) if tolerance is None else tolerance)
        stalled = (tolerance is None and len(gradient) > 1 and STALLED * gradient[-2] < gradient[-1] < GRAIN * cell)
        if gradient[-1] <= goal or stalled:
            status = Status.CONVERGED
            break
        values = _moved(source, displacement, grid)
    result = Barycentre(source, grid, status, np.array(objective), np.array(gradient), float(goal), solutions)
    if throw and not result.success:
        raise SolverError(status, result)
    return result


def _weights(weights, densities):
    if len(densities) < 2:
        raise ValueError(f"`densities` must be at least two, got {len(densities)}.")
    try:
        weights = np.ones(len(densities)) if weights is None else np.asarray(weights, float)
    except (TypeError, ValueError):
        raise ValueError(f"`weights` must be {len(densities)} positive numbers, got {weights!r}.") from None
    if weights.shape != (len(densities),) or not (np.isfinite(weights).all() and weights.min() > 0):
        raise ValueError(f"`weights` must be {len(densities)} positive numbers, one a density, got {weights!r}.")
    return weights / weights.sum()


def _common_grid(grids, weights, grid):
    """The grid of the barycentre: the averaged box, unless it is given."""
    first = grids[0]
    if any(other.ndim != first.ndim or other.periodic != first.periodic for other in grids):
        raise ValueError("`densities` must have the same number of axes and be periodic along the same ones, got "
                         + ", ".join(f"{other.ndim}D periodic {other.periodic}" for other in grids) + ".")
    if grid is None:
        box = np.tensordot(weights, np.array([other.box for other in grids]), 1)
        return Grid(first.shape, box, first.periodic)
    if not isinstance(grid, Grid):
        raise TypeError(f"`grid` must be a pmapde.Grid, got {type(grid).__name__}.")
    return grid


def _on_common_grid(problem):
    """The target of a problem carried to the source's grid by the affine map of the boxes, of mass one."""
    x, slopes, lower, offsets = (np.reshape(array, (problem.ndim, -1)) for array in (
        problem.grid.cell_centres(), problem.slopes, problem.grid.lower, problem.offsets))
    values = np.exp(problem.target.log_density_by_component(slopes * (x - lower) + offsets, False)[0])
    return values.reshape(problem.grid.shape) / (values.sum() * problem.grid.cell_volume)


def _normal(weights, parts, grid):
    """Independent normal distributions with the averaged means and deviations, on a grid, no lower than the floor."""
    centres, moments = grid.cell_centres(), []
    for part in parts:
        mass = part / part.sum()
        mean = (mass * centres).reshape(grid.ndim, -1).sum(axis=1)
        square = (mass * centres**2).reshape(grid.ndim, -1).sum(axis=1)
        moments.append((mean, np.sqrt(square - mean**2)))
    mean, deviation = (weights @ np.array(rows) for rows in zip(*moments))
    away = (centres - mean.reshape(-1, *[1] * grid.ndim)) / deviation.reshape(-1, *[1] * grid.ndim)
    return np.maximum(np.exp(-0.5 * (away**2).sum(axis=0)), ZERO_FLOOR)


def _moved(source, displacement, grid):
    """Density of the source moved by ``displacement`` on its own grid; the identity leaves it as it is."""
    moved = PiecewiseAffineMap(grid, grid, displacement).deposited(source * grid.cell_volume, grid, False)
    return moved / grid.cell_volume
