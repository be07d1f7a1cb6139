"""What is done where the equation as it stands is not enough: continuation in contrast, wider superbases, a corrected
source, finer cells. Generators of :class:`~pmapde.equation.Step`, which :mod:`pmapde.solver` goes through."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.ndimage import convolve1d

from . import conservation
from .equation import COARSE_STEP_LIMIT, one_equation, one_grid
from .legendre import legendre_conjugate
from .status import Status
from .stepping import Goal
from .threads import thread_settings, use_threads
from .transfer import interpolate_cubic

CORRECTION_TOLERANCE = 1e-3
"""Residual of equations whose source was corrected, if the tolerance is the discretisation's."""
FIRST_STRIDE, STRIDE_GROWTH, LEAST_STRIDE = 0.5, 1.5, 0.01
"""Continuation in contrast: the first increment of the power of both densities, its growth, and where it gives up."""
STAGE_LIMIT, STAGE_TOLERANCE = 40, 0.1
"""Steps of a power before the increment is halved, and the residual that is enough below the last."""
NEAR = 0.5
"""Residual from which on a grid is given twice as many steps before that."""
POOR_START = 2.0
"""Residual beyond which a start on finer cells is made convex."""
CONVEXITY, KERNEL = 0.01, np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
"""What makes it strictly convex: the share of ``q``, and the average over a coarser cell."""


def struggles(step, taken):
    """Whether a step is the last of a grid on which Newton's method has failed, or gets nowhere."""
    late = taken >= (COARSE_STEP_LIMIT if step.residual > NEAR else 2 * COARSE_STEP_LIMIT)
    return (late and step.status is not Status.CONVERGED
            or step.status in (Status.NEWTON_STALLED, Status.STEP_TOO_SMALL, Status.LINEAR_STALLED))


def continued(operator, linear, method, residual, threads, stats, journal, **place):
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
        for count, step in enumerate(one_grid(stage, linear, method, phi, goal, threads, stats, journal)):
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


def widened(operator, linear, method, step, residual, threads, stats, journal):
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
        found = yield from one_equation(wider, linear, method, step.phi, goal, threads, stats, journal,
                                        level=step.level, levels=step.levels)
        if found.status is not Status.CONVERGED:
            return operator, step
        operator, step = wider, found


def start_on_finer_cells(phi, operator):
    """The displacement potential ``phi`` of coarser cells on those of ``operator``.

    Where the interpolant is far from a solution, because it is not convex, its convex hull is taken instead (the
    Legendre transform of its transform, at the slopes of the target's cells), averaged, with some of ``q``: convex as
    a sum of convex functions.
    """
    grid, target_grid = operator.grid, operator.problem.target_grid
    phi = interpolate_cubic(phi, grid.shape, grid.periodic)
    size = operator.mean_free_rms(operator.evaluate(phi, True, linearise=False).residual)
    if any(grid.periodic) or size < POOR_START:
        return phi
    q = operator.problem.quadratic(grid.cell_centres())
    slopes = target_grid.with_shape(grid.shape)
    hull = legendre_conjugate(legendre_conjugate(q + phi, grid, slopes), slopes, grid) - q
    for axis in range(grid.ndim):
        hull = convolve1d(hull, KERNEL, axis, mode="reflect")
    return (1 - CONVEXITY) * hull


def conserved(original, operator, linear, method, step, residual, threads, stats, journal, before=None):
    """From the converged ``step``: correct the source of the equation until the map puts the mass in its place, on
    finer cells if need be. Ends with the best step, ``CONVERGED``; those before carry no status, but the best so far as
    ``good``. ``before``: that of coarser cells."""
    correction, best, grid = conservation.Correction(original, operator.problem), step, operator.grid
    rough = max(residual, CORRECTION_TOLERANCE)

    def judged():
        with thread_settings(threads) as count:
            use_threads(count, grid.size)
            found, source = conservation.map_of(step.phi, operator, original), operator.problem.source_masses
            if found.folded_mass(source):  # folds make up for misplaced mass, which comes back when they are gone
                found = found.unfolded(source)
            return correction.judge(step.phi, found, source)

    def loose():
        """Whether the best step, as those of corrected sources and wider superbases, was solved for less than asked."""
        return residual < CORRECTION_TOLERANCE <= best.tolerance

    def good():
        """The best step so far, solved as well as was asked for: what a run that is cut short ends with."""
        if loose():
            return before
        found = replace(best, judged=correction.found, good=None)
        return found if before is None or found.judged[1] < before.judged[1] else before

    def solved(operator, phi, residual=rough, **place):
        return one_equation(operator, linear, method, phi, Goal(residual=residual, change=best.change), threads, stats,
                            journal, **place)

    while judged():
        if correction.best is step.phi:
            best = step
        found = good()
        yield replace(step, status=None, good=found)
        with thread_settings(threads) as count:
            use_threads(count, grid.size)
            corrected = operator.on(correction.next_problem())
        step = yield from solved(corrected, correction.best, level=step.level, levels=step.levels, good=found)
        linear.release()
        if step.status is not Status.CONVERGED:
            break
    if correction.best is step.phi:
        best = step
    if loose():
        yield replace(best, status=None)
        best = yield from solved(operator.on(correction.problem), best.phi, residual=residual,
                                 level=best.level, levels=best.levels)
    stats["misplaced"].append({"grid": "x".join(map(str, grid.shape)), "by round": list(correction.misplaced)})
    misplaced, parts = min(correction.misplaced), grid.shape[0] // original.grid.shape[0]
    left = conservation.halvings(grid.size, parts, method.subdivision, grid.ndim)
    if (best.status is Status.CONVERGED and misplaced > conservation.LIMIT
            and conservation.worth_halving(misplaced, left)):
        found = good()
        yield replace(best, status=None, good=found)
        linear.next_grid()
        with thread_settings(threads) as count:
            use_threads(count, grid.size)
            fine = operator.on(conservation.subdivided(operator.problem))
            phi = start_on_finer_cells(best.phi, fine)
        place = {"level": best.levels, "levels": best.levels + 1, "good": found}
        step = yield from solved(fine, phi, **place)
        if step.status is not Status.CONVERGED and fine.problem.may_be_powered:
            step = yield from continued(fine, linear, method, rough, threads, stats, journal, **place)
        if step.status is Status.CONVERGED:
            yield from conserved(original, fine, linear, method, step, residual, threads, stats, journal, found)
            return
    yield replace(best, judged=correction.found) if correction.best is best.phi else best
