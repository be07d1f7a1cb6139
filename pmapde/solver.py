"""The engine: nested iteration over grids, one implicit step at a time, to the steady state."""
from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np

from . import conservation, stepping, work
from .checkpoint import Journal, Run
from .extrapolation import CoarserGrids
from .grid import Grid
from .integrators import Integrator, integrate
from .linear.solver import LinearSolver
from .memory import refuse_oversized
from .monge_ampere import MongeAmpere
from .problem import check_problem
from .status import SolverError, Status
from .stepping import Goal, PseudoTransient
from .threads import thread_settings, use_threads
from .transfer import interpolate_cubic

logger = logging.getLogger("pmapde")

ALGEBRAIC_SHARE = 0.09
"""Algebraic error of the map left on a grid, as a share of the discretisation error."""
EXTRAPOLATED_SHARE = 3e-4
"""The same where results are extrapolated: less than a thousandth of the discretisation error."""
COARSE_STEP_LIMIT = 60
"""Steps on a grid that is not the finest."""
COARSEST_TOLERANCE = 1e-6
"""Residual on the coarsest grid of several."""
SINGLE_GRID_TOLERANCE = 1e-8
"""Residual where there is no coarser grid to compare with."""
FLOW_TOLERANCE = 1e-4
"""Relative local error of the flow in true time."""
CORRECTION_TOLERANCE = 1e-3
"""Residual of equations whose source was corrected, if the tolerance is the discretisation's."""
FIRST_STRIDE, STRIDE_GROWTH, LEAST_STRIDE = 0.5, 1.5, 0.01
"""Continuation in contrast: the first increment of the power of both densities, its growth, and where it gives up."""
STAGE_LIMIT, STAGE_TOLERANCE = 40, 0.1
"""Steps of a power before the increment is halved, and the residual that is enough below the last."""


@dataclass(frozen=True)
class Step:
    """One implicit step of the engine.

    ``phi`` is the displacement potential reached (cell centres of ``grid``), ``residual`` the RMS of its mean-free log
    residual, ``drift`` the mean; ``error`` the estimated algebraic error of the map (RMS; infinite without an
    estimate), ``change`` how far the map has moved from the coarser grid's; ``time`` the (pseudo-)time on this grid,
    ``dt`` the step (infinity: a Newton step), ``damping`` the fraction of the Newton correction taken, ``rejected`` the
    steps refused before, ``applications`` the preconditioner applications spent, ``tolerance`` the residual asked for
    on this grid (0: none). The first step of a grid is its start (no iterations). ``status`` is set on the last step of
    a grid, ``level == levels - 1`` is the finest. ``radius``: of the superbases.
    ``judged``: the map of ``phi`` and the mass it misplaces, where the
    engine has looked at them.
    """

    level: int
    levels: int
    grid: Grid
    phi: np.ndarray
    residual: float
    drift: float
    error: float
    change: float
    time: float
    dt: float
    newton_iterations: int
    damping: float
    rejected: int
    applications: int
    tolerance: float
    status: Status = None
    radius: int = 1
    judged: tuple = None


def new_stats():
    """Counters of one run, filled in place."""
    return {"linear": {}, "fallbacks": [], "seconds": defaultdict(float), "work": {},
            "newton_iterations": 0, "rejected_steps": 0, "misplaced": [], "continued": []}


def nested_problems(problem, method):
    """The problem on its grids, from coarse to fine."""
    smallest = method.coarsest or (16 if problem.ndim == 2 else 8)
    problems = [problem]
    while method.nested:
        coarser = problems[0].grid.coarsened(smallest)
        if coarser.shape == problems[0].grid.shape:
            break
        problems.insert(0, problems[0].on_grid(coarser))
    return problems


def chosen_scheme(problem, method):
    """The scheme of ``method``, or the default of the dimension."""
    return method.scheme or ("monotone" if problem.ndim == 2 else "centred")


def checked_limits(max_steps, max_seconds):
    """``max_seconds``, infinity for None; refuses limits that are none."""
    if not (isinstance(max_steps, (int, np.integer)) and max_steps >= 1):
        raise ValueError(f"`max_steps` must be a whole number >= 1, got {max_steps!r}.")
    max_seconds = math.inf if max_seconds is None else max_seconds
    if not max_seconds >= 0:
        raise ValueError(f"`max_seconds` must be a time >= 0, got {max_seconds!r}.")
    return max_seconds


