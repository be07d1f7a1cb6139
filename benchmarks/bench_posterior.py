"""Posteriors by the Brenier map against quadrature (exact), a Laplace approximation and a long random walk.

    python benchmarks/bench_posterior.py [--quick]

The five built-in models. Errors: of the log evidence; of means in posterior standard deviations; of standard
deviations, relative. Those of the map are of 2^14 quasi-Monte Carlo draws, not of the quadrature behind them.
Reference: a uniform grid of 1600^2 or 176^3 points on 16 standard deviations, no part of the package. Laplace: the
Gaussian at the highest mode, by the Hessian there. Random walk: Metropolis, 64 chains in parallel from Laplace draws,
proposals scaled by 2.4 / sqrt(d) of the exact standard deviations (its best setting, which it would have to find), a
quarter dropped; its draws are counted in evaluations of the density, and it has no evidence. Seconds: best of two,
after a first call that compiles. Results in benchmarks/results/posterior.{txt,csv}.
"""
import argparse
import time

import numpy as np
from common import report
from scipy.optimize import minimize

from pmapde.models import MODELS

CHAINS = 64


def exact(model, fitted):
    """Log evidence, mean, standard deviations by brute force."""
    sd = np.sqrt(np.diag(fitted.covariance))
    n, axes = {2: 1600, 3: 176}[len(sd)], []
    for axis, centre in enumerate(fitted.mean):
        low, high = centre - 16 * sd[axis], centre + 16 * sd[axis]
        if model.bounds is not None:
            low, high = max(low, model.bounds[axis][0]), min(high, model.bounds[axis][1])
        axes.append(low + (np.arange(n) + 0.5) * (high - low) / n)
    x = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(sd))
    logs = np.concatenate([model.log_density(part) for part in np.array_split(x, 100)])
    weights = np.exp(logs - logs.max())
    evidence = np.log(weights.sum() * np.prod([a[1] - a[0] for a in axes])) + logs.max()
    weights /= weights.sum()
    mean = weights @ x
    return evidence, mean, np.sqrt(weights @ (x - mean) ** 2)


def laplace(model):
    """Log evidence, mean, covariance."""
    def negative(x):
        return -model.log_density(np.atleast_2d(x))[0]
    mode = minimize(negative, np.array(model.start, float), method="Nelder-Mead",
                    options={"xatol": 1e-8, "fatol": 1e-10, "maxiter": 4000}).x
    d, h = len(mode), 1e-3 * np.array(model.scale, float)
    unit, hessian = np.eye(d) * h, np.empty((d, d))
    for i in range(d):
        for j in range(d):
            signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
            corners = sum(a * b * negative(mode + a * unit[i] + b * unit[j]) for a, b in signs)
            hessian[i, j] = corners / (4 * h[i] * h[j])
    covariance = np.linalg.inv(hessian)
    evidence = -negative(mode) + 0.5 * d * np.log(2 * np.pi) + 0.5 * np.linalg.slogdet(covariance)[1]
    return evidence, mode, covariance


def random_walk(model, start, sd, steps, rng):
    """Draws (n, d) of Metropolis chains."""
    inside = np.array(model.bounds if model.bounds is not None else [(-np.inf, np.inf)] * start.shape[1])
    x = np.clip(start, *inside.T)
    log_p, kept = model.log_density(x), []
    for step in range(steps):
        trial = x + 2.4 / np.sqrt(x.shape[1]) * sd * rng.standard_normal(x.shape)
        ok = ((trial >= inside[:, 0]) & (trial <= inside[:, 1])).all(axis=1)
        log_trial = np.where(ok, model.log_density(np.where(ok[:, None], trial, x)), -np.inf)
        accept = np.log(rng.random(len(x))) < log_trial - log_p
        x, log_p = np.where(accept[:, None], trial, x), np.where(accept, log_trial, log_p)
        if step >= steps // 4:
            kept.append(x)
    return np.concatenate(kept)


def timed(function):
    """The result and the seconds of the better of two calls, after a first."""
    function()
    best, result = float("inf"), None
    for _ in range(2):
        begin = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - begin)
    return result, best


def rows(steps):
    for name, model in MODELS.items():
        fitted, seconds = timed(lambda model=model: model.posterior().fit())
        evidence, mean, sd = exact(model, fitted)

        def row(method, log_evidence, own_mean, own_sd, seconds, note, name=name, evidence=evidence, mean=mean, sd=sd):
            return {"model": name, "method": method, "evidence": abs(log_evidence - evidence),
                    "means": float((np.abs(own_mean - mean) / sd).max()),
                    "sds": float(np.abs(own_sd / sd - 1).max()), "seconds": seconds, "note": note}
        draws = fitted.sample(2**14, sequence="sobol")
        good = fitted.success and abs(fitted.log_evidence - evidence) < (1e-3 if len(sd) == 2 else 1e-2)
        yield row("Brenier map", fitted.log_evidence, draws.mean(axis=0), draws.std(axis=0), seconds,
                  f"{'x'.join(map(str, fitted.solution.problem.grid.shape))}, k {fitted.pareto_k:.2f}, outside "
                  f"{fitted.tail_mass:.0e}" + ("" if good else ", FAILED"))
        (log_evidence, mode, covariance), seconds = timed(lambda model=model: laplace(model))
        yield row("Laplace", log_evidence, mode, np.sqrt(np.diag(covariance)), seconds, "")
        start = np.random.default_rng(1).multivariate_normal(mode, covariance, CHAINS)
        walk, seconds = timed(lambda model=model, start=start, sd=sd: random_walk(model, start, sd, steps,
                                                                                  np.random.default_rng(2)))
        yield row("random walk", np.nan, walk.mean(axis=0), walk.std(axis=0), seconds, f"{CHAINS * steps} evaluations")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter random walks, nothing written")
    arguments = parser.parse_args()
    import numba
    title = f"Posteriors: errors against quadrature; {numba.get_num_threads()} thread(s)"
    report("posterior", title, list(rows(1000 if arguments.quick else 10_000)), write=not arguments.quick)


if __name__ == "__main__":
    main()
