"""Grid sequencing across ranks: small grids on rank 0 by the serial engine, the others cut among all ranks."""
from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice

import numpy as np

from .. import equation, solver, stepping
from ..equation import COARSE_STEP_LIMIT, Step
from ..extrapolation import CoarserGrids, smooth_changes
from ..remedies import CORRECTION_TOLERANCE
from ..status import Status
from .launch import agree
from .layout import Layout, partition
from .linear import DistributedLinearSolver
from .masses import conserved
from .operator import DistributedMongeAmpere
from .problem import SampledProblem, block_of

SERIAL_CELLS = {2: 64**2, 3: 24**3}
"""Grids of at most so many cells are left to the serial engine: ranks would only wait for each other."""


class DistributedGrids(CoarserGrids):
    """:class:`CoarserGrids` whose fields are cut among ranks; those of the serial grids are on every rank, whole."""

    def __init__(self):
        super().__init__()
        self._layout = None

    def take(self, found):
        """What the serial engine found: attributes of a :class:`CoarserGrids`."""
        for name, value in found.items():
            setattr(self, name, value)
        self.displacements = [None]  # there are coarser grids; the maps on them are not asked for

    def _brought(self, field, layout):
        """A field of the last grid on ``layout``."""
        return (layout.interpolated(field, self.grid) if self._layout is None
                else self._layout.interpolate(field, layout))

    def add(self, operator, phi, first, last):
        layout = operator.layout
        self._book(first, last)
        if self.phi is not None:
            self.change = phi - self._brought(self.phi, layout)
            padded = layout.pad(self.change, np.empty(tuple(n + 2 for n in layout.shape)))
            self.sizes.append(layout.gradient_norm(padded))
        self.phi, self.grid, self._layout = phi, layout.grid, layout
        self.displacements = [operator.displacement(phi)]
        self.costs.append(operator.cost(self.displacements[0]))

    def start(self, phi, layout):
        """As of :class:`CoarserGrids`, on this rank's box."""
        if smooth_changes(self.sizes):
            return self._brought(phi + 0.25 * self.change, layout), 0.25 * self.sizes[-1]
        return self._brought(phi, layout), 0.0


def steps(problem, method, linear_method, tolerance, start, comm, stats, coarser, limit):
    """Nested iteration: a generator of ``(Step, operator)``, collective. ``Step.phi`` is this rank's box.

    ``start``: None or ``(phi, shape)``, a displacement potential on the problem's grid or a coarser one, sliced by
    every rank. ``limit``: steps allowed on a grid that is not the finest.
    """
    problems = solver.nested_problems(problem, method)
    scheme = solver.chosen_scheme(problem, method)
    share = solver.ALGEBRAIC_SHARE
    if start is not None:
        first = _level_of(start, problem, problems)
        problems, first = problems[first:], 0
    else:
        first = _first_cut(problems, comm)
    levels, phi = len(problems), None
    if first:
        found, history = _serial(problems[first - 1], replace(method, scheme=scheme), comm, stats, share)
        coarser.take(found)
        phi = coarser.phi
        for step in history:
            yield replace(step, levels=levels), None
    taken = 0
    for level in range(first, levels):
        finest = level == levels - 1
        layout = Layout(problems[level].grid, comm)
        operator = DistributedMongeAmpere(block_of(problems[level], layout), layout, scheme)
        extrapolated = 0.0
        if level:
            phi, extrapolated = coarser.start(phi, layout)
        elif start is not None:
            phi = np.array(start[layout.slices], dtype=float, order="C")
            agree(comm, None if np.isfinite(phi).all() else ValueError("`start` must be finite."))
        else:
            phi = np.zeros(layout.shape)
        goal = solver.goal_on(level, problems, tolerance, share, coarser, extrapolated,
                              one_step=level < 2 or taken <= 1)
        engine, opening = _on_layout(operator, linear_method, method, phi, goal, stats), None
        for taken, step in enumerate(engine):
            step = replace(step, level=level, levels=levels)
            opening = opening or step
            if finest and method.conserve and step.status is Status.CONVERGED:
                engine.close()  # with its matrix
                for found in _conserved(problem, operator, linear_method, method, step, tolerance, stats):
                    yield found, operator
                return
            yield step, operator
            phi = step.phi
            if not finest and taken >= limit:
                break
        if not finest:
            coarser.add(operator, phi, opening, step)


