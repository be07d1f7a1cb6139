"""Points per second and GB/s of the operator, against plain NumPy and a memory copy.

    python benchmarks/bench_kernels.py [--quick]

GB/s counts the fewest bytes a kernel can move: every input field read once, every output field written once. The copy
moves two fields. NumPy (one thread) is the same formula in whole-array expressions, and is compared with the kernel
before anything is timed. Full run about two minutes; results in benchmarks/results/kernels.{txt,csv}.
"""
import argparse

import numba
import numpy as np
from common import report, seconds

from pmapde import GridDensity, TransportProblem
from pmapde.gallery import displacement_potential
from pmapde.grid import Grid
from pmapde.monge_ampere import MongeAmpere
from pmapde.threads import use_threads

SUPERBASES = (((1, 0), (0, 1), (1, 1)), ((1, 0), (0, 1), (1, -1)))


def _shifted(ghosted, offset):
    return ghosted[tuple(slice(1 + e, n - 1 + e) for e, n in zip(offset, ghosted.shape))]


def _difference(ghosted, offset):
    return (_shifted(ghosted, offset) + _shifted(ghosted, tuple(-e for e in offset))
            - 2 * _shifted(ghosted, (0,) * len(offset)))


def _second(ghosted, offset, quadratic):
    return _difference(ghosted, offset) + sum(q * e * e for q, e in zip(quadratic, offset))


def _seen_through(a, b, c):
    middle = (a * b + b * c + c * a) / 2 - (a * a + b * b + c * c) / 4
    return np.where(a >= b + c, b * c, np.where(b >= a + c, a * c, np.where(c >= a + b, a * b, middle)))


def numpy_log_determinant(phi, op):
    """The monotone scheme in 2D, the centred one in 3D, no-flux."""
    ghosted, q = np.pad(phi, 1, mode="symmetric"), op.quadratic
    if phi.ndim == 2:
        differences = {e: _second(ghosted, e, q) for e in ((1, 0), (0, 1), (1, 1), (1, -1))}
        determinant = np.minimum(*(_seen_through(*(differences[e] for e in triple)) for triple in SUPERBASES))
        positive = np.min(list(differences.values()), axis=0) > 0
    else:
        xx, yy, zz = (_second(ghosted, e, q) for e in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
        xy, xz, yz = ((_difference(ghosted, e) - _difference(ghosted, f)) / 4 for e, f in
                      (((1, 1, 0), (1, -1, 0)), ((1, 0, 1), (1, 0, -1)), ((0, 1, 1), (0, 1, -1))))
        minor = xx * yy - xy * xy
        determinant = xx * (yy * zz - yz * yz) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)
        positive = (xx > 0) & (minor > 0) & (determinant > 0)
    return np.log(np.where(positive, determinant, np.nan)) - op.log_cell


def numpy_stencil(stencil, field):
    ghosted = np.pad(field, 1, mode="symmetric")
    out = stencil.shift * field
    for weight, offset in zip(stencil.weights, stencil.offsets):
        out -= weight * _difference(ghosted, tuple(offset))
    for axis, drift in enumerate(stencil.drift):
        unit = np.eye(field.ndim, dtype=int)[axis]
        out -= drift * (_shifted(ghosted, unit) - _shifted(ghosted, -unit))
    return out


def operator(shape, kind):
    """``kind``: "uniform", "array" or "rough" target."""
    grid = Grid(shape)
    target = np.ones(shape)
    if kind == "array":
        target += 0.3 * np.prod(np.cos(2 * np.pi * grid.cell_centres()), axis=0)
    elif kind == "rough":
        target += 4 * np.random.default_rng(0).random(shape)
    problem = TransportProblem(GridDensity(np.ones(shape), grid), GridDensity(target, grid), grid=grid)
    return MongeAmpere(problem, "monotone" if len(shape) == 2 else "centred")


def cases(shape):
    """(name, kernel call, NumPy call or None, fields moved) after comparing the kernel with NumPy."""
    plain, general, rough = (operator(shape, kind) for kind in ("uniform", "array", "rough"))
    points = plain.grid.cell_centres().reshape(len(shape), -1).T
    phi = displacement_potential(len(shape), 0.5).value(points).reshape(shape)
    stencil, out = general.linearise(phi, 1.0), np.empty(shape)
    count, ndim = len(stencil.weights), len(shape)
    for kernel, reference in ((plain.log_determinant(phi), numpy_log_determinant(phi, plain)),
                              (stencil.apply(phi), numpy_stencil(stencil, phi))):
        # rounding of second differences of fields of size |phi| against h^2
        tolerance = 1e-14 * max(shape)**2 * max(1.0, np.abs(kernel).max())
        error = np.abs(kernel - reference).max()
        if not error <= tolerance:
            raise SystemExit(f"kernel and NumPy differ by {error:.2e} on {shape}: nothing timed")
    field = phi.copy()
    return [("copy", lambda: np.copyto(out, field), None, 2),
            ("log_determinant", lambda: plain.log_determinant(phi), lambda: numpy_log_determinant(phi, plain), 2),
            ("linearise (uniform target)", lambda: plain.linearise(phi), None, 1 + count + ndim),
            ("linearise (array target)", lambda: general.linearise(phi), None, 2 + count + ndim),
            ("linearise (rough target)", lambda: rough.linearise(phi), None, 3 + count + 3 * ndim),
            ("residual (array target)", lambda: general.residual(phi), None, 4),
            ("stencil apply", lambda: stencil.apply(phi, out), lambda: numpy_stencil(stencil, phi), 2 + count + ndim)]


def measure(shape, budget):
    size = int(np.prod(shape))
    for name, kernel, plain, fields in cases(shape):
        numpy_seconds = seconds(plain, budget) if plain else None
        for threads in range(1, 2 if name == "copy" else numba.config.NUMBA_NUM_THREADS + 1):
            use_threads(threads, size)
            best = seconds(kernel, budget)
            yield {"grid": "x".join(map(str, shape)), "kernel": name, "threads": threads, "ms": best * 1e3,
                   "Mpoints/s": size / best / 1e6, "GB/s": 8 * fields * size / best / 1e9,
                   "NumPy Mpoints/s": size / numpy_seconds / 1e6 if plain else "",
                   "speed-up": numpy_seconds / best if plain else ""}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small grids only, under half a minute, nothing written")
    quick = parser.parse_args(arguments).quick
    shapes = [(n, n) for n in ((64, 256) if quick else (64, 128, 256, 512, 1024, 2048))]
    shapes += [(n, n, n) for n in ((32,) if quick else (32, 64, 128))]
    budget, table = (0.05 if quick else 0.15), {}
    for _ in range(1 if quick else 2):  # two rounds, the better one kept: a neighbour on a core rarely spoils both
        for shape in shapes:
            for row in measure(shape, budget):
                key = row["grid"], row["kernel"], row["threads"]
                if key not in table or row["Mpoints/s"] > table[key]["Mpoints/s"]:
                    table[key] = row
    rows = list(table.values())
    use_threads(numba.config.NUMBA_NUM_THREADS, 1 << 30)
    report("kernels", "Kernels against NumPy and a memory copy (one thread below 128 x 128 cells whatever is asked)",
           rows, write=not quick)


if __name__ == "__main__":
    main()
