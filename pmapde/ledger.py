"""The ledger of a flow or a mirror descent: divergences, Bregman distances from maps, regret, and what the identities
leave over."""
from __future__ import annotations

import csv
import math
import warnings

import numpy as np
from scipy.special import xlogy

from .archive import field
from .integrators import ROUNDING, natural_time
from .legendre import SmoothPotential
from .reductions import inner, weighted_square
from .solver import solve
from .status import Status
from .stepping import PseudoTransient

COLUMNS = {
    "step": "number of the step that led here",
    "time": "time, or the sum of the step sizes",
    "eta": "length of that step",
    "kl_reverse": "KL(rho | mu), rho normalised",
    "kl_forward": "KL(mu | rho)",
    "bregman": "D(mu | rho), from the maps",
    "stability": "D(rho_k | rho_k+1) of the explicit, D(rho_k+1 | rho_k) of the implicit step that led here",
    "fisher": "relative Fisher information of rho with respect to mu",
    "lambda_min": "smallest eigenvalue of the Hessian of u over the cells",
    "lambda_max": "largest",
    "drift": "log of the mass of rho before it was normalised",
    "map_error": "L2(mu) norm of grad u - T, T the exact map if given, else that of the discrete steady state",
    "regret": "sum of eta KL(rho | mu), the integral for a flow",
    "gap": "sum of eta S with S = KL(rho | mu) + KL(mu | rho): the regret and what the bound has to spare",
    "bound": "bound on the gap, hence on the regret: D_0, plus the sum of eta^2 I / (2 lambda_min) for explicit steps, "
             "plus what explicit steps that are not eta log(rho / mu) cost (implicit ones: add ratio_error)",
    "ratio_error": "sum of eta times the integral of e against mu - rho, for steps along log(rho / mu) + e: what "
                   "ratios that are learnt, or filtered, add to the identity; 0 up to rounding for the others",
    "identity": "what the regret identity leaves over, relative to D_0; NaN where D_0 is zero but for rounding",
    "evi": "what the evolution variational identity against the comparator leaves over, summed, relative to its D_0",
    "slack": "by how much its inequality holds, per unit of time: KL(sigma | rho) on average over the step",
    "kl_comparator": "KL(sigma | rho)",
    "bregman_comparator": "D(sigma | rho)",
    "missed": "largest mass of cells where a map could not be inverted",
}
"""What the columns hold. ``mu`` source, ``rho`` model, ``sigma`` comparator (the source itself if none was given)."""

MISSED = 1e-3
"""Mass of cells without an inverse that is warned about."""
EXACT = 1e-10
"""Residual of the steady state the flow is compared with."""


class Ledger:
    """Columns of numbers, one row per step, the start included: ``ledger["bregman"]``, ``ledger.columns``.

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> x = (np.arange(16) + 0.5) / 16
    >>> problem = pmapde.TransportProblem(np.add.outer(1 + x, x), np.ones((16, 16)))
    >>> run = pmapde.mirror_descent(problem, 0.02, 5, scheme="implicit", ledger="full")
    >>> len(run.ledger), bool((run.ledger["gap"] <= run.ledger["bound"]).all())
    (6, True)
    """

    def __init__(self, kind, initial_bregman, half_cost, rows):
        self.kind = kind
        self.initial_bregman = initial_bregman  # D_0 of the identities
        self.half_cost = half_cost  # W2^2 / 2 between source and target
        self._rows = rows

    @property
    def columns(self):
        return {name: self[name] for name in COLUMNS}

    def __getitem__(self, name):
        if name not in COLUMNS:
            raise KeyError(f"no column {name!r}; there are {', '.join(COLUMNS)}")
        return np.array([row[name] for row in self._rows])

    def __len__(self):
        return len(self._rows)

    def rows(self):
        """One dict per row."""
        return [dict(row) for row in self._rows]

    def write_csv(self, path):
        """One line per row, full precision."""
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self._rows)

    def __str__(self):
        shown = ("step", "time", "eta", "kl_reverse", "kl_forward", "bregman", "gap", "bound", "identity", "evi")
        rows = self._rows if len(self) <= 24 else self._rows[:12] + self._rows[-12:]
        lines = ["".join(f"{name:>12}" for name in shown)]
        lines += ["".join(f"{row[name]:12d}" if name == "step" else f"{row[name]:12.4e}" for name in shown)
                  for row in rows]
        if len(rows) < len(self):
            lines.insert(13, f"{'...':>12}")
        return "\n".join(lines)


