"""The distributed engine: strong and weak scaling, and a model made of what was measured, for 4096^3 on a cluster.

    .venv-petsc/bin/python benchmarks/bench_distributed.py [--quick] [--ranks 1 2 4]     (after make test-distributed)

Starts itself under ``mpiexec`` on every number of ranks. Before a clock runs the answer is checked against the serial
engine's (discrete equations solved to 1e-10, potentials within 1e-9). Strong: one grid; weak: as many cells per rank.
More ranks than cores are oversubscribed, and say nothing about a machine that has the cores; the columns of the work
(Krylov iterations, Newton steps, bytes sent) do not depend on that.
"""
import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time

from common import report

CASES = {"strong": {ranks: (768, 768) for ranks in (1, 2, 3, 4)},
         "strong 3D": {ranks: (64,) * 3 for ranks in (1, 2, 3, 4)},
         "weak": {1: (384, 384), 2: (768, 384), 3: (1152, 384), 4: (768, 768)},
         "weak 3D": {1: (48,) * 3, 2: (96, 48, 48), 3: (144, 48, 48), 4: (96, 96, 48)}}
QUICK = {"strong": {1: (192, 192), 2: (192, 192)}, "strong 3D": {1: (32,) * 3, 2: (32,) * 3},
         "weak 3D": {1: (24,) * 3, 2: (48, 24, 24)}}

CLUSTER = {"cores per machine": 64, "memory per machine (GiB)": 512.0, "network per machine (GB/s)": 12.5,
           "latency (s)": 2e-6, "memory used": 0.8}
"""Assumed: two 32-core processors and a 100 Gbit/s network; a core as fast as here when all cores are busy."""
MESSAGES = 6 * 6
"""Of one cycle on one level: six neighbours; two relaxations, residual, restriction, prolongation, the operator."""
DENSER = 4.0
"""Neighbours on coarse levels of a hierarchy against the finest: Galerkin rows grow."""
SETUP_CYCLES = 10
"""Cycles that send as many messages as one set-up: coarsening, interpolation and products on every level."""
SUMS = 4
"""Sums over all ranks per Krylov iteration (orthogonalisation, norm, projection), each of log2(ranks) latencies."""
BYTES_PER_CELL = 2300
"""Of a 3D grid, from the column `bytes per cell`, rounded up: fields, matrix, hierarchy, Krylov vectors."""


def problem(shape):
    from pmapde import exact
    return exact.manufactured(shape, uniform_target=False).problem


