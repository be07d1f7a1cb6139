"""The parabolic Monge-Ampère flow in true time: error-controlled, with dense output and a ledger."""
from __future__ import annotations

import copy
import dataclasses
import math
import time as clock
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from numbers import Real

import numpy as np

from . import work
from .archive import field
from .checkpoint import Run, restore_stats
from .equation import new_stats
from .integrators import ESDIRK3, Integrator, checked_memory, value_bounds
from .ledger import Bookkeeper, Ledger, log_mass, model_density
from .memory import refuse_oversized
from .monge_ampere import MongeAmpere
from .problem import TransportProblem, check_problem
from .solver import FLOW_TOLERANCE, checked_limits, chosen_scheme, flow_steps
from .status import SolverError, Status
from .threads import thread_settings, use_threads
from .transport import PiecewiseAffineMap, component_first

IMBALANCE = 0.02
"""Log mass of the model density that is warned about."""


class ImbalanceWarning(UserWarning):
    """The discrete model density has lost or gained a notable part of its mass."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The flow at the requested times; complete when built.

    Attributes
    ----------
    problem : TransportProblem
    status : Status
        ``FINAL_TIME`` if all went well.
    success : bool
    times : ndarray, (m,)
        Those of the requested times that were reached.
    displacement_potentials : ndarray, (m, *shape)
        ``phi_t = u_t - q``, with its mean.
    potentials : ndarray, (m, *shape)
        ``u_t``, with its mean: that of the start plus what the flow adds, ``integral of log(rho_t / mu)``. With the
        source as it was given, not normalised, ``u_t - t * problem.source_log_mass`` is the flow's.
    ledger : Ledger or None
        One row per accepted step.
    history : dict of ndarray
        Per accepted step: ``time, dt, error`` (estimated local error, sup modulo constants), ``allowed``,
        ``newton_iterations, rejected``.
    error_estimate : float
        Sum of the local error estimates, relative to the distance travelled: a bound on the error in time of the last
        potential (sup modulo constants), up to the estimates' own accuracy, since the flow does not expand distances.
        That of :class:`ESDIRK3` is its embedded method's: the error is well below it, and it may exceed the tolerance.
        NaN with a fixed step.
    drift : float
        Log of the mass of ``rho_t`` on the grid at the end: the discrete mass imbalance, O(h^2), which ``u_t`` gains
        per unit of time once the flow has settled. An :class:`ImbalanceWarning` is given above 2 %.
    stats : dict
        Counters, seconds, work units, as in :class:`Solution`.
    """

    problem: TransportProblem
    status: Status
    scheme: str
    times: np.ndarray
    displacement_potentials: np.ndarray
    log_ratios: np.ndarray = dataclasses.field(repr=False)
    ledger: Ledger | None
    history: dict
    error_estimate: float
    drift: float
    stats: dict

    @property
    def success(self):
        return self.status.success

    @property
    def potentials(self):
        return self.displacement_potentials + self.problem.quadratic(self.problem.grid.cell_centres())

    @property
    def log_evidence(self):
        """``source_log_mass - drift``: the log normalising constant of the source as it was given."""
        return self.problem.source_log_mass - self.drift

    def density(self, index=-1):
        """``rho_t = (grad u_t^*)_# nu`` on the source grid, normalised: ``mu exp(log residual)``."""
        return model_density(self.problem, self.log_ratios[index])

    def transport_map(self, index=-1):
        """``grad u_t`` as a piecewise affine homeomorphism, see :class:`~pmapde.transport.PiecewiseAffineMap`."""
        operator = MongeAmpere(self.problem, self.scheme)
        return PiecewiseAffineMap(self.problem.grid, self.problem.target_grid,
                                  operator.displacement(self.displacement_potentials[index]))

    def map(self, points, index=-1):
        """``grad u_t(points)``, (n, d) to (n, d); pushes ``rho_t`` to the target."""
        transport = self.transport_map(index)
        return transport.wrapped(transport.forward(component_first(points, self.problem.ndim)),
                                 self.problem.target_grid).T

    def inverse_map(self, points, index=-1):
        """``grad u_t^*(points)``, (n, d) to (n, d): the sampler, pushes the target to ``rho_t``."""
        transport = self.transport_map(index)
        return transport.wrapped(transport.inverse(component_first(points, self.problem.ndim))[0],
                                 self.problem.grid).T

    def save(self, path):
        """Write everything to one .npz file (never pickled); :func:`pmapde.load` reads it."""
        from .storage import save_trajectory
        save_trajectory(self, path)

    def summary(self):
        """Scalars and counters as a dict that JSON can hold."""
        from .solution import plain
        rows = {"status": self.status.name, "message": self.status.value, "success": self.success,
                "source_shape": list(self.problem.grid.shape), "times": plain(list(self.times)),
                "steps": len(self.history["time"]), "rejected": int(self.history["rejected"].sum()),
                "newton_iterations": int(self.history["newton_iterations"].sum()),
                "error_estimate": self.error_estimate, "drift": self.drift, "log_evidence": self.log_evidence}
        rows = {name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in rows.items()}
        return {**rows, "stats": plain(self.stats)}

    def __str__(self):
        history = self.history
        rows = [("problem", repr(self.problem)[len("TransportProblem("):-1]),
                ("status", f"{self.status.name}: {self.status.value}"),
                ("time", f"{history['time'][-1] if len(history['time']) else 0.0:g} in {len(history['time'])} steps, "
                         f"{int(history['rejected'].sum())} refused; {self.stats['newton_iterations']} Newton "
                         f"iterations, {sum(self.stats['work'].values()):.0f} work units"),
                ("error", f"{self.error_estimate:.1e} of the distance travelled (estimate, time stepping only)"),
                ("drift", f"{self.drift:.2e}")]
        if self.ledger is not None and len(self.ledger):
            last = self.ledger.rows()[-1]
            rows.append(("KL", f"KL(rho|mu) {last['kl_reverse']:.3e}, KL(mu|rho) {last['kl_forward']:.3e}, "
                               f"D(mu|rho) {last['bregman']:.3e}, identity {last['identity']:.1e}"))
        return "\n".join(f"{name:<9} {text}" for name, text in rows)