def check_tolerance(tolerance):
    """Refuses a tolerance that is none."""
    if (not (isinstance(tolerance, str) and tolerance == "discretization")
            and not (isinstance(tolerance, Real) and 0 < tolerance < math.inf and not isinstance(tolerance, bool))):
        raise ValueError(f"`tolerance` must be 'discretization' or a positive residual, got {tolerance!r}.")


def displacement_potential(start, problem):
    """The displacement potential of a potential given on the grid, its mean kept."""
    start = np.asarray(start, float)
    if start.shape != problem.grid.shape or not np.isfinite(start).all():
        raise ValueError(f"`start` must be finite values of a potential on the grid, shape {problem.grid.shape}, "
                         f"got shape {start.shape}.")
    return start - problem.quadratic(problem.grid.cell_centres())


def steps(problem, method=None, *, tolerance="discretization", start=None, threads=None, stats=None):
    """The engine, one implicit step at a time: a generator of :class:`Step`.

    With :class:`PseudoTransient` (default): nested iteration to the steady state, ends by itself. With
    :class:`BackwardEuler`, :class:`TRBDF2` or :class:`ESDIRK3`: the parabolic flow in true time on the problem's grid,
    without end, as :class:`~pmapde.integrators.FlowStep`.

    Parameters
    ----------
    problem : TransportProblem
    method : PseudoTransient, BackwardEuler, TRBDF2 or ESDIRK3, optional
    tolerance, start, threads
        As in :func:`solve`.
    stats : dict, optional
        Filled with counters, see :func:`new_stats`.

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> x = (np.arange(32) + 0.5) / 32
    >>> problem = pmapde.TransportProblem(np.add.outer(1 + x, x), np.ones((32, 32)))
    >>> [(step.level, step.status.name) for step in pmapde.steps(problem) if step.status]
    [(0, 'CONVERGED'), (1, 'CONVERGED')]
    """
    return prepared_engine(problem, method, tolerance, start, threads, new_stats() if stats is None else stats,
                           CoarserGrids(), ALGEBRAIC_SHARE, Journal())[1]


def _check_types(problem, method):
    check_problem(problem)
    if not isinstance(method, (PseudoTransient, Integrator)):
        raise TypeError(f"`method` must be PseudoTransient(...), or BackwardEuler(...), TRBDF2(...) or "
                        f"ESDIRK3(...), got {method!r}.")


def prepared_engine(problem, method, tolerance, start, threads, stats, coarser, share, journal):
    """The operator on the problem's grid, and the generator of :func:`steps`."""
    method = method or PseudoTransient()
    _check_types(problem, method)
    check_tolerance(tolerance)
    scheme = chosen_scheme(problem, method)
    phi = None if start is None else displacement_potential(start, problem)
    refuse_oversized(problem)
    operator = MongeAmpere(problem, scheme, getattr(method, "radius", None) or 1)  # integrators have none
    if isinstance(method, Integrator):
        phi = np.zeros(operator.grid.shape) if phi is None else phi
        tolerance = FLOW_TOLERANCE if tolerance == "discretization" else float(tolerance)
        return operator, flow_steps(operator, method, phi, tolerance, threads, stats)
    phi = phi if phi is None else phi - phi.mean()
    return operator, _nested(operator, method, tolerance, phi, threads, stats, coarser, share, journal)


def flow_steps(operator, method, phi, tolerance, threads, stats, stop=math.inf, first=None, memory=None):
    """Records of :func:`integrate`, booked in ``stats``; threads are set only while it computes.

    ``memory`` as there; with the state of the linear solver.
    """
    with thread_settings(threads) as count:
        linear = LinearSolver(method.linear, stats, count, remember=memory is not None)
    if memory:
        linear.restore(memory["linear"], operator.grid)
    records = integrate(operator, linear, phi, method, tolerance, stop, first, memory)
    while True:
        with thread_settings(threads) as count:
            use_threads(count, phi.size)
            step = next(records, None)
        work.book(stats["work"], operator.grid.shape, operator.work)
        operator.work = 0.0
        if step is None:
            return
        stats["newton_iterations"] += step.newton_iterations
        stats["rejected_steps"] += step.rejected
        if memory is not None:
            memory["linear"] = linear.state()
        yield step


