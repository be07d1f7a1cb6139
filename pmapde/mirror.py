"""Mirror descent in the space of Brenier maps: explicit, dual and implicit, with a measured regret."""
from __future__ import annotations

import copy
import dataclasses
import math
import time as clock
from contextlib import nullcontext
from dataclasses import dataclass
from numbers import Real

import numpy as np
from scipy import fft
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs

from . import schedules, work
from .archive import field
from .checkpoint import Run, restore_stats
from .equation import new_stats
from .integrators import BackwardEuler, implicit_stage, value_bounds
from .ledger import Bookkeeper, Ledger, model_density
from .linear.solver import LinearSolver, OutOfTime
from .memory import refuse_oversized
from .monge_ampere import MongeAmpere
from .problem import TransportProblem, check_problem
from .solver import checked_limits, chosen_scheme
from .status import SolverError, Status
from .threads import thread_settings, use_threads
from .trajectory import checked_ledger, checked_share

SHORTENINGS = 40
"""Halvings of an explicit step that loses convexity."""
CONVEX_SHARE = 0.5
"""Of the way to where an explicit step might lose convexity, for the limit that schedules are told."""
HOMOTOPY = 4
"""Times an implicit step is tried from the solution of one an eighth as long."""


@dataclass(frozen=True, eq=False)
class MirrorRun:
    """What a mirror descent left behind.

    Attributes
    ----------
    problem : TransportProblem
        The problem descended on; the swapped one for ``scheme="dual"``.
    status : Status
        ``MAX_STEPS`` never: all iterations done is ``FINAL_TIME``. ``CONVEXITY_LOST``: an explicit step, counted from
        0 by ``len(etas)``, left the convex potentials.
    scheme : str
    displacement_potential, potential : ndarray, (*shape)
        The last iterate, ``phi = u - q`` and ``u``, with their mean.
    log_ratio : ndarray, (*shape)
        ``log(rho_K / mu)`` of the last iterate.
    etas, limits : ndarray, (K,)
        Steps taken, and the limit of an explicit step at each: that predicted by :func:`explicit_limit`, for the family
        of ``modes``, but at most half the way to where the step might lose convexity.
    shortened : int
        Halvings of steps that lost convexity.
    ledger : Ledger or None
    stats : dict
    """

    problem: TransportProblem
    status: Status
    scheme: str
    displacement_potential: np.ndarray
    log_ratio: np.ndarray = dataclasses.field(repr=False)
    etas: np.ndarray
    limits: np.ndarray
    shortened: int
    ledger: Ledger | None
    stats: dict

    @property
    def success(self):
        return self.status.success

    @property
    def potential(self):
        return self.displacement_potential + self.problem.quadratic(self.problem.grid.cell_centres())

    def density(self):
        """``rho_K`` on the grid, normalised."""
        return model_density(self.problem, self.log_ratio)

    def save(self, path):
        """Write everything to one .npz file (never pickled); :func:`pmapde.load` reads it."""
        from .storage import save_run
        save_run(self, path)

    def __str__(self):
        rows = [("problem", repr(self.problem)[len("TransportProblem("):-1]), ("scheme", self.scheme),
                ("status", f"{self.status.name}: {self.status.value}"),
                ("steps", f"{len(self.etas)}, sum of eta {self.etas.sum():.4g}, {self.shortened} halvings")]
        if self.ledger is not None:
            last = self.ledger.rows()[-1]
            rows += [("KL", f"KL(rho|mu) {last['kl_reverse']:.3e}, KL(mu|rho) {last['kl_forward']:.3e}"),
                     ("regret", f"{last['regret']:.4e}, with KL(mu|rho) {last['gap']:.4e}"
                                + (f", bound {last['bound']:.4e}, identity {last['identity']:.1e}"
                                   if math.isfinite(last["bound"]) else "; its bound needs ledger='full'"))]
        return "\n".join(f"{name:<9} {text}" for name, text in rows)


