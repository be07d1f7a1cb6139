"""Entropic optimal transport on grids: Sinkhorn's algorithm, plain, over-relaxed, annealed."""
from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from numbers import Integral, Real

import numpy as np

from .density import GridDensity
from .gibbs import GibbsKernel, half_sweep, log_masses, memory_needed
from .memory import refuse_oversized
from .plan import SinkhornPlan
from .problem import TransportProblem, check_problem
from .status import SolverError, Status
from .threads import thread_settings, use_threads

DEFAULT_TOLERANCE = 1e-6
SWEEP_LIMIT = 100_000
ANNEALING_FACTOR = 0.25
ANNEALING_TOLERANCE = 1e-3
"""Marginal error at which annealing goes on to the next temperature: what it leaves of slow modes takes tens of sweeps
on coarse grids, and hundreds on the finest (``tests/test_sinkhorn.py``)."""
ANNEALING_SWEEPS = 1000
COARSE_BLUR = 2.0
"""Cells in sqrt(epsilon) down to which annealing works on a coarser grid."""
SMALLEST_GRID = 8
PROBE_EVERY = 8
"""Sweeps between two plain ones that see whether an over-relaxed iteration has arrived."""
SMALLEST_EPSILON = 1e-15
LARGEST_EPSILON = {"torus": 1e2, "box": 1e6}
"""Squares of the box (the torus: of its smallest period) beyond which the kernel is flat and only costs get worse: on a
box debiased ones cancel, on the torus the images that are summed over are more than a hundred a period."""
DIVERGED = 1e3
"""An L1 distance no marginal of mass one can have."""


@dataclass(frozen=True)
class Sweep:
    """One sweep: the potentials it found, and the marginals of their plan.

    ``phi, psi``: displacement potentials (``u = q + phi``) after ``number`` sweeps at ``epsilon``, with ``psi`` the
    conjugate of ``phi`` (mixed with the one before under over-relaxation). ``source`` and ``target``: the
    ``MarginalError`` (``distance, kl, reverse_kl``) of the source marginal, and of the target marginal one half-sweep
    earlier. ``final`` is false while annealing.
    """

    number: int
    epsilon: float
    phi: np.ndarray
    psi: np.ndarray
    source: tuple
    target: tuple
    overrelaxation: float
    seconds: float
    final: bool


def half_shift(problem, potential, epsilon):
    """``u + (epsilon / 2) f`` with ``f = -log mu``, at the cell centres of the source.

    Sinkhorn started at ``half_shift(problem, u, -epsilon)`` and read as ``half_shift(problem, plan.potential,
    epsilon)`` follows the parabolic Monge-Ampère flow of ``u`` to second order in ``epsilon`` (on the torus, and for
    Gaussians) instead of first.

    Raises
    ------
    ValueError
        If the source has cells without mass.

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> problem = pmapde.TransportProblem(np.full((8, 8), 1.0), np.ones((8, 8)))
    >>> bool(np.all(pmapde.half_shift(problem, np.zeros((8, 8)), 0.1) == 0))      # f = 0 for the uniform density
    True
    """
    potential = np.asarray(potential)
    if potential.shape != problem.grid.shape:
        raise ValueError(f"`potential` must have shape {problem.grid.shape}, got {potential.shape}.")
    if problem.source_values.min() == 0:
        raise ValueError("`problem` has source cells without mass, where log mu is infinite; pass a positive floor.")
    return potential - epsilon / 2 * np.log(problem.source_values)


