"""The linear solver: BiCGSTAB around a preconditioner, with its rules for set-up, fallback and honest failure."""
from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import LinearOperator, bicgstab

from ..threads import use_threads
from .algebraic import AlgebraicMultigrid
from .direct import Direct
from .geometric import GeometricMultigrid


@dataclass(frozen=True)
class Automatic:
    """Geometric multigrid first; algebraic multigrid where it converges poorly; sparse LU as the last resort.

    A preconditioner is poor when its factor per application exceeds ``poor_factor`` or when it stagnates; the next one
    then takes over for the rest of the grid. Decided from counts, never from seconds; ``stats["fallbacks"]`` says so.

    Good values: the default.
    """

    poor_factor: float = 0.8


@dataclass(frozen=True)
class LinearResult:
    """``correction`` solves ``A w + c = rhs`` (mean-free, c any constant) to ``relative_residual``."""

    correction: np.ndarray
    relative_residual: float
    applications: int
    converged: bool


class LinearSolver:
    """Solves with one :class:`~pmapde.linear.stencil.Stencil` after another on one grid.

    Parameters
    ----------
    method : Automatic, GeometricMultigrid, AlgebraicMultigrid, Spectral or Direct
    stats : dict
        ``stats["linear"][name]`` counts ``setups``, ``applications``, ``solves``; ``stats["fallbacks"]`` lists
        ``"geometric -> algebraic on 512x512: ..."``.
    max_applications : int
        Preconditioner applications allowed in one solve.
    """

    def __init__(self, method, stats, threads=1, max_applications=200):
        chain = [GeometricMultigrid(), AlgebraicMultigrid(), Direct()] if isinstance(method, Automatic) else [method]
        self.poor_factor = method.poor_factor if isinstance(method, Automatic) else math.inf
        self.chain, self.stats = chain, stats
        self.threads, self.max_applications = threads, max_applications
        self._kept, self._pace, self._stale, self._age = None, None, False, 0

    def solve(self, stencil, rhs, rtol):
        """Correction for ``rhs``, both without their means, to the relative residual ``rtol`` in the RMS norm."""
        if not math.isfinite(rhs.sum()):  # an iterative solver would spend its whole budget on it
            return LinearResult(np.full(rhs.shape, math.nan), math.nan, 0, False)
        while True:
            result = self._attempt(stencil, rhs, rtol)
            reused = self.chain[0].keep and self._age > 0
            if not result.converged and reused:  # an old hierarchy gets one retry with a fresh one
                self._stale = True
                continue
            factor = result.relative_residual ** (1 / max(1, result.applications))
            # a set-up may mend a poor factor of the cheap cycle; sparse LU is for what would fail otherwise
            poor = not result.converged or (factor > self.poor_factor and self.chain[0].name == "geometric")
            if not poor or len(self.chain) == 1 or (isinstance(self.chain[1], Direct)
                                                    and not self.chain[1].affords(stencil)):
                return result
            self._fall_back(stencil, factor)
            if result.converged:
                return result

    def _fall_back(self, stencil, factor):
        shape = "x".join(map(str, stencil.shape))
        self.stats["fallbacks"].append(f"{self.chain[0].name} -> {self.chain[1].name} on {shape} "
                                       f"(factor {factor:.2f} per application)")
        self.chain = self.chain[1:]
        self._kept, self._stale = None, False

    def _preconditioner(self, stencil):
        method = self.chain[0]
        counters = self.stats["linear"].setdefault(method.name, {"setups": 0, "applications": 0, "solves": 0})
        if self._kept is None or self._stale or not method.keep:
            begin = time.perf_counter()
            try:
                self._kept = method.build(stencil)
            except RuntimeError:  # SuperLU: exactly singular in floating point
                self._kept = None
            self.stats["seconds"]["linear set-up"] += time.perf_counter() - begin
            counters["setups"] += 1
            self._stale, self._pace, self._age = False, None, 0
        else:
            self._age += 1
        return self._kept, counters

    def _attempt(self, stencil, rhs, rtol):
        preconditioner, counters = self._preconditioner(stencil)
        if preconditioner is None:
            return LinearResult(np.zeros(rhs.shape), math.nan, 0, False)
        begin = time.perf_counter()
        size, shape = rhs.size, rhs.shape
        applications = 0

        def apply(field):
            use_threads(self.threads, size)
            result = stencil.apply(field.reshape(shape))
            result -= result.mean()
            return result.ravel()

        def precondition(residual):
            nonlocal applications
            applications += 1
            result = preconditioner.apply(residual.reshape(shape), self.threads)
            result -= result.mean()
            return result.ravel()

        right = (rhs - rhs.mean()).ravel()
        scale = np.linalg.norm(right)
        correction = np.zeros(size)
        if scale > 0:
            # BiCGSTAB (van der Vorst 1992), right-preconditioned in scipy: its residual is the true one up to rounding
            correction, _ = bicgstab(LinearOperator((size, size), apply, dtype=float), right, rtol=rtol, atol=0.0,
                                     maxiter=max(1, self.max_applications // 2),
                                     M=LinearOperator((size, size), precondition, dtype=float))
        # never trust an iterative solver's own word: the true residual decides (NaN counts as not converged)
        relative = float(np.linalg.norm(right - apply(correction)) / scale) if scale > 0 else 0.0
        correction -= correction.mean()  # rounding feeds the constant, which no product sees
        counters["applications"] += applications
        counters["solves"] += 1
        self.stats["seconds"]["linear solve"] += time.perf_counter() - begin
        converged = relative <= 2 * rtol
        self._watch_pace(applications, relative)
        return LinearResult(correction.reshape(shape), relative, applications, converged)

    def _watch_pace(self, applications, relative):
        """The rebuild rule of kept hierarchies: applications per decade against those right after the set-up."""
        if not self.chain[0].keep or not 0 < relative < 1:
            return
        pace = applications / -math.log10(relative)
        if self._pace is None:
            self._pace = pace
        elif pace > self.chain[0].rebuild_growth * self._pace:
            self._stale = True
