"""Black-box multigrid preconditioner in numba kernels (2D): operator-dependent transfer, Galerkin, zebra lines."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from ..ghosts import fold
from ..kernels import black_box_2d
from ..threads import use_threads
from .direct import BorderedMatrix

COARSEST = 3  # cells of the shortest axis of the grid that is solved directly: a narrow band


@dataclass(frozen=True)
class BlackBoxMultigrid:
    """One V-cycle of black-box multigrid (Dendy, J. Comput. Phys. 48, 1982): flat in grid size, contrast and stretching.

    Rows multiplied by the source density (the divergence form), interpolation from the rows themselves, restriction its
    transpose, Galerkin coarse rows (nine points again), alternating zebra line relaxation. Any number of cells, no-flux
    and periodic axes; 2D. Set-up about three cycles, a cycle about three of :class:`GeometricMultigrid`.

    Parameters
    ----------
    pre, post : int
        Alternating line sweeps before and after the coarse-grid correction.

    Good values: the defaults.
    """

    pre: int = 1
    post: int = 1
    name = "black box"
    setup_work, cycle_work = 30.0, 20.0  # work units, see pmapde.work
    keep = False

    def __post_init__(self):
        if not (self.pre >= 0 and self.post >= 0 and self.pre + self.post >= 1):
            raise ValueError(f"`pre` and `post` must be sweeps >= 0, not both 0, got {self.pre!r} and {self.post!r}.")

    def affords(self, stencil):
        return len(stencil.shape) == 2 and stencil.radius == 1

    def build(self, stencil, threads=1):
        if not self.affords(stencil):
            raise ValueError("BlackBoxMultigrid() is for the 3x3 stencil in 2D; use AlgebraicMultigrid() here.")
        return _Hierarchy(stencil, self, threads)


@dataclass
class _Level:
    rows: np.ndarray
    pivots: list  # per axis: inverse pivots and closing vectors of the line systems
    transfer: list  # along_x, along_y, between
    field: np.ndarray
    rhs: np.ndarray
    work: np.ndarray


class _Hierarchy:
    def __init__(self, stencil, settings, threads):
        self.settings, self.periodic = settings, stencil.periodic
        self.row_weight = np.ones(stencil.shape) if stencil.row_weight is None else stencil.row_weight
        rows = np.empty((9, *stencil.shape))
        use_threads(threads, rows[0].size)
        black_box_2d.assemble(stencil.weights, stencil.drift, stencil.offsets, stencil.shift, self.row_weight,
                              stencil.periodic, rows)
        self.levels = []
        while min(rows.shape[1:]) > COARSEST:
            use_threads(threads, rows[0].size)
            self.levels.append(self._level(rows))
            coarse = np.empty((9, *self.levels[-1].transfer[0].shape))
            black_box_2d.galerkin(rows, *self.levels[-1].transfer, coarse)
            rows = coarse
        self.coarse_shape = rows.shape[1:]
        self.coarsest = BorderedMatrix(_matrix(rows, self.periodic))
        self.coarse_field = np.zeros(tuple(n + 2 for n in self.coarse_shape))
        self.coarse_rhs = np.empty(self.coarse_shape)

    def _level(self, rows):
        shape = rows.shape[1:]
        pivots = []
        for axis, periodic in enumerate(self.periodic):
            pivot, closing = np.empty(shape), np.empty(shape if periodic else (0, 0))
            black_box_2d.factor_lines(rows, axis, periodic, pivot, closing)
            pivots.append((pivot, closing))
        half = tuple((n + 1) // 2 for n in shape)
        transfer = [np.empty(half), np.empty(half), np.empty((4, *half))]
        black_box_2d.interpolation(rows, self.periodic, *transfer)
        return _Level(rows, pivots, transfer, np.zeros(tuple(n + 2 for n in shape)), np.empty(shape), np.empty(shape))

    def apply(self, residual, threads=1):
        """One V-cycle from zero; the correction with one ghost layer, valid until the next call."""
        first = self.levels[0].rhs if self.levels else self.coarse_rhs
        np.multiply(residual, self.row_weight, out=first)
        self._cycle(0, threads)
        use_threads(threads, residual.size)
        return self.levels[0].field if self.levels else self.coarse_field

    def _cycle(self, depth, threads):
        if depth == len(self.levels):
            self.coarse_field[1:-1, 1:-1] = self.coarsest.solve(self.coarse_rhs)
            for axis, periodic in enumerate(self.periodic):
                if periodic:
                    padded = np.moveaxis(self.coarse_field, axis, 0)
                    padded[0], padded[-1] = padded[-2], padded[1]
            return
        level, last = self.levels[depth], depth == len(self.levels) - 1
        use_threads(threads, level.rhs.size)
        level.field[...] = 0.0
        for _ in range(self.settings.pre):
            self._relax(level, 0, False)
            self._relax(level, 1, False)
        black_box_2d.residual(level.rows, level.rhs, level.field, level.work)
        black_box_2d.restrict(level.work, *level.transfer, self.periodic,
                              self.coarse_rhs if last else self.levels[depth + 1].rhs)
        self._cycle(depth + 1, threads)
        use_threads(threads, level.rhs.size)
        black_box_2d.prolong_add(self.coarse_field if last else self.levels[depth + 1].field, *level.transfer,
                                 self.periodic, level.field)
        for _ in range(self.settings.post):
            self._relax(level, 1, True)
            self._relax(level, 0, True)

    def _relax(self, level, axis, backward):
        kernel = black_box_2d.relax_x if axis == 0 else black_box_2d.relax_y
        kernel(level.rows, *level.pivots[axis], level.rhs, backward, self.periodic, level.field)

    @property
    def nbytes(self):
        """Bytes beyond the operator itself."""
        arrays = [a for level in self.levels for a in (level.rows, *sum(level.pivots, ()), *level.transfer, level.field,
                                                       level.rhs, level.work)]
        return sum(a.nbytes for a in arrays)


def _matrix(rows, periodic):
    """The rows as a scipy matrix; coefficients beyond a no-flux face are zero already."""
    shape = rows.shape[1:]
    x, y = (fold(np.arange(-1, n + 1), n, wraps) for n, wraps in zip(shape, periodic))
    cells = np.arange(shape[0] * shape[1])
    i, j = np.divmod(cells, shape[1])
    columns = np.stack([x[i + k // 3] * shape[1] + y[j + k % 3] for k in range(9)])
    matrix = csr_matrix((rows.reshape(9, -1).ravel(), (np.tile(cells, 9), columns.ravel())), (cells.size, cells.size))
    return matrix