def sinkhorn(problem, epsilon, iterations=None, *, tolerance=None, start=None, step=None, overrelaxation=None,
             annealing=None, max_seconds=math.inf, throw=False, callback=None, threads=None):
    """Entropic optimal transport between two densities on grids, by Sinkhorn's algorithm.

    Minimises ``integral |x - y|^2 / 2 dP + epsilon KL(P | mu x nu)`` over the plans of mu and nu. One sweep is

        v_n(y) = epsilon log integral exp((<x, y> - u_n(x)) / epsilon) dmu(x)
        u_{n+1}(x) = epsilon log integral exp((<x, y> - v_n(y)) / epsilon) dnu(y)

    that is ``u_{n+1} = u_n + epsilon log(rho_n / mu)``, ``rho_n`` the source marginal of the plan of ``u_n, v_n``: an
    explicit step of length ``epsilon`` of the parabolic Monge-Ampère flow, up to O(epsilon^2) (Berman, Numer. Math.
    145, 2020). Densities are sums of point masses at the cell centres.

    Parameters
    ----------
    problem : TransportProblem
        Cells without mass are allowed on both sides.
    epsilon : float
        Temperature of the ground cost ``|x - y|^2 / 2``; its root is the blur, a length. Down to 1e-15 times the square
        of the box, though below about a quarter of a cell squared the plan is that of the point masses; up to 1e6 times
        it, on periodic axes 100 times the square of the period.
    iterations : int, optional
        Sweeps to make; with ``tolerance``, the most to make (default 100 000).
    tolerance : float, optional
        Stop when the L1 distance of the source marginal from mu is below (default 1e-6 if ``iterations`` is not given
        either; never asked below the rounding floor, about ``1e-15 max |phi| / epsilon``).
    start : array_like, optional
        The potential ``u_0`` on the grid (default ``q``, whose gradient maps box to box: ``|x|^2 / 2`` on equal ones).
    step : float, optional
        Full step ``eta`` in ``u_{n+1} = u_n + eta log(rho_n / mu)``, default ``epsilon``. Stable for ``0 < eta < 2
        epsilon``, about ``eta / epsilon`` times as fast (see Notes).
    overrelaxation : float in (0, 2) or "auto", optional
        Successive over-relaxation: both half-sweeps go that many times as far (1: Sinkhorn). ``"auto"``: 1 until the
        rate of convergence shows, then the best value for it (Young's formula; Thibault et al., Algorithms 14, 2021;
        Lehmann et al., Optim. Lett. 16, 2022): a rate of ``1 - 2 sqrt(a)`` instead of ``1 - a``. Default ``"auto"``
        with a tolerance, 1 without, where the iterates are Sinkhorn's own.
    annealing : float in (0, 1) or False, optional
        Start hot and multiply epsilon by this, on grids as coarse as the blur allows. Default 0.25 with a tolerance and
        without a start, else False.
    max_seconds : float
        Wall time allowed.
    throw : bool
        Raise :class:`SolverError` on failure instead of returning the plan with its status.
    callback : callable, optional
        Called with every :class:`Sweep`; returning True stops the run.
    threads : int, optional
        Default numba's. Grids below 128^2 cells run on one. Results do not depend on it.

    Returns
    -------
    SinkhornPlan
        Potentials, costs, map. ``MARGINALS_MET`` or ``SWEEPS_DONE`` on success; other statuses say what to do.

    Raises
    ------
    TypeError, ValueError
        One sentence naming the argument, what was received and what to do.
    MemoryError
        If the run needs more than there is; before anything is allocated.

    Notes
    -----
    *Steps.* A sweep linearised at its fixed point is a Markov operator, self-adjoint in ``L2(mu)``, with eigenvalues
    ``1 = lam_0 > lam_1 >= ... >= lam_min >= 0``, so ``step=eta`` multiplies their modes by ``1 - (eta / epsilon)
    (1 - lam)``. It is stable if and only if ``eta (1 - lam_min) < 2 epsilon``, and ``lam_min`` is 0 to many digits:
    ``eta < 2 epsilon``. Measured (``pmapde rates --only steps``): errors fall by the formula's factors for eta between
    epsilon / 4 and 1.98 epsilon, and from 2.02 epsilon on they grow: 1.020 a sweep there, 1.050 at 2.05, 1.100 at 2.1.

    A half-sweep is one log-sum-exp per axis, O(N^(1 + 1/d)), stable at any temperature: the sums are taken in the
    exponential domain with a kernel cut where it provably does not matter, line by line shifted and checked, and in
    the log domain on lines where that is not enough. ``cost`` and the map are O(epsilon) from those of optimal
    transport, ``debiased_cost`` O(epsilon^2).

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> x = (np.arange(64) + 0.5) / 64
    >>> source = np.outer(1 + 0.6 * np.cos(2 * np.pi * x), 1 + 0.6 * np.cos(2 * np.pi * x))
    >>> plan = pmapde.sinkhorn(pmapde.TransportProblem(source, np.ones((64, 64))), epsilon=1e-3)
    >>> plan.success, abs(plan.debiased_cost / (0.6**2 / (4 * np.pi**2)) - 1) < 1e-3
    (True, True)
    """
    settings = _Settings.checked(problem, epsilon, iterations, tolerance, start, step, overrelaxation, annealing,
                                 max_seconds, callback)
    refuse_oversized(problem, memory_needed(problem.grid, problem.target_grid, epsilon))
    clock = _Clock(settings.max_seconds)
    with thread_settings(threads) as count:
        use_threads(count, problem.grid.size)
        plan = _run(problem, float(epsilon), settings, clock, threads)
    if throw and not plan.success:
        raise SolverError(plan.status, plan)
    return plan


