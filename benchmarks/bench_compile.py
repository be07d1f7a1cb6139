"""What the first use costs: seconds of the first and second `solve` in a fresh process,
with an empty and a filled cache: a smooth pair with an array as target, and a pair of pictures.

    python benchmarks/bench_compile.py
"""
import argparse
import os
import subprocess
import sys
import tempfile

from common import report

CODE = """
import time
begin = time.perf_counter()
import pmapde
from pmapde import exact, gallery
shape = {shape}
problem = {problem}
times = [time.perf_counter() - begin]
for _ in range(5):
    begin = time.perf_counter()
    pmapde.solve(problem)
    times.append(time.perf_counter() - begin)
print(times[0], times[1], min(times[2:]))
"""

SMOOTH = "exact.manufactured(shape, array_target=True).problem"
PICTURES = "pmapde.TransportProblem(*(gallery.load(name, shape) for name in ('mri', 'grace_hopper')), floor=0.05)"
CASES = [("smooth", SMOOTH, (64, 64)), ("pictures", PICTURES, (64, 64)), ("smooth", SMOOTH, (32, 32, 32))]


def main(arguments=None):
    argparse.ArgumentParser(description=__doc__.split("\n\n")[0]).parse_args(arguments)
    rows = []
    for name, problem, shape in CASES:
        with tempfile.TemporaryDirectory() as cache:
            for state in ("empty", "filled"):
                done = subprocess.run([sys.executable, "-c", CODE.format(problem=problem, shape=shape)],
                                      capture_output=True, text=True, env=os.environ | {"NUMBA_CACHE_DIR": cache},
                                      check=True)
                imports, first, later = map(float, done.stdout.split())
                rows.append({"problem": name, "grid": "x".join(map(str, shape)), "numba's cache": state,
                             "import and problem s": imports, "first solve s": first, "later solve s": later})
    report("compile", "The first solve in a process, and later ones", rows)


if __name__ == "__main__":
    main()
