"""Geometric multigrid preconditioner in numba kernels."""
from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..kernels import bordered, stencil_2d, stencil_3d
from ..reductions import sparse
from ..threads import SERIAL_BELOW, use_threads
from ..transfer import averaging_matrix
from .stencil import no_drift

COARSEST = 4  # cells along the longest axis that is not coarsened further


@dataclass(frozen=True)
class GeometricMultigrid:
    """One V-cycle on cell-centred grids: Chebyshev-Jacobi smoothing, averaged coefficients, linear interpolation.

    Any number of cells: an axis of n cells has (n + 1) // 2 on the next grid, transfers use the true cell positions.
    Only the strongly coupled axes are coarsened where the couplings differ by more than ``anisotropy``, so stretched
    boxes keep a good rate. Coarse rows are made M-matrix rows (upwinding) where the drift dominates. Jacobi steps with
    the inverse roots of a Chebyshev polynomial as damping smooth as well as coloured Gauss-Seidel sweeps, and run at
    the speed of memory: every kernel passes over whole rows, no colour is skipped.

    Parameters
    ----------
    pre, post : int
        Jacobi steps before and after the coarse-grid correction, at least one before.
    anisotropy : float
        Axes coupled more weakly than the strongest by this factor are not coarsened.

    Good values: the defaults; ``pre = post = 4`` at high contrast (about twice the work, fewer applications).
    """

    pre: int = 2
    post: int = 2
    anisotropy: float = 4.0
    name = "geometric"
    setup_work, cycle_work = {2: 3.5, 3: 4.0}, {2: 6.5, 3: 7.5}  # work units by dimension, see pmapde.work
    uses_blas = False
    keep = False

    def __post_init__(self):
        if not (self.pre >= 1 and self.post >= 0):
            raise ValueError(f"`pre` and `post` must be Jacobi steps, `pre` at least 1, got {self.pre!r} and "
                             f"{self.post!r}.")

    def affords(self, stencil):
        return stencil.radius == 1

    def build(self, stencil, threads=1):
        if not self.affords(stencil):
            raise ValueError("GeometricMultigrid() is for stencils of radius 1; use AlgebraicMultigrid() here.")
        return _Hierarchy(stencil, self, threads)


@lru_cache(maxsize=64)
def dampings(steps):
    """Inverse roots of the Chebyshev polynomial on [1/2, 2],
    the rough part of the spectrum of a Jacobi-scaled operator."""
    return np.array([1 / (1.25 + 0.75 * math.cos(math.pi * (2 * k + 1) / (2 * steps))) for k in range(steps)])


@dataclass
class _Level:
    weights: np.ndarray
    drift: np.ndarray
    shift: np.ndarray
    row_weight: np.ndarray  # empty: rows are scaled already
    rhs: np.ndarray
    field: np.ndarray
    spare: np.ndarray
    restriction: list = None  # first, weight per axis
    prolongation: list = None