class Bookkeeper:
    """Fills a :class:`Ledger`.

    The identities (derived from the flat convexity of ``rho -> W2^2(rho, nu) / 2``; see docs/theory.md):

    * explicit, ``u_{k+1} = u_k + eta_k log(rho_k / mu)``:
      ``sum eta_k S_k = D_0 - D_K + sum D(rho_k | rho_{k+1})``,
    * implicit: ``sum eta_k S_{k+1} = D_0 - D_K - sum D(rho_{k+1} | rho_k)``,
    * flow: ``integral of S dt = D_0 - D_T``,

    and the same with a comparator density sigma, ``S`` replaced by ``KL(rho | mu) - KL(sigma | mu) + KL(sigma | rho)``.
    Kullback-Leibler divergences are midpoint sums over the cells with rho normalised there, Bregman divergences come
    from the maps (Legendre gap on the spline of the potential, inverted by Newton's method) and ``D_0``, where the
    start is ``|x|^2 / 2``, from W2^2 of :func:`pmapde.solve`: the two sides share no quadrature.

    Parameters
    ----------
    problem : TransportProblem
    scheme : {"monotone", "centred"}
    kind : {"explicit", "implicit", "flow"}
    comparator : array_like, optional
        Cell averages of sigma on the grid, positive.
    exact_map : callable, optional
        Points (n, d) to (n, d); not wrapped on periodic axes.
    maps : bool
        Whether to keep what needs the steady state and the inverse of maps.
    state : tree, optional
        What :attr:`state` was in a run that is gone on with.
    """

    def __init__(self, problem, scheme, kind, comparator=None, exact_map=None, maps=True, threads=None, state=None):
        self.problem, self.grid, self.kind, self.maps = problem, problem.grid, kind, maps
        self.volume, self.mu = self.grid.cell_volume, problem.source_values
        self._exact = None
        if exact_map is not None:
            centres = self.grid.cell_centres().reshape(self.grid.ndim, -1)
            self._exact = np.asarray(exact_map(centres.T), float).T
            if self._exact.shape != centres.shape:
                raise ValueError(f"`exact_map` must take points {centres.T.shape} to points of the same shape, got "
                                 f"{self._exact.T.shape}.")
        self._sigma, self._limits, self.half_cost = None, {}, math.nan
        if maps and state is None:
            self._steady(problem, "source", scheme, threads)
        elif not maps and comparator is not None:
            raise ValueError("`comparator` needs the maps: leave ledger='full'.")
        if comparator is not None:
            other = problem.with_source(comparator, "comparator")
            self._sigma = other.source_values
            if state is None:
                self._steady(other, "comparator", scheme, threads)
        self._guesses, self._rows, self._before = {}, [], None
        if state is not None:
            self._restore(state)

    @property
    def state(self):
        """All that later rows depend on."""
        before = self._before
        return {**{name: getattr(self, name) for name in _PLAIN}, "spent": dict(self._spent), "rows": list(self._rows),
                "guesses": dict(self._guesses), "limits": {name: limit.phi for name, limit in self._limits.items()},
                "before": [before["time"], before["potential"].phi, before["ratio"]]}

    def _restore(self, state):
        for name in _PLAIN:
            setattr(self, name, state[name])
        self._spent, self._rows = dict(state["spent"]), list(state["rows"])
        self._limits = {name: SmoothPotential(self.problem, field(phi, self.grid.shape))
                        for name, phi in state["limits"].items()}
        self._guesses = {name: field(points, (self.grid.ndim, self.grid.size))
                         for name, points in state["guesses"].items()}
        time, *fields = state["before"]
        self._before = self._state(time, *(field(values, self.grid.shape) for values in fields))

    def _steady(self, problem, name, scheme, threads):
        """The potential that takes the source, or the comparator, to the target."""
        # the flow's own steady state: its equation's, not one whose source was corrected to conserve mass
        method = PseudoTransient(scheme=scheme, conserve=False)
        solution = solve(problem, method, tolerance=EXACT, threads=threads)
        if solution.status not in (Status.CONVERGED, Status.MASS_MISPLACED, Status.FOLDED):
            warnings.warn(f"the steady state of the {name} was not found ({solution.status.name}): the columns of the "
                          f"ledger that need its map are NaN.", RuntimeWarning, stacklevel=4)
            return
        if name == "source":
            # the map's, by the sums that the divergences are taken with
            self.half_cost = self.grid.cell_volume * weighted_square(solution.displacement, problem.source_values) / 2
        self._limits[name] = SmoothPotential(problem, solution.displacement_potential)

    @property
    def ledger(self):
        missed = max(row["missed"] for row in self._rows)
        if missed > MISSED:
            warnings.warn(f"up to {missed:.1%} of the mass lies where a map could not be inverted, because the spline "
                          f"through a rough potential is not convex there: D, identity and evi leave it out, see "
                          f"ledger['missed']; refine, or smooth the densities.", RuntimeWarning, stacklevel=3)
        return Ledger(self.kind, self._initial, self.half_cost, self._rows)

    def _relative(self, left, initial):
        """To an initial divergence; NaN where that is nothing but rounding."""
        return left / initial if initial > ROUNDING * natural_time(self.problem) else math.nan

    def _mean(self, density, values):
        return float((density * values).sum()) * self.volume

    def _state(self, time, phi, log_ratio):
        """What is known of one potential, the step left aside."""
        drift, rho, ratio = log_mass(self.problem, log_ratio), model_density(self.problem, log_ratio), log_ratio
        log_ratio = log_ratio - drift
        potential = SmoothPotential(self.problem, phi)
        state = {"time": time, "potential": potential, "rho": rho, "ratio": ratio, "log_ratio": log_ratio,
                 "drift": drift,
                 "kl_reverse": self._mean(rho, log_ratio), "kl_forward": -self._mean(self.mu, log_ratio)}
        state["kl_sigma"] = state["kl_forward"] if self._sigma is None else (
            float(xlogy(self._sigma, self._sigma / rho).sum()) * self.volume)
        return state

    def _divergences(self, state):
        """D(mu | rho) and D(sigma | rho), from the maps."""
        out, missed = {}, 0.0
        for name, limit in self._limits.items():
            density = self.mu if name == "source" else self._sigma
            out[name], z, lost = state["potential"].bregman(limit, density, self._guesses.get(name))
            self._guesses[name], missed = z, max(missed, lost)
        comparator = "source" if self._sigma is None else "comparator"
        return out.get("source", math.nan), out.get(comparator, math.nan), missed

    def _kl_sigma_mu(self):
        return 0.0 if self._sigma is None else float(xlogy(self._sigma, self._sigma / self.mu).sum()) * self.volume

    def _map_error(self, potential):
        target = self._exact
        if target is None:
            if "source" not in self._limits:
                return math.nan
            target = self._limits["source"].image
        squares = ((potential.image - target) ** 2).sum(axis=0).reshape(self.grid.shape)
        return math.sqrt(self._mean(self.mu, squares))

    def _row(self, step, eta, state, bregman, comparator, missed):
        low, high = hessian_extremes(self.problem, state["potential"].phi)
        return {"step": step, "time": state["time"], "eta": eta, "kl_reverse": state["kl_reverse"],
                "kl_forward": state["kl_forward"], "bregman": bregman, "stability": 0.0,
                "fisher": fisher_information(self.grid, state["rho"], state["log_ratio"]), "lambda_min": low,
                "lambda_max": high, "drift": state["drift"], "map_error": self._map_error(state["potential"]),
                "regret": 0.0, "gap": 0.0, "bound": math.nan, "ratio_error": 0.0, "identity": 0.0,
                "evi": 0.0, "slack": math.nan,
                "kl_comparator": state["kl_sigma"], "bregman_comparator": comparator, "missed": missed}

    def start(self, phi, log_ratio):
        """The first row."""
        state = self._state(0.0, phi, log_ratio)
        bregman, comparator, missed = self._divergences(state)
        standard = np.ptp(phi) == 0 and self.problem.grid.box == self.problem.target_grid.box
        self._initial = self.half_cost if standard else bregman
        self._initial_sigma = comparator
        row = self._row(0, 0.0, state, bregman, comparator, missed)
        row["bound"] = self._initial
        self._rows, self._before, self._spent = [row], state, {"stability": 0.0, "gap": 0.0, "rates": 0.0}

    def add(self, time, eta, phi, log_ratio, middle=None):
        """The row of a step of length ``eta`` to ``time``; ``middle``: potential and log ratio half way, for the
        integrals of a flow."""
        before, state, last = self._before, self._state(time, phi, log_ratio), self._rows[-1]
        bregman, comparator, missed = self._divergences(state)
        row = self._row(last["step"] + 1, eta, state, bregman, comparator, missed)
        stability = 0.0
        if self.maps and self.kind != "flow":
            first, second = (before, state) if self.kind == "explicit" else (state, before)
            stability, _, lost = second["potential"].bregman(first["potential"], first["rho"])
            row["missed"] = max(missed, lost)
        sign = -1.0 if self.kind == "implicit" else 1.0
        change = state["potential"].phi - before["potential"].phi  # eta log(rho / mu), or its integral
        sigma = self.mu if self._sigma is None else self._sigma
        if self.kind == "flow":
            # what is linear in the log ratio needs no quadrature: its integral is the change of the potential
            regret, drift = self._integrals(eta, before, state, middle)
            gap, versus = (regret + drift - self._mean(density, change) for density in (self.mu, sigma))
            spent, inexact = gap, 0.0
        else:
            at = before if self.kind == "explicit" else state
            regret, gap = eta * at["kl_reverse"], eta * (at["kl_reverse"] + at["kl_forward"])
            spent, versus = (self._mean(at["rho"] - density, change) for density in (self.mu, sigma))
            inexact = gap - spent  # 0 if the step was eta log(rho / mu)
        self._spent["stability"] += sign * stability
        self._spent["gap"] += spent
        self._spent["rates"] += versus
        row["stability"], row["ratio_error"] = stability, last["ratio_error"] + inexact
        row["regret"], row["gap"] = last["regret"] + regret, last["gap"] + gap
        row["bound"] = last["bound"]
        if self.kind == "explicit":
            row["bound"] += max(inexact, 0.0)
            # eta^2 I if the step was eta log(rho / mu)
            moved = fisher_information(self.grid, before["rho"], change)
            row["bound"] += moved / (2 * row["lambda_min"]) if row["lambda_min"] > 0 else math.inf
        row["identity"] = self._relative(
            self._spent["gap"] - (self._initial - bregman + self._spent["stability"]), self._initial)
        row["evi"] = self._relative(
            self._spent["rates"] - (self._initial_sigma - comparator + self._spent["stability"]), self._initial_sigma)
        # D(sigma|rho_k+1) - D(sigma|rho_k) -+ stability <= -eta [KL(rho|mu) - KL(sigma|mu)]
        row["slack"] = (last["bregman_comparator"] - comparator + sign * stability - regret) / eta + self._kl_sigma_mu()
        self._rows.append(row)
        self._before = state

    def _integrals(self, eta, before, after, middle):
        """Integrals over the step of KL(rho | mu) and the log mass of rho: Simpson's rule, or the trapezoidal one."""
        if middle is None:
            return tuple(0.5 * eta * (before[name] + after[name]) for name in ("kl_reverse", "drift"))
        half = self._state(0.5 * (before["time"] + after["time"]), *middle)
        return tuple(eta / 6 * (before[name] + 4 * half[name] + after[name]) for name in ("kl_reverse", "drift"))


