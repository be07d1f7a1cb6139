"""Studies behind the convergence-rate plots: orders in space and time, decay of the divergences, regret, EVI."""
from __future__ import annotations

import csv
import warnings
from dataclasses import dataclass, field

import numpy as np

from . import exact, gallery, schedules
from .density import LogDensity
from .entropic import sinkhorn
from .gaussian import GaussianFlow
from .grid import Grid
from .integrators import ESDIRK3, TRBDF2, BackwardEuler, half_range
from .limit import sinkhorn_limit
from .mirror import explicit_limit, mirror_descent
from .problem import TransportProblem
from .solver import solve
from .trajectory import ImbalanceWarning, flow

NON_LOG_CONCAVE = ("two_gaussians", "ring", "two_moons", "checkerboard")
"""Gallery densities the paper's guarantees cover and Langevin theory does not."""


@dataclass(frozen=True)
class Series:
    """One curve: measured, or a ``reference`` to compare with. ``slope``: fitted over all its points."""

    label: str
    x: np.ndarray
    y: np.ndarray
    reference: bool = False
    slope: float = np.nan


@dataclass(frozen=True)
class Study:
    """A figure's worth of measurements: ``log``: which axes are logarithmic, "xy", "y" or ""."""

    name: str
    title: str
    xlabel: str
    ylabel: str
    log: str
    series: list = field(default_factory=list)

    def add(self, label, x, y, reference=False, fit=True):
        x, y = np.asarray(x, float), np.asarray(y, float)
        good = (y > 0) & np.isfinite(y) & ((x > 0) | ("x" not in self.log))
        slope = np.nan
        if fit and not reference and self.log and good.sum() > 1:
            along = np.log(x[good]) if "x" in self.log else x[good]
            slope = float(np.polyfit(along, np.log(y[good]), 1)[0])
        self.series.append(Series(label, x, y, reference, slope))

    def slopes(self):
        """Fitted slopes by label."""
        return {series.label: series.slope for series in self.series if np.isfinite(series.slope)}

    def write_csv(self, path):
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["series", self.xlabel, self.ylabel, "reference", "fitted slope"])
            for series in self.series:
                writer.writerows([series.label, x, y, int(series.reference), series.slope]
                                 for x, y in zip(series.x, series.y))


def space(quick=False):
    """Error of the map against the spacing: 2D and 3D, no-flux and periodic, converged equations."""
    study = Study("space", "order in space, manufactured solution", "spacing", "map error, L2(source)", "xy")
    for ndim, sizes in ((2, (16, 32, 64) if quick else (32, 64, 128, 256)), (3, (8, 16) if quick else (16, 32, 64))):
        for periodic in (False, True):
            errors = []
            for n in sizes:
                known = exact.manufactured((n,) * ndim, periodic=periodic)
                solution = solve(known.problem, tolerance=1e-9, throw=True)
                errors.append(known.map_error(solution.displacement))
            study.add(f"{ndim}D {'periodic' if periodic else 'no-flux'}", 1 / np.array(sizes), errors)
    h = study.series[0].x
    study.add("second order", h, study.series[0].y[0] * (h / h[0]) ** 2, reference=True)
    return study


def time(quick=False):
    """Error of the potential at a fixed time against the step, every integrator with fixed steps, on the torus."""
    n, end, counts = (32, 0.02, (4, 8, 16)) if quick else (64, 0.02, (4, 8, 16, 32, 64))
    problem = exact.manufactured((n, n), periodic=True).problem
    reference = flow(problem, end, ESDIRK3(step=end / (8 * counts[-1])), tolerance=1e-9, ledger=None, throw=True)
    study = Study("time", f"order in time, smooth pair on the torus, {n} x {n}, t = {end}", "step",
                  "error of the potential (sup, modulo constants)", "xy")
    for method in (BackwardEuler, TRBDF2, ESDIRK3):
        errors = [half_range(flow(problem, end, method(step=end / count), tolerance=1e-9, ledger=None, throw=True)
                             .displacement_potentials[-1] - reference.displacement_potentials[-1]) for count in counts]
        study.add(f"{method.__name__}, order {method.order}", end / np.array(counts), errors)
    return study


