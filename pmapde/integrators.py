"""Implicit Runge-Kutta steps of the parabolic equation in true time, with error control in the sup norm."""
from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .archive import field
from .linear.solver import Automatic
from .reductions import inner, rms
from .status import Status
from .stepping import check_common, mean_free

SAFETY, SHRINK, GROW = 0.85, 0.2, 5.0
"""Of the next step: a share of the one that would just do, and its bounds relative to the last one."""
REFUSED = 0.25
"""Reduction of a step whose equations were not solved."""
STALE = 3
"""Refusals in a row after which a step starts from the slope at its potential. The last stage's, the first choice, is
smoother, but differs from it by an algebraic error that no shorter step would diminish: the estimate would see it."""
REST_SHARE = 0.1
"""Error allowed, beside the share of the step's own movement, per doubling of the time and distance travelled."""
EXTRAPOLATED_SHARE = 0.3
"""Estimate allowed per distance travelled where it is that of a method of lower order than the one that goes on."""
ALGEBRAIC_SHARE = 0.1
"""Algebraic error of a stage, as a share of the error allowed in the step."""
LINEAR_SHARE = (1e-4, 0.1)
"""Relative errors of a linear solve that are asked for, at least and at most, before the nonlinear residual is looked
at: what would be enough if the guess were as good as that of the same stage one step before."""
MOST_EXTRAPOLATED = 12.0
"""Sum of the absolute weights of an extrapolation of slopes; beyond it the last slope is the guess."""
MARGIN = 0.7
"""The operator is extended where u_t leaves the range it has at the start by more, so that Newton cannot go astray."""
SMALLEST_STEP = 1e-12
"""In natural times (:func:`natural_time`); below it the status is STEP_TOO_SMALL."""
ROUNDING = 1e-14
"""Relative to the largest value of phi, or to the natural time, the size of q: what errors are never asked to be below.
"""
SLIVER = 1e-9
"""A last step longer than the one before by less, relative to it, is made in one: no step of the size of rounding."""


@dataclass(frozen=True)
class Tableau:
    """A stiffly accurate, singly diagonally implicit Runge-Kutta method.

    ``a[i]`` are the coefficients of stage i, ``c`` the times of the stages; the first stage is explicit, its slope is
    the last one of the step before. ``error`` are the weights of the local error estimate, which is of order
    ``estimate_order`` in the step: that of the method itself, or, ``extrapolated``, of an embedded lower-order one.
    """

    a: tuple
    c: tuple
    error: tuple
    estimate_order: int
    extrapolated: bool = False


def _backward_euler():
    # the slopes at both ends estimate the curvature: u(t + dt) - u_{k+1} = -dt^2 u'' / 2 + O(dt^3)
    return Tableau(((0.0,), (0.0, 1.0)), (0.0, 1.0), (-0.5, 0.5), 2)


def _tr_bdf2():
    gamma = 2 - math.sqrt(2)
    d, w = gamma / 2, math.sqrt(2) / 4
    third = ((1 - w) / 3, (3 * w + 1) / 3, d / 3)  # Hosea & Shampine (1996), the embedded third-order weights
    return Tableau(((0.0,), (d, d), (w, w, d)), (0.0, gamma, 1.0), tuple(b - e for b, e in zip((w, w, d), third)), 3)


def _esdirk3():
    """Coefficients from stage order two, order three and L-stability, ``g^3 - 3 g^2 + 3 g / 2 - 1 / 6 = 0``."""
    g = float(np.sort(np.roots([1, -3, 1.5, -1 / 6]).real)[1])
    c = (0.0, 2 * g, 0.6, 1.0)
    a32 = c[2] * (c[2] - 2 * g) / (4 * g)
    b2, b3 = np.linalg.solve([[c[1], c[2]], [c[1] ** 2, c[2] ** 2]], [0.5 - g, 1 / 3 - g])
    a = np.array([[0, 0, 0, 0], [g, g, 0, 0], [c[2] - a32 - g, a32, g, 0], [1 - b2 - b3 - g, b2, b3, g]])
    # the embedded second-order weights: bounded stability function, the last weight that of the paper
    stiff = np.concatenate([[1.0], -np.linalg.solve(a[1:, 1:], a[1:, 0])])  # slopes of an infinitely stiff mode
    second = np.linalg.solve([np.ones(4), c, stiff, [0, 0, 0, 1]], [1, 0.5, 0, 2193209047091 / 5459859503100])
    return Tableau(tuple(tuple(row[:i + 1]) for i, row in enumerate(a)), c, tuple(a[3] - second), 3, True)