class _Hierarchy:
    def __init__(self, stencil, settings, threads):
        self.settings, self.periodic, self.offsets = settings, stencil.periodic, stencil.offsets
        self.steps = stencil.offsets.tolist()
        self.kernels = stencil_2d if len(stencil.shape) == 2 else stencil_3d
        weights, drift = stencil.weights, stencil.drift
        shift = np.full((1,) * len(stencil.shape), stencil.shift)
        row_weight = stencil.row_weight
        if row_weight is None:
            row_weight = np.ones(stencil.shape)
        self.row_weight = row_weight
        self.levels = []
        while True:
            shape = weights.shape[1:]
            use_threads(threads, weights[0].size)
            padded = tuple(n + 2 for n in shape)
            level = _Level(weights, drift, shift, row_weight, np.empty(shape), np.empty(padded), np.empty(padded))
            self.levels.append(level)
            coarse = self._coarse_shape(weights)
            if coarse == shape:
                break
            tables = [axis_tables(n, m) for n, m in zip(shape, coarse)]
            level.restriction = [array for table in tables for array in table[:2]]
            level.prolongation = [array for table in tables for array in table[2:]]
            ratio = np.array(coarse) / np.array(shape)
            weights = np.empty((min(len(weights), 9), *coarse))
            drift = no_drift(coarse) if drift.shape[1] < shape[0] else np.empty((len(coarse), *coarse))
            coarse_shift = np.empty(coarse)
            self.kernels.coarsen(level.weights, level.drift, shift, row_weight, ratio, *level.restriction, weights,
                                 drift, coarse_shift)
            shift, row_weight = coarse_shift, np.empty((0,) * len(shape))
            if 1 in coarse:  # a cell that is its own neighbour would drown, in the diagonal, what couples the others
                weights[~(self.offsets[:len(weights)] != 0)[:, np.array(coarse) > 1].any(axis=1)] = 0.0
        self.coarsest = self._inverse(self.levels[-1])

    def _coarse_shape(self, weights):
        """Halve (rounding up) the axes whose mean coupling is within ``anisotropy`` of the strongest still
        coarsenable: all down to one cell, as long as the longest has more than a few."""
        shape = weights.shape[1:]
        if max(shape) <= COARSEST:
            return shape
        sample = weights[(slice(None), *sparse(shape))]  # enough for a mean
        couplings = sample.sum(axis=tuple(range(1, sample.ndim))).tolist()
        strength = [sum(coupling for coupling, offset in zip(couplings, self.steps) if offset[axis]) if n > 1 else 0.0
                    for axis, n in enumerate(shape)]
        strongest = max(strength)
        return tuple((n + 1) // 2 if n > 1 and own * self.settings.anisotropy >= strongest else n
                     for n, own in zip(shape, strength))

    def _inverse(self, level):
        """Of the smallest grid's rows bordered by the constants: the mean-free solution, whatever the mean."""
        count, *shape = level.weights.shape
        size = math.prod(shape)
        drift = level.drift if level.drift.shape[1] == shape[0] else np.empty((len(shape), 0))
        row_weight = level.row_weight if level.row_weight.size else np.ones(shape)
        out = np.empty((size, size))
        if not bordered.inverse(level.weights.reshape(count, -1), drift.reshape(len(shape), -1),
                                np.full(shape, level.shift).ravel(), row_weight.ravel(), self.offsets,
                                np.array(shape), np.array(self.periodic), out):
            raise np.linalg.LinAlgError("the coarsest grid's matrix is singular")
        return out

    def apply(self, residual, threads=1):
        """One V-cycle from zero; the correction with one ghost layer, valid until the next call."""
        if len(self.levels) == 1:
            self.levels[0].rhs[...] = residual * self.row_weight
            self._solve_coarsest()
            return self.levels[0].field
        return self._cycle(0, residual, threads)

    def _solve_coarsest(self):
        level = self.levels[-1]
        solved = (self.coarsest @ level.rhs.ravel()).reshape(level.rhs.shape)
        self.kernels.pad(solved, self.periodic, level.field)
        return level.field

    def _cycle(self, depth, rhs, threads):
        level = self.levels[depth]
        if depth == len(self.levels) - 1:
            return self._solve_coarsest()
        kernels, stencil = self.kernels, (level.weights, level.drift, level.shift)
        if threads:
            use_threads(threads, level.rhs.size)
        kernels.descend(*stencil, rhs, level.row_weight, dampings(self.settings.pre), self.periodic, *level.restriction,
                        level.field, self.levels[depth + 1].rhs)
        more = threads if level.rhs.size >= SERIAL_BELOW else 0  # one thread from here on: nothing to set
        coarse = self._cycle(depth + 1, self.levels[depth + 1].rhs, more)
        if more:
            use_threads(threads, level.rhs.size)
        kernels.ascend(coarse, *level.prolongation, *stencil, rhs, dampings(self.settings.post)[::-1], self.periodic,
                       level.field, level.spare)
        return level.spare

    @property
    def nbytes(self):
        """Bytes beyond the operator itself."""
        arrays = [a for level in self.levels for a in (level.field, level.spare, level.rhs)]
        arrays += [a for level in self.levels[1:] for a in (level.weights, level.drift, level.shift)]
        return sum(a.nbytes for a in arrays)


@lru_cache(maxsize=256)
def axis_tables(n, m):
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
