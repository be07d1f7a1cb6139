"""Full multigrid against the size of the grid: seconds, work units, Poisson solves, error and memory.

    python benchmarks/bench_scaling.py [--quick | --large | --plain]

Every case runs in its own process: it checks the answer (converged, no fold, and an error within 20 % of that of the
fully converged discrete solution) before the clock runs, then takes the best of several whole ``solve`` calls, the
Solution included. In the same process: a *Poisson solve* (one ``dctn`` and one ``idctn`` of the grid with as many
workers as ``solve`` has threads) and a *work unit* (the linearised operator applied once to a field, stored weights).
Numba and page faults are warm: idle threads spin for a while (``GOMP_SPINCOUNT``), and malloc is told to keep freed
memory (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``), for the Poisson solve as well; not on the grids of
``--large``, whose page faults count, nor with ``--plain``: 1024^2 and 128^3 as in a process that was told nothing, in a
table of their own. Where there is no converged solution to compare with (``--large``, pictures) the check is that of
success, folds and misplaced mass.

Problems: ``cosine`` separable to uniform (exact map known); ``manufactured`` non-separable, non-uniform target as an
array (exact map known); ``two gaussians f`` to uniform, floor f times the mean (reference: the extrapolated map, or
that of a grid twice as fine); ``photographs`` grace_hopper to relief and ``terrain`` relief to terrain, floor 0.03 (no
reference: misplaced mass).
Errors: L2(mu) of the map. Memory: the peak of what a solve allocates beyond the problem, traced.
"""
import argparse
import csv
import json
import os
import subprocess
import sys
import time

ENVIRONMENT = {"GOMP_SPINCOUNT": "1000000", "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_MMAP_THRESHOLD_": str(2**34)}
PICTURES = {"photographs": ("grace_hopper", "relief"), "terrain": ("relief", "terrain")}
SMOOTH = ("cosine", "manufactured", "two gaussians 0.25")
CASES = ([(name, n, 2) for name in SMOOTH for n in (256, 512, 1024, 2048, 4096)]
         + [(f"two gaussians {floor}", 1024, 2) for floor in (1e-2, 1e-3, 1e-4)]
         + [(name, 1024, 2) for name in PICTURES]
         + [(name, n, 3) for name in SMOOTH for n in (32, 64, 128, 256)])
QUICK = [("cosine", 128, 2), ("manufactured", 128, 2), ("two gaussians 0.0001", 128, 2), ("cosine", 32, 3)]
LARGE = [("cosine", 8192, 2), ("cosine", 384, 3)]
PLAIN = [case for case in CASES if case[1:] in ((1024, 2), (128, 3))]


def build(name, n, ndim):
    """The problem, and its exact solution if there is one."""
    import numpy as np

    import pmapde
    from pmapde import exact, gallery
    shape = (n,) * ndim
    if name == "cosine":
        found = exact.separable_cosine(shape)
        return found.problem, found
    if name == "manufactured":
        found = exact.manufactured(shape, array_target=True)
        return found.problem, found
    if name in PICTURES:
        return pmapde.TransportProblem(*(gallery.load(one, shape) for one in PICTURES[name]), floor=0.03), None
    bumps = gallery.load("two_gaussians", shape) - 0.25
    source = bumps + float(name.split()[-1]) * bumps.mean()
    return pmapde.TransportProblem(source, np.ones(shape)), None


def best(function, budget, least):
    """Smallest seconds of one call."""
    times, begin = [], time.perf_counter()
    while len(times) < least or (time.perf_counter() - begin < budget and len(times) < 20):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def reference_map(name, n, ndim, problem, threads):
    """The extrapolated displacement; that of a grid twice as fine where the data are too rough for it."""
    import numpy as np

    import pmapde
    from pmapde.transfer import interpolate_inside
    extrapolated = pmapde.solve(problem, extrapolate="map", threads=threads)
    if extrapolated.extrapolation == "map":
        return extrapolated.displacement
    if problem.grid.size * 2**ndim > 2e7:
        return np.full(extrapolated.displacement.shape, np.nan)
    finer = pmapde.solve(build(name, 2 * n, ndim)[0], tolerance=1e-9, threads=threads).displacement
    return np.stack([interpolate_inside(part, problem.grid.shape, problem.grid.periodic) for part in finer])