def predicted_limit(evaluation):
    """``1 / (2 max sum W)``: up to it an explicit step is monotone and, by Gershgorin's circles, stable, where weights
    are not negative (the monotone scheme's; those of centred differences nearly so) and outweigh the drift of a target
    that varies."""
    return 0.5 / float(evaluation.weights.sum(axis=0).max())


def explicit_limit(problem, potential=None, scheme=None):
    """``(predicted, measured)``: how long an explicit step may be at a potential (default ``q``).

    Predicted: ``1 / (2 max sum W)`` over the weights W of the linearised operator, ``h^2 lambda_min / 4`` and more for
    a Hessian near a multiple of the identity in 2D. Measured: ``2 / |lambda|`` with the eigenvalue of largest modulus
    of the linearised operator (Arnoldi); NaN if that did not converge.

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> problem = pmapde.TransportProblem(np.ones((16, 16)), np.ones((16, 16)))
    >>> [round(256 * limit, 3) for limit in pmapde.explicit_limit(problem)]
    [0.25, 0.252]
    """
    operator = MongeAmpere(problem, chosen_scheme(problem, BackwardEuler(scheme=scheme)))
    phi = np.zeros(problem.grid.shape) if potential is None else problem.displacement_potential(potential, "potential")
    evaluation = operator.evaluate(phi)
    if not math.isfinite(evaluation.mean):
        raise ValueError("`potential` must be strictly convex (positive second differences in every cell).")
    stencil, shape = operator.stencil(evaluation), problem.grid.shape
    matrix = LinearOperator((phi.size, phi.size), lambda v: stencil.apply(v.reshape(shape)).ravel(), dtype=float)
    start = np.random.default_rng(0).standard_normal(phi.size)  # repeatable
    try:
        largest = float(np.abs(eigs(matrix, 1, which="LM", v0=start, tol=1e-3, return_eigenvectors=False)).max())
    except ArpackNoConvergence:
        largest = math.nan
    return predicted_limit(evaluation), 2 / largest