def checked_ledger(ledger, comparator, exact_map):
    """Whether to keep a ledger, and whether with maps."""
    for name, value in (("comparator", comparator), ("exact_map", exact_map)):
        if ledger is None and value is not None:
            raise ValueError(f"`{name}` is for the ledger: leave ledger=None out.")
        if name == "exact_map" and value is not None and not callable(value):
            raise TypeError(f"`exact_map` must be a function of points (n, d), got {type(value).__name__}.")
    if ledger not in (None, "densities", "full"):
        raise ValueError(f"`ledger` must be None, 'densities' or 'full', got {ledger!r}.")
    return ledger is not None, ledger == "full"


def checked_share(tolerance):
    """A relative tolerance."""
    if not (isinstance(tolerance, Real) and not isinstance(tolerance, bool) and 0 < tolerance < 1):
        raise ValueError(f"`tolerance` must be between 0 and 1, got {tolerance!r}.")
    return float(tolerance)


def _checked_times(times):
    times = np.atleast_1d(np.asarray(times, float))
    if times.ndim != 1 or not len(times) or not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) <= 0).any():
        raise ValueError(f"`times` must be increasing times >= 0, got {times.tolist()}.")
    if times[-1] == 0:
        raise ValueError("`times` must end after 0, where the flow starts.")
    return times


