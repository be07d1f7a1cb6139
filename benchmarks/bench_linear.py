"""Preconditioners on the same matrices: set-up, applications, solve seconds and memory.

    python benchmarks/bench_linear.py [--quick]

Matrices are linearisations of the Monge-Ampère operator at potentials that solve their problem: ``smooth`` (Hessian
eigenvalues 1 -+ 0.5, not separable), ``stretched r`` (box r : 1, couplings r^2 : 1 in index space), ``contrast c``
(separable, determinant varying by c), ``two Gaussians f`` (to uniform in 3D, floor f times the mean). One right-hand
side of white noise, relative residual 1e-8, at most 200 applications; a solve that does not get there is reported as
FAILED with the residual it reached. Lines against planes in 3D: ``planes.py``, at 32^3. Full run about two minutes;
results in benchmarks/results/linear.{txt,csv}.
"""
import argparse
import time

import numpy as np
from bench_scaling import build
from common import report
from planes import BlackBoxPlanes

from pmapde import GridDensity, TransportProblem, solve
from pmapde.equation import new_stats
from pmapde.gallery import displacement_potential
from pmapde.grid import Grid
from pmapde.linear.algebraic import AlgebraicMultigrid
from pmapde.linear.black_box import BlackBoxMultigrid
from pmapde.linear.geometric import GeometricMultigrid
from pmapde.linear.solver import LinearSolver
from pmapde.linear.spectral import Spectral
from pmapde.monge_ampere import MongeAmpere
from pmapde.threads import thread_settings

METHODS = (GeometricMultigrid(), BlackBoxMultigrid(), AlgebraicMultigrid(), Spectral())


def stencil_at(grid, phi):
    """The linearisation at ``phi``, with the source for which ``phi`` is the solution."""
    scheme = "monotone" if grid.ndim == 2 else "centred"
    ones = GridDensity(np.ones(grid.shape), grid)
    determinant = MongeAmpere(TransportProblem(ones, ones, grid=grid), scheme).log_determinant(phi)
    problem = TransportProblem(GridDensity(np.exp(determinant), grid, points=True), ones, grid=grid)
    return MongeAmpere(problem, scheme).linearise(phi)


def smooth(shape):
    grid = Grid(shape)
    points = grid.cell_centres().reshape(grid.ndim, -1).T
    return stencil_at(grid, displacement_potential(grid.ndim, 0.5).value(points).reshape(shape))


def stretched(shape, ratio):
    grid = Grid(shape, [(0, ratio), (0, 1), (0, 1)][:len(shape)])
    angles = [np.pi * x / length for x, length in zip(grid.cell_centres(), grid.lengths)]
    phi = sum(np.cos(angle) * (length / np.pi)**2 for angle, length in zip(angles, grid.lengths)) / 4
    return stencil_at(grid, phi + np.prod(np.cos(angles), axis=0) / 8 / np.pi**2)


def contrast(shape, ratio):
    """Density ``exp(s cos 2 pi x)`` along every axis, moved to the uniform one."""
    strength, phi = np.log(ratio) / 2 / len(shape), np.zeros(shape)
    for axis, n in enumerate(shape):
        density = np.exp(strength * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n))
        faces = np.cumsum(density / density.mean() - 1)[:-1]
        phi += (np.concatenate([[0], np.cumsum(faces)]) / n**2).reshape(
            [-1 if a == axis else 1 for a in range(phi.ndim)])
    return stencil_at(Grid(shape), phi)


def two_gaussians(shape, floor):
    problem, _ = build(f"two gaussians {floor}", shape[0], len(shape))
    return MongeAmpere(problem, "centred").linearise(solve(problem).displacement_potential)


def methods(stencil):
    return (*METHODS, BlackBoxPlanes()) if stencil.shape == (32, 32, 32) else METHODS


def problems(quick):
    flat = [(n, n) for n in ((64, 128) if quick else (64, 128, 256, 512, 1024))]
    cube = [(n, n, n) for n in ((16,) if quick else (16, 32, 64))]
    for shape in flat + cube:
        yield "smooth", smooth(shape)
    for shape in ((128, 128),) if quick else ((128, 128), (512, 512), (32, 32, 32)):
        for ratio in (4, 16, 64):
            yield f"stretched {ratio}", stretched(shape, ratio)
        for ratio in (1e2, 1e4, 1e6):
            yield f"contrast {ratio:.0e}", contrast(shape, ratio)
    for shape in () if quick else ((32, 32, 32), (64, 64, 64)):
        for floor in (0.25, 1e-2, 1e-4):
            yield f"two Gaussians {floor}", two_gaussians(shape, floor)


def measure(problem, stencil, method, threads):
    rhs = np.random.default_rng(0).standard_normal(stencil.shape)
    stats = new_stats()
    row = {"problem": problem, "grid": "x".join(map(str, stencil.shape)), "preconditioner": method.name}
    try:
        result = LinearSolver(method, stats, threads).solve(stencil, rhs, 1e-8)
        state = method.build(stencil)
    except Exception as error:  # a failure is a result of the benchmark
        return row | {"set-up s": "", "applications": "", "solve s": "", "s per application": "", "bytes/cell": "",
                      "outcome": f"FAILED: {type(error).__name__}"}
    memory = getattr(state, "nbytes", None)
    if memory is None:
        memory = sum(value.nbytes for value in vars(state).values() if isinstance(value, np.ndarray))
    solving = stats["seconds"]["linear solve"]
    return row | {"set-up s": stats["seconds"]["linear set-up"], "applications": result.applications,
                  "solve s": solving, "s per application": solving / max(1, result.applications),
                  "bytes/cell": memory / rhs.size,
                  "outcome": "ok" if result.converged else f"FAILED at {result.relative_residual:.1e}"}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small grids only, under half a minute, nothing written")
    quick = parser.parse_args(arguments).quick
    with thread_settings(None) as threads:  # as solve() does: BLAS on one thread
        for warm in (smooth((32, 32)), smooth((12, 12, 12))):  # compile before the clock runs
            for method in METHODS:
                measure("warm-up", warm, method, threads)
        begin = time.perf_counter()
        rows = [measure(problem, stencil, method, threads) for problem, stencil in problems(quick)
                for method in methods(stencil)]
    report("linear", f"Preconditioned BiCGSTAB to 1e-8, {threads} numba threads (pyamg: one), "
           f"{time.perf_counter() - begin:.0f} s in all", rows, write=not quick)


if __name__ == "__main__":
    main()
