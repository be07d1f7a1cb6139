"""R14, R16: threads and forks."""
import hashlib
import os
import threading

import numpy as np

import pmapde

from .setting import child, rough

BITS = """
import warnings
warnings.simplefilter("ignore")
from reliability.processes import bits
print(bits(sys.argv[1] == "full"))
"""


def bits(full):
    """SHA-256 of what solve, flow, mirror descent and Sinkhorn find on grids that are large enough for threads."""
    total = hashlib.sha256()
    n = 160
    problems = [rough("Gaussian, smooth", (n, n), 10)]
    problems += [rough("microscopy", (130, 130), 10), rough("white noise", (26, 26, 26), 10)] if full else []
    for problem in problems:
        solution = pmapde.solve(problem, pmapde.PseudoTransient(subdivision=1))
        total.update(solution.displacement.tobytes() + repr(solution.cost).encode())
    total.update(pmapde.flow(problems[0], 0.01, tolerance=1e-3).potentials.tobytes())
    total.update(pmapde.mirror_descent(problems[0], 0.01, 2, scheme="implicit").potential.tobytes())
    total.update(pmapde.sinkhorn(problems[0], 1e-3, 3).potential.tobytes())
    return total.hexdigest()


def thread_counts(full):
    found = {}
    for layer in ("omp", "workqueue") if full else ("omp",):
        for count in (1, 2, 4) if full else (1, 4):
            process = child("full" if full else "quick", code=BITS, env={
                **os.environ, "NUMBA_NUM_THREADS": str(count), "OMP_NUM_THREADS": str(count),
                "OPENBLAS_NUM_THREADS": str(count), "NUMBA_THREADING_LAYER": layer})
            found[layer, count] = process.communicate()[0].strip() or f"failed with {process.returncode}"
    return len(set(found.values())) == 1 and len(next(iter(found.values()))) == 64, (
        f"{len(set(found.values()))} result(s) over {len(found)} settings of 1 to 4 threads on "
        f"{os.cpu_count()} cores")


FORKED = """
import os, pmapde
from reliability.setting import smooth
solution = pmapde.solve(smooth(16))
calls = [lambda: pmapde.solve(smooth(16)), lambda: solution.map([[0.5, 0.5]]),
         lambda: pmapde.flow(smooth(16), 0.01), lambda: pmapde.sinkhorn(smooth(16), 0.01)]
for call in calls:
    child = os.fork()
    if not child:
        try:
            call()
            os._exit(0)
        except RuntimeError as error:
            os._exit(7 if "spawn" in str(error) else 8)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code)
"""


def forks_and_threads(full):
    """A forked child works or is told why not; four threads at once find what one does."""
    codes = child(code=FORKED).communicate()[0].split()
    problems = [rough("Gaussian, smooth", (20, 20), 10, seed) for seed in range(4)]
    alone, together = [pmapde.solve(problem).displacement for problem in problems], [None] * 4

    def work(k):
        for _ in range(3):
            together[k] = pmapde.solve(problems[k]).displacement
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same = sum(np.array_equal(a, b) for a, b in zip(alone, together))
    return len(codes) == 4 and set(codes) <= {"0", "7"} and same == 4, (
        f"forked: {sum(code == '0' for code in codes)} of {len(codes)} work, {sum(code == '7' for code in codes)} "
        f"refused with the remedy; threads: {same} of 4 the same bits")
