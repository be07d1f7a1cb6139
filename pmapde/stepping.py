"""Growing implicit steps of the parabolic equation on one grid: pseudo-transient continuation to the steady state."""
from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from .extrapolation import discretisation_error
from .linear.solver import Automatic
from .newton import Newton, damped_step
from .reductions import jacobi_step, sparse
from .status import Status
from .superbases import WIDEST

_METHODS = "Automatic(), GeometricMultigrid(), BlackBoxMultigrid(), AlgebraicMultigrid(), Spectral() or Direct()"


RELAXATION = 0.8
"""Damping of the nonlinear Jacobi steps."""
FIRST_SWEEPS, LATER_SWEEPS = 2, 1
"""Jacobi steps allowed at the start of a grid, and after a Newton step."""
AT_THE_FLOOR = {False: 10, True: 1000}
"""Rounding floors below which a refused step says that there is nothing left to gain, before and after linear solves
were made careful: on rough data of high contrast the floor, which knows nothing of conditions, is some hundred times
too low."""
FIRST_FORCING = 0.5
"""What the first linear solve of a grid may leave of its correction where more Newton steps are expected: these leave
as much."""
LINEAR_SHARE = 0.7
"""Of the algebraic error allowed, what the linear solve may leave; the rest is for Newton's method."""
TOLD = 1.5
"""What the residual may say of the error, in errors that are enough: 0.09 of the discretisation error is asked for, 0.2
is promised, and of noise of high contrast it says too little (``tests/test_algebraic_error.py``)."""
REMAINDER = 30.0
"""Newton's own error, relative to its correction, in residuals before it: a log residual is the relative change of the
Hessian that would undo it, and what a full step leaves there is of second order in that change. The factor is for cells
whose residuals are so many times the RMS. That rough residuals leave smooth ones, which move the map much more, is
for the verification to see."""


def check_common(settings):
    """Refuse a ``scheme`` or ``linear`` that is none."""
    if settings.scheme not in (None, "monotone", "centred"):
        raise ValueError(f"`scheme` must be 'monotone' or 'centred', got {settings.scheme!r}.")
    if not (isinstance(settings.linear, Automatic) or hasattr(settings.linear, "build")):
        raise TypeError(f"`linear` must be {_METHODS}, got {settings.linear!r}.")


@dataclass(frozen=True)
class PseudoTransient:
    """Drive ``u_t = R(u)`` to its steady state by growing implicit steps; the infinite step is Newton's method.

    Each step is one damped Newton iteration on ``(u - u_k) / dt = R(u)`` (mean-free). The step length follows switched
    evolution relaxation, ``dt <- dt * |R_k| / |R_{k+1}|`` times ``growth`` (Kelley & Keyes 1998), and is cut where the
    step is refused. With the default ``initial_step`` Newton is tried first and finite steps only where it is refused.

    Parameters
    ----------
    scheme : {None, "monotone", "centred"}
        See :class:`~pmapde.monge_ampere.MongeAmpere`; ``None``: in 2D monotone, but centred on data
        that look smooth, whatever the anisotropy of the Hessian; centred in 3D (as robust there on the random pairs
        tried, and several times cheaper: ``benchmarks/results/robustness_3d.txt``).
    radius : int, optional
        Of the superbases of the monotone scheme in 2D, which it asks for, see
        :class:`~pmapde.monge_ampere.MongeAmpere`; by default 1, and on the finest grid, if it has no more than 2^18
        cells, more where the Hessian is too anisotropic for it on more than 5 % of the source mass.
    linear : Automatic, GeometricMultigrid, BlackBoxMultigrid, AlgebraicMultigrid, Spectral or Direct
    newton : Newton
    conserve : bool
        Correct the equation's source by the mass that its map misplaces, where that is more than 1 %; on failure try
        the swapped problem. False: the equation itself and nothing else, neither continuation nor wider superbases,
        plans or finer cells.
    entropic : bool
        Where neither the equation nor the swapped one puts the mass in its place, take the map of an entropic plan
        whose blur is about a cell or less (``Solution.blur``); never where ``tolerance`` is a number, cells are far
        from cubic, or either side has more than 2^20 cells (2^21 in 3D).
    subdivision : int
        Most parts of a cell per axis where the correction is not enough, never more than 2^20 cells; 1: no finer cells,
        for plans neither, which may take up to 32 parts otherwise.
    nested : bool
        Start on a coarse grid and interpolate (cubic) from grid to grid.
    coarsest : int, optional
        Fewest cells of an axis on the coarsest grid; 16 in 2D and 8 in 3D by default.
    initial_step : float
        First pseudo-time step; infinity is Newton.
    growth : float
        Growth of accepted full steps on top of switched evolution relaxation.
    cut : float
        Reduction of a refused step.
    smallest_step : float
        Below this (times the natural time, the squared box length) the status is ``STEP_TOO_SMALL``.

    Good values: the defaults; ``initial_step=0.1`` follows the flow from the start.
    """

    scheme: str = None
    radius: int = None
    linear: object = field(default_factory=Automatic)
    newton: Newton = field(default_factory=Newton)
    conserve: bool = True
    entropic: bool = True
    subdivision: int = 8
    nested: bool = True
    coarsest: int = None
    initial_step: float = math.inf
    growth: float = 2.0
    cut: float = 0.125
    smallest_step: float = 1e-10

    def __post_init__(self):
        check_common(self)
        if not isinstance(self.newton, Newton):
            raise TypeError(f"`newton` must be a pmapde.Newton, got {type(self.newton).__name__}.")
        if not (self.initial_step > 0 and self.growth >= 1 and 0 < self.cut < 1 and self.smallest_step > 0):
            raise ValueError(f"PseudoTransient needs initial_step > 0, growth >= 1, 0 < cut < 1, smallest_step > 0, "
                             f"got {self}.")
        if self.subdivision not in (1, 2, 4, 8):
            raise ValueError(f"`subdivision` must be 1, 2, 4 or 8 parts of a cell per axis, got {self.subdivision!r}.")
        if self.radius not in (None, *range(1, WIDEST + 1)):
            raise ValueError(f"`radius` must be None or 1 to {WIDEST}, got {self.radius!r}.")
        if self.coarsest is not None and self.coarsest < 3:
            raise ValueError(f"`coarsest` must be at least 3 cells, got {self.coarsest!r}.")


