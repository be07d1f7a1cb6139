"""One equation on one grid, an implicit step at a time."""
from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

from . import stepping, work
from .grid import Grid
from .status import Status
from .threads import thread_settings, use_threads

COARSE_STEP_LIMIT = 60
"""Steps on a grid that is not the finest, and for equations that are solved along the way."""


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
    ``judged``: the map of ``phi`` and the mass it misplaces, where the engine has looked at them. ``good``: the
    best step so far, while a better one is looked for.
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
    good: Step = None


def new_stats():
    """Counters of one run, filled in place."""
    return {"linear": {}, "fallbacks": [], "seconds": defaultdict(float), "work": {},
            "newton_iterations": 0, "rejected_steps": 0, "misplaced": [], "continued": []}


def _applications(stats):
    return sum(counters["applications"] for counters in stats["linear"].values())


def one_grid(operator, linear, method, phi, goal, threads, stats, journal, level=0, levels=1):
    """Pseudo-transient continuation on one grid as :class:`Step` records; threads are set only while it computes.

    Those that the ``journal`` of an interrupted run knows are yielded again, not computed.
    """
    elapsed, before, memory, step = 0.0, _applications(stats), {}, None
    for record in journal.next_grid(operator.grid, stats, linear, memory):
        step = Step(level, levels, operator.grid, **record, radius=operator.radius)
        yield step
    if step is not None:
        if step.status is not None:
            return
        phi, elapsed, before = step.phi, step.time, _applications(stats)
        memory["current"] = stepping.Advance(phi, step.residual, step.drift, step.dt, step.newton_iterations,
                                             step.damping, step.rejected, error=step.error, change=step.change)

    records = stepping.pseudo_transient(operator, linear, phi, method, goal, memory)
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
        step = Step(level, levels, operator.grid, advance.phi, advance.norm, advance.drift, advance.error,
                    advance.change, elapsed, advance.dt, advance.newton_iterations, advance.damping, advance.rejected,
                    spent - before, max(goal.residual, advance.floor), advance.status, operator.radius)
        journal.add(step, stats, linear, memory)
        yield step
        before = spent


def one_equation(operator, linear, method, phi, goal, threads, stats, journal, **place):
    """One equation from ``phi``: yields its steps but for the last, and returns that, which has a status."""
    engine = one_grid(operator, linear, method, phi, goal, threads, stats, journal)
    for count, reached in enumerate(engine):
        reached = replace(reached, **place)
        if reached.status is None:
            yield reached
        if reached.status is not None:
            return reached
        if count >= COARSE_STEP_LIMIT:
            return replace(reached, status=Status.MAX_STEPS)
