"""Putting the mass in its place: correct the discrete equation until the map itself carries the right masses.

The scheme is second order but not conservative: on densities that jump from cell to cell the images of neighbouring
cells overlap or leave gaps, and a solution of the discrete equation leaves a few per cent of the mass in a neighbouring
block. What the map does is measured over small blocks of the target; where too much arrives, the images have to grow,
which is what more source in the equation does. So the source is multiplied by ``arrived / wanted`` at the image of each
cell and the equation is solved again from where it was: a defect correction, whose fixed points are conservative over
those blocks. On smooth data the factor is ``1 + O(h^2)``, and nothing is corrected.
"""
from __future__ import annotations

import copy
import itertools

import numpy as np
from scipy.ndimage import map_coordinates

from .density import GridDensity
from .ghosts import fill_ghosts
from .transfer import average
from .transport import PiecewiseAffineMap

AIM = 0.01
"""Misplaced mass that is good enough."""
LIMIT = 0.018
"""Misplaced mass that is a failure: the two per cent promised, less what two ways of counting differ by."""
BLOCK = {2: 4, 3: 8}
"""Target cells per axis over which the defect is measured: in 2D half of the blocks that are judged, in 3D all of one.
The layer of cells across which a map jumps is a larger share of a rough volume: what it leaves between the pieces of
the target is more than smaller blocks there want, and cannot be moved by more source."""
SOFTENING = {2: 0.1, 3: 0.3}
"""Of the mean mass of a block, added to both masses: what happens to blocks that hold next to nothing is left alone."""
WIDEST = {2: 1.0, 3: 1 / 8}
"""Image of a source cell, in blocks, that is not cut into pieces where it straddles two of them."""
POINTS = 3
"""Points of a source cell, per axis, at whose images the factor is averaged."""
LARGEST_SUBDIVISION = 2**20
"""Cells beyond which no grid is subdivided."""
HALVING = 1 / 3
"""Of the misplaced mass, what cells of half the width leave at best: where the map jumps it falls like their width."""
ROUNDS = 10
ENOUGH, FAR, SLOW_GAIN = 0.014, 0.03, {2: 0.85, 3: 0.95}
"""Below the first and above the second, a round that leaves more than the third's share is the last: the limit is
kept, or out of reach on these cells."""
SLOW = 0.97
"""A round that leaves more of the misplaced mass is taken back, and half the correction tried."""
GROWTH = {2: 1.0, 3: 1.5}
"""Of the share of the correction that is made, after a round that was not: the softening makes it too small."""
LEAST_SHARE, LARGEST_SHARE = 0.25, 4.0
"""Of the correction: where it is given up, and where it grows no more."""


