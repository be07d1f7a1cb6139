"""Sinkhorn on grids: time of a sweep against OTT-JAX and POT. What sweeps are good for: `pmapde benchmark`.

    python benchmarks/bench_sinkhorn.py [--quick] [--no-peers]

Everybody makes the same sweeps of the same problem (two Gaussians, in 3D two balls, to uniform) in the same
run: from the same potential, in float64, on as many threads as NUMBA_NUM_THREADS says (OTT by XLA's flags). The
potentials after a few sweeps are compared before anything is timed. The time of a sweep is the difference of two runs,
of n and of 3 n sweeps, over 2 n, so that set-up is left out; the best of three of each, in turns. It is processor time,
which others on the machine disturb less. *from 0*: the first sweeps, with potentials near zero; *solved*: from the
potential of `pmapde.solve`, which is what all later sweeps look like. A *blur* of s pixels is ``epsilon = s^2 h^2`` for
the cost |x - y|^2 / 2. OTT's kernel mode sums in the exponential domain with one scaling for all: fast, and FAILED
where that ends in zeros or infinities. POT's log domain is dense: 64^2 only.

Results in benchmarks/results/sinkhorn.{txt,csv}. Some minutes.
"""
import argparse
import importlib.util
import os
import time
from importlib.metadata import version

import numba
import numpy as np

THREADS = numba.config.NUMBA_NUM_THREADS
os.environ.setdefault("XLA_FLAGS", f"--xla_cpu_multi_thread_eigen={'true' if THREADS > 1 else 'false'} "
                                   f"intra_op_parallelism_threads={THREADS}")

from common import report  # noqa: E402  the flags must be set before anything imports jax

import pmapde  # noqa: E402
from pmapde import gallery  # noqa: E402

SWEEPS_CHECKED = 4


def problem_of(shape):
    name = "two_gaussians" if len(shape) == 2 else "two_balls"
    return pmapde.TransportProblem(gallery.load(name, shape), np.ones(shape), floor=1e-3)


class Ours:
    """All solvers: ``run(sweeps)`` returns the Kantorovich potential ``f`` of the cost |x - y|^2 / 2 on the source."""

    name = "pmapde"

    def __init__(self, problem, epsilon, f):
        self.problem, self.epsilon = problem, epsilon
        self.half = (problem.grid.cell_centres()**2).sum(axis=0) / 2
        self.start = self.half - f

    def prepare(self, sweeps):
        """What is not to be timed."""

    def run(self, sweeps):
        plan = pmapde.sinkhorn(self.problem, self.epsilon, sweeps, start=self.start, threads=THREADS)
        return self.half - plan.potential


class Ott:
    def __init__(self, problem, epsilon, f, log_domain):
        import jax
        jax.config.update("jax_enable_x64", True)
        import jax.numpy as jnp
        self.problem, self.epsilon, self.log_domain = problem, epsilon, log_domain
        self.name = f"OTT-JAX, {'log domain' if log_domain else 'kernel mode'}"
        self.a = jnp.asarray(problem.source_values.ravel() * problem.grid.cell_volume)
        self.b = jnp.asarray(problem.target_values.ravel() * problem.grid.cell_volume)
        # OTT's potentials are those of |x - y|^2, and carry epsilon times the logarithm of the weights
        self.f = 2 * (jnp.asarray(f.ravel()) + epsilon * jnp.log(self.a))
        self.compiled = {}

    def prepare(self, sweeps):
        """Compile."""
        import jax
        import jax.numpy as jnp
        from ott.geometry.grid import Grid
        from ott.problems.linear.linear_problem import LinearProblem
        from ott.solvers.linear.sinkhorn import Sinkhorn
        if sweeps not in self.compiled:
            solver = Sinkhorn(lse_mode=self.log_domain, threshold=0.0, min_iterations=sweeps, max_iterations=sweeps,
                              inner_iterations=sweeps)
            axes = [jnp.asarray(self.problem.grid.centres(axis)) for axis in range(self.problem.ndim)]

            def call(a, b, f):
                geometry = Grid(x=axes, epsilon=2 * self.epsilon)
                start = f if self.log_domain else geometry.scaling_from_potential(f)
                other = jnp.zeros_like(b) if self.log_domain else jnp.ones_like(b)
                result = solver(LinearProblem(geometry, a, b), init=(start, other))
                return result.f
            self.compiled[sweeps] = jax.jit(call).lower(self.a, self.b, self.f).compile()

    def run(self, sweeps):
        self.prepare(sweeps)
        f = np.asarray(self.compiled[sweeps](self.a, self.b, self.f))
        return (f / 2 - self.epsilon * np.log(np.asarray(self.a))).reshape(self.problem.grid.shape)


