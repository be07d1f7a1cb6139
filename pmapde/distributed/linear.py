"""The linearised equation across ranks: PETSc's Krylov methods around its algebraic multigrid."""
from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np

from ..linear.solver import LinearResult

ANCHOR = 0.1
"""Shift of the preconditioner's matrix in inverse natural times: far below its smallest eigenvalue but that of the
constants, which would make it singular."""
DEFAULTS = {
    "gamg": {"pc_type": "gamg", "pc_gamg_agg_nsmooths": 1, "pc_gamg_threshold": 0.02,
             "pc_gamg_reuse_interpolation": True, "mg_levels_ksp_type": "richardson", "mg_levels_pc_type": "sor",
             "mg_levels_ksp_max_it": 1},
    "hypre": {"pc_type": "hypre", "pc_hypre_type": "boomeramg"},
}
DEFAULTS_3D = {"gamg": {"pc_gamg_threshold": 0.0, "pc_gamg_square_graph": 2},
               "hypre": {"pc_hypre_boomeramg_coarsen_type": "HMIS", "pc_hypre_boomeramg_interp_type": "ext+i",
                         "pc_hypre_boomeramg_strong_threshold": 0.5}}
TIGHTEST = 1e-12


@dataclass(frozen=True)
class PetscMultigrid:
    """GMRES around one cycle of algebraic multigrid.

    Parameters
    ----------
    preconditioner : {None, "hypre", "gamg"}
        hypre's BoomerAMG where PETSc was built with it, or PETSc's own smoothed aggregation; ``None``: the first that
        is there, and the other where that fails. Their settings are PETSc options with the prefix ``pmapde_``
        (environment variable ``PETSC_OPTIONS``).
    max_iterations : int
        Krylov iterations allowed in one solve.

    Good values: the defaults.
    """

    preconditioner: str = None
    max_iterations: int = 200

    def __post_init__(self):
        if self.preconditioner not in (None, *DEFAULTS):
            raise ValueError(f"`preconditioner` must be None, 'hypre' or 'gamg', got {self.preconditioner!r}.")
        if not (isinstance(self.max_iterations, int) and self.max_iterations >= 1):
            raise ValueError(f"`max_iterations` must be a whole number of at least 1, got {self.max_iterations!r}.")

    def chain(self):
        """Names of the preconditioners to try, in this order."""
        from petsc4py import PETSc
        there = [name for name in ("hypre", "gamg") if name == "gamg" or PETSc.Sys.hasExternalPackage("hypre")]
        if self.preconditioner is None:
            return there
        if self.preconditioner not in there:
            raise ValueError("`preconditioner`: this PETSc was built without hypre; use 'gamg'.")
        return [self.preconditioner]