@dataclass(frozen=True)
class Integrator:
    """What :class:`BackwardEuler`, :class:`TRBDF2` and :class:`ESDIRK3` have in common."""

    step: float = None
    scheme: str = None
    linear: object = dataclasses.field(default_factory=Automatic)
    max_iterations: int = 8

    order: ClassVar[int]
    tableau: ClassVar[Tableau]

    def __post_init__(self):
        check_common(self)
        if self.step is not None and not (self.step > 0 and math.isfinite(self.step)):
            raise ValueError(f"`step` must be a positive time, or None for error control, got {self.step!r}.")
        if not self.max_iterations >= 1:
            raise ValueError(f"`max_iterations` must be at least 1, got {self.max_iterations!r}.")


_PARAMETERS = """

    Parameters
    ----------
    step : float, optional
        Fixed step; steps are chosen by error control if omitted.
    scheme : {None, "monotone", "centred"}
        See :class:`~pmapde.monge_ampere.MongeAmpere`; ``None``: as in
        :class:`~pmapde.PseudoTransient`.
    linear : Automatic, GeometricMultigrid, BlackBoxMultigrid, AlgebraicMultigrid, Spectral or Direct
    max_iterations : int
        Newton iterations of a stage before the step is refused.
    """


class BackwardEuler(Integrator):
    __doc__ = """First order, L-stable: ``(u_{k+1} - u_k) / dt = R(u_{k+1})``, the implicit mirror descent step.

    The error estimate ``dt (R_{k+1} - R_k) / 2`` is of second order.""" + _PARAMETERS
    order, tableau = 1, _backward_euler()


class TRBDF2(Integrator):
    __doc__ = """Second order, L-stable: trapezoidal rule to ``(2 - sqrt 2) dt``, then BDF2; two implicit stages.

    Bank et al. (1985); as a Runge-Kutta pair with a third-order error estimate: Hosea & Shampine (1996), Appl. Numer.
    Math. 20, 21-37.""" + _PARAMETERS
    order, tableau = 2, _tr_bdf2()


class ESDIRK3(Integrator):
    __doc__ = """Third order, L-stable, stage order two, three implicit stages, second-order embedded method.

    ESDIRK3(2)4L[2]SA of Kennedy & Carpenter (2003), Appl. Numer. Math. 44, 139-181. The estimate is that of the
    embedded method, so the error is well below it.""" + _PARAMETERS
    order, tableau = 3, _esdirk3()


@dataclass(frozen=True)
class FlowStep:
    """An accepted step of the flow.

    ``time``, ``dt``: where it ended and how long it was; ``phi``: displacement potential there, with its mean;
    ``slope_before``, ``slope``: ``u_t`` at both ends, as the stages have it; ``log_ratio``: the log residual
    ``log(rho / mu)`` at ``phi``; ``error``: the estimated local error (half the range, in units of u) and ``allowed``
    what it was held against (both NaN in a fixed step); ``newton_iterations`` over all stages, ``rejected`` attempts
    before. ``status`` is set where the flow cannot go on: then ``phi`` is where it stopped.
    """

    time: float
    dt: float
    phi: np.ndarray
    slope_before: np.ndarray
    slope: np.ndarray
    log_ratio: np.ndarray
    error: float
    allowed: float
    newton_iterations: int
    rejected: int
    status: Status = None


@dataclass(frozen=True)
class _Stage:
    psi: np.ndarray
    slope: np.ndarray
    iterations: int
    miss: tuple = None  # of the guess, relative to the distance moved; the share of the residual Newton left of it
    failure: Status = None
    gained: float = 0.0


def half_range(field):
    """Sup norm modulo constants, the distance of potentials."""
    return 0.5 * float(np.ptp(field))


def natural_time(problem):
    """Squared length of the source's box times slope of the map, the largest over the axes: the unit of u and of t."""
    return float(np.max(problem.slopes * problem.grid.lengths**2))


def rounding(problem, phi):
    """Errors of a potential below this are rounding; in the units of the potential, whatever those of the boxes."""
    return ROUNDING * (natural_time(problem) + float(np.abs(phi).max()))


