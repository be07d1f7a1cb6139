"""The distributed engine: the entry of the same shape as :func:`pmapde.solve`."""
from __future__ import annotations

import math
import os
import time
from dataclasses import replace

import numpy as np

from .. import conservation, equation, solver
from ..integrators import Integrator
from ..linear.solver import Automatic
from ..monge_ampere import MongeAmpere
from ..problem import TransportProblem
from ..solution import Solution
from ..status import SolverError, Status
from ..stepping import PseudoTransient
from ..threads import checked_threads, thread_settings
from .launch import all_or_none, communicator, together
from .layout import Layout
from .linear import PetscMultigrid
from .masses import BoxMap
from .nested import DistributedGrids, steps
from .problem import SampledProblem, refuse_oversized
from .result import DistributedResult, read_checkpoint, refuse_unwritable, write_field


def solve(problem, method=None, *, linear=None, tolerance="discretization", max_steps=300, max_seconds=math.inf,
          throw=False, start=None, callback=None, threads=1, checkpoint=None, checkpoint_every="level", gather=True,
          comm=None):
    """:func:`pmapde.solve` on all ranks of an MPI job; all of them call it together.

    The same discrete equations, kernels, nested grids and steps; the linear solver is PETSc's, its algebraic multigrid
    around which GMRES runs. Small grids are solved on rank 0.

    Parameters
    ----------
    problem : TransportProblem or SampledProblem
        The same on all ranks. Of a :class:`~pmapde.TransportProblem` every rank holds the densities whole, of a
        :class:`~pmapde.distributed.SampledProblem` only its box of the source.
    method : PseudoTransient, optional
        Its ``linear`` is for the grids on rank 0. Misplaced mass is corrected (``conserve``) on the cells as they are:
        there are no finer ones, wider superbases or fall-backs, and rough pairs may end in an honest
        ``MASS_MISPLACED`` where :func:`pmapde.solve` succeeds.
    linear : PetscMultigrid, optional
    tolerance, max_steps, max_seconds, throw, threads
        As in :func:`pmapde.solve`; ``threads`` are those of each rank.
    start : array_like, str or path, optional
        A potential on the grid, or a checkpoint, from whose grid nested iteration goes on.
    callback : callable, optional
        Called on every rank with every :class:`~pmapde.Step`, ``step.phi`` being this rank's box (None on the grids of
        rank 0); returning True, on any rank, stops the run.
    checkpoint : str or path, optional
        File that all ranks write together (.npy, the displacement potential), and replace only when it is complete.
    checkpoint_every : {"level", "step"}
        After every grid, and after every step of the finest one; or after every step of all cut grids.
    gather : bool
        Whether rank 0 gets the whole :class:`~pmapde.Solution`, with its checks, map and inverse; without, every rank
        gets a :class:`~pmapde.distributed.DistributedResult`. A SampledProblem is never gathered.
    comm : mpi4py communicator, optional
        All ranks if omitted.

    Returns
    -------
    Solution (rank 0), None (other ranks), or DistributedResult

    Raises
    ------
    ImportError, RuntimeError, TypeError, ValueError, MemoryError
        For what cannot be run, before anything is computed, on all ranks.

    Notes
    -----
    An exception on one rank ends the whole job with a non-zero exit status: the others would wait for ever. Second
    order, as :func:`pmapde.solve`. The answers agree with its, and between numbers of ranks, to the tolerance, not to
    the last bit.

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> problem = pmapde.TransportProblem(np.add.outer(np.arange(64), np.arange(1, 65)), np.ones((64, 64)))
    >>> solution = pmapde.distributed.solve(problem)    # doctest: +SKIP
    >>> if solution:    # doctest: +SKIP
    ...     solution.save("result")    # rank 0 has it
    """
    comm = comm or communicator()
    method, linear = method or PseudoTransient(), linear or PetscMultigrid()

    def checked():
        _check(problem, method, linear, tolerance, checkpoint_every)
        checked_threads(threads)
        return solver.checked_limits(max_steps, max_seconds), _start(start, problem)
    max_seconds, start = together(comm, checked)
    refuse_oversized(problem.grid, comm)
    Layout(problem.grid, comm)  # refuses what cannot be cut
    if checkpoint:
        refuse_unwritable(checkpoint, comm)
    gather = gather and isinstance(problem, TransportProblem)
    with all_or_none(comm), thread_settings(threads):
        run = _Run(problem, method, linear, tolerance, start, comm)
        run.follow(callback, max_steps, max_seconds, checkpoint, checkpoint_every)
        result = run.gathered() if gather else run.distributed()
        status = comm.bcast(result.status if result else None, root=0)
    if throw and not status.success:
        raise SolverError(status, result)
    return result