def mirror_descent(problem, schedule, iterations, *, scheme="explicit", start=None, on_convexity_loss="stop",
                   modes=None, ledger="densities", comparator=None, exact_map=None, method=None, tolerance=1e-6,
                   callback=None, threads=None, max_seconds=math.inf, throw=False, checkpoint=None):
    """Mirror descent in the space of Brenier maps: explicit, implicit, dual.

    Of ``KL(. | mu)``, with the mirror ``W2^2(., nu) / 2``.

    ``explicit``: ``u_{k+1} = u_k + eta_k log(rho_k / mu)``, the explicit Euler step of the parabolic equation; on a
    grid its steps are limited by ``h^2``, see :func:`explicit_limit`. ``dual``: the same for the swapped problem,
    forward KL.
    ``implicit``: ``u_{k+1} = u_k + eta_k log(rho_{k+1} / mu)``, the proximal step, backward Euler: no limit.

    Parameters
    ----------
    problem : TransportProblem
    schedule : float or callable
        ``(k, limit) -> eta_k``, see :mod:`pmapde.schedules`; a number is a constant step.
    iterations : int
    scheme : {"explicit", "implicit", "dual"}
    start : array_like, optional
        Strictly convex potential on the grid (of the target for ``dual``); default ``q``.
    on_convexity_loss : {"stop", "shorten", "raise"}
        What to do where an explicit step leaves the convex potentials: stop before it with the status
        ``CONVEXITY_LOST``, halve it until it does not (counted in ``run.shortened``), or raise :class:`SolverError`.
    modes : int, optional
        Explicit steps in a low-dimensional family: of the log ratio only the cosine modes (Fourier modes on periodic
        axes) with fewer half waves per axis are used. Its steps are limited by the square of ``modes``, not by the
        grid; what is left out appears in the ledger's bound.
    ledger, comparator, exact_map : as in :func:`pmapde.flow`
        For ``dual`` those of the swapped problem: a density on the target's grid, the map from target to source.
    method : BackwardEuler, optional
        Scheme and linear solver.
    tolerance : float
        Algebraic error of an implicit step relative to how far it moves (sup modulo constants).
    callback : callable, optional
        Called with the iteration number and the displacement potential after every step; returning True stops.
    threads : int, optional
    max_seconds : float
    throw : bool
        Raise :class:`SolverError` on failure.
    checkpoint : Checkpoint, optional
        Where the state of the run is written every now and then; a run that was interrupted goes on from there, with
        the same schedule.

    Returns
    -------
    MirrorRun

    Raises
    ------
    TypeError, ValueError, SolverError

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> x = (np.arange(16) + 0.5) / 16
    >>> problem = pmapde.TransportProblem(np.add.outer(1 + x, x), np.ones((16, 16)))
    >>> run = pmapde.mirror_descent(problem, pmapde.schedules.geometric(0.01, 2.0), 12, scheme="implicit")
    >>> run.status.name, bool(run.ledger["kl_reverse"][-1] < 1e-9)
    ('FINAL_TIME', True)
    """
    check_problem(problem)
    if scheme not in ("explicit", "implicit", "dual"):
        raise ValueError(f"`scheme` must be 'explicit', 'implicit' or 'dual', got {scheme!r}.")
    if on_convexity_loss not in ("stop", "shorten", "raise"):
        raise ValueError(f"`on_convexity_loss` must be 'stop', 'shorten' or 'raise', got {on_convexity_loss!r}.")
    if not (isinstance(iterations, (int, np.integer)) and iterations >= 1):
        raise ValueError(f"`iterations` must be a whole number >= 1, got {iterations!r}.")
    given = schedule
    if not callable(schedule):
        if not isinstance(schedule, Real) or isinstance(schedule, bool):
            raise TypeError(f"`schedule` must be a step size or a function (k, limit) -> step size, as in "
                            f"pmapde.schedules, got {schedule!r}.")
        schedule = schedules.constant(float(schedule))
    if modes is not None and not (isinstance(modes, (int, np.integer)) and modes >= 2 and scheme != "implicit"):
        raise ValueError(f"`modes` must be a whole number >= 2, for explicit steps only, got {modes!r} with "
                         f"scheme={scheme!r}.")
    keep, maps = checked_ledger(ledger, comparator, exact_map)
    tolerance, max_seconds = checked_share(tolerance), checked_limits(1, max_seconds)
    method = BackwardEuler(max_iterations=25) if method is None else method
    if not isinstance(method, BackwardEuler):
        raise TypeError(f"`method` must be BackwardEuler(...), got {method!r}.")
    keeper = None if checkpoint is None else Run(checkpoint, "mirror_descent", problem, {
        "schedule": given, "scheme": scheme, "start": None if start is None else np.asarray(start, float),
        "on_convexity_loss": on_convexity_loss, "modes": modes, "ledger": ledger,
        "comparator": None if comparator is None else np.asarray(comparator, float), "exact_map": exact_map,
        "method": method, "tolerance": tolerance}, {"iterations": int(iterations)})
    problem = problem.swapped() if scheme == "dual" else problem
    refuse_oversized(problem)
    operator = MongeAmpere(problem, chosen_scheme(problem, method))
    phi = np.zeros(problem.grid.shape) if start is None else problem.displacement_potential(start)
    kind = "implicit" if scheme == "implicit" else "explicit"
    begin = clock.perf_counter()
    with keeper or nullcontext(), thread_settings(threads) as count:
        use_threads(count, phi.size)
        state = None if keeper is None else keeper.state
        try:
            book = Bookkeeper(problem, operator.scheme, kind, comparator, exact_map, maps, threads,
                              state and state["ledger"]) if keep else None
            use_threads(count, phi.size)
            run = _Descent(operator, method, phi, tolerance, modes, count, begin + max_seconds,
                           state and state["descent"], keeper)
        except (KeyError, TypeError, ValueError) as error:
            if state is None:
                raise
            raise keeper.refused(error) from None
        if state is not None:
            _check_schedule(schedule, run, on_convexity_loss == "shorten")
        elif book:
            book.start(run.phi, run.log_ratio)
        status = _descended(run, book, schedule, int(iterations), kind,
                            SHORTENINGS if on_convexity_loss == "shorten" else 0, callback, count,
                            begin + max_seconds, keeper)
    run.stats["seconds"]["total"] = clock.perf_counter() - begin
    work.book(run.stats["work"], problem.grid.shape, operator.work)
    run.stats["work"] = work.in_units(run.stats["work"], problem.grid.size)
    result = MirrorRun(problem, status, scheme, run.phi + run.mean, run.log_ratio, np.array(run.etas),
                       np.array(run.limits), run.shortened, book.ledger if book else None, run.stats)
    if not status.success and (throw or (status is Status.CONVEXITY_LOST and on_convexity_loss == "raise")):
        raise SolverError(status, result)
    return result