def flow(problem, times, method=None, *, tolerance=FLOW_TOLERANCE, start=None, ledger="densities", comparator=None,
         exact_map=None, callback=None, threads=None, max_steps=10000, max_seconds=math.inf, throw=False,
         checkpoint=None):
    """Follow the parabolic Monge-Ampère equation in true time,

    ``u_t = log det D2u + log nu(grad u) - log mu``,  ``grad u_t(source box) = target box``,

    whose right-hand side is ``log(rho_t / mu)``, ``rho_t = (grad u_t^*)_# nu``.

    Parameters
    ----------
    problem : TransportProblem
    times : float or sequence of float
        Times of the output, increasing, in the unit of (source length x target length); 0 is the start.
    method : ESDIRK3, TRBDF2 or BackwardEuler, optional
        The integrator; ``ESDIRK3()``, of third order with error control, by default.
    tolerance : float
        Error in time relative to the distance travelled (both sup modulo constants) that is aimed at. With a fixed
        step: only the equations of a step are solved to that accuracy, relative to how far it moves.
    start : array_like, optional
        Strictly convex potential on the grid; default ``q``, which is ``|x|^2 / 2`` where the boxes are equal.
    ledger : {"densities", "full", None}
        ``"densities"``: divergences between densities, one row per accepted step. ``"full"``: also what needs maps,
        Bregman divergences, regret identity and EVI (solves for the steady state first, inverts a map per row).
    comparator : array_like, optional
        Density sigma of the evolution variational inequality, values on the grid; the source by default.
    exact_map : callable, optional
        The exact Brenier map, points (n, d) to (n, d), for the ledger's ``map_error``.
    callback : callable, optional
        Called with every accepted :class:`~pmapde.integrators.FlowStep`; returning True stops the run.
    threads : int, optional
    max_steps : int
        Accepted steps allowed.
    max_seconds : float
    throw : bool
        Raise :class:`SolverError` on failure instead of returning what there is.
    checkpoint : Checkpoint, optional
        Where the state of the run is written every now and then; a run that was interrupted goes on from there.

    Returns
    -------
    Trajectory
        Between steps the potentials are cubic Hermite interpolants, of third order or more (bent towards linear ones
        where rough data make those lose convexity). On failure ``trajectory.times`` holds the times that were reached.

    Raises
    ------
    TypeError, ValueError, MemoryError
        For bad input. A ``start`` that is not convex is refused: the flow is defined for convex potentials.

    Notes
    -----
    Second order in the spacing for u, on smooth data that are compatible with the boundary. The potential and its
    densities are those of the same discrete operator that :func:`solve` drives to zero, so the flow ends at its
    solution, up to a constant and the drift.

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> x = (np.arange(32) + 0.5) / 32
    >>> problem = pmapde.TransportProblem(np.add.outer(1 + x, x), np.ones((32, 32)))
    >>> trajectory = pmapde.flow(problem, [0.01, 0.1, 1.0])
    >>> trajectory.status.name, trajectory.potentials.shape
    ('FINAL_TIME', (3, 32, 32))
    """
    method = ESDIRK3() if method is None else method
    check_problem(problem)
    if not isinstance(method, Integrator):
        raise TypeError(f"`method` must be ESDIRK3(...), TRBDF2(...) or BackwardEuler(...), got {method!r}.")
    times, (keep, maps) = _checked_times(times), checked_ledger(ledger, comparator, exact_map)
    tolerance, max_seconds = checked_share(tolerance), checked_limits(max_steps, max_seconds)
    refuse_oversized(problem)
    scheme = chosen_scheme(problem, method)
    operator = MongeAmpere(problem, scheme)
    phi = np.zeros(problem.grid.shape) if start is None else problem.displacement_potential(start)
    run = None if checkpoint is None else Run(checkpoint, "flow", problem, {
        "times": times, "method": method, "tolerance": tolerance, "ledger": ledger, "exact_map": exact_map,
        "start": None if start is None else np.asarray(start, float),
        "comparator": None if comparator is None else np.asarray(comparator, float)}, {"max_steps": int(max_steps)})
    with run or nullcontext():
        trajectory = _followed(operator, times, method, tolerance, phi, keep, maps, comparator, exact_map, callback,
                               threads, max_steps, max_seconds, run)
    if abs(trajectory.drift) > IMBALANCE:
        warnings.warn(f"the mass of the model density on this grid is off by {math.expm1(trajectory.drift):+.1%}: a "
                      f"few cells carry much of the target's, as where a map contracts on a no-flux box; results are "
                      f"of first order at best: match the boxes to the tails of the densities, or refine.",
                      ImbalanceWarning, stacklevel=2)
    if throw and not trajectory.success:
        raise SolverError(trajectory.status, trajectory)
    return trajectory


