"""The flow in true time: work and seconds against accuracy, with explicit stepping in the same run.

    python benchmarks/bench_flow.py [--quick]

Two Gaussians (density floor 0.25) to the uniform density, from ``q = |x|^2 / 2`` to t = 1. The error is that of the
potential (sup, modulo constants), against a flow of the same grid with a tolerance of 1e-7: at the end in units of the
potential's own half range, and, harder, of the distance it has travelled; and so on the way, at t = 0.02. Rows whose
errors are above their tolerance times the distance are marked FAILED.

Explicit Euler steps of 0.9 times the limit of each iterate: run to the end where
that takes under 50 000 of them, else 200 steps are timed and the rest extrapolated (said so); its error is not measured
there. Work in work units: one application of the linearised operator. Results in benchmarks/results/flow.{txt,csv}.
"""
import argparse
import time

import numpy as np
from common import report

import pmapde
from pmapde import gallery
from pmapde.integrators import half_range
from pmapde.mirror import predicted_limit
from pmapde.monge_ampere import MongeAmpere
from pmapde.work import EVALUATION

MIDDLE, END = 0.02, 1.0
PLANS = [(pmapde.BackwardEuler, (1e-1, 1e-2)), (pmapde.TRBDF2, (1e-1, 1e-2, 1e-3)),
         (pmapde.ESDIRK3, (1e-1, 1e-2, 1e-3, 1e-4))]


def explicit(problem, reference, limit_steps=50_000, timed=200):
    """Explicit Euler to END, or the cost of it."""
    operator = MongeAmpere(problem, reference.scheme)
    reference = reference.displacement_potentials[-1]
    evaluation = operator.evaluate(np.zeros(problem.grid.shape))
    at_end = operator.evaluate(reference)
    shortest = 0.9 * min(predicted_limit(evaluation), predicted_limit(at_end))
    steps = int(END / shortest)
    phi, now, count, begin = np.zeros(problem.grid.shape), 0.0, 0, time.perf_counter()
    operator.evaluate(phi, out=evaluation)
    whole = steps <= limit_steps
    while now < END and (whole or count < timed):
        dt = min(0.9 * predicted_limit(evaluation), END - now)
        phi = phi + dt * evaluation.residual
        operator.evaluate(phi, out=evaluation)
        now, count = now + dt, count + 1
    spent = time.perf_counter() - begin
    if whole:
        return count, spent, half_range(phi - reference), ""
    return steps, spent * steps / count, float("nan"), "extrapolated"


def rows(n):
    problem = pmapde.TransportProblem(gallery.load("two_gaussians", (n, n)), np.ones((n, n)), floor=0.25)
    reference = pmapde.flow(problem, [MIDDLE, END], tolerance=1e-7, ledger=None, throw=True)
    middle, end = reference.displacement_potentials
    own, distance = half_range(reference.potentials[-1]), half_range(end)
    for method, tolerances in PLANS:
        for tolerance in tolerances:
            best, run = float("inf"), None
            for _ in range(2):
                begin = time.perf_counter()
                run = pmapde.flow(problem, [MIDDLE, END], method(), tolerance=tolerance, ledger=None, throw=True)
                best = min(best, time.perf_counter() - begin)
            error = half_range(run.displacement_potentials[-1] - end)
            midway = half_range(run.displacement_potentials[0] - middle) / half_range(middle)
            yield {"grid": f"{n}^2", "method": method.__name__, "tolerance": tolerance, "error / u": error / own,
                   "error / distance": error / distance, "midway": midway, "steps": len(run.history["time"]),
                   "Newton": int(run.history["newton_iterations"].sum()),
                   "cycles": sum(c["applications"] for c in run.stats["linear"].values()),
                   "work units": sum(run.stats["work"].values()), "seconds": best,
                   "note": "" if max(error / distance, midway) <= tolerance else "FAILED"}
    steps, spent, error, note = explicit(problem, reference)
    yield {"grid": f"{n}^2", "method": "explicit Euler", "tolerance": float("nan"), "error / u": error / own,
           "error / distance": error / distance, "midway": float("nan"),
           "steps": steps, "Newton": 0, "cycles": 0,
           "work units": steps * EVALUATION[2], "seconds": spent, "note": note}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64^2 and 128^2 only, nothing written")
    arguments = parser.parse_args()
    import numba
    found = [row for n in ((64, 128) if arguments.quick else (64, 128, 256, 512)) for row in rows(n)]
    title = f"The flow of two Gaussians (floor 0.25) from q to t = 1; {numba.get_num_threads()} thread(s)"
    report("flow", title, found, write=not arguments.quick)


if __name__ == "__main__":
    main()