def _applications(stats):
    return sum(counters["applications"] for counters in stats["linear"].values())


def _nested(finest_operator, method, tolerance, start, threads, stats, coarser, share, journal):
    problems = [finest_operator.problem]
    with thread_settings(threads) as count:
        linear = LinearSolver(method.linear, stats, count, remember=journal.run is not None)
        use_threads(count, problems[0].grid.size)
        if start is None:
            problems = nested_problems(finest_operator.problem, method)
    phi, taken = start, 0
    for level, problem in enumerate(problems):
        finest, grid = level == len(problems) - 1, problem.grid
        operator = finest_operator if finest else finest_operator.on(problem)
        linear.next_grid()
        extrapolated = 0.0
        with thread_settings(threads) as count:
            use_threads(count, grid.size)
            if level:
                phi, extrapolated = coarser.start(phi, grid)
            elif phi is None:
                phi = np.zeros(grid.shape)

        one_step = level < 2 or taken <= 1

        def goal(first_norm, finest=finest, level=level, extrapolated=extrapolated, one_step=one_step):
            if finest and tolerance != "discretization":
                return Goal(residual=float(tolerance))
            if level:
                return Goal(share=share, change=extrapolated, before=coarser.last_size, one_step=one_step)
            return Goal(residual=SINGLE_GRID_TOLERANCE if finest else COARSEST_TOLERANCE)

        engine = _on_grid(operator, linear, method, phi, goal, threads, stats, journal)
        for taken, step in enumerate(engine):
            step = replace(step, level=level, levels=len(problems))
            logger.debug("grid %s step %d residual %.2e dt %.1e", grid.shape, taken, step.residual, step.dt)
            residual = CORRECTION_TOLERANCE if tolerance == "discretization" else float(tolerance)
            if _struggles(step, taken) and method.conserve and operator.problem.may_be_powered:
                engine.close()
                yield replace(step, status=None)
                step = yield from _continued(operator, linear, method, residual if finest else STAGE_TOLERANCE,
                                             threads, stats, journal, level=level, levels=len(problems))
            if finest and method.conserve and step.status is Status.CONVERGED:
                engine.close()  # with its arrays
                linear.release()
                if method.radius is None:
                    operator, step = yield from _widened(operator, linear, method, step, residual, threads, stats,
                                                         journal)
                yield from _conserve(problem, operator, linear, method, step, residual, threads, stats, journal)
                return
            yield step
            phi = step.phi
            if step.status is not None or not finest and taken >= COARSE_STEP_LIMIT:
                break  # a coarse grid that struggles, or fails, hands over what it has
        if not finest:
            with thread_settings(threads) as count:
                use_threads(count, grid.size)
                coarser.add(operator, phi)


def _struggles(step, taken):
    """Whether a step is the last of a grid on which Newton's method has failed, or gets nowhere."""
    return (taken >= COARSE_STEP_LIMIT and step.status is not Status.CONVERGED
            or step.status in (Status.NEWTON_STALLED, Status.STEP_TOO_SMALL, Status.LINEAR_STALLED))


def _continued(operator, linear, method, residual, threads, stats, journal, **place):
    """Continuation in contrast: both densities to a power that grows from 0, where ``q`` solves the problem, to 1.

    Each stage starts from the last; one that does not converge within ``STAGE_LIMIT`` steps is tried again with half
    the increment. Returns the last step, ``CONVERGED`` or with the status of the last stage; those before carry none.
    """
    reached, stride, phi = 0.0, FIRST_STRIDE, np.zeros(operator.grid.shape)
    change, stages = 0.0, []
    while True:
        power = min(1.0, reached + stride)
        with thread_settings(threads) as count:
            use_threads(count, phi.size)
            stage = operator if power == 1 else operator.on(operator.problem.powered(power))
        goal = Goal(residual=residual if power == 1 else STAGE_TOLERANCE, change=change)
        linear.next_grid()
        for count, step in enumerate(_on_grid(stage, linear, method, phi, lambda norm, goal=goal: goal, threads,
                                              stats, journal)):
            step = replace(step, **place)
            if step.status is not None or count >= STAGE_LIMIT:
                break
            yield step
        stages.append(power)
        if step.status is Status.CONVERGED:
            reached, phi, stride = power, step.phi, STRIDE_GROWTH * stride
        else:
            stride /= 2
        if reached == 1 or stride < LEAST_STRIDE:
            stats["continued"].append({"grid": "x".join(map(str, operator.grid.shape)), "powers": stages})
            return replace(step, status=step.status or Status.NEWTON_STALLED)
        yield replace(step, status=None)


