"""A machine that others use too: `solve` on one and on all threads, with idle cores and with a process that keeps one
of them busy, as pmapde tells OpenMP to spin and as OpenMP would by itself.

    python benchmarks/bench_busy.py

Every case is a process of its own; medians of nine solves, checked before they are timed. A minute.
"""
import argparse
import contextlib
import os
import subprocess
import sys

import numba
from common import report

SPINS = {"pmapde": {}, "OpenMP's own": {"GOMP_SPINCOUNT": "300000"}}  # the default of GNU OpenMP, env.c
CODE = """
import statistics, time
import numpy as np, pmapde
from pmapde import exact
known = exact.manufactured((512, 512), array_target=True)
times = []
for _ in range(10):
    begin = time.perf_counter()
    solution = pmapde.solve(known.problem, threads={threads})
    times.append(time.perf_counter() - begin)
    assert solution.success and solution.stats["newton_iterations"] < 20
print(statistics.median(times[1:]))
"""


@contextlib.contextmanager
def busy(wanted):
    """A process that computes all the time, if ``wanted``."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if other:
            other.kill()
            other.wait()


def median(threads, spin):
    done = subprocess.run([sys.executable, "-c", CODE.format(threads=threads)], capture_output=True, text=True,
                          env=os.environ | SPINS[spin], check=True)
    return float(done.stdout)


def main(arguments=None):
    argparse.ArgumentParser(description=__doc__.split("\n\n")[0]).parse_args(arguments)
    median(1, "pmapde")  # compile
    rows = []
    for others in (0, 1):
        for spin in SPINS:
            for threads in (1, numba.config.NUMBA_NUM_THREADS):
                with busy(others):
                    rows.append({"other processes": others, "spinning": spin, "threads": threads,
                                 "seconds": median(threads, spin)})
    report("busy", "A 512^2 solve (array target) beside other work", rows)


if __name__ == "__main__":
    main()
