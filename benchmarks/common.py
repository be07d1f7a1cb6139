"""Shared by the benchmarks: the machine and versions, best-of timing, tables on paper and as CSV."""
import csv
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def machine():
    """One line per fact that decides the numbers."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "numba", "pyamg"))
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return [f"{model}, {os.cpu_count()} cores, {platform.system()}{load}",
            f"Python {platform.python_version()}, {packages}"]


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


def _text(value):
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 or abs(value) >= 1e5 else f"{value:.0f}"
    return str(value)


def report(name, title, rows, write=True):
    """Print ``rows`` (dicts with the same keys) as a table; write it and a CSV to ``results`` unless told not to."""
    header = list(rows[0])
    cells = [header] + [[_text(row[key]) for key in header] for row in rows]
    widths = [max(len(line[k]) for line in cells) for k in range(len(header))]
    lines = [title, *machine(), ""] + ["  ".join(text.rjust(width) for text, width in zip(line, widths))
                                       for line in cells]
    text = "\n".join(lines) + "\n"
    print(text)
    if write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.txt").write_text(text)
        with open(RESULTS / f"{name}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, header)
            writer.writeheader()
            writer.writerows({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
                             for row in rows)
