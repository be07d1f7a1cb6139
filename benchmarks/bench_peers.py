"""Time against accuracy: `pmapde.solve` and its rivals on the same arrays, in the same run, on as many cores.

    python benchmarks/bench_peers.py [--quick] [--limit 120] [--threads 1] [--problems ...] [--solvers ...]

Every solver is handed the same two arrays and returns the displacement at the cell centres of the source and W2^2 (no
factor one half). The map error is L2(mu); the cost error relative. An answer is checked before it is timed: a map that
is not finite, or further from the truth than half of what standing still is, is reported as WRONG with no time. Times
are the best of a few calls and leave out imports and compilation, for pmapde as for the rivals (one uncounted call, or
an ahead-of-time compilation, at the same size). A call beyond the limit is ended and said so; larger grids are then
left out. Each solver has a process of its own, pinned to as many cores as threads: a busy machine spoils the times
(the load is printed). The full run takes about an hour, most of it waiting for those beyond the limit; `--largest 128`
eight minutes, `--quick` three.

Rivals, at the best settings found for these problems:

* back-and-forth: Jacobs & Léger 2020, our own in `back_and_forth.py`, until its residual stalls (ten to twenty
  iterations). Its cost is the integral of the squared displacement, nearer to the truth than its dual value.
* POT: `ot.emd` (network simplex, exact for the discrete measures), and dense `ot.sinkhorn`.
* OTT-JAX: Sinkhorn on a `Grid`, float64, kernel mode with adaptive momentum from the 20th iteration on (three to ten
  times fewer iterations than without; an epsilon schedule, fixed momentum or Anderson's gain nothing). Where that
  underflows (the momentum overshoots) without momentum, and where that does too in the log domain with momentum.
* GeomLoss: its multiscale Sinkhorn for images (KeOps), float64, at several `scaling`s; `blur` is its default of one
  pixel (it raises below that, and from two on). It takes one step a scale and checks no marginals.

A *blur* of s (GeomLoss' word, here in pixels) is the regularisation ``epsilon = s^2`` of the cost ``|x - y|^2 / 2``,
that is ``epsilon = 2 s^2`` of the cost ``|x - y|^2`` of POT and OTT. Both stop at 1e-6 in L1 of the marginals.
*debiased*: the map is ``x + T_ab(x) - T_aa(x)`` of the barycentric maps (GeomLoss: minus the gradient of the debiased
potential) and the cost is the Sinkhorn divergence: three solves instead of one, all timed, and much more accurate.
Plain Sinkhorn is the barycentric map and ``<P, C>``.

Results in benchmarks/results/peers.{txt,csv,png} and peers_matched.{txt,csv}. A small relative cost error can be luck:
errors of both signs pass through zero.
"""
import argparse
import importlib.util
import math
import multiprocessing
import os
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

import numpy as np
from common import RESULTS, report
from scipy.fft import dctn
from scipy.sparse.linalg import LinearOperator, gmres

from pmapde import exact, gallery
from pmapde.grid import Grid

THRESHOLD = 1e-6
"""L1 error of the marginals at which Sinkhorn has converged."""
SHORT = 30
"""Seconds of a call up to which it is made twice."""


# --------------------------------------------------------------------------------------------------------------------
# Problems


@dataclass(frozen=True, eq=False)
class Case:
    """Two densities of mean one on the unit box, with the answer: displacement at the centres ``(d, *shape)``, W2^2."""

    problem: str
    source: np.ndarray
    target: np.ndarray
    displacement: np.ndarray
    cost: float

    @property
    def grid(self):
        return "x".join(map(str, self.source.shape))

    def errors(self, answer):
        """Map error in L2(mu), relative cost error; infinite where the answer is not finite."""
        if not (np.isfinite(answer.displacement).all() and np.isfinite(answer.cost)):
            return math.inf, math.inf
        with np.errstate(over="ignore"):
            squares = ((answer.displacement - self.displacement)**2).sum(axis=0)
            return float(np.sqrt((squares * self.source).mean())), float(abs(answer.cost / self.cost - 1))


