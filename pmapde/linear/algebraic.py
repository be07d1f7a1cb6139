"""Algebraic multigrid preconditioner (pyamg)."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import diags_array


@dataclass(frozen=True)
class AlgebraicMultigrid:
    """One V-cycle of a pyamg hierarchy: nearly flat in grid size and contrast, not in stretching
    (``benchmarks/results/linear.txt``).

    The set-up costs as much as 20 to 90 geometric cycles, so the hierarchy is kept from one matrix to the next and
    rebuilt by the rule of :class:`~pmapde.linear.solver.LinearSolver` (``rebuild_growth``); rebuilds are counted as
    ``setups``.

    Parameters
    ----------
    coarsening : {"ruge_stuben", "smoothed_aggregation"}
        Classical (Ruge & Stueben 1987) or smoothed aggregation for non-symmetric matrices, which takes a fifth of the
        memory (0.15 against 0.7 kB per cell in 3D) and more applications.
    rebuild_growth : float
        Rebuild once the applications per decade of residual exceed those after the last set-up by this factor.

    Good values: the defaults; ``"smoothed_aggregation"`` for 3D grids that do not fit otherwise.
    """

    coarsening: str = "ruge_stuben"
    rebuild_growth: float = 1.5
    name = "algebraic"
    setup_work, cycle_work = {2: 600.0, 3: 1000.0}, {2: 40.0, 3: 100.0}  # work units by dimension, see pmapde.work
    bytes_per_cell = {2: 700, 3: 1800}
    uses_blas = True
    keep = True

    def __post_init__(self):
        if self.coarsening not in ("ruge_stuben", "smoothed_aggregation"):
            raise ValueError(f"`coarsening` must be 'ruge_stuben' or 'smoothed_aggregation', got {self.coarsening!r}.")
        if not self.rebuild_growth > 1:
            raise ValueError(f"`rebuild_growth` must be greater than 1, got {self.rebuild_growth!r}.")

    def affords(self, stencil):
        return True

    def build(self, stencil, threads=1):
        return _Hierarchy(stencil, self.coarsening)


class _Hierarchy:
    def __init__(self, stencil, coarsening):
        import pyamg
        # Galerkin coarse operators add rows: bring them to the common scale of the divergence form first
        self.row_weight = np.ones(1) if stencil.row_weight is None else stencil.row_weight.ravel()
        matrix = stencil.matrix()
        if stencil.row_weight is not None:
            matrix = (diags_array(self.row_weight) @ matrix).tocsr()
        if coarsening == "ruge_stuben":  # classical interpolation takes as many cycles, and prints where a sum is zero
            hierarchy = pyamg.ruge_stuben_solver(matrix, max_coarse=50, interpolation="direct")
        else:
            state = np.random.get_state()  # noqa: NPY002  pyamg draws from the global generator; runs repeat bitwise
            np.random.seed(20161)  # noqa: NPY002
            hierarchy = pyamg.smoothed_aggregation_solver(matrix, symmetry="nonsymmetric", max_coarse=50)
            np.random.set_state(state)  # noqa: NPY002
        self.levels, self.coarse_solver = hierarchy.levels, hierarchy.coarse_solver
        if not all(np.isfinite(level.A.data).all() for level in self.levels):  # interpolation divided by zero
            raise RuntimeError("a coarse operator is not finite")

    def apply(self, residual, threads=1):
        """One V-cycle from zero, with one ghost layer. Called level by level because ``hierarchy.solve`` spends two
        more fine residuals."""
        return np.pad(self._cycle(0, np.ravel(residual) * self.row_weight).reshape(residual.shape), 1)

    def _cycle(self, depth, rhs):
        level = self.levels[depth]
        if depth == len(self.levels) - 1:
            return np.asarray(self.coarse_solver(level.A, rhs)).ravel()
        field = np.zeros_like(rhs)
        level.presmoother(level.A, field, rhs)
        field += level.P @ self._cycle(depth + 1, level.R @ (rhs - level.A @ field))
        level.postsmoother(level.A, field, rhs)
        return field

    @property
    def nbytes(self):
        """Bytes of all sparse matrices of the hierarchy."""
        matrices = [matrix for level in self.levels for matrix in
                    (getattr(level, name, None) for name in "APR") if matrix is not None]
        return sum(m.data.nbytes + m.indices.nbytes + m.indptr.nbytes for m in matrices)
