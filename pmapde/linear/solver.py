"""The linear solver: cycles or BiCGSTAB around a preconditioner, its rules for set-up, fallback and honest failure."""
from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse.linalg import LinearOperator, bicgstab

from .. import work
from ..kernels import stencil_2d, stencil_3d
from ..memory import fits
from ..reductions import gradient_norm, shifted, weighted_mean
from ..threads import serial_blas, use_threads
from .algebraic import AlgebraicMultigrid
from .black_box import BlackBoxMultigrid
from .chebyshev import Chebyshev
from .direct import Direct
from .geometric import GeometricMultigrid
from .stencil import Stencil


@dataclass(frozen=True)
class Automatic:
    """The cheapest cycle that converges well: geometric, black-box, algebraic multigrid, sparse LU as last resort.

    The geometric cycle hands over where its remaining cycles would cost more than black-box multigrid (counted work),
    where more than two are missing at a rate above 0.7, and on the coarsest grids of smooth 2D data above 0.35; every
    method where it fails. Stencils wider than 3x3 are for algebraic multigrid. Decided from counts, never from seconds;
    ``stats["fallbacks"]`` says so.

    Parameters
    ----------
    poor_factor : float
        Where BiCGSTAB is around the cycle, as after a refused step: the factor per application above which black-box
        multigrid, whose cycle costs up to three times as much as the geometric one, takes over.
    hopeless_factor : float
        The same for algebraic multigrid, the next where there is not the memory for black-box multigrid: its set-up is
        worth 20 to 90 geometric cycles.

    Good values: the defaults.
    """

    poor_factor: float = 0.4
    hopeless_factor: float = 0.8

    def largest_factor(self, method, successor):
        """Factor per application above which ``successor`` takes over from ``method`` though that converged."""
        if not isinstance(method, GeometricMultigrid):
            return math.inf
        return self.poor_factor if isinstance(successor, BlackBoxMultigrid) else self.hopeless_factor


CHAIN = (GeometricMultigrid(), BlackBoxMultigrid(), AlgebraicMultigrid(), Direct())


POOR_RATE = 0.7
"""Cycles that reduce the correction by less are left to another preconditioner, or to BiCGSTAB if more than a few are
missing."""
FEW_CYCLES = 6
TELLING = {2: 64, 3: 32}
"""Cells along the shortest axis from which the rate of the cycles on a grid says something about finer grids."""
SLACK = 0.8
"""Largest relative error of a correction whose error is a guess: some of it must be right."""
FIRST_RATE, LEAST_RATE = 0.25, 0.15
"""Rate of the cycles assumed before one was seen, and the least that two corrections are believed."""
SLOW_RATE, SLOWEST, FORGET, UNSEEN = 0.35, 0.8, 0.9, 0.55
"""Cycles that reduce the correction by less than the first are combined; the slowest part of the error is taken to be
halfway between what was seen, at most the second, and one. What was seen is trusted less from solve to
solve; the last is the least that is taken: few cycles do not show the slowest part."""
OVERSHOT, FAR_OVERSHOT = 0.9, 1.25
"""A second correction that is larger, relative to the first, makes up for a first that went too far, as they do on
rough data: such cycles are not combined, on the next grid neither before its first solve says otherwise. The second is
for cycles that are combined."""
PATIENCE, LEAST = 3, 10
"""A solve may take so many times the applications of a preconditioner that is just good enough not to be given up; and
at least so many times so many."""
EASIER = 8.0
"""Growth of the shift since a preconditioner was given up, from which on it is tried again."""
_NUMBERS = ("index", "pace", "stale", "age", "rate", "telling", "overshoots", "judged", "measure", "fell_at",
            "left")
_STENCIL = ("weights", "drift", "offsets", "shift", "row_weight")


@dataclass(frozen=True)
class LinearResult:
    """``correction`` solves ``A w + c = rhs``, both up to any constant.

    ``relative_residual``: RMS of the residual over that of ``rhs`` (NaN where it was not formed). ``size``: RMS of the
    gradient of the correction; ``error``: an estimate of that of its error.
    """

    correction: np.ndarray
    relative_residual: float
    applications: int
    converged: bool
    size: float = math.nan
    error: float = math.nan


