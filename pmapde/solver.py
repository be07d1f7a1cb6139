"""The engine: nested iteration over grids to the steady state, or the flow; :func:`solve` around it."""
from __future__ import annotations

import logging
import math
import time
from contextlib import nullcontext
from dataclasses import replace
from numbers import Real

import numpy as np

from . import conservation, work
from .checkpoint import Journal, Run
from .equation import COARSE_STEP_LIMIT, new_stats, one_grid
from .extrapolation import EXTRAPOLATED_SHARE, CoarserGrids
from .integrators import Integrator, integrate
from .linear.solver import LinearSolver, OutOfTime
from .memory import refuse_oversized
from .monge_ampere import MongeAmpere
from .problem import check_problem
from .remedies import (
    CORRECTION_TOLERANCE,
    STAGE_TOLERANCE,
    conserved,
    continued,
    start_on_finer_cells,
    struggles,
    widened,
)
from .status import SolverError, Status
from .stepping import Goal, PseudoTransient
from .threads import thread_settings, use_threads
from .transfer import interpolate_cubic

logger = logging.getLogger("pmapde")

ALGEBRAIC_SHARE, COARSE_SHARE = 0.09, 0.011
"""Algebraic error of the map left on a grid, as a share of the discretisation error there; the second on coarse grids
where starts are so good that the finest one's, extrapolated, may need no iterations: only if these are so much better,
since the error allowed falls by 4, and a cycle more on a quarter of the cells costs less."""
FINE = 256
"""Cells along the shortest axis from which extrapolated starts have a chance to be as good."""
COARSE = 64
"""Grids of so many times fewer cells than the finest are solved thoroughly, in 2D and on smooth data."""
HARD = 10
"""Steps on a grid after which the start on the next is looked at."""
COARSEST_RESIDUAL = 0.01
"""Residual on the coarsest grid of several, in the algebraic error allowed on the others as a share of theirs."""
SINGLE_GRID_TOLERANCE = 1e-8
"""Residual where there is no coarser grid to compare with."""
FLOW_TOLERANCE = 1e-4
"""Relative local error of the flow in true time."""


def nested_problems(problem, method, **known):
    """The problem on its grids, from coarse to fine; ``known`` of it helps :meth:`TransportProblem.on_grid`."""
    smallest = method.coarsest or (16 if problem.ndim == 2 else 8)
    problems = [problem]
    while method.nested:
        coarser = problems[0].grid.coarsened(smallest)
        if coarser.shape == problems[0].grid.shape:
            break
        problems.insert(0, problems[0].on_grid(coarser, **known))
        known = {}
    return problems


def chosen_scheme(problem, method):
    """The scheme of ``method``; by default monotone in 2D, on data that do not look smooth or with a ``radius``."""
    if method.scheme:
        return method.scheme
    wide = getattr(method, "radius", None) is not None  # integrators have none
    return "centred" if problem.ndim == 3 or not wide and problem.is_smooth else "monotone"


def checked_limits(max_steps, max_seconds):
    """``max_seconds``, infinity for None; refuses limits that are none."""
    if not (isinstance(max_steps, (int, np.integer)) and not isinstance(max_steps, bool) and max_steps >= 1):
        raise ValueError(f"`max_steps` must be a whole number >= 1, got {max_steps!r}.")
    max_seconds = math.inf if max_seconds is None else max_seconds
    if not (isinstance(max_seconds, Real) and not isinstance(max_seconds, bool) and max_seconds >= 0):
        raise ValueError(f"`max_seconds` must be a time >= 0, got {max_seconds!r}.")
    return max_seconds


def check_tolerance(tolerance):
    """Refuses a tolerance that is none."""
    if (not (isinstance(tolerance, str) and tolerance == "discretization")
            and not (isinstance(tolerance, Real) and 0 < tolerance < math.inf and not isinstance(tolerance, bool))):
        raise ValueError(f"`tolerance` must be 'discretization' or a positive residual, got {tolerance!r}.")


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
        Filled with counters, see :func:`~pmapde.equation.new_stats`.

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


def goal_on(level, problems, tolerance, share, coarser, extrapolated, one_step):
    """When nested iteration may leave a grid of those of ``problems``; what of its start was extrapolated has moved the
    map by ``extrapolated``."""
    finest, cells = level == len(problems) - 1, min(problems[-1].grid.shape)
    if finest and tolerance != "discretization":
        goal = Goal(residual=float(tolerance), change=extrapolated, before=coarser.last_size)
        if level and share < ALGEBRAIC_SHARE and not coarser.rough():  # takes more than a residual
            goal = replace(goal, share=coarser.scale * share, one_step=one_step, verify=True)
        return goal
    if level:
        if finest:
            return Goal(share=coarser.scale * share, change=extrapolated, before=coarser.last_size,
                        rough=coarser.rough(), one_step=one_step, start=coarser.start_error(), verify=True)
        tight = cells >= FINE and coarser.promising()
        return Goal(share=min(share, COARSE_SHARE) if tight else share, change=extrapolated, before=coarser.last_size,
                    rough=coarser.rough(), one_step=one_step)
    return Goal(residual=SINGLE_GRID_TOLERANCE if finest else COARSEST_RESIDUAL * share)