def _solved(operator, linear, method, phi, goal, threads, stats, journal, **place):
    """One equation from ``phi``: yields its steps but for the last, and returns that, which has a status."""
    engine = _on_grid(operator, linear, method, phi, lambda norm: goal, threads, stats, journal)
    for count, reached in enumerate(engine):
        reached = replace(reached, **place)
        if reached.status is None:
            yield reached
        if reached.status is not None:
            return reached
        if count >= COARSE_STEP_LIMIT:
            return replace(reached, status=Status.MAX_STEPS)


def _widened(operator, linear, method, step, residual, threads, stats, journal):
    """From the converged ``step``: the equation with superbases as wide as its Hessian asks for, ``(operator, step)``.

    Stays with the last radius that was solved. Rows that leave the 3x3 stencil are left to algebraic multigrid.
    """
    while True:
        with thread_settings(threads) as count:
            use_threads(count, step.phi.size)
            wider = operator.wider(step.phi)
        if wider is None:
            return operator, step
        yield replace(step, status=None)
        linear.next_grid()
        goal = Goal(residual=max(residual, CORRECTION_TOLERANCE), change=step.change)
        found = yield from _solved(wider, linear, method, step.phi, goal, threads, stats, journal, level=step.level,
                                   levels=step.levels)
        if found.status is not Status.CONVERGED:
            return operator, step
        operator, step = wider, found


def _conserve(original, operator, linear, method, step, residual, threads, stats, journal):
    """From the converged ``step``: correct the source of the equation until the map puts the mass in its place, on
    finer cells if need be. Ends with the best step, ``CONVERGED``; those before carry no status."""
    correction, best, grid = conservation.Correction(original, operator), step, operator.grid

    def judged():
        with thread_settings(threads) as count:
            use_threads(count, grid.size)
            return correction.judge(step.phi)

    rough = max(residual, CORRECTION_TOLERANCE)

    def solved(operator, phi, residual=rough, **place):
        return _solved(operator, linear, method, phi, Goal(residual=residual, change=best.change), threads, stats,
                       journal, **place)

    while judged():
        if correction.best is step.phi:
            best = step
        yield replace(step, status=None)
        with thread_settings(threads) as count:
            use_threads(count, grid.size)
            corrected = operator.on(correction.next_problem())
        step = yield from solved(corrected, correction.best, level=step.level, levels=step.levels)
        linear.release()
        if step.status is not Status.CONVERGED:
            break
    if correction.best is step.phi:
        best = step
    if residual < CORRECTION_TOLERANCE and correction.problem is not operator.problem:
        yield replace(best, status=None)
        best = yield from solved(operator.on(correction.problem), best.phi, residual=residual,
                                 level=best.level, levels=best.levels)
    stats["misplaced"].append({"grid": "x".join(map(str, grid.shape)), "by round": list(correction.misplaced)})
    misplaced, parts = min(correction.misplaced), grid.shape[0] // original.grid.shape[0]
    left = conservation.halvings(grid.size, parts, method.subdivision, grid.ndim)
    if (best.status is Status.CONVERGED and misplaced > conservation.LIMIT
            and conservation.worth_halving(misplaced, left)):
        yield replace(best, status=None)
        linear.next_grid()
        with thread_settings(threads) as count:
            use_threads(count, grid.size)
            fine = operator.on(conservation.subdivided(operator.problem))
            phi = interpolate_cubic(best.phi, fine.grid.shape, fine.grid.periodic)
        place = {"level": best.levels, "levels": best.levels + 1}
        step = yield from solved(fine, phi, **place)
        if step.status is not Status.CONVERGED and fine.problem.may_be_powered:
            step = yield from _continued(fine, linear, method, rough, threads, stats, journal, **place)
        if step.status is Status.CONVERGED:
            yield from _conserve(original, fine, linear, method, step, residual, threads, stats, journal)
            return
    yield replace(best, judged=correction.found) if correction.best is best.phi else best