def implicit_stage(operator, linear, evaluation, rhs, gamma_dt, guess, base, bounds, tolerance, miss, method,
                   keep_mean=True):
    """Solve ``psi - gamma_dt R(psi) = rhs`` by Newton's method from ``guess``; ``evaluation`` is of ``psi`` after.

    Ends when the estimated error, relative to the distance from ``base`` (half the range both), is below
    ``tolerance``. The operator is extended where its value is not inside ``bounds``. R is blind to constants: the mean
    of the equation gives the mean of ``psi``; without ``keep_mean`` what it gains is left out and told as ``gained``: a
    long step adds much of it, at the cost of the digits of the rest. ``miss``: as the last such stage found it, see
    :class:`_Stage`.
    """
    shift, psi, spacing = 1 / gamma_dt, guess, operator.grid.spacing
    mass = operator.problem.source_values * operator.grid.cell_volume
    operator.evaluate(psi, extend=bounds, out=evaluation)
    value = mean_free(evaluation.residual - shift * (psi - rhs))[0]
    norm = rms(value)
    least, most = LINEAR_SHARE
    rtol, first = max(0.5 * tolerance / max(miss[0], 1e-300), 0.3 * miss[1]), None
    for iteration in range(1, method.max_iterations + 1):
        if not math.isfinite(norm):
            return _Stage(psi, None, iteration, failure=Status.NONFINITE)
        result = linear.correct(operator.stencil(evaluation, shift), value, min(most, max(least, rtol)), spacing, 0.0)
        if not result.error < 0.9 * result.size and result.size > 0:  # NaN included
            return _Stage(psi, None, iteration, failure=Status.LINEAR_STALLED)
        psi = psi + result.correction
        operator.evaluate(psi, extend=bounds, out=evaluation)
        value = mean_free(evaluation.residual - shift * (psi - rhs))[0]
        before, norm = norm, rms(value)
        left = result.error / result.size + min(1.0, norm / before) if result.size > 0 and before > 0 else 0.0
        size, moved = half_range(result.correction), half_range(psi - base)
        first = first or (size / max(moved, 1e-300), min(1.0, norm / max(before, 1e-300)))
        if size * left <= max(tolerance * moved, rounding(operator.problem, psi)) and not evaluation.extended:
            gained = inner(mass, rhs - psi) + gamma_dt * inner(mass, evaluation.residual)
            if not keep_mean:
                return _Stage(psi, None, iteration, first, gained=gained)
            psi += gained
            return _Stage(psi, (psi - rhs) * shift, iteration, first)
        rtol = 0.3 * tolerance * moved / max(size * left, 1e-300)
    return _Stage(psi, None, method.max_iterations, failure=
                  Status.NONFINITE if not math.isfinite(norm) else Status.NEWTON_STALLED)


class _Guesses:
    """Times and slopes of the latest stages, to guess the next from; how good such guesses were, by stage."""

    def __init__(self, time, slope):
        self.entries, self.misses = [(time, slope)], {}

    @classmethod
    def remembered(cls, entries, misses):
        guesses = cls(*entries[0])
        guesses.entries = [tuple(entry) for entry in entries]
        guesses.misses = {int(stage): tuple(miss) for stage, miss in misses.items()}
        return guesses

    def add(self, time, slope):
        self.entries.append((time, slope))

    def slope(self, time):
        """Extrapolation by the polynomial through the last three slopes, or what there is."""
        times = [t for t, _ in self.entries[-3:]]
        weights = [math.prod((time - s) / (t - s) for s in times if s != t) for t in times]
        if sum(map(abs, weights)) > MOST_EXTRAPOLATED:
            return self.entries[-1][1]
        return _combination(weights, [k for _, k in self.entries[-3:]])


def value_bounds(evaluation):
    """Values of ``u_t`` that a flow from the point evaluated can take: by the maximum principle those it takes there.

    Refuses a point that is not convex.
    """
    if not math.isfinite(evaluation.mean):
        raise ValueError("`start` must be a strictly convex potential (positive second differences in every cell), the "
                         "flow is defined for those only: smooth it, or leave it out.")
    return float(evaluation.residual.min()) - MARGIN, float(evaluation.residual.max()) + MARGIN