def _case(name, problem):
    source, target = problem.problem.source_values, problem.problem.target_values
    return Case(name, source / source.mean(), target / target.mean(), problem.displacement(), problem.cost)


class SpectralReference:
    """Transport of a smooth density to the uniform one, by means that share nothing with pmapde's scheme.

    Cosine collocation of ``det(I + D2 phi) = mu`` on ``n x n`` points, Newton with GMRES along ``1 + t (mu - 1)``. The
    cell averages given are turned into point values in the cosine basis. From n = 128 to 256 the map of the two
    Gaussians changes by 2e-8 and the cost by 2e-9 of itself, though the bumps have a slope of some thousandths at the
    faces.
    """

    def __init__(self, averages):
        n = len(averages)
        self.waves = np.pi * np.arange(n)
        angles = self.waves / (2 * n)
        smoothing = np.sinc(angles / np.pi)
        self.mu = self._values(self._coefficients(averages / averages.mean()) / np.outer(smoothing, smoothing))
        self.phi = np.zeros((n, n))
        for t in (0.25, 0.5, 0.75, 1.0):
            self._newton(1 + t * (self.mu - 1))
        self.cost = float(((self._gradient(self._centres(n))**2).sum(axis=0) * self.mu).mean())

    def _centres(self, n):
        return np.outer((np.arange(n) + 0.5) / n, self.waves)

    def _coefficients(self, values):
        c = dctn(values, type=2) / values.size
        c[0] /= 2
        c[:, 0] /= 2
        return c

    def _values(self, c, first=np.cos, second=np.cos):
        angles = self._centres(len(c))
        return first(angles) @ c @ second(angles).T

    def _hessian(self, c):
        k = self.waves
        return (self._values(-k[:, None]**2 * c), self._values(-k**2 * c),
                self._values(np.outer(k, k) * c, np.sin, np.sin))

    def _gradient(self, angles):
        cos, sin, k = np.cos(angles), np.sin(angles), self.waves
        return np.stack([-sin @ (k[:, None] * self.phi) @ cos.T, -cos @ (self.phi * k) @ sin.T])

    def _newton(self, mu):
        laplacian = -(self.waves[:, None]**2 + self.waves**2)
        laplacian[0, 0] = np.inf
        for _ in range(20):
            xx, yy, xy = self._hessian(self.phi)
            excess = self._coefficients(mu - ((1 + xx) * (1 + yy) - xy**2))
            excess[0, 0] = 0
            if np.abs(excess).max() < 1e-13:
                return

            def linearised(v, xx=xx, yy=yy, xy=xy):
                a, b, c = self._hessian(v.reshape(mu.shape) / laplacian)  # preconditioned from the right
                out = self._coefficients((1 + yy) * a + (1 + xx) * b - 2 * xy * c)
                out[0, 0] = v[0]  # the constant is free: pin it
                return out.ravel()

            operator = LinearOperator((mu.size, mu.size), linearised, dtype=float)
            correction, _ = gmres(operator, excess.ravel(), rtol=1e-6, restart=60, maxiter=5)
            self.phi = self.phi + correction.reshape(mu.shape) / laplacian
        raise RuntimeError(f"the spectral reference did not converge: {np.abs(excess).max():.1e} left")

    def displacement(self, n):
        """At the centres of ``n x n`` cells."""
        return self._gradient(self._centres(n))


@cache
def two_gaussians_reference(n=256):
    return SpectralReference(gallery.load("two_gaussians", (n, n)))


def two_gaussians(shape):
    source, reference = gallery.load("two_gaussians", shape), two_gaussians_reference()
    return Case("two Gaussians to uniform", source / source.mean(), np.ones(shape), reference.displacement(shape[0]),
                reference.cost)


def _exact(name, build, **keywords):
    return lambda shape: _case(name, build(shape, **keywords))


