"""What is tried after a plain run has failed: the swapped problem, entropic plans, then both sides on finer cells."""
from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np

from .barycentric import LARGEST, barycentric, cells_on_either_side, is_for
from .conservation import Correction, halvings, repeated, subdivided, worth_halving
from .density import GridDensity
from .grid import Grid
from .solution import at_centres, checked
from .status import Status
from .threads import thread_settings, use_threads
from .transfer import average
from .transport import PiecewiseAffineMap

FINAL = (Status.STOPPED, Status.MAX_SECONDS)
"""Statuses after which nothing else is tried: they say what the caller asked for. Nor after a function that is not
finite."""
FEW_PARTS = 4
"""Of a cell per axis, tried on both sides before more are."""
MOST_SAMPLES = {2: 8, 3: 2}
"""Of an inverse map, per cell and axis."""
MOST_PARTS = 32
"""Of a cell per axis, between which there are plans: they take seconds where an equation takes minutes."""
SOLVED = (Status.CONVERGED, Status.MASS_MISPLACED, Status.FOLDED)
"""Statuses of a solved equation, whatever its map is worth."""
FIRST_STEPS = 60
"""Implicit steps on the problem's cells, or finer ones, after which a side waits until entropic plans were tried."""
SECONDS_KEPT = 2e-4, 1 / 3
"""Of a limited time, for entropic plans: a cell, and the largest share."""


def solve(attempt, problem, method, extrapolate, start, max_seconds, max_steps=math.inf, entropic=False, threads=None):
    """The first success of the chain, or the failure that misplaces the least mass.

    Parameters
    ----------
    attempt : callable
        ``(problem, method, extrapolate, start, seconds, steps)`` to a Solution.
    max_steps : int
        Of an equation, where the caller limits them: what ran into that is not rescued by a plan.
    entropic : bool
        Whether an entropic plan will do.

    The rougher density had better be the source, where it is only a right-hand side: the swapped problem's map is the
    inverse, and its inverse, sampled at the cells, the map. Where neither puts the mass in its place an entropic plan
    usually does, in seconds, at first order; where that does not either, finer cells cost 2^d times as much each time,
    so they come last. Each attempt is booked in ``stats["attempts"]``: what it was, its status and misplaced mass, its
    work (of equations, in units of the problem's grid) and seconds.
    """
    if not method.conserve:
        return attempt(problem, method, extrapolate, start, max_seconds, math.inf)
    entropic = entropic and is_for(problem)
    chain = _Chain(problem, attempt, method, extrapolate, start, max_seconds, max_steps)
    if entropic:
        chain.kept = min(SECONDS_KEPT[0] * problem.grid.size, SECONDS_KEPT[1] * max_seconds)
    chain.both_sides(1, method.radius, FIRST_STEPS if entropic else math.inf)
    if entropic and not chain.limited:
        chain.plans(threads)
    for parts, radius in _finer(problem, method):
        chain.both_sides(parts, radius)
    return chain.ended()


def _finer(problem, method):
    """Parts of a cell and radii of superbases, in turn: whole cells for the sides that are not through with them. Wide
    superbases on finer cells come last: they are expensive, and seldom of help there."""
    most = 2**halvings(problem.grid.size, 1, method.subdivision, problem.ndim)
    narrow = [(parts, method.radius or 1) for parts in sorted({min(FEW_PARTS, most), most}) if parts > 1]
    wide = [(most, None)] if narrow and method.radius is None and problem.ndim == 2 else []
    return [(1, method.radius), *narrow, *wide]