def run(name, n, ndim, threads):
    """One row of the table."""
    import tracemalloc
    import warnings

    import numpy as np
    from scipy import fft

    import pmapde
    from pmapde.monge_ampere import MongeAmpere
    warnings.simplefilter("ignore", pmapde.StencilWarning)
    pmapde.solve(build(name, 64 if ndim == 2 else 16, ndim)[0], threads=threads)  # loads the kernels
    problem, exact = build(name, n, ndim)
    size, large = problem.grid.size, problem.grid.size > 3e7
    tracemalloc.start()
    solution = pmapde.solve(problem, threads=threads)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    row = {"problem": name, "grid": "x".join(map(str, problem.grid.shape)), "status": solution.status.name}
    error, converged = float("nan"), float("nan")
    if exact is not None:
        error = exact.map_error(solution.displacement)
    if not large and name not in PICTURES:
        fully = pmapde.solve(problem, tolerance=1e-10, threads=threads)
        if exact is not None:
            converged = exact.map_error(fully.displacement)
        else:
            reference = reference_map(name, n, ndim, problem, threads)
            error, converged = (
                float(np.sqrt((((found.displacement - reference)**2).sum(axis=0) * problem.source_values).sum()
                              * problem.grid.cell_volume)) for found in (solution, fully))
        del fully
    checked = (solution.success and solution.folded_mass < 1e-3 and solution.push_forward_error < 0.02
               and not error > 1.2 * converged)
    history = solution.history
    finest = history["level"] == history["level"].max()
    row |= {"checked": "yes" if checked else "NO", "map error": error, "over converged": error / converged,
            "misplaced": solution.push_forward_error, "Newton": int(history["newton_iterations"][finest].sum()),
            "cycles": int(history["applications"][finest].sum()), "counted units": sum(solution.stats["work"].values())}
    del solution
    seconds = best(lambda: pmapde.solve(problem, threads=threads), 2.0, 1 if large else 3)
    field = np.random.default_rng(0).standard_normal(problem.grid.shape)
    poisson = best(lambda: fft.idctn(fft.dctn(field, workers=threads), workers=threads), 1.0, 2 if large else 5)
    apply = float("nan")
    if not large:
        import numba
        numba.set_num_threads(threads)
        stencil = MongeAmpere(problem, "monotone" if ndim == 2 else "centred").linearise(0 * field)
        out = np.empty_like(field)
        apply = best(lambda: stencil.apply(field, out), 1.0, 5)
    row |= {"seconds": seconds, "ns/cell": seconds / size * 1e9, "Poisson s": poisson,
            "Poisson solves": seconds / poisson, "work units": seconds / apply, "bytes/cell": peak / size}
    return row


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small grids, nothing written")
    parser.add_argument("--large", action="store_true", help="8192^2 and 384^3 too (24 GiB)")
    parser.add_argument("--plain", action="store_true", help="idle threads and memory as in a process told nothing")
    parser.add_argument("--only", help="measure the cases whose problem contains this, keep the other rows")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.case:
        name, n, ndim = options.case
        print(json.dumps(run(name, int(n), int(ndim), options.threads)))
        return
    from common import report
    name = "scaling_plain" if options.plain else "scaling"
    cases = QUICK if options.quick else PLAIN if options.plain else CASES + (LARGE if options.large else [])
    cases = [case for case in cases if options.only is None or options.only in f"{case[0]} {case[1]}^{case[2]}"]
    rows = []
    for case in cases:
        print(*case, file=sys.stderr, flush=True)
        environment = os.environ | {"NUMBA_NUM_THREADS": str(options.threads)}
        # what malloc keeps is not available to the next solve, whose memory is checked
        if case not in LARGE and not options.plain:
            environment |= ENVIRONMENT
        done = subprocess.run([sys.executable, __file__, "--threads", str(options.threads), "--case", *map(str, case)],
                              env=environment, capture_output=True, text=True)
        if done.returncode:  # a failure is a result of the benchmark
            print(done.stderr, file=sys.stderr)
            shape = "x".join([str(case[1])] * case[2])
            rows.append(dict.fromkeys(rows[0], float("nan")) | {"problem": case[0], "grid": shape, "checked": "NO",
                                                                "status": f"exit status {done.returncode}"})
        else:
            rows.append(json.loads(done.stdout))
    failed = sum(row["checked"] != "yes" for row in rows)
    if options.only is not None and not options.quick:
        rows = kept(name, rows)
        failed = sum(row["checked"] != "yes" for row in rows)
    told = "as in a process told nothing" if options.plain else "idle threads spin and memory is kept"
    report(name, f"Full multigrid: solve() at its defaults, {options.threads} threads, {told}; {failed} of {len(rows)} "
           f"failed their check", rows, write=not options.quick)
    if not options.quick and not options.plain:
        plot(rows)


def kept(name, rows):
    """The rows on file, those measured now in their places."""
    from common import RESULTS
    new = {(row["problem"], row["grid"]): row for row in rows}
    with open(RESULTS / f"{name}.csv", newline="") as file:
        old = [{key: number(value) for key, value in row.items()} for row in csv.DictReader(file)]
    merged = [new.pop((row["problem"], row["grid"]), row) for row in old]
    return merged + list(new.values())


def number(text):
    """A number of the CSV file, or its text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def plot(rows):
    """Poisson solves and seconds per cell against the number of cells."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from common import RESULTS
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for ndim, style in ((2, "o-"), (3, "s--")):
        for name in SMOOTH:
            found = [row for row in rows if row["problem"] == name and row["grid"].count("x") == ndim - 1]
            cells = [cells_of(row["grid"]) for row in found]
            axes[0].loglog(cells, [row["ns/cell"] for row in found], style, label=f"{name}, {ndim}D")
            axes[1].semilogx(cells, [row["Poisson solves"] for row in found], style)
    axes[0].set(xlabel="cells", ylabel="nanoseconds per cell", title="solve(), Solution included")
    axes[1].set(xlabel="cells", ylabel="Poisson solves (DCT and inverse) of the same size", ylim=(0, None),
                title="the same in Poisson solves")
    axes[0].legend(fontsize=8)
    for ax in axes:
        ax.grid(alpha=0.3)
    figure.savefig(RESULTS / "scaling.png", dpi=110)


def cells_of(grid):
    """Cells of a grid written as 512x512."""
    cells = 1
    for n in grid.split("x"):
        cells *= int(n)
    return cells


if __name__ == "__main__":
    main()
