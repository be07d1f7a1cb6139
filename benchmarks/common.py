"""Shared by the benchmarks: the machine and versions, best-of timing, tables on paper and as CSV."""
import time
from pathlib import Path

from pmapde.benchmark import machine, table, write_csv

__all__ = ["RESULTS", "machine", "report", "seconds"]

RESULTS = Path(__file__).parent / "results"


def seconds(function, budget=0.3, least=3):
    """Smallest time of one call: at least ``least`` calls, more until ``budget`` seconds are used."""
    function()  # compile, warm the caches
    best, begin, calls = float("inf"), time.perf_counter(), 0
    while calls < least or time.perf_counter() - begin < budget:
        start = time.perf_counter()
        function()
        best, calls = min(best, time.perf_counter() - start), calls + 1
        if calls > 1000:
            break
    return best


def report(name, title, rows, write=True):
    """Print ``rows`` (dicts with the same keys) as a table; write it and a CSV to ``results`` unless told not to."""
    text = "\n".join([title, *machine(), "", table(rows)])
    print(text)
    if write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.txt").write_text(text)
        write_csv(rows, RESULTS / f"{name}.csv")
