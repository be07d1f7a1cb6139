"""Geometric multigrid preconditioner in numba kernels."""
from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..ghosts import fill_ghosts
from ..kernels import stencil_2d, stencil_3d
from ..threads import use_threads
from ..transfer import averaging_matrix
from .direct import BorderedMatrix
from .stencil import Stencil


@dataclass(frozen=True)
class GeometricMultigrid:
    """One V-cycle on cell-centred grids: coloured Gauss-Seidel, averaged coefficients, (bi/tri)linear interpolation.

    Any number of cells: an axis of n cells has (n + 1) // 2 on the next grid, transfers use the true cell positions.
    Only the strongly coupled axes are coarsened where the couplings differ by more than ``anisotropy``, so stretched
    boxes keep a good rate. Coarse rows are made M-matrix rows (upwinding) where the drift dominates.

    Parameters
    ----------
    pre, post : int
        Relaxation sweeps before and after the coarse-grid correction.
    anisotropy : float
        Axes coupled more weakly than the strongest by this factor are not coarsened.

    Good values: the defaults; ``pre = post = 2`` at high contrast (about twice the work, fewer applications).
    """

    pre: int = 1
    post: int = 1
    anisotropy: float = 4.0
    name = "geometric"
    keep = False

    def __post_init__(self):
        if not (self.pre >= 0 and self.post >= 0 and self.pre + self.post >= 1):
            raise ValueError(f"`pre` and `post` must be sweeps >= 0, not both 0, got {self.pre!r} and {self.post!r}.")

    def build(self, stencil, threads=1):
        return _Hierarchy(stencil, self)


@dataclass
class _Level:
    stencil: Stencil
    tables: list  # per axis: restriction (first, weight) and prolongation (first, weight) to and from the next level
    field: np.ndarray
    rhs: np.ndarray
    work: np.ndarray = field(repr=False)


COARSEST = 4  # cells along an axis that is not coarsened further