def _cycles(rate, missing):
    """Cycles that reduce an error by ``missing`` at a ``rate`` each."""
    return math.ceil(math.log(missing) / -math.log(rate)) if rate < 0.95 else math.inf


class OutOfTime(Exception):
    """The time allowed is over in the middle of a linear solve."""


class LinearSolver:
    """Solves with one :class:`~pmapde.linear.stencil.Stencil` after another, on one grid until :meth:`next_grid`.

    Parameters
    ----------
    method : Automatic, GeometricMultigrid, BlackBoxMultigrid, AlgebraicMultigrid, Spectral or Direct
    stats : dict
        ``stats["linear"][name]`` counts ``setups``, ``applications``, ``solves``; ``stats["fallbacks"]`` lists
        ``"geometric -> black box on 96x96 (factor 0.79 per application)"``.
    max_applications : int
        Preconditioner applications allowed in one solve.
    remember : bool
        Whether :meth:`state` will be asked for: then the matrix of a kept hierarchy is kept beside it.
    deadline : float
        Of ``time.perf_counter``: an iteration that ends later raises :class:`OutOfTime`.
    combine : bool
        Whether geometric cycles that converge slowly are combined; not for equations whose target is averaged, where
        they overshoot now and then.
    """

    def __init__(self, method, stats, threads=1, max_applications=200, remember=False, deadline=math.inf,
                 combine=True):
        self._rules = method if isinstance(method, Automatic) else None
        self._chain = CHAIN if isinstance(method, Automatic) else (method,)
        self._index, self.stats = 0, stats
        self.threads, self.max_applications = threads, max_applications
        self._kept, self._pace, self._stale, self._age = None, None, False, 0
        self._rate, self._telling, self._overshoots, self._judged, self._measure = None, False, False, False, False
        self._remember, self._built_from, self._deadline, self._combine = remember, None, deadline, combine
        self._fell_at, self._thorough, self._left = 0.0, False, None

    @property
    def method(self):
        return self._chain[self._index]

    def next_grid(self, measure=False, thorough=False):
        """Forget the hierarchy. Black-box multigrid that took over stays, unless the grid was too coarse to tell; what
        came after it is tried afresh. ``measure``: the rate of the cycles there says little of that here.
        ``thorough``: the grid is so coarse that geometric cycles which are slow at all are left to the next: the part
        of the error that they hardly reduce would be passed on to finer grids, where it is dear."""
        index = min(self._index, 1 if self._telling or thorough else 0)
        if index != self._index:
            self._index, self._rate = index, self._left if index == 0 else None
        self._kept, self._pace, self._stale, self._age = None, None, False, 0
        self._measure, self._judged, self._fell_at, self._thorough = measure, False, 0.0, thorough

    def _reconsider(self, shift):
        """Back to the cheapest preconditioner where the step is much shorter than the one it failed on."""
        if self._index and shift > EASIER * self._fell_at:
            self._index, self._kept, self._stale, self._rate = 0, None, False, None

    def state(self):
        """What later solves depend on: numbers, and the stencil a kept hierarchy was built from, with its arrays."""
        kept = None
        if self._kept is not None and self.method.keep:
            kept = {name: getattr(self._built_from, name) for name in _STENCIL}
        return {**{name: getattr(self, f"_{name}") for name in _NUMBERS}, "kept": kept}

    def restore(self, state, grid):
        """Go on as the solver did that was in ``state``: its hierarchy on ``grid`` is built again."""
        for name in _NUMBERS:
            setattr(self, f"_{name}", state[name])
        if not (isinstance(self._index, int) and 0 <= self._index < len(self._chain)):
            raise ValueError("no such preconditioner")
        self._kept = None
        if state["kept"] is not None:
            stencil = Stencil(periodic=grid.periodic, **state["kept"])
            layers = 1 if stencil.drift.shape[1:2] == (1,) else grid.shape[0]
            checked = [(stencil.weights, (len(stencil.offsets), *grid.shape)),
                       (stencil.drift, (grid.ndim, layers, *grid.shape[1:])), (stencil.row_weight, grid.shape)]
            if not (stencil.radius <= min(grid.shape) and all(values.shape == shape and values.dtype == float
                                                              for values, shape in checked)):
                raise ValueError("a stencil that does not fit the grid")
            self._build(stencil)

    def release(self):
        """Free a preconditioner that would not be used again."""
        if not self.method.keep:
            self._kept = None

    def correct(self, stencil, rhs, rtol, spacing, atol):
        """Correction for ``rhs`` whose error, in the RMS of its gradient, is below ``atol`` (and ``SLACK`` of its size
        where the rate of the cycles is not known yet), or below ``rtol size``.

        A residual says little about smooth errors, the size of successive corrections does: cycles are repeated until
        ``last rate / (1 - rate)`` is small enough, the rate being that of the corrections, on this grid or the last
        one. Cycles that contract poorly are left to the next preconditioner, or to :meth:`solve`; so are stencils wider
        than 3x3.
        """
        self._reconsider(stencil.shift)
        if stencil.radius > 1:
            return self.solve(stencil, rhs, max(0.1 * rtol, 1e-8), spacing)
        kernels = stencil_2d if rhs.ndim == 2 else stencil_3d
        shift = np.full((1,) * rhs.ndim, float(stencil.shift))
        # the rhs less the constant that makes it orthogonal to the row weights, nearly the left null vector of A
        weight = np.ones(rhs.shape) if stencil.row_weight is None else stencil.row_weight
        mean, weight_sum = weighted_mean(rhs, weight)
        total, residual = np.empty(tuple(n + 2 for n in rhs.shape)), shifted(rhs, -mean)
        squares, size, last, spent, cycles = np.empty(rhs.shape[0]), 0.0, math.inf, 0, 0
        pace, before, last_rate = None, math.inf, 0.0
        combine = self._combine and isinstance(self.method, GeometricMultigrid)
        slow, known = False, self._rate is not None and not (self._judged or self._measure)  # from the grid before
        inside = (slice(1, -1),) * rhs.ndim
        preconditioner, counters = self._preconditioner(stencil)
        while preconditioner is not None:
            begin = time.perf_counter()
            use_threads(self.threads, rhs.size)
            field = preconditioner.apply(residual, self.threads)
            use_threads(self.threads, rhs.size)
            if pace is None and combine and not self._overshoots and (slow or known and self._rate > SLOW_RATE):
                self._judged, pace = True, Chebyshev(0.5 + 0.5 * max(self._rate, UNSEEN), total.shape)
                self._rate *= FORGET
            if pace is not None:
                field = pace.next(field)
            kernels.add_correction(field, spacing, stencil.periodic, spent == 0, total, squares)
            counters["applications"] += 1
            work.book(self.stats["work"], rhs.shape, self.method.cycle_work[rhs.ndim] + work.RESIDUAL)
            self.stats["seconds"]["linear solve"] += time.perf_counter() - begin
            spent, cycles = spent + 1, cycles + 1
            norm = math.sqrt(float(squares.sum()) / rhs.size)
            size = max(size, norm)
            rate, settled = norm / last if cycles > 1 and last > 0 else None, (pace.steps if pace else cycles) > 2
            last = norm
            if not math.isfinite(norm) or (pace is None and rate is not None and rate > 1 and settled):
                break
            if pace is not None and rate is not None and rate > (1.0 if settled else FAR_OVERSHOT):
                self._overshoots, pace = True, None
            if pace is None:
                if cycles == 2 and (rate > OVERSHOT or not self._judged):
                    self._overshoots, self._judged = rate > OVERSHOT, True
                if rate is not None:
                    if settled and last_rate > OVERSHOT:  # what makes up for too much is followed by little
                        rate = math.sqrt(rate * last_rate)
                    last_rate, slow = rate, rate > SLOW_RATE
                    self._rate = min(rate if settled else max(rate, self._rate or LEAST_RATE), SLOWEST)
                expected = min(FIRST_RATE if self._rate is None else self._rate, 0.9)
                error = before = norm * expected / (1 - expected)
            else:
                if settled and rate > pace.rate:
                    self._rate = max(self._rate, min(2 * pace.slowest_at(rate) - 1, SLOWEST))
                expected = rate = max(pace.rate, rate) if settled else pace.rate
                error = max(norm * expected / (1 - expected), min(size, before) * pace.left)
            enough = max(rtol * size, atol if known else min(atol, SLACK * size))
            if error <= enough:
                counters["solves"] += 1
                return LinearResult(total[inside], math.nan, spent, True, size, error)
            thorough = self._thorough and self._index == 0 and rate is not None and rate > SLOW_RATE
            if settled or thorough:
                successor, more = self._successor(stencil), _cycles(rate, error / enough)
                hopeless = thorough or rate > POOR_RATE and more > 2
                if successor and self._pays(successor, math.inf if hopeless else more, rhs.ndim):
                    self._fall_back(stencil, rate, successor)
                    preconditioner, counters = self._preconditioner(stencil)
                    last, cycles, pace, before, combine = math.inf, 0, None, math.inf, False
                elif settled and rate > POOR_RATE and more > FEW_CYCLES:
                    break
            kernels.residual(stencil.weights, stencil.drift, shift, rhs, total, weight, residual, squares)
            shifted(residual, -float(squares.sum()) / weight_sum, out=residual)
        result = self.solve(stencil, rhs, min(0.1, max(0.1 * rtol, 0.1 * atol / size if size > 0 else 0.0, 1e-8)),
                            spacing)
        return replace(result, applications=spent + result.applications)

    def _pays(self, successor, more, ndim):
        """Whether ``more`` geometric cycles cost more than another preconditioner and two of its cycles."""
        method, other = self.method, self._chain[successor]
        return isinstance(method, GeometricMultigrid) and (
            more * (method.cycle_work[ndim] + work.RESIDUAL)
            > other.setup_work[ndim] + 2 * (other.cycle_work[ndim] + work.RESIDUAL))

    def _successor(self, stencil):
        """Index of the next preconditioner that can be afforded, memory included; None if there is none."""
        return next((index for index in range(self._index + 1, len(self._chain))
                     if self._chain[index].affords(stencil)
                     and fits(self._chain[index].bytes_per_cell, stencil.shape)), None)

    def solve(self, stencil, rhs, rtol, spacing=None):
        """Correction for ``rhs``, both without their means, to the relative residual ``rtol`` in the RMS norm.

        With ``spacing`` its size and a rough estimate of its error are given too.
        """
        if not math.isfinite(rhs.sum()):  # an iterative solver would spend its whole budget on it
            return LinearResult(np.full(rhs.shape, math.nan), math.nan, 0, False)
        self._reconsider(stencil.shift)
        if self._rules and not self.method.affords(stencil):
            self._index, self._kept = self._successor(stencil), None
        while True:
            successor = self._successor(stencil)
            with serial_blas():
                result = self._attempt(stencil, rhs, rtol, self._most_applications(successor, rtol))
            if spacing is not None:
                size = gradient_norm(result.correction, spacing)
                result = replace(result, size=size, error=size * min(1.0, 3 * result.relative_residual))
            reused = self.method.keep and self._age > 0
            if not result.converged and reused:  # an old hierarchy gets one retry with a fresh one
                self._stale = True
                continue
            factor = result.relative_residual ** (1 / max(1, result.applications))
            if successor is None or (result.converged
                                     and factor <= self._rules.largest_factor(self.method, self._chain[successor])):
                return result
            self._fall_back(stencil, factor, successor)
            if result.converged:
                return result

    def _fall_back(self, stencil, factor, index):
        shape = "x".join(map(str, stencil.shape))
        self.stats["fallbacks"].append(f"{self.method.name} -> {self._chain[index].name} on {shape} "
                                       f"(factor {factor:.2f} per application)")
        self._left = self._rate if self._thorough else None  # geometric cycles go on with it on finer grids
        self._index, self._kept, self._stale, self._rate = index, None, False, None
        self._fell_at = stencil.shift
        self._telling = (self._telling or not self._thorough
                         and min(stencil.shape) >= TELLING[len(stencil.shape)])

    def _preconditioner(self, stencil):
        method = self.method
        counters = self.stats["linear"].setdefault(method.name, {"setups": 0, "applications": 0, "solves": 0})
        if self._kept is None or self._stale or not method.keep:
            begin = time.perf_counter()
            self._build(stencil)
            self.stats["seconds"]["linear set-up"] += time.perf_counter() - begin
            counters["setups"] += 1
            work.book(self.stats["work"], stencil.shape, method.setup_work[len(stencil.shape)])
            self._stale, self._pace, self._age = False, None, 0
        else:
            self._age += 1
        return self._kept, counters

    def _build(self, stencil):
        try:
            with serial_blas() if self.method.uses_blas else nullcontext():
                self._kept = self.method.build(stencil, self.threads)
        except (RuntimeError, np.linalg.LinAlgError):  # exactly singular in floating point; pyamg: no coarse operator
            self._kept = None
        if self._remember and self.method.keep:  # a copy: the operator writes the next one to the same arrays
            self._built_from = replace(stencil, weights=stencil.weights.copy(), drift=stencil.drift.copy())

    def _attempt(self, stencil, rhs, rtol, most):
        preconditioner, counters = self._preconditioner(stencil)
        if preconditioner is None:
            return LinearResult(np.zeros(rhs.shape), math.nan, 0, False)
        begin = time.perf_counter()
        size, shape, inside = rhs.size, rhs.shape, (slice(1, -1),) * rhs.ndim
        applications = 0

        def apply(field):
            use_threads(self.threads, size)
            result = stencil.apply(field.reshape(shape))
            result -= result.mean()
            return result.ravel()

        def precondition(residual):
            nonlocal applications
            if time.perf_counter() > self._deadline:
                raise OutOfTime
            applications += 1
            result = preconditioner.apply(residual.reshape(shape), self.threads)[inside]
            return (result - result.mean()).ravel()

        right = (rhs - rhs.mean()).ravel()
        scale = np.linalg.norm(right)
        correction = np.zeros(size)
        if scale > 0:
            # BiCGSTAB (van der Vorst 1992), right-preconditioned in scipy: its residual is the true one up to rounding
            with np.errstate(over="ignore", invalid="ignore"):  # where it breaks down the true residual says so
                correction, _ = bicgstab(LinearOperator((size, size), apply, dtype=float), right, rtol=rtol, atol=0.0,
                                         maxiter=max(1, most // 2),
                                         M=LinearOperator((size, size), precondition, dtype=float))
        # never trust an iterative solver's own word: the true residual decides (NaN counts as not converged)
        relative = float(np.linalg.norm(right - apply(correction)) / scale) if scale > 0 else 0.0
        correction -= correction.mean()  # rounding feeds the constant, which no product sees
        counters["applications"] += applications
        counters["solves"] += 1
        work.book(self.stats["work"], shape, applications * (self.method.cycle_work[rhs.ndim] + 3 * work.RESIDUAL))
        self.stats["seconds"]["linear solve"] += time.perf_counter() - begin
        converged = relative <= 2 * rtol
        self._watch_pace(applications, relative)
        return LinearResult(correction.reshape(shape), relative, applications, converged)

    def _most_applications(self, successor, rtol):
        """Allowed in one solve: what takes many more is given up afterwards anyway, where there is another."""
        slowest = self._rules.largest_factor(self.method, self._chain[successor]) if successor else math.inf
        if not slowest < 1:
            return self.max_applications
        return min(self.max_applications, PATIENCE * max(LEAST, math.ceil(math.log(rtol) / math.log(slowest))))

    def _watch_pace(self, applications, relative):
        """The rebuild rule of kept hierarchies: applications per decade against those right after the set-up."""
        if not self.method.keep or not 0 < relative < 1:
            return
        pace = applications / -math.log10(relative)
        if self._pace is None:
            self._pace = pace
        elif pace > self.method.rebuild_growth * self._pace:
            self._stale = True