class Pot:
    name = "POT, log domain"

    def __init__(self, problem, epsilon, f):
        points = problem.grid.cell_centres().reshape(problem.ndim, -1).T
        self.epsilon, self.shape = epsilon, problem.grid.shape
        self.costs = ((points[:, None] - points)**2).sum(axis=2) / 2
        self.a = problem.source_values.ravel() * problem.grid.cell_volume
        self.b = problem.target_values.ravel() * problem.grid.cell_volume
        self.f = f.ravel()

    def prepare(self, sweeps):
        """Nothing."""

    def run(self, sweeps):
        import ot
        # its sweep begins with the other potential, from the one on the source given here
        _, log = ot.bregman.sinkhorn_log(self.a, self.b, self.costs, self.epsilon, numItermax=sweeps, stopThr=0.0,
                                         log=True, warn=False,
                                         warmstart=(self.f / self.epsilon + np.log(self.a), np.zeros_like(self.b)))
        return (self.epsilon * (log["log_u"] - np.log(self.a))).reshape(self.shape)


def solvers(problem, epsilon, f, peers):
    yield Ours(problem, epsilon, f)
    if "ott" in peers:
        yield Ott(problem, epsilon, f, True)
        yield Ott(problem, epsilon, f, False)
    if "ot" in peers and problem.grid.size <= 64**2:
        yield Pot(problem, epsilon, f)


def sweep_times(shape, blur, start, peers, rounds=3):
    """One row a solver: ms per sweep, after comparing its potentials with ours."""
    problem = problem_of(shape)
    epsilon = (blur / shape[0])**2
    f = np.zeros(shape)
    if start == "solved":
        f = (problem.grid.cell_centres()**2).sum(axis=0) / 2 - pmapde.solve(problem).potential
        f -= (f.max() + f.min()) / 2  # as near to zero as can be: exp(f / epsilon) must not overflow without need
    rows, live, reference = [], [], None
    for solver in solvers(problem, epsilon, f, peers):
        result = solver.run(SWEEPS_CHECKED)
        if reference is None:
            reference = result
        difference = np.ptp(result - reference) / 2
        row = {"grid": "x".join(map(str, shape)), "blur (pixels)": blur, "start": start, "solver": solver.name,
               "CPU ms per sweep": "", "over pmapde": "", "difference": difference, "outcome": "ok"}
        if not difference < 1e-9 * max(1.0, np.abs(reference).max()):
            row["outcome"], row["difference"] = "FAILED", difference if np.isfinite(difference) else "not finite"
        else:
            live.append((solver, row, [np.inf, np.inf]))
        rows.append(row)
    counts = {}
    for turn in range(rounds):
        for solver, row, spent in live:
            if turn == 0:
                begin = time.process_time()
                solver.run(SWEEPS_CHECKED)
                once = (time.process_time() - begin) / SWEEPS_CHECKED
                counts[solver.name] = int(np.clip(0.2 / once, 1, 500))
            elif counts[solver.name] == 1:
                continue  # seconds a sweep: once is enough
            n = counts[solver.name]
            for k, sweeps in enumerate((n, 3 * n)):
                solver.prepare(sweeps)
                begin = time.process_time()
                solver.run(sweeps)
                spent[k] = min(spent[k], time.process_time() - begin)
            row["CPU ms per sweep"] = (spent[1] - spent[0]) / (2 * n) * 1e3
    for _, row, _ in live:
        row["over pmapde"] = row["CPU ms per sweep"] / rows[0]["CPU ms per sweep"]
    return rows


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small grids only, nothing written")
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args(arguments)
    names = {"ott": "ott-jax", "ot": "POT"}
    peers = {} if options.no_peers else {module: version(name) for module, name in names.items()
                                         if importlib.util.find_spec(module)}
    missing = [name for module, name in names.items() if module not in peers]
    about = (f"{THREADS} thread(s); " + ", ".join(f"{names[module]} {number}" for module, number in peers.items())
             + (f"; missing or left out: {', '.join(missing)}" if missing else ""))
    shapes = [(64, 64)] if options.quick else [(64, 64), (128, 128), (256, 256), (512, 512), (32,) * 3, (64,) * 3]
    cases = [(shape, blur, start) for shape in shapes for blur, start in (
        ((4, "solved"),) if options.quick else ((4, "from 0"), (4, "solved"), (1, "solved")))
        if start == "solved" or np.prod(shape) < 2e5]
    rows = [row for case in cases for row in sweep_times(*case, peers)]
    report("sinkhorn", f"Time of a Sinkhorn sweep, {about}", rows, write=not options.quick)
    return rows


if __name__ == "__main__":
    main()