def _check_types(problem, method):
    check_problem(problem)
    if not isinstance(method, (PseudoTransient, Integrator)):
        raise TypeError(f"`method` must be PseudoTransient(...), or BackwardEuler(...), TRBDF2(...) or "
                        f"ESDIRK3(...), got {method!r}.")


def prepared_engine(problem, method, tolerance, start, threads, stats, coarser, share, journal, deadline=math.inf):
    """The operator on the problem's grid, and the generator of :func:`steps`."""
    method = method or PseudoTransient()
    _check_types(problem, method)
    check_tolerance(tolerance)
    scheme = chosen_scheme(problem, method)
    phi = None if start is None else problem.displacement_potential(start)
    refuse_oversized(problem)
    # on all threads, however small the grid: libgomp ends a process that has no memory left to start them later
    operator = MongeAmpere(problem, scheme, getattr(method, "radius", None) or 1)  # integrators have none
    if isinstance(method, Integrator):
        phi = np.zeros(operator.grid.shape) if phi is None else phi
        tolerance = FLOW_TOLERANCE if tolerance == "discretization" else float(tolerance)
        return operator, flow_steps(operator, method, phi, tolerance, threads, stats)
    phi = phi if phi is None else phi - phi.mean()
    return operator, _nested(operator, method, tolerance, phi, threads, stats, coarser, share, journal, deadline)


def flow_steps(operator, method, phi, tolerance, threads, stats, stop=math.inf, first=None, memory=None):
    """Records of :func:`integrate`, booked in ``stats``; threads are set only while it computes.

    ``memory`` as there; with the state of the linear solver.
    """
    with thread_settings(threads) as count:
        linear = LinearSolver(method.linear, stats, count, remember=memory is not None,
                              combine=not operator.averages_target)
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