class DistributedLinearSolver:
    """Solves with one stencil after another on one layout; stands where the stepper expects a
    :class:`~pmapde.linear.solver.LinearSolver`.

    The equation is ``A w + c = rhs`` with any constant c. Its rows are multiplied by the source density mu, which makes
    ``B = mu A`` nearly symmetric, and projected by ``P r = r - mu sum(r) / sum(mu)``: what is left of c is nothing, and
    ``P B`` has the constants as its null space and sums of zero as its range.
    """

    def __init__(self, layout, method, stats, natural_time):
        self.layout, self.method, self.stats = layout, method, stats
        self._chain, self._anchor = method.chain(), ANCHOR / natural_time
        self._matrix = self._columns = self._operator = self._solver = None
        self._mu, self._rhs, self._solution, self._product = (layout.vector() for _ in range(4))

    def correct(self, stencil, rhs, rtol, spacing, atol):
        """Correction whose estimated error is below ``rtol`` of its size; ``atol`` is met where that is less."""
        return self.solve(stencil, rhs, 0.1 * rtol, spacing)

    def solve(self, stencil, rhs, rtol, spacing=None):
        """Correction for ``rhs``, both up to a constant, to the relative residual ``rtol``, weighted by the source or
        not, whichever is larger."""
        layout = self.layout
        mean, scale = layout.moments(float(rhs.mean()), float(rhs.std()))
        if not math.isfinite(scale):
            return LinearResult(np.full(rhs.shape, math.nan), math.nan, 0, False)
        begin = time.perf_counter()
        self._assemble(stencil)
        self.stats["seconds"]["linear set-up"] += time.perf_counter() - begin
        result = self._attempt(rhs, mean, scale, rtol)
        while not result.converged and len(self._chain) > 1:
            shape = "x".join(map(str, layout.grid.shape))
            self.stats["fallbacks"].append(f"{self._chain[0]} -> {self._chain[1]} on {shape} (residual "
                                           f"{result.relative_residual:.1e} after {result.applications} iterations)")
            del self._chain[0]
            self._solver.destroy()
            self._solver = None
            again = self._attempt(rhs, mean, scale, rtol)
            result = replace(again, applications=result.applications + again.applications)
        return result

    def _attempt(self, rhs, mean, scale, rtol):
        """The equation that is assembled, with the first preconditioner of the chain."""
        layout, name = self.layout, self._chain[0]
        counters = self.stats["linear"].setdefault(name, {"setups": 0, "applications": 0, "solves": 0})
        begin = time.perf_counter()
        self._solver = self._solver or self._new_solver(name)
        self._solver.setOperators(self._operator, self._matrix)
        self._solver.setUp()
        counters["setups"] += 1
        self.stats["seconds"]["linear set-up"] += time.perf_counter() - begin
        begin = time.perf_counter()
        weight = self._mu.getArray(readonly=True)
        self._rhs.setArray(weight * (rhs - mean).ravel())
        self._projected.project(self._rhs)
        self._solution.set(0.0)
        inner, applications, relative = rtol, 0, 1.0 if scale > 0 else 0.0
        while relative > rtol and inner >= TIGHTEST and applications < self.method.max_iterations:
            self._solver.setTolerances(rtol=inner, atol=0.0, max_it=self.method.max_iterations - applications)
            self._solver.setInitialGuessNonzero(applications > 0)
            self._solver.solve(self._rhs, self._solution)
            spent = self._solver.getIterationNumber()
            applications += spent
            relative = self._relative_residual(scale)
            if not math.isfinite(relative) or not spent:
                break
            inner *= min(0.5, 0.5 * rtol / relative)
        correction = self._solution.getArray().reshape(rhs.shape).copy()
        correction -= layout.sum(float(correction.sum())) / layout.grid.size
        counters["applications"] += applications
        counters["solves"] += 1
        self.stats["seconds"]["linear solve"] += time.perf_counter() - begin
        size = layout.gradient_norm(layout.pad(correction, np.empty(tuple(n + 2 for n in rhs.shape))))
        return LinearResult(correction, relative, applications, relative <= 2 * rtol, size,
                            size * min(1.0, 3 * relative) if math.isfinite(relative) else math.nan)

    def _relative_residual(self, scale):
        """The larger of the weighted relative residual and the plain one, from their definitions: an iterative solver
        is not asked."""
        self._operator.mult(self._solution, self._product)
        self._product.aypx(-1.0, self._rhs)
        weighted = self._product.norm() / self._rhs.norm()
        rest = self._product.getArray(readonly=True) / self._mu.getArray(readonly=True)
        mean = float(rest.mean())
        plain = self.layout.moments(mean, float(np.sqrt(((rest - mean) ** 2).mean())))[1] / scale
        return max(weighted, plain)

    def _assemble(self, stencil):
        """``B`` plus the anchor, from the weights of the stencil; and its preconditioner."""
        offsets, shape, count = stencil.offsets, self.layout.shape, 2 * len(stencil.offsets) + 1
        if self._matrix is None:
            self._prepare(offsets, count, stencil.row_weight)
        scale = self._mu.getArray(readonly=True).reshape(shape)
        values = np.empty((*shape, count))
        values[..., 0] = (stencil.shift + self._anchor + 2 * stencil.weights.sum(axis=0)) * scale
        for k, weight in enumerate(stencil.weights):
            drift = stencil.drift[k] if k < len(shape) else 0.0
            values[..., 2 * k + 1] = -(weight + drift) * scale
            values[..., 2 * k + 2] = -(weight - drift) * scale
        self._matrix.zeroEntries()
        self._matrix.setValuesCSR(self._rows, self._columns, values.ravel(), addv=True)
        self._matrix.assemble()

    def _prepare(self, offsets, count, row_weight):
        from petsc4py import PETSc
        layout, shape, size = self.layout, self.layout.shape, self.layout.size
        weight = row_weight / (layout.sum(float(row_weight.sum())) / layout.grid.size)
        self._mu.setArray(weight.ravel())
        neighbours = layout.neighbours()

        def at(offset):
            return neighbours[tuple(slice(1 + e, 1 + e + n) for e, n in zip(offset, shape))]

        columns = np.empty((*shape, count), dtype=PETSc.IntType)
        columns[..., 0] = at((0,) * len(shape))
        for k, offset in enumerate(offsets):
            columns[..., 2 * k + 1], columns[..., 2 * k + 2] = at(offset), at(-offset)
        self._rows = np.arange(0, size * count + 1, count, dtype=PETSc.IntType)
        self._columns = columns.ravel()
        first, last = self._mu.getOwnershipRange()
        own = ((columns >= first) & (columns < last)).sum(axis=-1).ravel()
        comm = layout.comm
        self._matrix = PETSc.Mat().createAIJ(((size, layout.grid.size), (size, layout.grid.size)),
                                             nnz=(own.astype(PETSc.IntType), (count - own).astype(PETSc.IntType)),
                                             comm=comm)
        self._projected = _Projected(self._matrix, self._mu, self._anchor)
        self._operator = PETSc.Mat().createPython(self._matrix.getSizes(), self._projected, comm)
        self._operator.setUp()

    def _new_solver(self, name):
        from petsc4py import PETSc
        prefix, options = "pmapde_", PETSc.Options()
        extra, ours = DEFAULTS_3D[name] if self.layout.grid.ndim == 3 else {}, []
        for key, value in {**DEFAULTS[name], **extra}.items():
            if not options.hasName(prefix + key):  # the user's own go first
                options.setValue(prefix + key, value)
                ours.append(prefix + key)
        solver = PETSc.KSP().create(self.layout.comm)
        solver.setOptionsPrefix(prefix)
        solver.setType("gmres")
        solver.setPCSide(PETSc.PC.Side.RIGHT)  # its residual is then the true one
        solver.setFromOptions()
        self._matrix.setOptionsPrefix(prefix)
        solver.setOperators(self._operator, self._matrix)
        solver.setUp()  # the levels of a hierarchy read their options here
        for key in ours:  # another solver would take them for the user's
            options.delValue(key)
        return solver

    def release(self):
        """Free what PETSc holds for this grid."""
        for thing in (self._solver, self._operator, self._matrix, self._mu, self._rhs, self._solution, self._product):
            if thing is not None:
                thing.destroy()


class _Projected:
    """``P B`` as a matrix that PETSc calls: ``matrix`` without its anchor, projected to sums of zero."""

    def __init__(self, matrix, mu, anchor):
        self._matrix, self._mu, self._anchor, self._total = matrix, mu, anchor, mu.sum()

    def project(self, vector):
        vector.axpy(-vector.sum() / self._total, self._mu)

    def mult(self, _, vector, out):
        self._matrix.mult(vector, out)
        out.getArray()[:] -= self._anchor * self._mu.getArray(readonly=True) * vector.getArray(readonly=True)
        self.project(out)