def gaussian_problem(n, half_width=4.5):
    """``(problem, closed form)``: Gaussians whose covariances do not commute, an expanding pair on one box."""
    turn = np.array([[np.cos(0.6), -np.sin(0.6)], [np.sin(0.6), np.cos(0.6)]])
    closed = GaussianFlow([0.1, -0.1], turn @ np.diag([0.7, 0.45]) @ turn.T, [0.0, 0.0], np.diag([1.0, 0.8]))
    grid = Grid((n, n), [(-half_width, half_width)] * 2)
    source, target = (LogDensity(lambda x, m=m, p=p: -0.5 * np.einsum("ni,ij,nj->n", x - m, p, x - m),
                                 lambda x, m=m, p=p: -(x - m) @ p)
                      for m, p in ((closed.m_mu, closed.p), (closed.m_nu, closed.q)))
    return TransportProblem(source, target, grid=grid, target_grid=grid), closed


def decay(quick=False):
    """Both Kullback-Leibler divergences along the flow between Gaussians: closed forms and guaranteed rates.

    Guaranteed: ``exp(-2 kappa_mu t / Lambda)`` and ``exp(-2 lambda kappa_nu t)`` with the log-Sobolev constants
    ``kappa`` of the Gaussians and the extreme eigenvalues of the Hessians along the closed form.
    """
    problem, closed = gaussian_problem(32 if quick else 64)
    ledger = flow(problem, 1.5, tolerance=1e-5, throw=True).ledger
    t = ledger["time"]
    eigenvalues = np.array([np.linalg.eigvalsh(closed.hessian(s)) for s in np.linspace(0, 1.5, 50)])
    rates = (2 * np.linalg.eigvalsh(closed.p)[0] / eigenvalues.max(),
             2 * eigenvalues.min() * np.linalg.eigvalsh(closed.q)[0])
    study = Study("decay", "exponential decay between Gaussians, covariances that do not commute", "time",
                  "Kullback-Leibler divergence", "y")
    for name, label, form, rate in (("kl_reverse", "KL(rho | mu)", closed.kl_reverse, rates[0]),
                                    ("kl_forward", "KL(mu | rho)", closed.kl_forward, rates[1])):
        study.add(label, t, ledger[name])
        study.add(f"{label}, closed form", t, [form(s) for s in t], reference=True)
        study.add(f"{label}, guaranteed: exp(-{rate:.2f} t)", t, ledger[name][0] * np.exp(-rate * t), reference=True)
    return study


def contracting(quick=False):
    """What a no-flux box does to a contracting pair, N(0, 4) to N(0, 1) on eight units either way, against the spacing.

    The outermost cells carry the target's tails; mass and variance of the model are off by first order at best.
    """
    study = Study("contracting", "contracting Gaussians on a no-flux box: first order at best, t = 4", "spacing",
                  "relative error", "xy")
    closed = GaussianFlow([0.0, 0.0], 4 * np.eye(2), [0.0, 0.0], np.eye(2))
    wanted, spacings, masses, variances = closed.model(4.0)[1][0, 0], [], [], []
    for n in (32, 64) if quick else (32, 64, 128):
        grid = Grid((n, n), [(-8, 8)] * 2)
        problem = TransportProblem(LogDensity(lambda x: -(x**2).sum(axis=1) / 8, lambda x: -x / 4),
                                   LogDensity(lambda x: -(x**2).sum(axis=1) / 2, lambda x: -x), grid=grid,
                                   target_grid=grid)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImbalanceWarning)  # it is what the study is about
            run = flow(problem, 4.0, tolerance=1e-4, ledger=None, throw=True)
        spacings.append(grid.spacing[0])
        masses.append(abs(run.drift))
        variances.append(abs((run.density() * grid.cell_centres()[0] ** 2).sum() * grid.cell_volume / wanted - 1))
    study.add("mass of the model", spacings, masses)
    study.add("variance of the model", spacings, variances)
    study.add("first order", spacings, masses[0] * np.array(spacings) / spacings[0], reference=True)
    return study