PROBLEMS = {  # key: (dimension, case of a shape); the names in the cases are what the tables show
    "cosine": (2, _exact("separable cosine", exact.separable_cosine)),
    "uniform": (2, _exact("manufactured, uniform target", exact.manufactured, uniform_target=True)),
    "array": (2, _exact("manufactured, array target", exact.manufactured, array_target=True)),
    "gaussians": (2, two_gaussians),
    "cosine3d": (3, _exact("separable cosine 3D", exact.separable_cosine)),
}


# --------------------------------------------------------------------------------------------------------------------
# Solvers: each takes the two densities, does what is not to be timed, and returns the call that is.


@dataclass(frozen=True, eq=False)
class Answer:
    """Displacement at the cell centres, W2^2, iterations, and what is to be said: "" if it converged."""

    displacement: np.ndarray
    cost: float
    iterations: int
    remark: str = ""


def _primal(displacement, source):
    return float(((displacement**2).sum(axis=0) * source).mean())


def pmapde_solver(source, target):
    import pmapde
    problem = pmapde.TransportProblem(source, target)

    def call():
        solution = pmapde.solve(problem)
        return Answer(solution.displacement, solution.cost, solution.stats["newton_iterations"],
                      "" if solution.success else f"not converged: {solution.status.name.lower()}")

    call()  # compile
    return call


def back_and_forth_solver(source, target):
    import back_and_forth
    back_and_forth.solve(np.ones((4,) * source.ndim), np.ones((4,) * source.ndim))  # compile

    def call():
        result = back_and_forth.solve(source, target)
        return Answer(result.displacement, _primal(result.displacement, source), result.iterations,
                      "not converged" if result.reason == "iterations" else "")

    return call


def _points(shape):
    return Grid(shape).cell_centres().reshape(len(shape), -1).T


def emd_solver(source, target):
    import ot
    points, a, b = _points(source.shape), source.ravel() / source.sum(), target.ravel() / target.sum()

    def call():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the log says it too
            costs = ot.dist(points, points)
            plan, log = ot.emd(a, b, costs, numItermax=10**8, log=True)
        displacement = (plan @ points / a[:, None] - points).T.reshape(-1, *source.shape)
        remark = f"not converged: {log['warning']}" if log["warning"] else ""
        return Answer(displacement, float(log["cost"]), 0, remark)

    return call


def pot_sinkhorn_solver(source, target, blur, debiased):
    import ot
    points, a, b = _points(source.shape), source.ravel() / source.sum(), target.ravel() / target.sum()
    epsilon = 2 * (blur / source.shape[0])**2

    def one(a, b, costs):
        # The plain kernel: the stabilised and the log-domain variants took ten to a hundred times longer on these.
        plan, log = ot.sinkhorn(a, b, costs, epsilon, method="sinkhorn", stopThr=THRESHOLD, numItermax=20000, log=True,
                                warn=False)
        plan_cost = float((plan * costs).sum())
        entropic = epsilon * float(a @ np.log(log["u"].ravel() / a) + b @ np.log(log["v"].ravel() / b))
        return plan @ points / plan.sum(axis=1)[:, None], plan_cost, entropic, log["niter"], log["err"][-1]

    def call():
        costs = ot.dist(points, points)
        image, cost, entropic, iterations, error = one(a, b, costs)
        displacement, worst = image - points, error
        if debiased:
            image_a, _, entropic_a, _, error_a = one(a, a, costs)
            _, _, entropic_b, _, error_b = one(b, b, costs)
            displacement, cost = image - image_a, entropic - (entropic_a + entropic_b) / 2
            worst = max(error, error_a, error_b)
        return Answer(displacement.T.reshape(-1, *source.shape), cost, iterations,
                      "" if worst < THRESHOLD else f"not converged: {worst:.0e}")

    return call


