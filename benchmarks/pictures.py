"""The table of photographs of docs/hard_data.md: Newton steps and checks of `solve` driven to a residual of 1e-8."""
import argparse
import time
import warnings

import numpy as np

import pmapde
from pmapde import gallery

TO_UNIFORM = [(name, None, floor) for name in ("grace_hopper", "mri") for floor in (0.1, 0.01, 0.001)]
PAIRS = [(*pair, floor) for pair in (("grace_hopper", "relief"), ("relief", "terrain"), ("grace_hopper", "mri"),
                                     ("mri", "grace_hopper")) for floor in (0.03, 0.01, 0.003)]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512])
    sizes = parser.parse_args(argv).sizes
    warnings.simplefilter("ignore", pmapde.StencilWarning)
    print("| source | target | floor | grid | status | Newton steps per grid | misplaced mass | folded | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for n in sizes:
        for source, target, floor in TO_UNIFORM + PAIRS:
            goal = np.ones((n, n)) if target is None else gallery.load(target, (n, n))
            problem = pmapde.TransportProblem(gallery.load(source, (n, n)), goal, floor=floor)
            begin = time.perf_counter()
            solution = pmapde.solve(problem, tolerance=1e-8, max_seconds=120)
            history = solution.history
            steps = [int(history["newton_iterations"][history["level"] == level].sum())
                     for level in range(history["level"].max() + 1)]
            print(f"| {source} | {target or 'uniform'} | {floor} | {n}^2 | {solution.status.name} | {steps} "
                  f"| {solution.push_forward_error:.2%} | {solution.folded_mass:.2%} "
                  f"| {time.perf_counter() - begin:.1f} |", flush=True)


if __name__ == "__main__":
    main()