def defect(transport_map, source_values, target_grid, target_values):
    """``log(arrived / wanted)`` over blocks of the target, softened; with a ghost layer."""
    block, softening = BLOCK[target_grid.ndim], SOFTENING[target_grid.ndim]
    shape = tuple(max(-(-n // block), 3 if wraps else 2) for n, wraps in zip(target_grid.shape, target_grid.periodic))
    arrived = transport_map.deposited(source_values, target_grid.with_shape(shape), False,
                                      widest=WIDEST[target_grid.ndim])
    wanted = average(target_values, shape)
    ratio = np.pad(np.log((arrived / arrived.mean() + softening) / (wanted / wanted.mean() + softening)), 1)
    fill_ghosts(ratio, 1, target_grid.periodic)
    return ratio


def corrected(problem, images, ratio, target_grid):
    """``problem`` with the source of its equation multiplied by ``exp(ratio)`` at the images of its cells.

    ``images``: takes points (d, n) of the source to the grid of ``ratio``.
    """
    grid, blocks = problem.grid, np.array(ratio.shape) - 2
    centres, total = grid.cell_centres().reshape(grid.ndim, -1), np.zeros(grid.size)
    for part in itertools.product(range(POINTS), repeat=grid.ndim):
        shift = ((np.array(part) + 0.5) / POINTS - 0.5) * grid.spacing
        position = ((images(centres + shift[:, None]) - target_grid.lower[:, None])
                    / (target_grid.lengths / blocks)[:, None] + 0.5)
        total += map_coordinates(ratio, position, order=1, mode="nearest")
    return problem.weighted(np.exp(total / POINTS**grid.ndim).reshape(grid.shape))


def repeated(values, count):
    """``values`` on cells cut into ``count`` parts per axis."""
    for axis in range(values.ndim):
        values = np.repeat(values, count, axis)
    return values


def subdivided(problem, factor=2):
    """The same densities on cells cut into ``factor`` parts per axis.

    The spline of a rough target goes through the cut cells: closer to their masses than the one through whole cells.
    """
    fine = copy.copy(problem)
    fine.grid = problem.grid.with_shape(tuple(factor * n for n in problem.grid.shape))
    fine.source_values = repeated(problem.source_values, factor)
    fine.averages = {**problem.averages, "source": repeated(problem.source_masses, factor)}
    if isinstance(problem.target, GridDensity) and problem.target.is_rough():
        fine.target_grid = problem.target_grid.with_shape(tuple(factor * n for n in problem.target_grid.shape))
        fine.target = GridDensity(repeated(problem.target.values, factor), fine.target_grid,
                                  problem.target.interpolation)
    return fine


def halvings(cells, parts, most, ndim, largest=LARGEST_SUBDIVISION):
    """How often ``cells`` may be halved per axis, which have been cut into ``parts``, at most into ``most``, if there
    must not be more than ``largest``."""
    count = 0
    while parts * 2 <= most and cells * 2**ndim <= largest:
        parts, cells, count = 2 * parts, cells * 2**ndim, count + 1
    return count


def worth_halving(misplaced, count):
    """Whether ``count`` halvings of the cells may bring ``misplaced`` below the limit."""
    return count > 0 and misplaced * HALVING**count < LIMIT


def map_of(phi, operator, original):
    """The map of ``phi`` on the cells of ``operator``, to the target of ``original``."""
    return PiecewiseAffineMap(operator.grid, original.target_grid, operator.displacement(phi))


class Correction:
    """Misplaced mass of the maps that an equation gave, and its source as corrected so far.

    Parameters
    ----------
    original : TransportProblem
        Whose target the masses are compared with.
    problem : TransportProblem
        Of the equation: on finer cells perhaps, or the swapped one.
    inverse : bool
        Whether the maps are the inverses of the equation's own. Where too much arrives there is too much of its source
        then.
    """

    def __init__(self, original, problem, inverse=False):
        self.original, self.problem, self.inverse, self._trial = original, problem, inverse, problem
        self.misplaced, self.best, self._share = [], None, 1.0

    def judge(self, solution, transport_map, source_values, misplaced=None):
        """Book what ``solution``, of the last problem, does with the mass, ``best`` if it is; whether another round is
        worth while."""
        ndim = self.original.ndim
        if misplaced is None:
            finely = bool(self.misplaced) or transport_map.straightened_mass > 0
            misplaced = transport_map.misplaced_mass(source_values, self.original.target_masses, finely)
        least = min(self.misplaced, default=np.inf)
        self.misplaced.append(misplaced)
        if not self.misplaced[1:] or misplaced < least:
            self.best, self.problem, self._map, self._moved = solution, self._trial, transport_map, source_values
        if misplaced > SLOW * least:
            self._share /= 2
        elif self.misplaced[1:]:
            self._share = min(GROWTH[ndim] * self._share, LARGEST_SHARE)
        if misplaced > SLOW_GAIN[ndim] * least and (misplaced < ENOUGH or FAR < misplaced < least):
            return False
        return min(self.misplaced) > AIM and self._share >= LEAST_SHARE and len(self.misplaced) <= ROUNDS

    @property
    def found(self):
        """The best map, and the mass it misplaces."""
        return self._map, min(self.misplaced)

    def next_problem(self):
        """The problem whose source is corrected by what the best map misplaced."""
        grid = self.original.target_grid
        ratio = self._share * defect(self._map, self._moved, grid, self.original.target_masses)

        def images(points):
            return points if self.inverse else self._map.wrapped(self._map.forward(points), grid)
        self._trial = corrected(self.problem, images, -ratio if self.inverse else ratio, grid)
        return self._trial