def _on_grid(operator, linear, method, phi, goal, threads, stats, journal):
    """Pseudo-transient continuation on one grid as :class:`Step` records; threads are set only while it computes.

    Those that the ``journal`` of an interrupted run knows are yielded again, not computed.
    """
    tolerance, elapsed, before, memory, step = math.nan, 0.0, _applications(stats), {}, None
    for record in journal.next_grid(operator.grid, stats, linear, memory):
        step = Step(0, 1, operator.grid, **record, radius=operator.radius)
        yield step
    if step is not None:
        if step.status is not None:
            return
        phi, elapsed, before = step.phi, step.time, _applications(stats)
        memory["current"] = stepping.Advance(phi, step.residual, step.drift, step.dt, step.newton_iterations,
                                             step.damping, step.rejected, error=step.error, change=step.change)

    def goal_of(first_norm):
        nonlocal tolerance
        found = goal(first_norm)
        tolerance = found.residual
        return found

    records = stepping.pseudo_transient(operator, linear, phi, method, goal_of, memory)
    while True:
        with thread_settings(threads) as count:
            use_threads(count, phi.size)
            advance = next(records, None)
        if advance is None:
            return
        spent = _applications(stats)
        work.book(stats["work"], operator.grid.shape, operator.work)
        operator.work = 0.0
        stats["newton_iterations"] += advance.newton_iterations
        stats["rejected_steps"] += advance.rejected
        elapsed += advance.dt if advance.newton_iterations else 0.0
        step = Step(0, 1, operator.grid, advance.phi, advance.norm, advance.drift, advance.error, advance.change,
                    elapsed, advance.dt, advance.newton_iterations, advance.damping, advance.rejected, spent - before,
                    max(tolerance, advance.floor), advance.status, operator.radius)
        journal.add(step, stats, linear, memory)
        yield step
        before = spent