def _descended(run, book, schedule, iterations, kind, halvings, callback, threads, deadline, keeper):
    """Take the steps that ``run`` has not taken yet; why it ended."""
    for k in range(len(run.etas), iterations):
        limit = run.limit(kind)
        eta = step_size(schedule, k, limit)
        try:
            failure = run.implicit(eta) if kind == "implicit" else run.explicit(eta, halvings)
        except OutOfTime:  # in the middle of a step: the last one stands
            failure = Status.MAX_SECONDS
        if failure:
            return failure
        run.limits.append(limit)
        use_threads(threads, run.phi.size)
        if book:
            book.add(sum(run.etas), run.etas[-1], run.phi, run.log_ratio)
        if keeper is not None:
            keeper.keep({"descent": run.state, "ledger": book and book.state})
        if callback is not None and callback(k, run.phi + run.mean):
            return Status.STOPPED
        if clock.perf_counter() > deadline and k + 1 < iterations:
            return Status.MAX_SECONDS
    return Status.FINAL_TIME


def step_size(schedule, k, limit):
    """What a schedule gives, checked."""
    eta = schedule(k, limit)
    if not (isinstance(eta, Real) and eta > 0 and math.isfinite(eta)):
        raise ValueError(f"`schedule` must give positive step sizes, got {eta!r} in iteration {k}.")
    return float(eta)


def _check_schedule(schedule, run, shortened):
    """Refuse a schedule that would have made other steps than those of the interrupted run, which it is to go on."""
    for k, (limit, taken) in enumerate(zip(run.limits, run.etas)):
        ratio = step_size(schedule, k, limit) / taken
        if not (ratio == 1 or (shortened and ratio > 1 and math.frexp(ratio)[0] == 0.5)):  # halved, perhaps
            raise ValueError(f"`schedule` must be the one of the interrupted run: it gives {ratio * taken:g} in "
                             f"iteration {k}, that was {taken:g}.")


