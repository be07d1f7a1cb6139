"""Black-box multigrid preconditioner in numba kernels: operator-dependent transfer, Galerkin, zebra lines."""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..ghosts import fold
from ..kernels import black_box_2d, black_box_3d
from ..memory import CONTRASTED
from ..threads import use_threads
from .direct import BorderedMatrix

COARSEST = 3  # cells along an axis that is not coarsened further
ANISOTROPY = 4.0  # 3D: an axis coupled more weakly than both others by this factor is not coarsened


@dataclass(frozen=True)
class BlackBoxMultigrid:
    """One V-cycle of black-box multigrid (Dendy, J. Comput. Phys. 48, 1982): nearly flat in size and contrast.

    Rows multiplied by the source density (the divergence form), interpolation from the rows themselves (their positive
    off-diagonals, as centred mixed differences have, count nothing), restriction its transpose, Galerkin coarse rows
    (nine points again, 27 in 3D), zebra line relaxation along all axes in turn. Any number of cells, no-flux and
    periodic axes. In 3D a drift beyond the weights is upwinded: the hierarchy is that of a nearby M-matrix then. The
    set-up costs two to three cycles.

    In 3D lines leave errors that are smooth in a plane of two strong axes. Where the axes differ on the whole, such a
    plane is coarsened first; where they differ from place to place the count grows slowly with the contrast.

    Parameters
    ----------
    pre, post : int
        Alternating line sweeps before and after the coarse-grid correction.

    Good values: the defaults; ``pre = post = 1`` for a few applications less, of almost twice the work.
    """

    pre: int = 0
    post: int = 1
    name = "black box"
    setup_work, cycle_work = {2: 35.0, 3: 60.0}, {2: 20.0, 3: 17.0}  # work units by dimension, see pmapde.work
    bytes_per_cell = CONTRASTED
    uses_blas = False
    keep = False

    def __post_init__(self):
        if not (self.pre >= 0 and self.post >= 0 and self.pre + self.post >= 1):
            raise ValueError(f"`pre` and `post` must be sweeps >= 0, not both 0, got {self.pre!r} and {self.post!r}.")

    def affords(self, stencil):
        return stencil.radius == 1

    def build(self, stencil, threads=1):
        if not self.affords(stencil):
            raise ValueError("BlackBoxMultigrid() is for stencils of radius 1; use AlgebraicMultigrid() here.")
        return _Hierarchy(stencil, self, threads)


def upwinded(stencil):
    """The weights of ``stencil``, along the axes no smaller than the drift: its own where no cell Péclet number is
    above 1. Central differences of a stronger drift leave lines that no relaxation smooths."""
    short = [(stencil.weights[axis] < np.abs(part)).any() for axis, part in enumerate(stencil.drift)]
    if not any(short):
        return stencil.weights
    weights = stencil.weights.copy()
    for axis, part in enumerate(stencil.drift):
        np.maximum(weights[axis], np.abs(part), out=weights[axis])
    return weights


@dataclass
class _Level:
    rows: np.ndarray
    pivots: list  # per axis: inverse pivots and closing vectors of the line systems
    transfer: list  # as the kernels describe it: along_x, along_y, between; ratio, weights
    field: np.ndarray
    rhs: np.ndarray
    work: np.ndarray