def ott_solver(source, target, blur, debiased):
    import jax
    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    from ott.geometry.grid import Grid as OttGrid
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.acceleration import Momentum
    from ott.solvers.linear.sinkhorn import Sinkhorn
    a, b = source.ravel() / source.sum(), target.ravel() / target.sum()
    axes = [(jnp.arange(n) + 0.5) / n for n in source.shape]
    points = jnp.asarray(_points(source.shape))
    epsilon = 2 * (blur / source.shape[0])**2

    def one(a, b, log_domain, start, symmetric):
        # OTT's own recipe for the symmetric problems (sinkhorn_divergence), adaptive over-relaxation for the other one.
        momentum = Momentum(value=0.5) if symmetric else Momentum(start=start)
        solver = Sinkhorn(lse_mode=log_domain, threshold=THRESHOLD, max_iterations=20000, momentum=momentum,
                          parallel_dual_updates=symmetric)
        result = solver(LinearProblem(OttGrid(x=axes, epsilon=epsilon), a, b))
        image = jnp.stack([result.apply(x, axis=1, lse_mode=log_domain) for x in points.T]) / a
        return image, result

    def compiled(log_domain, start):
        def run(a, b):
            image, result = one(a, b, log_domain, start, False)
            if not debiased:
                return image - points.T, result.primal_cost, result.n_iters, result.converged
            image_a, result_a = one(a, a, log_domain, start, True)
            _, result_b = one(b, b, log_domain, start, True)
            cost = result.reg_ot_cost - (result_a.reg_ot_cost + result_b.reg_ot_cost) / 2
            return image - image_a, cost, result.n_iters, result.converged & result_a.converged & result_b.converged
        return jax.jit(run).lower(a, b).compile()

    def call_of(run, note):
        def call():
            displacement, cost, iterations, converged = (np.asarray(value) for value in run(a, b))
            return Answer(displacement.reshape(-1, *source.shape), float(cost), int(iterations),
                          note if converged else "not converged" + note)
        return call

    for log_domain, start, note in ((False, 20, ""), (False, 0, " (no momentum)"), (True, 20, " (log domain)")):
        call = call_of(compiled(log_domain, start), note)
        if log_domain:  # cannot underflow: no trial
            return call
        trial = call()
        if np.isfinite(trial.displacement).all() and np.isfinite(trial.cost) and trial.remark == note:
            return call


def geomloss_solver(source, target, scaling):
    import torch
    from geomloss import sinkhorn_divergence
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    a, b = (torch.tensor(density / density.sum())[None, None] for density in (source, target))

    def call():
        f, g = sinkhorn_divergence(a, b, p=2, blur=1 / source.shape[0], scaling=scaling, potentials=True)
        cost = 2 * float((a * f).sum() + (b * g).sum())
        ghosted, inner = np.pad(f[0, 0].detach().numpy(), 1, mode="symmetric"), (slice(1, -1),) * source.ndim
        displacement = np.stack([-np.gradient(ghosted, 1 / n, axis=axis)[inner] for axis, n in enumerate(source.shape)])
        steps = int(math.log(source.shape[0]) / -math.log(scaling)) + 2
        return Answer(displacement, cost, steps)

    call()  # KeOps compiles its kernel
    return call


@dataclass(frozen=True)
class Solver:
    """``prepare(source, target)`` and the grids it is tried on: cells per axis in 2D and in 3D."""

    prepare: object
    keywords: dict
    needs: tuple  # packages, as imported
    flat: tuple
    cube: tuple


def solvers():
    """Name to :class:`Solver`; the first is ours."""
    found = {
        "pmapde": Solver(pmapde_solver, {}, (), (16, 32, 64, 128, 256, 512, 1024), (8, 16, 32, 64, 128)),
        "back-and-forth": Solver(back_and_forth_solver, {}, (), (32, 64, 128, 256, 512, 1024), (16, 32, 64, 128)),
        "POT emd": Solver(emd_solver, {}, ("ot",), (16, 32, 48, 64), (8, 12, 16)),
        "POT Sinkhorn, blur 1": Solver(pot_sinkhorn_solver, {"blur": 1, "debiased": False}, ("ot",), (16, 32, 48),
                                       (8, 12)),
        "POT Sinkhorn debiased, blur 1": Solver(pot_sinkhorn_solver, {"blur": 1, "debiased": True}, ("ot",),
                                                (16, 32, 48), (8, 12)),
    }
    for blur, debiased in ((1, False), (2, True), (1, True)):
        found[f"OTT Sinkhorn{' debiased' if debiased else ''}, blur {blur}"] = Solver(
            ott_solver, {"blur": blur, "debiased": debiased}, ("ott", "jax"), (32, 64, 128, 256, 512),
            (16, 32, 64))
    for scaling in (0.9, 0.97, 0.99):
        found[f"GeomLoss debiased, scaling {scaling}"] = Solver(
            geomloss_solver, {"scaling": scaling}, ("geomloss", "torch", "pykeops"), (32, 64, 128, 256),
            (16, 32, 64))
    return found