def resident():
    """Bytes of memory of this process, at its peak."""
    import resource
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(shape, repeats):
    """On all ranks: check, then the best of some runs; rank 0 prints the numbers as JSON."""
    import numpy as np

    import pmapde
    from pmapde import distributed
    comm = distributed.communicator()
    small = tuple(max(8, n // 8) for n in shape)
    found = distributed.solve(problem(small), tolerance=1e-10)
    if comm.rank == 0:
        expected = pmapde.solve(problem(small), tolerance=1e-10)
        error = float(np.abs(found.potential - expected.potential).max())
        assert found.success and error < 1e-9, (found.status, error)
    case, best = problem(shape), None
    before = resident()
    for _ in range(repeats):
        comm.Barrier()
        begin = time.perf_counter()
        result = distributed.solve(case, gather=False)
        comm.Barrier()
        seconds = time.perf_counter() - begin
        assert result.success, result.status
        if best is None or seconds < best[0]:
            best = seconds, result
    seconds, result = best
    last = [step for step in result.history if step.level == result.history[-1].level]
    halo = sum(2 * math.prod(n for b, n in enumerate(result.layout.shape) if b != a)
               for a, parts in enumerate(result.layout.parts) if parts > 1)
    peak = comm.allreduce(resident() - before)
    if comm.rank == 0:
        print(json.dumps({
            "ranks": comm.size, "shape": "x".join(map(str, shape)), "cells": math.prod(shape), "seconds": seconds,
            "set-up": result.stats["seconds"]["linear set-up"], "solve": result.stats["seconds"]["linear solve"],
            "newton": sum(step.newton_iterations for step in last), "krylov": sum(step.applications for step in last),
            "halo bytes": 8 * halo, "bytes per cell": peak / math.prod(shape), "residual": result.residual}))


def launch(ranks, shape, repeats):
    command = shutil.which("mpiexec.openmpi") or shutil.which("mpiexec") or sys.exit("mpiexec is not installed.")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
                   "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                   "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
    done = subprocess.run([command, "-n", str(ranks), sys.executable, __file__, "--shape", *map(str, shape),
                           "--repeats", str(repeats)], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{ranks} ranks on {shape}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def prediction(rows, n):
    """Seconds of an n^3 solve on as many machines as hold it, part by part, from the 3D row with all cores busy."""
    rows = [row for row in rows if row["shape"].count("x") == 2]
    busy = max((row for row in rows if row["ranks"] <= os.cpu_count()), key=lambda row: (row["ranks"], row["cells"]))
    machines = math.ceil(n**3 * BYTES_PER_CELL / (
        CLUSTER["memory used"] * CLUSTER["memory per machine (GiB)"] * 2**30))
    ranks = machines * CLUSTER["cores per machine"]
    cells, krylov = n**3 / ranks, max(row["krylov"] for row in rows)
    scale = cells / (busy["cells"] / busy["ranks"])  # work per cell is the same; the coarser grids are in it
    work = {name: scale * busy[name] for name in ("set-up", "solve")}
    work["operator"] = scale * (busy["seconds"] - busy["set-up"] - busy["solve"])
    face, latency = 8 * cells ** (2 / 3), CLUSTER["latency (s)"]
    bandwidth = CLUSTER["network per machine (GB/s)"] * 1e9 / CLUSTER["cores per machine"]
    halos, levels, grids = 0.0, max(1, round(math.log2(n) - 2)), max(1, round(math.log2(n / 16)))
    for level in range(levels):  # of a hierarchy, coarsened by two along every axis
        halos += MESSAGES * (DENSER if level else 1.0) * (face / 4**level / bandwidth + latency)
    cycles = (krylov + SETUP_CYCLES) * grids  # the smaller grids have fewer levels: an upper bound
    traffic = {"messages": cycles * halos, "sums": SUMS * cycles * math.log2(ranks) * latency}
    return {"cells": f"{n}^3", "machines": machines, "ranks": ranks, "cells per rank": int(cells),
            "message (kB)": face / 1e3, **work, **traffic, "seconds": sum(work.values()) + sum(traffic.values())}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="small grids; nothing is written")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--shape", type=int, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.shape:
        measure(tuple(arguments.shape), arguments.repeats)
        return
    rows = []
    for kind, cases in (QUICK if arguments.quick else CASES).items():
        first = None
        for ranks, shape in cases.items():
            if ranks not in arguments.ranks:
                continue
            row = launch(ranks, shape, arguments.repeats)
            first = first or row
            ideal = first["seconds"] if kind.startswith("weak") else first["seconds"] * first["ranks"] / ranks
            rows.append({"scaling": kind, **row, "efficiency": ideal / row["seconds"]})
    title = f"Distributed engine, ranks on {os.cpu_count()} cores (more ranks than that are oversubscribed)"
    report("distributed", title, rows, write=not arguments.quick)
    assumed = "\n".join([f"assumed: {name} {value:g}" for name, value in CLUSTER.items()] + [
        f"assumed: {BYTES_PER_CELL} bytes a cell, {MESSAGES} messages a level and cycle, {DENSER:g} times as many on "
        f"coarse levels, {SETUP_CYCLES} cycles' messages a set-up, {SUMS} sums an iteration, iteration counts as here"])
    report("distributed_model", f"Seconds predicted from the 3D rows of distributed.txt\n{assumed}",
           [prediction(rows, n) for n in (1024, 2048, 4096)], write=not arguments.quick)


if __name__ == "__main__":
    main()