@dataclass(frozen=True)
class Goal:
    """When a grid is done: at a residual, or at an algebraic error far below the discretisation error.

    Parameters
    ----------
    residual : float
        RMS of the mean-free log residual that is enough.
    share : float
        The estimated algebraic error of the map that is enough, as a share of its discretisation error. With a
        ``residual`` both are asked for, that first.
    change : float
        The part of the map's change from the next coarser grid that was made already when this grid started (by
        extrapolation), RMS.
    before : float
        That of the coarser grid from its own next coarser one; 0 if there is none.
    rough : bool
        Changes from grid to grid do not fall as on smooth data: more Newton steps than one, whatever the first does.
    one_step : bool
        One Newton step is expected to be enough: its linear equation is solved as well as the goal asks for.
    start : (float, float)
        Estimated error of the start, and the residual up to which that is believed.
    verify : bool
        An error that is enough has to agree with what the residual says, :meth:`MongeAmpere.algebraic_error`.
    """

    residual: float = 0.0
    share: float = 0.0
    change: float = 0.0
    before: float = 0.0
    rough: bool = False
    one_step: bool = True
    start: tuple = (math.inf, 0.0)
    verify: bool = False

    def met(self, norm, floor, done):
        """Whether a residual of the size ``norm`` will do, ``floor`` being that of rounding errors; ``done``: whether
        the error is small enough."""
        if norm <= floor or not self.share:
            return norm <= max(self.residual, floor)
        return done and norm <= (self.residual or math.inf)

    def now(self, norm):
        """What to aim at where the residual is ``norm``: one of the two."""
        if not (self.residual and self.share):
            return self
        return replace(self, share=0.0) if norm > self.residual else replace(self, residual=0.0)

    def allowance(self, change):
        """The algebraic error that is enough where the map has changed by ``change`` from the next coarser grid."""
        return self.share * discretisation_error(self.before, change)


@dataclass(frozen=True)
class Advance:
    """What one implicit step did. ``norm`` (RMS of the mean-free log residual) and ``drift`` (its mean) are those of
    ``phi``, where it ended; ``floor`` is the rounding floor if the iteration ended there. ``error`` estimates the
    algebraic error of the map (RMS, infinite where there is no estimate), ``change`` its change on this grid so far."""

    phi: np.ndarray
    norm: float
    drift: float
    dt: float
    newton_iterations: int
    damping: float
    rejected: int
    status: Status = None
    floor: float = 0.0
    error: float = math.inf
    change: float = 0.0