_PLAIN = ("half_cost", "_initial", "_initial_sigma")


def log_mass(problem, log_ratio):
    """Log of the mass of ``rho = mu exp(log_ratio)`` on the grid: the discrete mass imbalance."""
    highest = float(log_ratio.max())
    mass = inner(problem.source_values, np.exp(log_ratio - highest)) * problem.grid.cell_volume
    return highest + math.log(mass)


def model_density(problem, log_ratio):
    """``rho = mu exp(log_ratio)`` on the grid, normalised."""
    return problem.source_values * np.exp(log_ratio - log_mass(problem, log_ratio))


def fisher_information(grid, rho, log_ratio):
    """``integral of |grad log_ratio|^2 drho`` by differences over the faces between cells, second order."""
    total = 0.0
    for axis, (h, wraps) in enumerate(zip(grid.spacing, grid.periodic)):
        fields = [np.moveaxis(field, axis, 0) for field in (rho, log_ratio)]
        if wraps:
            fields = [np.concatenate([field, field[:1]]) for field in fields]
        density, value = fields
        total += float((0.5 * (density[1:] + density[:-1]) * np.diff(value, axis=0) ** 2).sum()) / h**2
    return total * grid.cell_volume


def hessian_extremes(problem, phi):
    """Smallest and largest eigenvalue of the Hessian of ``u`` over all cells, by centred differences."""
    grid, d = problem.grid, phi.ndim
    padded = phi
    for axis, wraps in enumerate(grid.periodic):
        width = [(1, 1) if a == axis else (0, 0) for a in range(d)]
        padded = np.pad(padded, width, mode="wrap" if wraps else "symmetric")

    def shifted(offset):
        return padded[tuple(slice(1 + o, 1 + o + n) for o, n in zip(offset, phi.shape))]

    hessian = np.empty((*phi.shape, d, d))
    unit = np.eye(d, dtype=int)
    for a in range(d):
        hessian[..., a, a] = (shifted(unit[a]) - 2 * phi + shifted(-unit[a])) / grid.spacing[a] ** 2 + problem.slopes[a]
        for b in range(a):
            mixed = (shifted(unit[a] + unit[b]) + shifted(-unit[a] - unit[b]) - shifted(unit[a] - unit[b])
                     - shifted(unit[b] - unit[a])) / (4 * grid.spacing[a] * grid.spacing[b])
            hessian[..., a, b] = hessian[..., b, a] = mixed
    if d == 2:
        mean = (hessian[..., 0, 0] + hessian[..., 1, 1]) / 2
        radius = np.hypot((hessian[..., 0, 0] - hessian[..., 1, 1]) / 2, hessian[..., 0, 1])
        return float((mean - radius).min()), float((mean + radius).max())
    values = np.linalg.eigvalsh(hessian)
    return float(values[..., 0].min()), float(values[..., -1].max())
