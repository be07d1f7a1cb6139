"""A machine that others use too: `solve` on one and on all threads, with idle cores, beside a process that keeps one of
them busy, and beside another that solves on all threads, as pmapde tells OpenMP to spin and as OpenMP would by itself.

    python benchmarks/bench_busy.py

Every case is a process of its own, of sixty solves, checked before they are timed. "the other's cores": the processor
time that the other process had during these, as a share of the time that passed (Linux). What spinning costs depends on
how the cores are shared out, and changes from run to run. Two minutes.
"""
import argparse
import contextlib
import os
import subprocess
import sys
import time

import numba
from common import report

SPINS = {"pmapde": {}, "OpenMP's own": {"GOMP_SPINCOUNT": "300000"}}  # the default of GNU OpenMP, env.c
SOLVE = """
import time
import pmapde
from pmapde import exact
problem = exact.manufactured((512, 512), array_target=True).problem
times = []
while len(times) < {count}:
    begin = time.perf_counter()
    solution = pmapde.solve(problem, threads={threads})
    times.append(time.perf_counter() - begin)
    assert solution.success and solution.stats["newton_iterations"] < 20
    if len(times) == 1:
        print("warm", flush=True)
print(*sorted(times[1:]))
"""
OTHERS = {"none": None, "one core busy": "while True: pass",
          "the same": SOLVE.format(threads=numba.config.NUMBA_NUM_THREADS, count=10**9)}


@contextlib.contextmanager
def beside(code, environment):
    """Within: a process that runs ``code``, if there is any, and is given."""
    other = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL) if code else None
    try:
        time.sleep(3.0 if other else 0.0)  # beyond its imports
        yield other
    finally:
        if other:
            other.kill()
            other.wait()


def processor_seconds(process):
    """Of all its threads so far."""
    with open(f"/proc/{process.pid}/stat") as file:
        user, system = file.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def timed(threads, environment, other=None):
    """Median and longest of the solves of a process, and how many cores the ``other`` had meanwhile."""
    code = SOLVE.format(threads=threads, count=61)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "warm\n"
        begin, before = time.perf_counter(), processor_seconds(other) if other else float("nan")
        times = [float(word) for word in process.stdout.readline().split()]
        had, passed = (processor_seconds(other) if other else float("nan")) - before, time.perf_counter() - begin
    return times[len(times) // 2], times[-1], had / passed


def main(arguments=None):
    argparse.ArgumentParser(description=__doc__.split("\n\n")[0]).parse_args(arguments)
    timed(1, os.environ | {})  # compile
    rows = []
    for other, code in OTHERS.items():
        for spin, told in SPINS.items():
            for threads in (1, numba.config.NUMBA_NUM_THREADS):
                environment = os.environ | told
                with beside(code, environment) as process:
                    median, longest, cores = timed(threads, environment, process)
                rows.append({"beside": other, "spinning": spin, "threads": threads, "seconds": median,
                             "longest": longest, "the other's cores": cores})
    report("busy", "512^2 solves (array target) beside other work", rows)


if __name__ == "__main__":
    main()