@dataclass(frozen=True)
class _Settings:
    iterations: int
    tolerance: float
    phi: np.ndarray | None
    factor: float
    overrelaxation: float | str
    annealing: float | None
    max_seconds: float
    callback: object

    @classmethod
    def checked(cls, problem, epsilon, iterations, tolerance, start, step, overrelaxation, annealing, max_seconds,
                callback):
        check_problem(problem)
        _check_number("epsilon", epsilon, 0, math.inf, "a positive temperature")
        lowest = SMALLEST_EPSILON * float((problem.slopes * problem.grid.lengths**2).max())
        if epsilon < lowest:
            raise ValueError(f"`epsilon` must be at least {lowest:.1e} here, where costs over epsilon lose their last "
                             f"digit, got {epsilon!r}.")
        kind = "torus" if any(problem.grid.periodic) else "box"
        lengths = [size for size, wraps in zip(problem.grid.lengths, problem.grid.periodic) if wraps]
        highest = LARGEST_EPSILON[kind] * (min(lengths)**2 if lengths
                                           else float((problem.slopes * problem.grid.lengths**2).max()))
        if epsilon > highest:
            raise ValueError(f"`epsilon` must be at most {highest:.1e} on this {kind}, where the kernel has long been "
                             f"flat and the plan is the product of the densities, got {epsilon!r}.")
        if iterations is not None and not (isinstance(iterations, Integral) and not isinstance(iterations, bool)
                                           and iterations >= 1):
            raise ValueError(f"`iterations` must be a whole number >= 1, got {iterations!r}.")
        if tolerance is None and iterations is None:
            tolerance = DEFAULT_TOLERANCE
        if tolerance is not None:
            _check_number("tolerance", tolerance, 0, 2, "an L1 distance in (0, 2)")
        if overrelaxation is None:
            overrelaxation = 1.0 if tolerance is None or step is not None else "auto"
        if not (isinstance(overrelaxation, str) and overrelaxation == "auto"):
            _check_number("overrelaxation", overrelaxation, 0, 2, "'auto' or a number in (0, 2)")
        if step is not None:
            _check_number("step", step, 0, math.inf, "a positive length, in the unit of epsilon")
            if overrelaxation != 1:
                raise ValueError(f"`step` and `overrelaxation` are two ways of going further: leave one of them out, "
                                 f"got {step!r} and {overrelaxation!r}.")
        if annealing is None:
            annealing = ANNEALING_FACTOR if tolerance is not None and start is None else False
        if annealing is not False:
            _check_number("annealing", annealing, 0, 1, "False or a factor in (0, 1)")
            if start is not None:
                raise ValueError("`start` and `annealing` exclude each other: annealing begins at a high temperature, "
                                 "whose potential does not depend on the start; pass annealing=False.")
        max_seconds = math.inf if max_seconds is None else max_seconds
        if not (isinstance(max_seconds, Real) and max_seconds >= 0):
            raise ValueError(f"`max_seconds` must be a time >= 0, got {max_seconds!r}.")
        if callback is not None and not callable(callback):
            raise TypeError(f"`callback` must be callable, got {type(callback).__name__}.")
        phi = None if start is None else problem.displacement_potential(start)
        return cls(SWEEP_LIMIT if iterations is None else int(iterations), float(tolerance or 0.0), phi,
                   1.0 if step is None else float(step) / float(epsilon), overrelaxation, annealing or None,
                   float(max_seconds), callback)


def _check_number(name, value, low, high, what):
    if not (isinstance(value, Real) and not isinstance(value, bool) and low < value < high):
        raise ValueError(f"`{name}` must be {what}, got {value!r}.")


class _Clock:
    def __init__(self, limit):
        self.begin, self.limit = time.perf_counter(), limit

    @property
    def seconds(self):
        return time.perf_counter() - self.begin

    @property
    def over(self):
        return self.seconds > self.limit