class _Hierarchy:
    def __init__(self, stencil, settings, threads):
        self.settings, self.periodic, dimension = settings, stencil.periodic, len(stencil.shape)
        self.kernels = black_box_2d if dimension == 2 else black_box_3d
        self.relax = [getattr(self.kernels, f"relax_{axis}") for axis in "xyz"[:dimension]]
        self.row_weight = np.ones(stencil.shape) if stencil.row_weight is None else stencil.row_weight
        self.inside = (slice(1, -1),) * dimension
        corners = dimension == 2 or (np.abs(stencil.offsets).sum(axis=1) == 3).any()
        rows = np.zeros((3**dimension if corners else 19, *stencil.shape))
        use_threads(threads, rows[0].size)
        weights = stencil.weights if dimension == 2 else upwinded(stencil)
        self.kernels.assemble(weights, stencil.drift, stencil.offsets, stencil.shift, self.row_weight,
                              stencil.periodic, rows)
        self.levels = []
        while max(ratio := _ratio(rows)) > 1:
            use_threads(threads, rows[0].size)
            half = tuple(-(-n // r) for n, r in zip(rows.shape[1:], ratio))
            self.levels.append(self._level(rows, ratio, half))
            coarse = np.empty((3**dimension, *half))
            self.kernels.galerkin(rows, *self.levels[-1].transfer, coarse)
            rows = coarse
        self.coarse_shape = rows.shape[1:]
        # coefficients beyond a no-flux face are zero already
        self.coarsest = BorderedMatrix(rows.ravel(), *_pattern(rows.shape, self.periodic), rows[0].size)
        self.coarse_field = np.zeros(tuple(n + 2 for n in self.coarse_shape))
        self.coarse_rhs = np.empty(self.coarse_shape)

    def _level(self, rows, ratio, half):
        shape = rows.shape[1:]
        pivots = []
        for axis, periodic in enumerate(self.periodic):
            pivot, closing = np.empty(shape), np.empty(shape if periodic else (0,) * len(shape))
            self.kernels.factor_lines(rows, axis, periodic, pivot, closing)
            pivots.append((pivot, closing))
        if len(shape) == 2:
            transfer = [np.empty(half), np.empty(half), np.empty((4, *half))]
        else:
            transfer = [ratio, np.zeros((27, *half))]
        self.kernels.interpolation(rows, self.periodic, *transfer)
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
            self.coarse_field[self.inside] = self.coarsest.solve(self.coarse_rhs)
            for axis, periodic in enumerate(self.periodic):
                if periodic:
                    padded = np.moveaxis(self.coarse_field, axis, 0)
                    padded[0], padded[-1] = padded[-2], padded[1]
            return
        level, last = self.levels[depth], depth == len(self.levels) - 1
        axes = range(len(self.periodic))
        use_threads(threads, level.rhs.size)
        level.field[...] = 0.0
        for _ in range(self.settings.pre):
            for axis in axes:
                self._relax(level, axis, False)
        if self.settings.pre:
            self.kernels.residual(level.rows, level.rhs, level.field, level.work)
        self.kernels.restrict(level.work if self.settings.pre else level.rhs, *level.transfer,
                              self.coarse_rhs if last else self.levels[depth + 1].rhs)
        self._cycle(depth + 1, threads)
        use_threads(threads, level.rhs.size)
        self.kernels.prolong_add(self.coarse_field if last else self.levels[depth + 1].field, *level.transfer,
                                 self.periodic, level.field)
        for _ in range(self.settings.post):
            for axis in reversed(axes):
                self._relax(level, axis, True)

    def _relax(self, level, axis, backward):
        self.relax[axis](level.rows, *level.pivots[axis], level.rhs, backward, self.periodic, level.field)

    @property
    def nbytes(self):
        """Bytes beyond the operator itself."""
        arrays = [a for level in self.levels for a in (level.rows, *sum(level.pivots, ()), *level.transfer, level.field,
                                                       level.rhs, level.work) if isinstance(a, np.ndarray)]
        return sum(a.nbytes for a in arrays)


def _ratio(rows):
    """Fine cells per coarse one along every axis, 2 or 1; all 1: coarse enough.

    In 2D both axes are halved until the grid is a narrow band. In 3D lines make a single strong axis smooth, but not a
    plane of two strong ones: the third is then not coarsened until the couplings have come closer.
    """
    shape = rows.shape[1:]
    if len(shape) == 2:
        return (2, 2) if min(shape) > COARSEST else (1, 1)
    totals = np.zeros(27)
    totals[black_box_3d.ORDER[:len(rows)]] = rows.reshape(len(rows), -1).sum(axis=1)
    couplings = [-np.take(totals.reshape(3, 3, 3), (0, 2), axis).sum() for axis in range(3)]
    able = [n > COARSEST for n in shape]
    strong = [a and c * ANISOTROPY >= sorted(couplings)[1] for a, c in zip(able, couplings)]
    return tuple(2 if s else 1 for s in (strong if any(strong) else able))


@lru_cache(maxsize=16)
def _pattern(shape, periodic):
    """Cells and their neighbours, in the order of the rows of the small grids where hierarchies end."""
    count, *shape = shape
    neighbours = np.zeros((1, 1), dtype=np.int64)  # of the cells, axis after axis
    for n, wraps in zip(shape, periodic):
        cells = fold(np.arange(n) + np.arange(-1, 2)[:, None], n, wraps)
        neighbours = (neighbours[:, None, :, None] * n + cells[:, None]).reshape(len(neighbours) * 3, -1)
    if len(shape) == 3:
        neighbours = neighbours[black_box_3d.ORDER[:count]]
    return np.tile(np.arange(neighbours.shape[1]), count), neighbours.ravel()
