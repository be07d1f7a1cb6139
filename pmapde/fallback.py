"""What is tried after a plain run has failed: the swapped problem, then both on subdivided cells."""
from __future__ import annotations

import math
import time
from dataclasses import replace

from .conservation import Correction, halvings, repeated, subdivided, worth_halving
from .grid import Grid
from .solution import at_centres, checked
from .status import Status
from .transfer import average
from .transport import PiecewiseAffineMap

FINAL = (Status.STOPPED, Status.MAX_SECONDS, Status.NONFINITE)
"""Statuses after which nothing else is tried: they say what the caller asked for."""
FEW_PARTS = 4
"""Of a cell per axis, tried on both sides before more are."""
MOST_SAMPLES = {2: 8, 3: 2}
"""Of an inverse map, per cell and axis."""
SOLVED = (Status.CONVERGED, Status.MASS_MISPLACED, Status.FOLDED)
"""Statuses of a solved equation, whatever its map is worth."""


def solve(attempt, problem, method, extrapolate, start, max_seconds):
    """The first success of the chain, or the failure that misplaces the least mass.

    Parameters
    ----------
    attempt : callable
        ``(problem, method, extrapolate, start, seconds)`` to a Solution.

    The rougher density had better be the source, where it is only a right-hand side: the swapped problem's map is the
    inverse, and its inverse, sampled at the cells, the map. Finer cells cost 2^d times as much each time, so they come
    last. Each attempt is booked in ``stats["attempts"]``.
    """
    begin, log, best, cut, ranks = time.perf_counter(), [], None, False, {False: 0.0, True: 0.0}
    if not method.conserve or start is not None:
        return attempt(problem, method, extrapolate, start, max_seconds)
    for parts, radius in _attempts(problem, method):
        for swapped in sorted(ranks, key=ranks.get):  # first the side that came closer
            seconds = max_seconds - (time.perf_counter() - begin) if math.isfinite(max_seconds) else math.inf
            if best is not None and seconds <= 0:
                cut = True
                break
            settings = replace(method, subdivision=parts, radius=radius)
            if swapped:
                solution = inverted(problem, attempt, settings, seconds)
            else:
                solution = attempt(problem, settings, extrapolate, None, seconds)
            log.append({"swapped": swapped, "parts": parts, "status": solution.status.name,
                        "misplaced": solution.push_forward_error})
            ranks[swapped] = _rank(solution)
            final = not best and solution.status in FINAL
            if solution.success or final or best is None or _rank(solution) < _rank(best):
                best = solution
            if solution.success or final:
                best.stats["attempts"] = log
                return best
    best.stats["attempts"] = log
    # what is missing is time then, whatever the best attempt so far fell short of
    return replace(best, status=Status.MAX_SECONDS) if cut or solution.status is Status.MAX_SECONDS else best


def _attempts(problem, method):
    """Parts of a cell and radii of superbases, in turn. Wide superbases on finer cells come last: they are expensive,
    and seldom of help there."""
    most = 2**halvings(problem.grid.size, 1, method.subdivision, problem.ndim)
    narrow = [(parts, method.radius or 1) for parts in sorted({min(FEW_PARTS, most), most}) if parts > 1]
    wide = [(most, None)] if narrow and method.radius is None and problem.ndim == 2 else []
    return [(1, method.radius), *narrow, *wide]


def _rank(solution):
    misplaced = solution.push_forward_error
    return misplaced if math.isfinite(misplaced) else math.inf


def inverted(problem, attempt, method, max_seconds):
    """The solution of ``problem`` by one of ``problem.swapped()``: its inverse map, sampled at the cells.

    Of which there are as many as put the mass in its place: the inverse jumps where the target has gaps, a layer of
    simplices lies across them, and gets thinner. Where the swapped map is a success and its inverse is none, as gaps of
    the target take space that finer cells give back, the swapped problem's cells are cut. In 3D, where few samples can
    be afforded, the swapped equation's source is then corrected by what the sampled inverse misplaces.
    """
    begin, swapped = time.perf_counter(), problem.swapped()
    back = attempt(swapped, method, None, None, max_seconds)
    solution = sampled_inverse(problem, back)
    cut, count = back.subdivision, solution.subdivision
    while (back.success and not solution.success and problem.ndim == 2
           and halvings(swapped.grid.size * cut**2, cut, method.subdivision, 2)):
        seconds = max_seconds - (time.perf_counter() - begin)
        if seconds <= 0:
            break
        cut *= 2
        back = attempt(subdivided(swapped, cut), replace(method, subdivision=1), None, None, seconds)
        finer = sampled_inverse(problem, back)
        solution = min(solution, finer, key=lambda found: (not found.success, _rank(found)))
    if problem.ndim == 2 or solution.success or solution.status not in SOLVED:
        return solution
    best, correction = solution, Correction(problem, swapped, inverse=True)
    while correction.judge(back, solution.transport_map, repeated(problem.source_masses, count),
                           solution.push_forward_error):
        seconds = max_seconds - (time.perf_counter() - begin)
        if seconds <= 0:
            break
        back = attempt(correction.next_problem(), replace(method, conserve=False), None, correction.best.potential,
                       seconds)
        if back.status not in SOLVED:
            break
        solution = back_to_front(problem, back, count)
        if (not solution.success, _rank(solution)) < (not best.success, _rank(best)):
            best = solution
    return best


def sampled_inverse(problem, back):
    """:func:`back_to_front` on as few cells as put the mass in its place, or on as many as can be afforded."""
    count = 1
    while True:
        solution = back_to_front(problem, back, count)
        left = halvings(problem.grid.size * count**problem.ndim, count, MOST_SAMPLES[problem.ndim], problem.ndim)
        if solution.success or solution.status not in SOLVED or not left:
            return solution
        if problem.ndim == 2 and not worth_halving(solution.push_forward_error, left):
            return solution
        count *= 2


def back_to_front(problem, back, count):
    """``back`` seen from the other side, on cells cut into ``count`` parts per axis."""
    fine = Grid(tuple(n * count for n in problem.grid.shape), problem.grid.box, problem.grid.periodic)
    centres = fine.cell_centres().reshape(fine.ndim, -1)
    image, lift = back.transport_map.inverse(centres)
    displacement = (image - centres - lift).reshape(fine.ndim, *fine.shape)
    transport_map = PiecewiseAffineMap(fine, problem.target_grid, displacement)
    solved = Status.CONVERGED if back.status in SOLVED else back.status
    transport_map, status, checks = checked(transport_map, repeated(problem.source_masses, count),
                                            problem.target_masses, solved, finely=True)
    phi = average(back.dual_potential, problem.grid.shape) - problem.quadratic(problem.grid.cell_centres())
    return replace(back, problem=problem, status=status, displacement_potential=phi - phi.mean(),
                   displacement=at_centres(transport_map, problem.grid), subdivision=count, swapped=True,
                   transport_map=transport_map, **checks)