class _OverRelaxation:
    """The factor of both half-sweeps, from the rate at which the marginal error falls.

    Near the limit Sinkhorn is block Gauss-Seidel for a consistently ordered matrix, so Young's theory holds: with the
    spectral radius ``lam`` of plain sweeps, the rate ``r`` under a factor ``w`` satisfies ``(r + w - 1)^2 = lam w^2 r``
    as long as ``w`` is not above its best value ``2 / (1 + sqrt(1 - lam))``.
    """

    WINDOW = 6
    HIGHEST = 1.98

    def __init__(self, factor):
        self.automatic = factor == "auto"
        self.factor = 1.0 if self.automatic else float(factor)
        self.errors, self.rate = [], None
        self.best = math.inf

    def observe(self, error):
        """Take notice of the marginal error of a sweep; may change ``factor``."""
        if not self.automatic:
            return
        self.errors.append(error)
        if error > 20 * min(self.errors) and self.factor > 1:  # too far from the limit for its linear theory
            self._restart(1 + (self.factor - 1) / 2)
        if len(self.errors) < 2 * self.WINDOW + 1:
            return
        middle, last = (self.errors[k - 1] for k in (-self.WINDOW, 0))
        rate = (last / self.errors[-self.WINDOW - 1])**(1 / self.WINDOW)
        before = (self.errors[-self.WINDOW - 1] / self.errors[-2 * self.WINDOW - 1])**(1 / self.WINDOW)
        if not (self.factor - 1 < rate < 1 and abs(rate - before) < 0.2 * (1 - rate)):
            return
        lam = (rate + self.factor - 1)**2 / (self.factor**2 * rate)
        if lam < 1:
            best = min(2 / (1 + math.sqrt(1 - lam)), self.HIGHEST)
            if best > self.factor + 0.01:
                self._restart(best)

    def retreats(self):
        """Whether a factor that was too large, as the iteration has run away, is taken back half of the way to 1."""
        if not self.automatic or self.factor <= 1.01:
            return False
        self._restart(1 + (self.factor - 1) / 2)
        return True

    def _restart(self, factor):
        self.factor = factor
        self.errors = []


@dataclass
class _Outcome:
    phi: np.ndarray
    psi: np.ndarray
    status: Status
    history: list = field(default_factory=list)