def _judged(operator, evaluation, goal, change, error):
    """``error``, or what the residual of ``evaluation`` says where that is more; and whether it is enough."""
    allowance = goal.allowance(change)
    if not error <= allowance:
        return error, False
    told = operator.algebraic_error(evaluation) if goal.verify else 0.0
    return max(error, told), told <= TOLD * allowance


def mean_free(residual):
    """``residual`` without its mean, and the mean; NaN throughout where one is not finite."""
    mean = float(residual.mean())
    return residual - (mean if math.isfinite(mean) else math.nan), mean


def rounding_floor(phi, weights, log_size):
    """RMS size of the rounding errors of the log residual: 4 eps max|phi| per second difference, weighted by W;
    the logs.

    ``log_size``: RMS of the logarithm of the source.
    """
    sample = sparse(phi.shape)  # a size is asked for, not a sum
    squares = float((weights[(slice(None), *sample)] ** 2).sum()) / phi[sample].size
    differences = float(np.abs(phi[sample]).max()) * math.sqrt(squares)
    return 4 * np.finfo(float).eps * (differences + 4 * (1 + log_size))


def relaxed(operator, phi, evaluation, sweeps):
    """``phi`` after at most ``sweeps`` nonlinear Jacobi steps, ``evaluation`` there.

    Taken while cells are extended and the residual falls: a few cells that an interpolated potential, or a Newton
    step, leaves far from convex would otherwise decide how far the next Newton step may go. More of them cost more than
    they save: what they leave is nearly degenerate, and hard on the linear solver.
    """
    for _ in range(sweeps):
        if not evaluation.extended:
            break
        norm = evaluation.norm
        trial = jacobi_step(phi, evaluation.residual, evaluation.mean, evaluation.weights, RELAXATION)
        operator.evaluate(trial, extend=True, out=evaluation)
        if not evaluation.norm < norm:
            operator.evaluate(phi, extend=True, out=evaluation)
            break
        phi = trial
    return phi


def pseudo_transient(operator, linear, phi, settings, goal, memory=None):
    """Generate :class:`Advance` records from ``phi`` until ``goal``, a :class:`Goal`, is met.

    ``memory``, a dict, is given what it takes to go on from the record being yielded; one that was is gone on from,
    ``memory["current"]`` being that record.

    Works on the extended operator, so neither ``phi`` nor the iterates need be admissible; what it ends with is: the
    last step is not accepted while a cell is extended. The last record has a status; the first one is the start,
    relaxed.
    """
    natural_time = operator.natural_time
    memory = {} if memory is None else memory
    dt, forcing_memory, rejected, careful = settings.initial_step, None, 0, False
    resumed, error, done = bool(memory), math.inf, False
    hopeful = not resumed and goal.start[0] <= goal.allowance(goal.change)
    evaluation = operator.evaluate(phi, extend=True, linearise=not hopeful)
    if hopeful:  # the start is good enough if its residual says no other
        if evaluation.norm <= goal.start[1] and not evaluation.extended:
            error, done = _judged(operator, evaluation, goal, goal.change, goal.start[0])
        if done:
            yield Advance(phi, evaluation.norm, evaluation.mean, dt, 0, 1.0, 0, Status.CONVERGED, change=goal.change,
                          error=error)
            return
        evaluation = operator.evaluate(phi, extend=True)
    if not math.isfinite(evaluation.norm):
        yield Advance(phi, evaluation.norm, evaluation.mean, dt, 0, 0.0, 0, Status.NONFINITE)
        return
    if resumed:
        current = memory.pop("current")
        dt, forcing_memory, careful, floor = (memory[name] for name in ("dt", "forcing_memory", "careful", "floor"))
        operator.work = 0.0  # the evaluation was counted before
    else:
        phi = relaxed(operator, phi, evaluation, FIRST_SWEEPS)
        current = Advance(phi, evaluation.norm, evaluation.mean, dt, 0, 1.0, 0, change=goal.change, error=error)
        floor = operator.agreed(rounding_floor(phi, evaluation.weights, operator.log_size))
    while True:
        norm, phi = current.norm, current.phi
        aim = goal.now(norm)
        if goal.met(norm, floor, done) and not evaluation.extended:
            yield replace(current, status=Status.CONVERGED, floor=floor if norm > goal.residual > 0 else 0.0)
            return
        # where the residual is met, what is missing of the share is no failure
        asked = norm <= goal.residual and not evaluation.extended
        memory.update(dt=dt, forcing_memory=forcing_memory, careful=careful, floor=floor)
        if not resumed:
            yield current
        resumed = False
        while True:  # until a step is accepted
            rtol = settings.newton.next_forcing(norm, forcing_memory, max(aim.residual, floor))
            shift, first = 0.0 if math.isinf(dt) else 1 / dt, not current.newton_iterations
            if aim.share and aim.one_step and (forcing_memory is not None or first):
                rtol = min(rtol, aim.share / 6)
            elif goal.rough and first and not careful and not shift:
                rtol = max(rtol, FIRST_FORCING)
            trial = _newton_iteration(operator, linear, evaluation, phi, shift, settings.newton, rtol, aim, current,
                                      careful)
            if trial.step is not None:
                break
            rejected += 1
            if norm <= AT_THE_FLOOR[careful] * floor:
                yield replace(current, status=Status.CONVERGED if asked else Status.STAGNATED)
                return
            if careful:
                dt = settings.cut * min(dt, natural_time / norm)
            careful = True
            if dt < settings.smallest_step * natural_time:
                yield replace(current, status=Status.CONVERGED if asked else trial.failure)
                return
            operator.evaluate(phi, extend=True, out=evaluation)
        step = trial.step
        new_norm, full = evaluation.norm, step.damping == 1 and not shift
        change = math.hypot(current.change, step.damping * trial.size)
        # left over by the linear solve, and by Newton: no more than what remains of the residual, part of which is the
        # former's
        error = trial.error + trial.size * min(1.0, new_norm / norm, REMAINDER * norm) if full else math.inf
        error, done = _judged(operator, evaluation, goal, change, error)
        phi = step.x
        if not evaluation.linearised and (not goal.met(new_norm, floor, done) or evaluation.extended):
            operator.evaluate(phi, extend=True, out=evaluation)
        phi = relaxed(operator, phi, evaluation, LATER_SWEEPS)
        current = Advance(phi, evaluation.norm, evaluation.mean, dt, 1, step.damping, rejected, error=error,
                          change=change)
        rejected = 0
        forcing_memory = norm if full else None
        ratio = norm / current.norm
        if step.damping == 1:  # switched evolution relaxation
            dt *= min(max(settings.growth * ratio, 0.5), 100.0)
        else:
            dt *= min(max(ratio, 0.25), 1.0)
        if dt > 1e3 * natural_time:
            dt = math.inf


