"""The accuracy table of docs/benchmarks.md: errors of `solve` with its defaults on problems with known answers."""
import argparse

import pmapde
from pmapde import exact

PROBLEMS = {
    "separable cosine to uniform": exact.separable_cosine,
    "non-separable, non-uniform target": exact.manufactured,
    "the same on the torus": lambda shape: exact.manufactured(shape, periodic=True),
    "expanding Gaussians": exact.gaussians,
}
SIZES = {2: (64, 128, 256, 512), 3: (16, 32, 64)}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave the largest size of each dimension out")
    quick = parser.parse_args(argv).quick
    print("| problem | grid | map error, L2(mu) | W2^2, relative | potential, sup mod constants | Newton steps, cycles "
          "| extrapolated: map | W2^2 |")
    print("|---|---|---|---|---|---|---|---|")
    for dimension, sizes in SIZES.items():
        for title, build in PROBLEMS.items():
            for n in sizes[:-1] if quick else sizes:
                problem = build((n,) * dimension)
                solution = pmapde.solve(problem.problem)
                assert solution.success, str(solution)
                finest = solution.history["level"] == solution.history["level"].max()
                steps, cycles = (solution.history[name][finest].sum() for name in ("newton_iterations", "applications"))
                sharp = pmapde.solve(problem.problem, extrapolate="map")
                extrapolated = [f"{problem.map_error(sharp.displacement):.1e}",
                                f"{abs(sharp.cost / problem.cost - 1):.1e}"]
                if sharp.extrapolation != "map":
                    extrapolated = ["not done"] * 2
                print(f"| {title} | {n}^{dimension} | {problem.map_error(solution.displacement):.1e} "
                      f"| {abs(solution.cost / problem.cost - 1):.1e} "
                      f"| {problem.potential_error(solution.potential):.1e} | {steps}, {cycles} "
                      f"| {' | '.join(extrapolated)} |", flush=True)


if __name__ == "__main__":
    main()