def sublinear(quick=False):
    """The symmetric divergence against its bound ``W2^2 / (2 T)``, for data that are not log-concave."""
    n = 32 if quick else 128
    study = Study("sublinear", f"symmetric divergence and the bound W2^2 / (2 T), {n} x {n}, target uniform", "time",
                  "KL(rho | mu) + KL(mu | rho)", "xy")
    for name in NON_LOG_CONCAVE:
        problem = TransportProblem(gallery.load(name, (n, n)), np.ones((n, n)), floor=0.02)
        ledger = flow(problem, np.geomspace(1e-3, 0.3, 4), tolerance=1e-3, throw=True).ledger
        cost = solve(problem, throw=True).cost
        t, gap = ledger["time"][1:], (ledger["kl_reverse"] + ledger["kl_forward"])[1:]
        study.add(name, t, gap, fit=False)
        study.add(f"{name}, bound", t, cost / (2 * t), reference=True)
    return study


def regret(quick=False):
    """Cumulative regret against iterations for every schedule, explicit and implicit, with its bound."""
    n, steps = (16, 30) if quick else (32, 300)
    problem = TransportProblem(gallery.load("two_gaussians", (n, n)), np.ones((n, n)), floor=0.1)
    limit = explicit_limit(problem)[0]
    study = Study("regret", f"regret of mirror descent, two Gaussians, {n} x {n}; explicit limit {limit:.1e}",
                  "iteration", "sum of eta KL(rho | mu)", "xy")
    plans = [("explicit", schedules.constant(0.4, relative=True), steps),
             ("explicit", schedules.inverse_sqrt(0.9, relative=True), steps),
             ("explicit", schedules.inverse(0.9, relative=True), steps),
             ("explicit", schedules.automatic(0.9), steps),
             ("implicit", schedules.constant(20 * limit), min(steps, 60)),
             ("implicit", schedules.inverse_sqrt(20 * limit), min(steps, 60)),
             ("implicit", schedules.polynomial(limit, 1.0), min(steps, 60)),
             ("implicit", schedules.geometric(limit, 1.5), 30)]
    for scheme, schedule, count in plans:
        ledger = mirror_descent(problem, schedule, count, scheme=scheme, ledger="full", throw=True).ledger
        label = f"{scheme}, {schedule.name}" + (" limit" if schedule.relative and "limit" not in schedule.name else "")
        study.add(label, ledger["step"][1:], ledger["regret"][1:], fit=False)
        if scheme == "explicit":
            study.add(f"{label}, bound", ledger["step"][1:], ledger["bound"][1:], reference=True)
    study.add("implicit, bound D_0 for every schedule", [1, steps], [ledger["bound"][0]] * 2, reference=True)
    return study


def evi(quick=False):
    """Slack of the evolution variational inequality along the flow, against ``KL(sigma | rho)``, sigma not the source.
    """
    n = 32 if quick else 128
    problem = TransportProblem(gallery.load("two_moons", (n, n)), np.ones((n, n)), floor=0.05)
    x, y = problem.grid.cell_centres()
    comparators = {"sigma smooth": 1 + 0.5 * np.cos(np.pi * x) * np.cos(np.pi * y),
                   "sigma the ring": gallery.load("ring", (n, n)) + 0.2}
    study = Study("evi", f"slack of the evolution variational inequality, two moons, {n} x {n}", "time",
                  "slack per unit of time", "xy")
    for label, sigma in comparators.items():
        ledger = flow(problem, [1e-3, 0.1], tolerance=1e-4, ledger="full", comparator=sigma, throw=True).ledger
        middle = 0.5 * (ledger["time"][1:] + ledger["time"][:-1])
        study.add(label, middle, ledger["slack"][1:], fit=False)
        study.add(f"{label}, KL(sigma | rho)", ledger["time"][1:], ledger["kl_comparator"][1:], reference=True)
    return study