DISTRIBUTIONS = {"ot": "POT", "ott": "ott-jax", "jax": "jax", "geomloss": "geomloss", "torch": "torch",
                 "pykeops": "pykeops"}


def missing(needs):
    """Those of the packages that cannot be imported, by the names they are installed by."""
    return [DISTRIBUTIONS[name] for name in needs if importlib.util.find_spec(name) is None]


# --------------------------------------------------------------------------------------------------------------------
# Measuring


def measure(solver, case, say=lambda word: None, budget=1.0):
    """Prepare, solve, check, and only then time: ``seconds, map error, cost error, iterations, outcome``.

    ``say`` is told "ready" when the preparation is over and "answered" when the first call is.
    """
    call = solver.prepare(case.source, case.target, **solver.keywords)
    say("ready")
    begin = time.perf_counter()
    answer = call()
    best = spent = time.perf_counter() - begin
    say("answered")
    map_error, cost_error = case.errors(answer)
    figures = {"map error": map_error, "cost error": cost_error, "iterations": answer.iterations or ""}
    if not map_error < 0.5 * math.sqrt(case.cost):
        return {"seconds": "", **figures, "outcome": f"WRONG{', ' * bool(answer.remark)}{answer.remark}"}
    for call_number in range(2, 6):  # the second shields all but the longest from a disturbance
        if spent + best > budget and (call_number > 2 or best > SHORT or not budget):
            break
        begin = time.perf_counter()
        call()
        last = time.perf_counter() - begin
        best, spent = min(best, last), spent + last
    outcome = answer.remark if answer.remark.startswith("not") else f"ok{answer.remark}"
    return {"seconds": best, **figures, "outcome": outcome}