def _first_cut(problems, comm):
    """The first grid that is cut among the ranks: those before are too small for it to pay, or to be cut at all."""
    for level, problem in enumerate(problems):
        grid = problem.grid
        if grid.size > SERIAL_CELLS[grid.ndim] and partition(grid.shape, comm.size):
            return level
    return len(problems) - 1


def _level_of(start, problem, problems):
    for level, coarse in enumerate(problems):
        if coarse.grid.shape == start.shape:
            return level
    error = ValueError(f"`start` must be on the grid {problem.grid.shape} or one of the coarser ones "
                       f"{', '.join(str(coarse.grid.shape) for coarse in problems[:-1])}, got shape {start.shape}.")
    error.everywhere = True  # all ranks see the same
    raise error


def _serial(problem, method, comm, stats, share):
    """Nested iteration up to a small grid on rank 0, told to all ranks: the attributes of the solutions on its grids,
    and the steps without their arrays."""
    if isinstance(problem, SampledProblem):
        problem = problem.whole(comm)
    told = None
    if comm.rank == 0:
        grids, history = CoarserGrids(), []
        settings = replace(method, conserve=False)
        own = equation.new_stats()
        operator, engine = solver.prepared_engine(problem, settings, "discretization", None, 1, own, grids, share,
                                                  solver.Journal())
        for count, step in enumerate(engine):
            history.append(replace(step, phi=None))
            phi = step.phi
            if count >= equation.COARSE_STEP_LIMIT and step.level == step.levels - 1:
                break
        first = next(step for step in history if step.level == step.levels - 1)
        grids.add(operator, phi, first, history[-1])
        found = {name: getattr(grids, name)
                 for name in ("phi", "change", "grid", "sizes", "costs", "scale", "errors", "corrected", "missed")}
        told = found, history, own
    found, history, own = comm.bcast(told, root=0)
    stats["newton_iterations"] += own["newton_iterations"]
    stats["rejected_steps"] += own["rejected_steps"]
    stats["linear"].update(own["linear"])
    stats["fallbacks"] += own["fallbacks"]
    return found, history


def _applications(stats):
    return sum(counters["applications"] for counters in stats["linear"].values())


def _conserved(problem, operator, linear_method, method, step, tolerance, stats):
    """Steps of the equations whose source is corrected by what the map of the converged ``step`` misplaces."""
    residual = CORRECTION_TOLERANCE if tolerance == "discretization" else float(tolerance)
    goal = stepping.Goal(residual=residual, change=step.change)

    def solved(corrected, phi):
        return islice(_on_layout(corrected, linear_method, method, phi, goal, stats), COARSE_STEP_LIMIT)
    whole = problem.masses if isinstance(problem, SampledProblem) else problem
    return conserved(whole, operator, step, solved, stats)


def _on_layout(operator, linear_method, method, phi, goal, stats):
    """Pseudo-transient continuation on one layout as :class:`Step` records."""
    elapsed, grid = 0.0, operator.layout.grid
    before = _applications(stats)
    linear = DistributedLinearSolver(operator.layout, linear_method, stats, operator.natural_time)

    try:
        for advance in stepping.pseudo_transient(operator, linear, phi, method, goal):
            stats["newton_iterations"] += advance.newton_iterations
            stats["rejected_steps"] += advance.rejected
            elapsed += advance.dt if advance.newton_iterations else 0.0
            spent, before = _applications(stats) - before, _applications(stats)
            yield Step(0, 1, grid, advance.phi, advance.norm, advance.drift, advance.error, advance.change, elapsed,
                       advance.dt, advance.newton_iterations, advance.damping, advance.rejected, spent,
                       max(goal.residual, advance.floor) if math.isfinite(advance.floor) else goal.residual,
                       advance.status)
    finally:  # PETSc cannot free a matrix made in Python once Python has ended
        linear.release()