def limit(quick=False):
    """Distance of Sinkhorn's potentials from the flow's at the same time, plain and half-shifted, torus and box."""
    n, epsilons = (48, (1 / 100, 1 / 200, 1 / 400)) if quick else (128, (1 / 100, 1 / 200, 1 / 400, 1 / 800, 1 / 1600))
    x = (np.arange(n) + 0.5) / n
    study = Study("limit", f"Sinkhorn against the flow at the same time, {n} x {n}, t = 0.05", "epsilon",
                  "distance of the potentials (sup, modulo constants)", "xy")
    for place, turn, phase in (("torus", 2, 0.5), ("box", 1, 0.0)):
        source = 1 + 0.3 * np.outer(np.cos(turn * np.pi * x), np.cos(2 * np.pi * x))
        target = 1 + 0.3 * np.outer(np.cos(2 * np.pi * x + phase), np.ones(n))
        problem = TransportProblem(source, target, grid=Grid((n, n), periodic=place == "torus"))
        for shifted in (False, True):
            gap = sinkhorn_limit(problem, epsilons, 0.05, shifted=shifted, marginals=False)
            label, good = f"{place}{', half-shifted' if shifted else ''}", gap.resolved
            study.add(label, gap.epsilon[good], gap.sup[good])
            if place == "box" and shifted:
                good = gap.is_resolved("interior")
                study.add(f"{label}, middle of the box", gap.epsilon[good], gap.interior[good])
    first = study.series[0]
    study.add("first order", first.x, first.y[0] * first.x / first.x[0], reference=True)
    study.add("second order", first.x, study.series[1].y[0] * (first.x / first.x[0]) ** 2, reference=True)
    return study


def steps(quick=False):
    """Factor per sweep of Sinkhorn with full steps eta, from a rough perturbation of the solution, and the linear
    theory's: ``max |1 - (eta / epsilon) (1 - lam)|`` over the eigenvalues ``0 <= lam <= lam_1 < 1`` of a sweep."""
    n, blur = 32, 2.0
    x, y = (np.arange(n) + 0.5)[:, None] / n, (np.arange(n) + 0.5) / n
    problem = TransportProblem(1 + 0.6 * np.cos(np.pi * x) * np.cos(2 * np.pi * y), 1 + 0.5 * np.sin(np.pi * (x + y)))
    epsilon = (blur / n)**2
    solution = sinkhorn(problem, epsilon, tolerance=1e-12, throw=True).potential
    noise = epsilon * np.random.default_rng(0).standard_normal((n, n))

    def factor(ratio, size, first, last):
        errors = sinkhorn(problem, epsilon, last, start=solution + size * noise, step=ratio * epsilon).marginal_error
        return (errors[last] / errors[first])**(1 / (last - first))

    slowest = factor(1.0, 1e-5, 150, 200)
    ratios = [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.8, 1.95, 1.98, 2.02, 2.05, 2.1, 2.2]
    if quick:
        ratios = [0.5, 1.0, 1.5, 1.95, 2.05, 2.2]
    # below 2 the rough modes have to die out before the slowest shows; above it they are what grows
    measured = [factor(ratio, 1e-7, 40, 60) if ratio > 1.9 else factor(
        ratio, 1e-4, round(80 / min(ratio, 1.0)), round(120 / min(ratio, 1.0))) for ratio in ratios]
    study = Study("steps", f"Sinkhorn with full steps eta, {n} x {n}, blur {blur:g} cells", "eta / epsilon",
                  "factor of the marginal error per sweep", "")
    study.add("measured", ratios, measured)
    study.add("theory", ratios, [max(abs(1 - ratio), abs(1 - ratio * (1 - slowest))) for ratio in ratios],
              reference=True)
    study.add("limit of stability", [ratios[0], ratios[-1]], [1.0, 1.0], reference=True)
    return study


STUDIES = {study.__name__: study for study in (space, time, decay, contracting, sublinear, regret, evi, limit, steps)}