def _serve(connection, solver, cores, budget):
    """A child: cases come in; "ready", "answered" and the figures go out."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    while True:
        case = connection.recv()
        try:
            figures = measure(solver, case, connection.send, budget)
        except Exception as error:  # a failure is a result of the benchmark
            figures = _failed(f"FAILED: {type(error).__name__}: {error}".splitlines()[0][:90])
        connection.send(figures)


def _failed(outcome):
    return {"seconds": "", "map error": "", "cost error": "", "iterations": "", "outcome": outcome}


class Runner:
    """One solver in a process of its own that can be ended."""

    def __init__(self, solver, cores, limit, budget):
        self.solver, self.cores, self.limit, self.budget, self.process = solver, cores, limit, budget, None

    def run(self, case):
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.connection, other = context.Pipe()
            self.process = context.Process(target=_serve, args=(other, self.solver, self.cores, self.budget),
                                           daemon=True)
            self.process.start()
            other.close()
        try:
            self.connection.send(case)
            # The preparation may compile several variants and try them; the repeats are few or short.
            for patience in (60 + self.limit, self.limit, 60 + 5 * self.budget + 2 * SHORT):
                answer = self._receive(patience)
                if isinstance(answer, dict):
                    break
        except EOFError:
            answer = _failed("FAILED: the process died (out of memory?)")
            self.close()
        except TimeoutError:
            answer = _failed(f"more than {self.limit:g} s")
            self.close()
        return answer

    def _receive(self, patience):
        if not self.connection.poll(patience):
            raise TimeoutError
        return self.connection.recv()

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None


def run_all(chosen, problems, sizes, cores, limit, budget):
    """A row for every problem, solver and grid; failures are rows too."""
    rows, runners, tail = [], {}, {"map vs pmapde": "", "cost vs pmapde": ""}
    for name, solver in list(chosen.items()):
        if absent := missing(solver.needs):
            rows.append({"problem": "", "solver": name, "grid": "", **_failed(f"missing: {', '.join(absent)}"), **tail})
        else:
            runners[name] = Runner(solver, cores, limit, budget)
    try:
        for dimension, build in problems.values():
            cases = cache(lambda n, build=build, dimension=dimension: build((n,) * dimension))
            for name, runner in runners.items():
                for n in runner.solver.flat if dimension == 2 else runner.solver.cube:
                    if not sizes(dimension, n):
                        continue
                    figures = runner.run(cases(n))
                    rows.append({"problem": cases(n).problem, "solver": name, "grid": cases(n).grid, **figures, **tail})
                    print(" ".join(f"{value:.3g}" if isinstance(value, float) else str(value)
                                   for value in rows[-1].values()), file=sys.stderr, flush=True)
                    if figures["outcome"].startswith(("more than", "FAILED: the process", "FAILED: MemoryError")):
                        break
    finally:
        for runner in runners.values():
            runner.close()
    return rows


# --------------------------------------------------------------------------------------------------------------------
# Tables and figure

MEASURES = {"map": "map error", "cost": "cost error"}


def timed(rows, problem, solver):
    return [row for row in rows if row["problem"] == problem and row["solver"] == solver and row["seconds"] != ""]


def at_least_as_good(rows, problem, measure, error):
    """Our row on the smallest grid whose error is at most ``error``, or None."""
    ours = [row for row in timed(rows, problem, "pmapde")
            if row["outcome"] == "ok" and row[MEASURES[measure]] <= error]
    return min(ours, key=lambda row: _cells(row["grid"]), default=None)


def _cells(grid):
    return math.prod(map(int, grid.split("x")))


def compare(rows):
    """Fill in, for every rival's row, its time over that of pmapde at its accuracy or better: above one, we win."""
    for row in rows:
        if row["solver"] == "pmapde" or row["seconds"] == "":
            continue
        for measure, key in MEASURES.items():
            ours = at_least_as_good(rows, row["problem"], measure, row[key])
            row[f"{measure} vs pmapde"] = row["seconds"] / ours["seconds"] if ours else "none"
    return rows


def matched(rows):
    """For each problem, rival and measure, the rival's best run against our smallest grid that is as accurate.

    Its best run is the quickest of those within a tenth of its smallest error: no grid is held against a rival that
    gained nothing by it.
    """
    table = []
    for problem in dict.fromkeys(row["problem"] for row in rows if row["problem"]):
        for name in dict.fromkeys(row["solver"] for row in rows if row["solver"] != "pmapde"):
            runs = timed(rows, problem, name)
            for measure, key in MEASURES.items():
                line = {"problem": problem, "rival": name, "of": measure, "rival grid": "", "rival error": "",
                        "rival s": "", "pmapde grid": "", "pmapde error": "", "pmapde s": "",
                        "rival / pmapde": "no answer"}
                if runs:
                    least = min(row[key] for row in runs)
                    best = min((row for row in runs if row[key] <= 1.1 * least), key=lambda row: row["seconds"])
                    ours = at_least_as_good(rows, problem, measure, best[key])
                    line |= {"rival grid": best["grid"], "rival error": best[key], "rival s": best["seconds"],
                             "rival / pmapde": "no pmapde grid"}
                    if ours:
                        line |= {"pmapde grid": ours["grid"], "pmapde error": ours[key], "pmapde s": ours["seconds"],
                                 "rival / pmapde": best["seconds"] / ours["seconds"]}
                table.append(line)
    return table