def _check(problem, method, linear, tolerance, every):
    if not isinstance(problem, (TransportProblem, SampledProblem)):
        raise TypeError(f"`problem` must be a pmapde.TransportProblem or a pmapde.distributed.SampledProblem, got "
                        f"{type(problem).__name__}.")
    if not isinstance(method, PseudoTransient) or isinstance(method, Integrator):
        raise TypeError(f"`method` must be PseudoTransient(...), got {method!r}.")
    if method.radius not in (None, 1):
        raise ValueError(f"`method` of the distributed engine must leave `radius` alone: there are no wider superbases "
                         f"across ranks, got {method.radius!r}.")
    if not isinstance(method.linear, Automatic):
        raise ValueError("the distributed engine takes its linear solver as `linear=PetscMultigrid(...)`, not from "
                         "`method`.")
    if not isinstance(linear, PetscMultigrid):
        raise TypeError(f"`linear` must be a pmapde.distributed.PetscMultigrid, got {type(linear).__name__}.")
    if every not in ("level", "step"):
        raise ValueError(f"`checkpoint_every` must be 'level' or 'step', got {every!r}.")
    solver.check_tolerance(tolerance)
    if isinstance(problem, TransportProblem):
        problem.refuse_zeros()


def _start(start, problem):
    if start is None:
        return None
    if isinstance(start, (str, os.PathLike)):
        return read_checkpoint(start)
    if isinstance(problem, SampledProblem):
        raise ValueError("`start` of a SampledProblem must be the path of a checkpoint.")
    return problem.displacement_potential(start)


class _Run:
    """One run: the last step, why it stopped, what it counted."""

    def __init__(self, problem, method, linear, tolerance, start, comm):
        self.problem, self.comm, self.scheme = problem, comm, solver.chosen_scheme(problem, method)
        self.stats, self.coarser, self.history = equation.new_stats(), DistributedGrids(), []
        self.stats["ranks"], self.cut = comm.size, None
        self._engine = steps(problem, method, linear, tolerance, start, comm, self.stats, self.coarser,
                             equation.COARSE_STEP_LIMIT)

    def follow(self, callback, max_steps, max_seconds, checkpoint, every):
        """Take the steps; all ranks stop at the same one."""
        begin, on_level = time.perf_counter(), 0
        for step, operator in self._engine:
            self.history.append(replace(step, phi=None, judged=None, good=None))
            on_level = on_level + 1 if step.newton_iterations else 0  # every equation begins with a step of none
            finest = step.level == step.levels - 1
            status = step.status if finest else None
            wish = 2 * bool(callback and callback(step)) + (time.perf_counter() - begin > max_seconds)
            wish = self.comm.allreduce(wish, op=_either())
            if status is None:
                status = (Status.STOPPED if wish & 2 else Status.MAX_SECONDS if wish & 1
                          else Status.MAX_STEPS if on_level >= max_steps else None)
            if status in (Status.MAX_SECONDS, Status.MAX_STEPS) and step.good is not None:
                step, status, self.cut = step.good, Status.CONVERGED, status  # a solution that may do
            self.step, self.operator, self.status = step, operator, status
            if checkpoint and operator is not None and (every == "step" or finest or step.status is not None):
                write_field(checkpoint, operator.layout, step.phi)
            if status is not None:
                self._engine.close()
                break
        self.stats["seconds"]["total"] = time.perf_counter() - begin

    def _on_the_grid(self):
        """This rank's box of the last potential, on the problem's grid, and the layout of that."""
        layout = Layout(self.problem.grid, self.comm)
        if self.operator is None:  # stopped on a grid of rank 0
            phi = self.comm.bcast(self.coarser.phi, root=0)
            return layout, np.zeros(layout.shape) if phi is None else layout.interpolated(phi, self.coarser.grid)
        if self.operator.layout.grid.shape == layout.grid.shape:
            return self.operator.layout, self.step.phi
        return layout, self.operator.layout.interpolate(self.step.phi, layout)

    def gathered(self):
        """The :class:`Solution` on rank 0, None elsewhere."""
        layout, phi = self._on_the_grid()
        phi = layout.gather(phi)
        if phi is None:
            return None
        operator = MongeAmpere(self.problem, self.scheme)
        found = Solution.build(self.problem, operator, phi, self.status, self.history, self.stats, self.coarser, None)
        return found if found.success or not self.cut else replace(found, status=self.cut)

    def distributed(self):
        layout, phi = self._on_the_grid()
        from .operator import DistributedMongeAmpere
        from .problem import block_of
        operator = self.operator
        if operator is None or operator.layout is not layout:
            operator = DistributedMongeAmpere(block_of(self.problem, layout), layout, self.scheme)
        if self.step.status is Status.CONVERGED and not self.cut:  # of the equation as it was corrected
            residual, drift = self.step.residual, self.step.drift
        else:
            evaluation = operator.evaluate(phi, linearise=False)
            residual, drift = evaluation.norm, evaluation.mean
        displacement, source = operator.displacement(phi), operator.problem.source_masses
        whole = self.problem.masses if isinstance(self.problem, SampledProblem) else self.problem
        found, misplaced = self.step.judged or (BoxMap(layout, whole.target_grid, displacement), None)
        folded = found.folded_mass(source)
        if misplaced is None:
            misplaced = found.misplaced_mass(source, whole.target_masses)
        status = self.status
        if status.success and (folded or misplaced > conservation.LIMIT):
            status = self.cut or (Status.FOLDED if misplaced <= conservation.LIMIT else Status.MASS_MISPLACED)
        return DistributedResult(layout, status, phi, displacement, operator.cost(displacement), residual, drift,
                                 *operator.checks(phi), folded, misplaced, self.history, self.stats)


def _either():
    from mpi4py import MPI
    return MPI.BOR