def _iterate(problem, kernel, phi, iterations, tolerance, factor, relaxation, clock, callback, final):
    """Sweeps until something ends them. The pair returned is exact: ``psi`` is the conjugate of ``phi``."""
    log_source, log_target = log_masses(problem)
    source_mass, target_mass = np.exp(log_source), np.exp(log_target)
    psi, status, probing, probed, history, floor = None, None, False, 0, [], 0.0
    least, closest = math.inf, phi
    for number in range(iterations + 2):
        closing = status is not None or number >= iterations
        omega = 1.0 if closing or probing or psi is None else relaxation.factor
        psi, target = half_sweep(kernel, kernel.to_target, log_source, phi, target_mass, psi, omega)
        new, source = half_sweep(kernel, kernel.to_source, log_target, psi, source_mass, phi,
                                 factor * relaxation.factor)
        sweep = Sweep(number, kernel.epsilon, phi, psi, source, target, omega, clock.seconds, final)
        history.append(replace(sweep, phi=None, psi=None))
        if number % 64 == 0:
            floor = 4 * np.finfo(float).eps * (1 + float(np.abs(phi).max()) / kernel.epsilon)
        exact, goal = omega == 1.0, max(tolerance, floor) if tolerance else -1.0
        if source.distance < least:
            least, closest = source.distance, phi
        if not source.distance <= DIVERGED:
            if not closing and relaxation.retreats():
                phi, psi, probing = closest, None, False
                continue
            status, exact = Status.DIVERGED, True
        elif exact and source.distance <= goal:
            status = Status.MARGINALS_MET
        elif closing:
            status = status or (Status.MAX_SWEEPS if tolerance else Status.SWEEPS_DONE)
        elif callback is not None and callback(sweep):
            status = Status.STOPPED
        elif clock.over:
            status = Status.MAX_SECONDS
        if status is not None and exact:
            break
        relaxation.observe(source.distance)
        # with psi the conjugate of phi the marginal is better than under over-relaxation, by about this factor
        probing = source.distance <= goal / (2 - omega) and number >= probed + max(PROBE_EVERY, number // 8)
        probed = number if probing else probed
        phi = new
    return _Outcome(phi, psi, status, history)


def _schedule(problem, epsilon, factor):
    """Temperatures from about a tenth of the squared box down to just above ``epsilon``, by ``factor``."""
    highest = 0.1 * float((problem.slopes * problem.grid.lengths**2).max())
    count = max(0, math.ceil(math.log(highest / epsilon) / -math.log(factor)))
    return [epsilon / factor**k for k in range(count, 0, -1)]


def _coarse(problem, epsilon):
    """The problem on grids of ``COARSE_BLUR`` cells in ``sqrt(epsilon)``, if they are coarser; cell averages are
    averaged."""
    def coarser(values, grid, stretch):
        wanted = np.ceil(COARSE_BLUR * grid.lengths * stretch / math.sqrt(epsilon))
        shape = tuple(int(min(n, max(SMALLEST_GRID, m))) for n, m in zip(grid.shape, wanted))
        return GridDensity(values, grid).on_grid(grid.with_shape(shape)) if shape != grid.shape else None
    stretch = np.sqrt(problem.slopes)
    source = coarser(problem.source_values, problem.grid, stretch)
    target = coarser(problem.target_values, problem.target_grid, 1 / stretch)
    if source is None and target is None:
        return problem
    return TransportProblem(source or GridDensity(problem.source_values, problem.grid, points=True),
                            target or GridDensity(problem.target_values, problem.target_grid, points=True), floor=0.0)


def _annealed(problem, epsilon, settings, clock):
    """A start for ``epsilon``, and the sweeps it took at every temperature; or the status that ended it."""
    counts, outcome, level, before = [], None, None, None
    for temperature in _schedule(problem, epsilon, settings.annealing):
        finer = _coarse(problem, temperature)
        phi = (np.zeros(finer.grid.shape) if outcome is None
               else _carried(outcome.psi, level, before, finer, temperature))
        level, before = finer, temperature
        outcome = _iterate(level, GibbsKernel.of_problem(level, temperature), phi, ANNEALING_SWEEPS,
                           ANNEALING_TOLERANCE, 1.0, _OverRelaxation("auto"), clock, settings.callback, False)
        counts.append(len(outcome.history))
        if outcome.status in (Status.STOPPED, Status.MAX_SECONDS, Status.DIVERGED):
            break
    if outcome is None:
        return np.zeros(problem.grid.shape), counts, None
    ended = outcome.status if outcome.status in (Status.STOPPED, Status.MAX_SECONDS, Status.DIVERGED) else None
    return _carried(outcome.psi, level, before, problem, epsilon), counts, ended


def _carried(psi, coarse, before, fine, epsilon):
    """The potential on the grid of ``fine`` that ``psi`` on the target grid of ``coarse`` has as its conjugate, at the
    temperature ``before``, brought to ``epsilon``: ``u_epsilon = u - (epsilon / 2) f + O(epsilon^2)``, ``f = -log mu``.
    """
    kernel = GibbsKernel(fine.grid, coarse.target_grid, fine.slopes, fine.offsets, before)
    phi, _ = half_sweep(kernel, kernel.to_source, log_masses(coarse)[1], psi, None, None, 1.0)
    values = fine.source_values
    lowest = values[values > 0].min()
    return phi - (before - epsilon) / 2 * np.log(np.maximum(values, lowest))


def _run(problem, epsilon, settings, clock, threads):
    phi, counts, ended = settings.phi, [], None
    if settings.annealing:
        phi, counts, ended = _annealed(problem, epsilon, settings, clock)
    elif phi is None:
        phi = np.zeros(problem.grid.shape)
    kernel = GibbsKernel.of_problem(problem, epsilon)
    outcome = _iterate(problem, kernel, phi, 0 if ended else settings.iterations, settings.tolerance, settings.factor,
                       _OverRelaxation(settings.overrelaxation), clock, settings.callback, True)
    history = {"source_error": [sweep.source.distance for sweep in outcome.history],
               "source_kl": [sweep.source.kl for sweep in outcome.history],
               "source_reverse_kl": [sweep.source.reverse_kl for sweep in outcome.history],
               "target_error": [sweep.target.distance for sweep in outcome.history],
               "target_kl": [sweep.target.kl for sweep in outcome.history],
               "target_reverse_kl": [sweep.target.reverse_kl for sweep in outcome.history],
               "overrelaxation": [sweep.overrelaxation for sweep in outcome.history],
               "seconds": [sweep.seconds for sweep in outcome.history]}
    stats = {"sweeps": len(outcome.history) - 1, "anneal": counts, "lines": kernel.counts, "seconds": clock.seconds}
    return SinkhornPlan(problem, epsilon, ended or outcome.status, outcome.phi, outcome.psi,
                        {name: np.array(values) for name, values in history.items()}, stats, threads)