@dataclass(frozen=True)
class _Trial:
    """A Newton iteration: the accepted :class:`~pmapde.newton.Iterate` or None, and why it failed if it did; the size
    of the correction and its estimated error, both as RMS of gradients."""

    step: object
    failure: Status = None
    size: float = math.nan
    error: float = math.inf


def _newton_iteration(operator, linear, evaluation, phi, shift, settings, rtol, goal, current, careful):
    """One damped Newton iteration on ``(psi - phi) / dt - R(psi) = 0``, all terms mean-free.

    ``evaluation`` is of ``phi`` before, of the accepted point after. ``careful``, once a step was refused on this grid:
    the residual of the linear solve counts, not the size of its corrections.
    """
    stencil, spacing, value = operator.stencil(evaluation, shift), operator.grid.spacing, evaluation.residual
    enough = LINEAR_SHARE * goal.allowance(current.change)
    if careful:
        result = linear.solve(stencil, value, rtol, spacing)
    else:
        result = linear.correct(stencil, value, rtol, spacing, enough)
    if not result.error < max(0.9 * result.size, enough):  # NaN included
        return _Trial(None, Status.LINEAR_STALLED)
    failure = Status.STEP_TOO_SMALL
    # a point that is likely to be the last needs no linearisation; Newton's own error shrinks as the steps do
    shrunk = min(1.0, result.size / current.change) if current.change > 0 else float(not goal.one_step)
    linearise = not (result.error + shrunk * result.size <= goal.allowance(math.hypot(current.change, result.size))
                     or rtol * current.norm <= goal.residual)

    def function(psi):
        nonlocal failure, linearise  # the last point tried is the accepted one, nearly always the first
        operator.evaluate(psi, extend=True, linearise=linearise, out=evaluation)
        linearise = False
        if not math.isfinite(evaluation.mean):
            failure = Status.NONFINITE
        if not shift:
            return evaluation.residual, evaluation.norm
        return evaluation.residual, operator.mean_free_rms(evaluation.residual - shift * (psi - phi))

    step = damped_step(function, phi, value, evaluation.norm, result.correction, settings)
    return _Trial(step if step.damping else None, failure, result.size, result.error)