def solve(problem, method=None, *, tolerance="discretization", max_steps=300, max_seconds=math.inf, throw=False,
          extrapolate=None, start=None, callback=None, threads=None, checkpoint=None):
    """Solve a transport problem: the steady state of the parabolic Monge-Ampère equation, up to its drift.

    Parameters
    ----------
    problem : TransportProblem
    method : PseudoTransient, optional
        Settings of the scheme, the nonlinear and the linear solvers.
    tolerance : "discretization" or float
        ``"discretization"``: on every grid as many steps and cycles as bring the estimated algebraic error of the map
        below a tenth of the discretisation error, estimated from the solutions on successive grids. A number: the RMS
        norm of the mean-free log residual to reach on the finest grid, never asked below the rounding floor. Where
        there is no coarser grid to compare with, ``"discretization"`` means the residual 1e-8.
    max_steps : int
        Implicit steps allowed for each equation: on each grid, with each corrected source, at each stage of a
        continuation (a coarse grid that needs more hands over what it has).
    max_seconds : float
        Wall time allowed.
    throw : bool
        Raise :class:`SolverError` on failure instead of returning the failed solution.
    extrapolate : {None, "cost", "map"}
        Richardson extrapolation over the grids of nested iteration: ``cost``, or ``cost`` and the map, are of fourth
        order on smooth data. The algebraic error is driven to a thousandth of the discretisation error for it. Not done
        where the observed order says that the data are rough; ``solution.extrapolation`` tells.
    start : array_like, optional
        A potential on the grid to start from (no nested iteration then).
    callback : callable, optional
        Called with every :class:`Step`; returning True stops the run.
    threads : int, optional
        Numba and transform threads; default numba's. Grids below 128^2 cells run on one. Results do not depend on it.
    checkpoint : Checkpoint, optional
        Where the state of the run is written every now and then; a run that was interrupted goes on from there. Takes
        the memory of one more field for every grid, and every correction, that was solved.

    Returns
    -------
    Solution
        ``solution.success`` and ``solution.status`` say how it ended; nothing is raised for a failed solve.

    Raises
    ------
    TypeError, ValueError, MemoryError
        For bad input, before anything is computed.

    Notes
    -----
    What the equation's residual cannot see is checked at the end: a map that leaves more than 2 % of the mass in the
    wrong place is never ``CONVERGED`` (see :class:`Status`). Before that the source of the equation is corrected by
    what its map misplaces (``stats["misplaced"]``). Where Newton's method gets nowhere, both densities are raised to
    a power that grows from 0 to 1, each stage starting from the last (``stats["continued"]``: every power tried).
    Then, on failure, the swapped problem is solved and its map inverted, and both are tried on subdivided cells
    (``stats["attempts"]``).

    Second order in the potential, the map and W2^2 on smooth data. Work on smooth data: one Newton step and one to
    three multigrid cycles a grid.

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> x = (np.arange(64) + 0.5) / 64
    >>> source = np.outer(1 + 0.6 * np.cos(2 * np.pi * x), 1 + 0.6 * np.cos(2 * np.pi * x))
    >>> solution = pmapde.solve(pmapde.TransportProblem(source, np.ones((64, 64))))
    >>> solution.success, abs(solution.cost / (0.6**2 / (4 * np.pi**2)) - 1) < 2e-3
    (True, True)
    """
    from . import fallback
    if isinstance(method, Integrator):
        raise TypeError("`method` of solve must be PseudoTransient(...); use flow(problem, times, method) or "
                        "steps(problem, method) to follow the flow in time.")
    max_seconds = checked_limits(max_steps, max_seconds)
    if extrapolate not in (None, "cost", "map"):
        raise ValueError(f"`extrapolate` must be None, 'cost' or 'map', got {extrapolate!r}.")
    method = method or PseudoTransient()
    _check_types(problem, method)

    def attempt(problem, method, extrapolate, start, seconds):
        return _attempt(problem, method, tolerance, max_steps, seconds, extrapolate, start, callback, threads, journal)
    run = None if checkpoint is None else Run(checkpoint, "solve", problem, {
        "method": method, "tolerance": tolerance, "extrapolate": extrapolate,
        "start": None if start is None else np.asarray(start, float)}, {"max_steps": int(max_steps)})
    journal = Journal(run)
    with run or nullcontext():
        solution = fallback.solve(attempt, problem, method, extrapolate, start, max_seconds)
    if throw and not solution.success:
        raise SolverError(solution.status, solution)
    return solution


def _attempt(problem, method, tolerance, max_steps, max_seconds, extrapolate, start, callback, threads, journal):
    """:func:`solve` without its fall-backs: one run of the engine, with its checks."""
    from .solution import Solution
    stats = new_stats()
    begin = time.perf_counter()
    coarser = CoarserGrids()
    operator, engine = prepared_engine(problem, method, tolerance, start, threads, stats, coarser,
                                       EXTRAPOLATED_SHARE if extrapolate else ALGEBRAIC_SHARE, journal)
    history, last, status = [], None, None
    on_level = 0
    for step in engine:
        history.append(replace(step, phi=None, judged=None))
        on_level = on_level + 1 if step.newton_iterations else 0  # every equation begins with a step of none
        last, status = step, step.status if step.level == step.levels - 1 else None
        if callback is not None and not journal.replaying and callback(step):
            status = Status.STOPPED
        elif time.perf_counter() - begin > max_seconds and status is None:
            status = Status.MAX_SECONDS
        elif on_level >= max_steps and status is None:
            status = Status.MAX_STEPS
        if status is not None:
            engine.close()
            break
    phi = last.phi
    if last.grid.size > problem.grid.size:  # finer cells were needed
        finer = conservation.subdivided(problem, last.grid.shape[0] // problem.grid.shape[0])
        operator = MongeAmpere(finer, operator.scheme, last.radius)
    elif last.radius != operator.radius:
        operator = MongeAmpere(problem, operator.scheme, last.radius)
    elif last.grid.shape != problem.grid.shape:  # stopped on a coarse grid: hand over what there is, on the right grid
        phi = interpolate_cubic(phi, problem.grid.shape, problem.grid.periodic)
    stats["seconds"]["total"] = time.perf_counter() - begin
    stats["work"] = work.in_units(stats["work"], problem.grid.size)
    with thread_settings(threads) as count:
        use_threads(count, phi.size)
        return Solution.build(problem, operator, phi, status, history, stats, coarser, extrapolate, last.judged)