def integrate(operator, linear, phi, method, tolerance, stop=math.inf, first=None, memory=None):
    """Generate :class:`FlowStep` records from ``phi`` at time 0, hitting ``stop`` exactly.

    ``memory``, a dict, is given what it takes to go on from the step being yielded; one that was is gone on from.

    With error control the sum of the local errors (half the range) is held near ``tolerance`` times the distance
    travelled, or that expected at the time ``first`` before: the flow does not expand sup distances (comparison
    principle), so local errors only add up. An estimate of the method's own error is allowed ``tolerance`` times how
    far the potential moved in the step, plus a tenth of ``tolerance`` times the distance per doubling of the time; one
    of an embedded method of lower order ``tolerance`` times the distance.
    """
    tableau = method.tableau
    stages, gamma, exponent = len(tableau.c), tableau.a[-1][-1], 1 / (tableau.estimate_order - 1)
    smallest = SMALLEST_STEP * natural_time(operator.problem)
    memory = {} if memory is None else memory
    evaluation, time, travelled, rejected, iterations = operator.new_evaluation(), 0.0, 0.0, 0, 0
    if memory:
        time, dt, travelled, distance, bounds, phi, slope, log_ratio = (memory[name] for name in _MEMORY)
        guesses = _Guesses.remembered(memory["guesses"], memory["misses"])
    else:
        operator.evaluate(phi, out=evaluation)
        bounds = value_bounds(evaluation)
        slope = log_ratio = evaluation.residual.copy()
        distance, dt, guesses = 0.0, method.step, _Guesses(0.0, slope)
        if not method.step:
            distance, dt = _expectations(operator, linear, evaluation, tolerance ** exponent, min(stop, first or stop))
    if not method.step and tableau.extrapolated:
        exponent = 1 / tableau.estimate_order
    while time < stop:
        remaining = stop - time
        step = remaining if remaining <= dt * (1 + SLIVER) else dt
        if not method.step and 0.5 * remaining < step < remaining:
            step = 0.5 * remaining  # two even steps instead of a sliver at the end
        slopes, psi, failure, mark = [slope], phi, None, len(guesses.entries)
        for stage in range(1, stages):
            row, at = tableau.a[stage], time + tableau.c[stage] * step
            rhs = phi + step * _combination(row[:-1], slopes)
            guess = rhs + (gamma * step) * guesses.slope(at)
            for begin in (guess, psi):  # an extrapolation that fails gives way to where the last stage ended
                found = implicit_stage(operator, linear, evaluation, rhs, gamma * step, begin, phi, bounds,
                                       ALGEBRAIC_SHARE * tolerance, guesses.misses.get(stage, (1.0, 0.0)), method)
                iterations += found.iterations
                if not found.failure or not method.step:
                    break
            failure = found.failure
            if failure:
                break
            psi, guesses.misses[stage] = found.psi, found.miss
            slopes.append(found.slope)
            guesses.add(at, found.slope)
        error = allowed = math.nan
        if not failure and not method.step:
            moved = half_range(psi - phi)
            far = max(travelled + moved, distance)
            if tableau.extrapolated:
                allowed = tolerance * EXTRAPOLATED_SHARE * far
            else:
                allowed = tolerance * (moved + REST_SHARE * far * math.log2(1 + step / (time + step)))
            allowed = max(allowed, rounding(operator.problem, psi))
            error = half_range(step * _combination(tableau.error, slopes))
            factor = min(GROW, max(SHRINK, SAFETY * (allowed / max(error, 1e-300)) ** exponent))
        if failure or error > allowed:
            del guesses.entries[mark:]
            rejected += 1
            if rejected == STALE and not method.step:
                slope = log_ratio
            dt = step * (REFUSED if failure else min(factor, SAFETY))
            if dt < smallest or time + dt == time or (failure and method.step):
                yield FlowStep(time, step, phi, slope, slope, None, error, allowed, iterations, rejected,
                               failure or Status.STEP_TOO_SMALL)
                return
            continue
        end = stop if step == remaining else time + step
        log_ratio = evaluation.residual.copy()
        record = FlowStep(end, step, psi, slope, slopes[-1], log_ratio, error, allowed, iterations, rejected)
        if not method.step:
            dt = step * (min(factor, 1.0) if rejected else factor)
            travelled += moved
        time, phi, slope, rejected, iterations = end, psi, slopes[-1], 0, 0
        del guesses.entries[:-3]
        memory.update(zip(_MEMORY, (time, dt, travelled, distance, bounds, phi, slope, log_ratio)))
        memory.update(guesses=list(guesses.entries), misses={str(k): miss for k, miss in guesses.misses.items()})
        yield record


_MEMORY = ("time", "dt", "travelled", "distance", "bounds", "phi", "slope", "log_ratio")


def checked_memory(memory, shape):
    """The ``memory`` of :func:`integrate`, read from a file; a ValueError if its fields are not of ``shape``."""
    for values in (*(memory[name] for name in ("phi", "slope", "log_ratio")), *(k for _, k in memory["guesses"])):
        field(values, shape)
    return memory


def _combination(coefficients, fields):
    """Sum of the products, over those that are not zero."""
    total = 0.0
    for coefficient, values in zip(coefficients, fields):
        if coefficient:
            total = total + coefficient * values
    return total


def _expectations(operator, linear, evaluation, share, time):
    """How far the flow is expected to move until ``time``, and a first step.

    By the linearised flow: no farther than Newton's method would go; at a rate whose own rate of change bounds the
    first step.
    """
    slope, stencil = mean_free(evaluation.residual)[0], operator.stencil(evaluation)
    rate = half_range(slope)
    if rate == 0:
        return 0.0, time
    newton = linear.correct(stencil, slope, 0.1, operator.grid.spacing, 0.0).correction
    far = min(half_range(newton), rate * time)
    return far, min(share * rate / half_range(stencil.apply(slope)), time)