class _Chain:
    """Attempts at one problem until one of them ends it."""

    def __init__(self, problem, attempt, method, extrapolate, start, max_seconds, max_steps):
        self.problem, self._attempt, self.method = problem, attempt, method
        self.extrapolate, self.start = extrapolate, start
        self.begin, self.max_seconds, self.kept, self.max_steps = time.perf_counter(), max_seconds, 0.0, max_steps
        self.log, self.best, self.last, self.final, self.cut, self.limited = [], None, None, False, False, False
        self.booked, self.work = self.begin, 0.0  # when the last attempt was; work since, in units of the problem
        self.ranks, self.waiting = {False: 0.0, True: 0.0}, {False, True}

    @property
    def left(self):
        return self.max_seconds - (time.perf_counter() - self.begin)

    def attempt(self, problem, *how):
        """One equation, whose work is kept whatever becomes of its solution."""
        solution = self._attempt(problem, *how)
        self.work += sum(solution.stats["work"].values()) * problem.grid.size / self.problem.grid.size
        return solution

    def both_sides(self, parts, radius, steps=math.inf):
        """The equation and the swapped one, on cells of at most ``parts`` parts; whole ones where a side was cut."""
        for swapped in sorted(self.ranks, key=self.ranks.get):  # first the side that came closer
            if self.final or parts == 1 and swapped not in self.waiting:
                continue
            self.one_side(swapped, parts, radius, steps)

    def one_side(self, swapped, parts, radius, steps):
        """One of them, which is solved once more where it was centred by default and did not solve its equation."""
        seconds, first = self.left - self.kept, self.best is None
        if not first and seconds <= 0:
            self.cut = True
            return
        settings = replace(self.method, subdivision=parts, radius=radius)
        if swapped:
            solution = inverted(self.problem, self.attempt, settings, seconds, steps)
        else:  # later ones go without the start: it led nowhere
            solution = self.attempt(self.problem, settings, self.extrapolate, self.start if first else None, seconds,
                                    steps)
        if _steps(solution, self.problem.target_grid if swapped else self.problem.grid) < steps:
            self.waiting.discard(swapped)
        self.limited |= _steps_at_the_end(solution) >= self.max_steps
        late = solution.status is Status.MAX_SECONDS and self.kept > 0
        self.book(solution, swapped=swapped, parts=parts)
        self.ranks[swapped] = _rank(solution)
        wrong = solution.status is Status.NONFINITE and not isinstance(self.problem.target, GridDensity)
        self.final |= first and (wrong or solution.status in FINAL and not late)
        # a side may end with less than it was given: nothing may be begun behind what it broke off
        self.cut |= late or self.kept > 0 and self.left <= self.kept
        chosen = self.method.scheme is None and solution.scheme == "centred" and self.problem.ndim == 2
        if chosen and not (self.final or swapped):
            self.method = replace(self.method, scheme="monotone")
            if solution.status not in SOLVED and not self.limited:
                self.waiting.add(swapped)
                self.one_side(swapped, parts, radius, steps)

    def plans(self, threads):
        """Entropic plans, on finer cells as long as that may help."""
        parts, self.kept = 1, 0.0
        while not self.final and self.left > 0:
            cells = cells_on_either_side(self.problem) * parts**self.problem.ndim
            with thread_settings(threads) as found:
                use_threads(found, cells)
                solution = barycentric(self.problem, self.best, parts, max(self.left, 0.0), threads)
            if self.extrapolate:
                solution = replace(solution, extrapolation="not done, the map is that of an entropic plan")
            self.book(solution, blur=solution.blur, parts=parts)
            ndim, most = self.problem.ndim, MOST_PARTS if self.method.subdivision > 1 else 1
            count = halvings(cells, parts, most, ndim, LARGEST[ndim])
            if solution.status is Status.MAX_SECONDS or not worth_halving(_rank(solution), count):
                break
            parts *= 2
        self.final |= self.cut

    def book(self, solution, **what):
        now = time.perf_counter()
        self.log.append({**what, "status": solution.status.name, "misplaced": solution.push_forward_error,
                         "work": self.work, "seconds": now - self.booked})
        self.last, self.booked, self.work = solution, now, 0.0
        if self.best is None or solution.success or _rank(solution) < _rank(self.best):
            self.best = solution
        self.final |= solution.success

    def ended(self):
        """The best attempt, which knows of all others."""
        best = self.best
        best.stats["attempts"] = self.log
        # what is missing is time then, whatever the best attempt so far fell short of
        if not best.success and (self.cut or self.last.status is Status.MAX_SECONDS):
            return replace(best, status=Status.MAX_SECONDS)
        # or what the last attempt fell short of, where the best was cut by our own limit of steps, not by the caller's
        return replace(best, status=self.last.status) if best.status is Status.MAX_STEPS else best


def _steps(solution, grid):
    """On the cells of ``grid``, or finer ones."""
    history = solution.history
    return history["newton_iterations"][history["cells"] >= grid.size].sum()


def _steps_at_the_end(solution):
    """Of the last equation that was solved: every one begins with a step of none."""
    newton = solution.history["newton_iterations"]
    return len(newton) - 1 - np.flatnonzero(newton == 0)[-1]


def _rank(solution):
    misplaced = solution.push_forward_error
    return misplaced if math.isfinite(misplaced) else math.inf


def inverted(problem, attempt, method, max_seconds, steps=math.inf):
    """The solution of ``problem`` by one of ``problem.swapped()``: its inverse map, sampled at the cells.

    Of which there are as many as put the mass in its place: the inverse jumps where the target has gaps, a layer of
    simplices lies across them, and gets thinner. Where the swapped map is a success and its inverse is none, as gaps of
    the target take space that finer cells give back, the swapped problem's cells are cut. In 3D, where few samples can
    be afforded, the swapped equation's source is then corrected by what the sampled inverse misplaces.
    """
    begin, swapped = time.perf_counter(), problem.swapped()
    back = attempt(swapped, method, None, None, max_seconds, steps)
    solution = sampled_inverse(problem, back)
    cut, count = back.subdivision, solution.subdivision
    while (back.success and not solution.success and problem.ndim == 2
           and halvings(swapped.grid.size * cut**2, cut, method.subdivision, 2)):
        seconds = max_seconds - (time.perf_counter() - begin)
        if seconds <= 0:
            break
        cut *= 2
        back = attempt(subdivided(swapped, cut), replace(method, subdivision=1), None, None, seconds, steps)
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
                       seconds, steps)
        if back.status is Status.STOPPED:
            return replace(best, status=Status.STOPPED)
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