def _followed(operator, times, method, tolerance, phi, keep, maps, comparator, exact_map, callback, threads, max_steps,
              max_seconds, run):
    """The trajectory; from the state that ``run`` has, if it has one."""
    problem, scheme = operator.problem, operator.scheme
    begin, stats, memory = clock.perf_counter(), new_stats(), None if run is None else {}
    state = None if run is None else run.state
    output, records, status = _Output(operator, times, phi), [], None
    try:
        book = Bookkeeper(problem, scheme, "flow", comparator, exact_map, maps, threads,
                          state and state["ledger"]) if keep else None
        if state is not None:
            output.restore(state["output"])
            records = [tuple(record) for record in state["records"]]
            restore_stats(stats, state["stats"])
            operator.work = float(state["work"])
            memory.update(checked_memory(state["memory"], problem.grid.shape))
    except (KeyError, TypeError, ValueError) as error:
        if state is None:
            raise
        raise run.refused(error) from None
    with thread_settings(threads) as count:
        use_threads(count, phi.size)
        if state is None:
            output.ratio(phi)
            if book:
                book.start(phi, output.start_ratio)
    first = float(times[0] if times[0] > 0 else times[1])
    if records and records[-1][0] >= times[-1]:  # it was interrupted after its last step
        engine, status = (), Status.FINAL_TIME
    else:
        engine = flow_steps(operator, method, phi, tolerance, threads, stats, float(times[-1]), first, memory)
    for step in engine:
        status = step.status
        if status is None:
            records.append((step.time, step.dt, step.error, step.allowed, step.newton_iterations, step.rejected))
            with thread_settings(threads) as count:
                use_threads(count, phi.size)
                output.take(step)
                if book:
                    book.add(step.time, step.dt, step.phi, step.log_ratio, output.middle(step) if maps else None)
            output.previous = step.phi
            if run is not None:
                run.keep({"memory": dict(memory), "stats": copy.deepcopy(stats), "work": operator.work,
                          "records": list(records), "output": output.state, "ledger": book and book.state})
            stop = callback is not None and callback(step)
            if step.time >= times[-1]:
                status = Status.FINAL_TIME
            elif stop:
                status = Status.STOPPED
            elif len(records) >= max_steps:
                status = Status.MAX_STEPS
            elif clock.perf_counter() - begin > max_seconds:
                status = Status.MAX_SECONDS
        if status is not None:
            engine.close()
            break
    stats["seconds"]["total"] = clock.perf_counter() - begin
    stats["work"] = work.in_units(stats["work"], problem.grid.size)
    names = ("time", "dt", "error", "allowed", "newton_iterations", "rejected")
    history = {name: np.array([record[k] for record in records]) for k, name in enumerate(names)}
    return Trajectory(problem, status, scheme, *output.arrays(), book.ledger if book else None, history,
                      output.error(history["error"]), output.drift, stats)


class _Output:
    """Potentials and log ratios at the requested times, as the steps pass over them."""

    def __init__(self, operator, times, phi):
        self.operator, self.times, self.previous, self.start = operator, times, phi, phi
        self.potentials, self.ratios, self.drift, self.distance = [], [], math.nan, 0.0

    @property
    def state(self):
        return {"potentials": list(self.potentials), "ratios": list(self.ratios), "drift": self.drift,
                "distance": self.distance, "previous": self.previous}

    def restore(self, state):
        shape = self.operator.grid.shape
        self.potentials, self.ratios = ([field(values, shape) for values in state[name]]
                                        for name in ("potentials", "ratios"))
        self.previous, self.drift, self.distance = field(state["previous"], shape), state["drift"], state["distance"]

    def ratio(self, phi):
        evaluation = self.operator.evaluate(phi, linearise=False)
        value_bounds(evaluation)  # refuses what is not convex
        self.start_ratio = evaluation.residual
        self.drift = log_mass(self.operator.problem, self.start_ratio)
        if self.times[0] == 0:
            self.potentials.append(phi)
            self.ratios.append(self.start_ratio)

    def between(self, step, time):
        """Cubic Hermite interpolation in a step; nearer to the linear one, which is convex, where that is not."""
        s = 1 - (step.time - time) / step.dt
        moved = step.phi - self.previous
        bend = s * (1 - s) * ((1 - 2 * s) * -moved + step.dt * ((1 - s) * step.slope_before - s * step.slope))
        for share in (1.0, 0.5, 0.25, 0.0):
            phi = self.previous + s * moved + share * bend
            ratio = self.operator.residual(phi)
            if np.isfinite(ratio).all():
                break
        return phi, ratio

    def middle(self, step):
        return self.between(step, step.time - step.dt / 2)

    def take(self, step):
        self.drift = log_mass(self.operator.problem, step.log_ratio)
        self.distance += 0.5 * float(np.ptp(step.phi - self.previous))
        while len(self.potentials) < len(self.times) and self.times[len(self.potentials)] <= step.time:
            time = self.times[len(self.potentials)]
            phi, ratio = (step.phi, step.log_ratio) if time == step.time else self.between(step, time)
            self.potentials.append(phi)
            self.ratios.append(ratio)

    def error(self, errors):
        return float(errors.sum() / self.distance) if self.distance > 0 and len(errors) else math.nan

    def arrays(self):
        shape = (len(self.potentials), *self.operator.grid.shape)
        return self.times[:len(self.potentials)], np.array(self.potentials).reshape(shape), np.array(
            self.ratios).reshape(shape)