class _Hierarchy:
    def __init__(self, stencil, settings):
        self.settings = settings
        self.kernels = stencil_2d if len(stencil.shape) == 2 else stencil_3d
        self.levels = []
        while True:
            shape = _coarse_shape(stencil, settings.anisotropy)
            tables = [_axis_tables(n, m, wraps) for n, m, wraps in zip(stencil.shape, shape, stencil.periodic)]
            padded = np.zeros(tuple(n + 2 for n in stencil.shape))
            self.levels.append(_Level(stencil, tables, padded, np.empty(stencil.shape), np.empty(stencil.shape)))
            if shape == stencil.shape:
                break
            stencil = self._coarsened(stencil, shape, tables)
        self.coarsest = BorderedMatrix(stencil.matrix())

    def _coarsened(self, stencil, shape, tables):
        """Averaged couplings, rescaled to the coarse index space (W is a squared inverse spacing, B an inverse one)."""
        ratio = np.array(stencil.shape) / np.array(shape)
        weights = np.empty((len(stencil.offsets), *shape))
        drift = np.empty((len(shape), *shape))
        arguments = [array for table in tables for array in table[:2]]
        # averages weighted by the density that makes the rows symmetric: flux coefficients, not rows, are averaged
        row_weight = np.ones(stencil.shape) if stencil.row_weight is None else stencil.row_weight
        coarse_weight = np.empty(shape)
        self.kernels.restrict(row_weight, *arguments, coarse_weight)
        for fine, coarse in [*zip(stencil.weights, weights), *zip(stencil.drift, drift)]:
            self.kernels.restrict(fine * row_weight, *arguments, coarse)
            coarse /= coarse_weight
        dimension = len(shape)
        involved = stencil.offsets != 0
        for axis in range(dimension):  # total coupling along the axis, before the diagonal offsets are rescaled
            weights[axis] += weights[dimension:][involved[dimension:, axis]].sum(axis=0)
            weights[axis] /= ratio[axis] ** 2
            drift[axis] /= ratio[axis]
        for k in range(dimension, len(weights)):
            weights[k] /= np.prod(ratio[involved[k]])
        for axis in range(dimension):
            weights[axis] -= weights[dimension:][involved[dimension:, axis]].sum(axis=0)
            np.maximum(weights[axis], np.abs(drift[axis]), out=weights[axis])
        return Stencil(weights, drift, stencil.offsets, stencil.periodic, stencil.shift, coarse_weight)

    def apply(self, residual, threads=1):
        """One V-cycle from zero."""
        self.levels[0].rhs[...] = residual
        self._cycle(0, threads)
        use_threads(threads, residual.size)
        return self.levels[0].field[(slice(1, -1),) * residual.ndim].copy()

    def _relax(self, level, sweeps, backward):
        s = level.stencil
        for _ in range(sweeps):
            self.kernels.relax(s.weights, s.drift, s.offsets, s.shift, level.rhs, backward, s.periodic, level.field)

    def _cycle(self, depth, threads):
        level = self.levels[depth]
        s, kernels = level.stencil, self.kernels
        if depth == len(self.levels) - 1:
            level.field[(slice(1, -1),) * level.rhs.ndim] = self.coarsest.apply(level.rhs)
            fill_ghosts(level.field, 1, s.periodic)
            return
        use_threads(threads, level.rhs.size)
        level.field[...] = 0.0
        self._relax(level, self.settings.pre, False)
        kernels.apply_stencil(s.weights, s.drift, s.offsets, s.shift, level.field, 1, level.work)
        np.subtract(level.rhs, level.work, out=level.work)
        coarser = self.levels[depth + 1]
        if s.row_weight is not None:
            level.work *= s.row_weight
        kernels.restrict(level.work, *[array for table in level.tables for array in table[:2]], coarser.rhs)
        coarser.rhs /= coarser.stencil.row_weight
        self._cycle(depth + 1, threads)
        use_threads(threads, level.rhs.size)
        kernels.prolong_add(self.levels[depth + 1].field, *[array for table in level.tables for array in table[2:]],
                            s.periodic, level.field)
        self._relax(level, self.settings.post, True)

    @property
    def nbytes(self):
        """Bytes beyond the operator itself."""
        arrays = [a for level in self.levels for a in (level.field, level.rhs, level.work)]
        arrays += [a for level in self.levels[1:] for a in (level.stencil.weights, level.stencil.drift)]
        return sum(a.nbytes for a in arrays)


def _coarse_shape(stencil, anisotropy):
    """Halve (rounding up) the axes whose mean coupling is within ``anisotropy`` of the strongest still coarsenable."""
    couplings = np.array([stencil.weights[stencil.offsets[:, axis] != 0].sum(axis=0).mean()
                          for axis in range(len(stencil.shape))])
    large = np.array(stencil.shape) > COARSEST
    if not large.any():
        return stencil.shape
    strong = large & (couplings * anisotropy >= couplings[large].max())
    return tuple((n + 1) // 2 if coarsen else n for n, coarsen in zip(stencil.shape, strong))


def _axis_tables(n, m, periodic):
    """Restriction and prolongation between n fine and m coarse cells: first index and weights per cell.

    Fine indices have no ghosts; coarse ones count one ghost layer.
    """
    averages = averaging_matrix(n, m)
    width = int(np.diff(averages.indptr).max())
    first = np.minimum(averages.indices[averages.indptr[:-1]], n - width).astype(np.int64)
    weights = np.zeros((m, width))
    for row in range(m):
        entries = slice(averages.indptr[row], averages.indptr[row + 1])
        weights[row, averages.indices[entries] - first[row]] = averages.data[entries]
    position = (np.arange(n) + 0.5) * (m / n) - 0.5 if m != n else np.arange(n, dtype=float)
    lower = np.floor(position).astype(np.int64)
    fraction = position - lower
    return first, weights, lower + 1, np.stack([1 - fraction, fraction], axis=1)