def low_modes(field, modes, periodic):
    """The part of a field with fewer than ``modes`` half waves per axis: cosines, or Fourier modes where periodic."""
    for axis, wraps in enumerate(periodic):
        n = field.shape[axis]
        shape = [-1 if a == axis else 1 for a in range(field.ndim)]
        if wraps:
            keep = 2 * np.arange(n // 2 + 1) < modes
            field = fft.irfft(fft.rfft(field, axis=axis) * keep.reshape(shape), n, axis=axis)
        else:
            field = fft.idct(fft.dct(field, axis=axis) * (np.arange(n) < modes).reshape(shape), axis=axis)
    return field


def _relief(grid, modes):
    """By how much the limit of explicit steps grows if only low modes are used, by the symbol of second differences."""
    if modes is None:
        return 1.0
    return min(1 / math.sin(0.5 * math.pi * min((modes - 1) / n, 1.0)) ** 2 for n in grid.shape)


class _Descent:
    """The iterate and its evaluation; ``mean`` is what the implicit steps have added to ``phi`` besides: steps that
    grow geometrically add so much of it that it would swallow the digits of the rest."""

    def __init__(self, operator, method, phi, tolerance, modes, threads, deadline, state=None, keeper=None):
        self.operator, self.method, self.phi, self.tolerance, self.modes = operator, method, phi, tolerance, modes
        self.stats, self.etas, self.limits, self.shortened, self.mean = new_stats(), [], [], 0, 0.0
        self.deadline = deadline
        self.linear = LinearSolver(method.linear, self.stats, threads, remember=keeper is not None, deadline=deadline)
        self.miss, self.margin, self.bounded = (1.0, 0.0), None, False
        self.evaluation = operator.evaluate(phi)
        self.bounds = value_bounds(self.evaluation)
        if state is not None:
            self._restore(state)
        self.log_ratio = self.evaluation.residual.copy()

    @property
    def state(self):
        """All that later steps depend on, and what was counted."""
        return {"phi": self.phi, "mean": self.mean, "etas": list(self.etas), "limits": list(self.limits),
                "shortened": self.shortened, "miss": self.miss, "bounded": self.bounded,
                "work": self.operator.work,
                "stats": copy.deepcopy(self.stats), "linear": self.linear.state()}

    def _restore(self, state):
        self.phi, self.miss = field(state["phi"], self.operator.grid.shape), tuple(state["miss"])
        self.mean, self.shortened = float(state["mean"]), int(state["shortened"])
        self.etas, self.limits = ([float(value) for value in state[name]] for name in ("etas", "limits"))
        restore_stats(self.stats, state["stats"])
        self.linear.restore(state["linear"], self.operator.grid)
        self.bounded = bool(state["bounded"])
        self.operator.evaluate(self.phi, extend=self.bounds if self.bounded else False, out=self.evaluation)
        self.operator.work = float(state["work"])

    def limit(self, kind):
        """What a schedule is told."""
        limit = predicted_limit(self.evaluation)
        return limit if kind == "implicit" else self.convex_limit(limit * _relief(self.operator.grid, self.modes))

    def _direction(self):
        return self.log_ratio if self.modes is None else low_modes(
            self.log_ratio, self.modes, self.operator.grid.periodic)

    def convex_limit(self, limit):
        """``limit``, or ``CONVEX_SHARE`` of a shorter step that keeps convexity: the smallest second difference is a
        concave function of the potential, so two values bound it in between."""
        if self.margin is None:
            self.margin = self.operator.margin(self.phi)
        lost = self.margin - self.operator.margin(self.phi + limit * self._direction())
        return min(limit, CONVEX_SHARE * limit * self.margin / lost) if lost > 0 else limit

    def explicit(self, eta, halvings):
        direction, self.margin = self._direction(), None
        for _ in range(halvings + 1):
            phi = self.phi + eta * direction
            self.operator.evaluate(phi, out=self.evaluation)
            if math.isfinite(self.evaluation.mean):
                self.phi, self.log_ratio = phi, self.evaluation.residual.copy()
                self.etas.append(eta)
                return None
            eta, self.shortened = eta / 2, self.shortened + 1
        self.shortened -= halvings + 1
        return Status.CONVEXITY_LOST

    def implicit(self, eta):
        found = self._stage(eta, HOMOTOPY)
        if found.failure:
            return found.failure
        self.phi, self.log_ratio, self.miss = found.psi, self.evaluation.residual.copy(), found.miss
        self.mean += found.gained
        self.bounded = True  # the evaluation is that of the operator extended outside the bounds
        self.etas.append(eta)
        return None

    def _stage(self, eta, depth):
        def from_guess(guess):
            return implicit_stage(self.operator, self.linear, self.evaluation, self.phi, eta, guess, self.phi,
                                  self.bounds, self.tolerance, self.miss, self.method, keep_mean=False)

        found = from_guess(self.phi)
        self.stats["newton_iterations"] += found.iterations
        if found.failure and clock.perf_counter() > self.deadline:
            raise OutOfTime
        if found.failure and depth:
            nearer = self._stage(eta / 8, depth - 1)
            if not nearer.failure:
                found = from_guess(nearer.psi)
        return found