def _nested(finest_operator, method, tolerance, start, threads, stats, coarser, share, journal, deadline):
    problems = [finest_operator.problem]
    with thread_settings(threads) as count:
        linear = LinearSolver(method.linear, stats, count, remember=journal.run is not None, deadline=deadline,
                              combine=not finest_operator.averages_target)
        use_threads(count, problems[0].grid.size)
        if start is None:
            problems = nested_problems(problems[0], method, log_source=finest_operator.log_source)
    phi, taken = start, 0
    for level, problem in enumerate(problems):
        finest, grid = level == len(problems) - 1, problem.grid
        linear.next_grid(measure=not finest, thorough=grid.size * COARSE <= problems[-1].grid.size
                         and grid.ndim == 2 and not coarser.rough())
        extrapolated = 0.0
        with thread_settings(threads) as count:
            use_threads(count, grid.size)
            operator = finest_operator if finest else finest_operator.on(problem)
            if level and taken > HARD:
                phi = start_on_finer_cells(phi, operator)
            elif level:
                phi, extrapolated = coarser.start(phi, grid)
            elif phi is None:
                phi = np.zeros(grid.shape)

        goal = goal_on(level, problems, tolerance, share, coarser, extrapolated, one_step=level < 2 or taken <= 1)
        engine, first = one_grid(operator, linear, method, phi, goal, threads, stats, journal, level,
                                 len(problems)), None
        for taken, step in enumerate(engine):
            first = first or step
            logger.debug("grid %s step %d residual %.2e dt %.1e", grid.shape, taken, step.residual, step.dt)
            residual = CORRECTION_TOLERANCE if tolerance == "discretization" else float(tolerance)
            hard = struggles(step, taken) and method.conserve and operator.problem.may_be_powered
            if hard:
                engine.close()
                yield replace(step, status=None)
                step = yield from continued(operator, linear, method, residual if finest else STAGE_TOLERANCE,
                                            threads, stats, journal, level=level, levels=len(problems))
            if finest and method.conserve and step.status is Status.CONVERGED:
                engine.close()  # with its arrays
                linear.release()
                if method.radius is None and not hard:  # wide superbases would make it harder
                    operator, step = yield from widened(operator, linear, method, step, residual, threads, stats,
                                                        journal)
                yield from conserved(problem, operator, linear, method, step, residual, threads, stats, journal)
                return
            yield step
            phi = step.phi
            if step.status is not None or not finest and taken >= COARSE_STEP_LIMIT:
                break  # a coarse grid that struggles, or fails, hands over what it has
        if not finest:
            with thread_settings(threads) as count:
                use_threads(count, grid.size)
                coarser.add(operator, phi, first, step)


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
        to about a tenth of the discretisation error, estimated from the solutions on successive grids; on the finest
        grid the residual has to agree (:meth:`~pmapde.monge_ampere.MongeAmpere.algebraic_error`). A number: the RMS
        norm of the mean-free log residual to reach on the finest grid, never asked below the rounding floor. Where
        there is no coarser grid to compare with, ``"discretization"`` means the residual 1e-8.
    max_steps : int
        Implicit steps allowed for each equation: on each grid, with each corrected source, at each stage of a
        continuation (a coarse grid that needs more hands over what it has).
    max_seconds : float
        Wall time allowed. A solution that would do, while misplaced mass was still being corrected, is a success.
    throw : bool
        Raise :class:`SolverError` on failure instead of returning the failed solution.
    extrapolate : {None, "cost", "map"}
        Richardson extrapolation over the grids of nested iteration: ``cost``, or ``cost`` and the map, are of fourth
        order on smooth data. For it the algebraic error of the problem's own equation is driven to 3e-5 of the
        discretisation error, whatever the ``tolerance``. Not done where the observed order says that the data are
        rough, or where the stencil is too narrow for the Hessian: ``solution.extrapolation`` tells.
    start : array_like, optional
        A potential on the grid to start from (no nested iteration then); what is tried after a failure goes without.
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
    Then, on failure, the swapped problem is solved and its map inverted; where that does not do either, and
    ``tolerance`` is no number and cells are nearly cubic, the map of an entropic plan is taken that blurs by about a
    cell or less (:attr:`Solution.blur`, ``MARGINALS_MET``; ``callback`` is not asked meanwhile), on subdivided cells if
    need be; at last both sides are tried on those (``stats["attempts"]`` says what each came to, and its work and
    seconds; the other counters are those of the solution that was taken). Where the centred scheme was taken in 2D by
    default, and is no success, what is tried after it is monotone, the equation itself too if it was not solved.

    Second order in the potential, the map and W2^2 on smooth data. Work on smooth data: one or two Newton steps and up
    to four multigrid cycles a grid, on the coarsest a few more; from 256^2 to 1024^2 and from 256^3 on, by problem,
    none on the finest, whose start is extrapolated from the others and good enough by what these had to correct.

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
    if callback is not None and not callable(callback):
        raise TypeError(f"`callback` must be callable, got {type(callback).__name__}.")
    method = method or PseudoTransient()
    _check_types(problem, method)

    def attempt(problem, method, extrapolate, start, seconds, steps):
        return _attempt(problem, method, tolerance, max_steps, seconds, extrapolate, start, callback, threads, journal,
                        steps)
    run = None if checkpoint is None else Run(checkpoint, "solve", problem, {
        "method": method, "tolerance": tolerance, "extrapolate": extrapolate,
        "start": None if start is None else np.asarray(start, float)}, {"max_steps": int(max_steps)})
    journal = Journal(run)
    with run or nullcontext():
        solution = fallback.solve(attempt, problem, method, extrapolate, start, max_seconds, max_steps,
                                  method.entropic and tolerance == "discretization", threads)
    if throw and not solution.success:
        raise SolverError(solution.status, solution)
    return solution


def _attempt(problem, method, tolerance, max_steps, max_seconds, extrapolate, start, callback, threads, journal,
             steps_in_all):
    """:func:`solve` without its fall-backs: one run of the engine, with its checks."""
    from .solution import Solution
    stats = new_stats()
    begin = time.perf_counter()
    coarser = CoarserGrids()
    operator, engine = prepared_engine(problem, method, tolerance, start, threads, stats, coarser,
                                       EXTRAPOLATED_SHARE if extrapolate else ALGEBRAIC_SHARE, journal,
                                       begin + max_seconds)
    history, last, status = [], None, None
    on_level, in_all = 0, 0
    try:
        for step in engine:
            history.append(replace(step, phi=None, judged=None, good=None))
            on_level = on_level + 1 if step.newton_iterations else 0  # every equation begins with a step of none
            in_all += step.newton_iterations if step.grid.size >= problem.grid.size else 0
            last, status = step, step.status if step.level == step.levels - 1 else None
            if callback is not None and not journal.replaying and callback(step):
                status = Status.STOPPED
            elif time.perf_counter() - begin > max_seconds and status is None:
                status = Status.MAX_SECONDS
            elif (on_level >= max_steps or in_all >= steps_in_all) and status is None:
                status = Status.MAX_STEPS
            if status is not None:
                engine.close()
                break
    except OutOfTime:  # in the middle of a step: the last one stands
        status = Status.MAX_SECONDS
    cut = status if status in (Status.MAX_SECONDS, Status.MAX_STEPS) and last.good is not None else None
    if cut:
        last, status = last.good, Status.CONVERGED
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
        found = Solution.build(problem, operator, phi, status, history, stats, coarser, extrapolate, last.judged)
    return found if found.success or not cut else replace(found, status=cut)