def plot(rows, path):
    """Work-precision: error against seconds, one curve a solver, a column a problem."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    problems = list(dict.fromkeys(row["problem"] for row in rows if row["problem"]))
    names = list(dict.fromkeys(row["solver"] for row in rows))
    colours = dict(zip(names, ["black", *plt.get_cmap("tab20").colors]))
    figure, panels = plt.subplots(2, len(problems), figsize=(4.2 * len(problems), 8.5), sharex="col", squeeze=False)
    for column, problem in zip(panels.T, problems):
        column[0].set_title(problem)
        column[-1].set_xlabel("seconds")
        for panel, key in zip(column, MEASURES.values()):
            panel.grid(True, which="both", alpha=0.2)
            for name in names:
                runs, ours = timed(rows, problem, name), name == "pmapde"
                panel.loglog([row["seconds"] for row in runs], [row[key] for row in runs], "o-", color=colours[name],
                             label=name, linewidth=2.5 if ours else 1.2, markersize=6 if ours else 4,
                             zorder=3 if ours else 2)
    panels[0, 0].set_ylabel("map error, L2(mu)")
    panels[1, 0].set_ylabel("relative error of W2^2")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="lower center", ncols=4, fontsize=9, frameon=False)
    figure.suptitle("Error against time; along a curve the grids are refined. Down and to the left is better.")
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def versions():
    return ", ".join(f"{name} {version(name)}" if importlib.util.find_spec(module) else f"{name} missing"
                     for module, name in (*DISTRIBUTIONS.items(), ("pmapde", "pmapde")))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="32^2, 64^2, up to 16^3, one call each, nothing written")
    parser.add_argument("--largest", type=int, default=1024, help="most cells per axis in 2D, an eighth of that in 3D")
    parser.add_argument("--limit", type=float, default=120, help="seconds for one call")
    parser.add_argument("--threads", type=int, default=1, help="for every solver; back-and-forth, POT have one")
    parser.add_argument("--problems", nargs="*", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--solvers", nargs="*", help="those whose names begin so (pmapde, back, POT, OTT, GeomLoss)")
    options = parser.parse_args(arguments)
    begin, everything = time.perf_counter(), solvers()
    chosen = {name: solver for name, solver in everything.items()
              if not options.solvers or name.startswith(tuple(options.solvers))}
    if not chosen:
        parser.error(f"no solver's name begins with {options.solvers}: {', '.join(everything)}")
    largest = min(options.largest, 64) if options.quick else options.largest

    def sizes(dimension, n):
        if options.quick and dimension == 2:
            return n in (32, 64)
        return n <= (largest if dimension == 2 else max(16, largest // 8))

    cores = set(sorted(os.sched_getaffinity(0))[-options.threads:]) if hasattr(os, "sched_getaffinity") else None
    # Children inherit these; BLAS, OpenMP and numba read them when they are loaded.
    settings = {name: str(options.threads) for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS",
                                                        "MKL_NUM_THREADS")} | {"PYKEOPS_VERBOSE": "0"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        rows = run_all(chosen, {key: PROBLEMS[key] for key in options.problems}, sizes, cores, options.limit,
                       0.0 if options.quick else 1.0)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    compare(rows)
    table = matched(rows)
    counts = Counter(row["outcome"].split(":")[0].split(" (")[0] for row in rows)
    facts = (f"{options.threads} thread(s) for every solver, limit {options.limit:g} s a call, "
             f"{time.perf_counter() - begin:.0f} s in all\n{versions()}")
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    report("peers", f"Time against accuracy of pmapde and its rivals: {facts}\n"
           "Map error L2(mu), cost error of W2^2 relative. 'vs pmapde': time over that of the smallest pmapde grid at\n"
           "least as accurate (above 1: pmapde is faster; none: no pmapde grid of this run is as accurate).\n"
           f"Outcomes: {outcomes}", rows, write=not options.quick)
    if table:
        report("peers_matched", f"Matched accuracy, the best run of each rival against pmapde: {facts}", table,
               write=not options.quick)
    if not options.quick:
        plot(rows, RESULTS / "peers.png")
    return rows


if __name__ == "__main__":
    main()
