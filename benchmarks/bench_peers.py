"""`pmapde benchmark` with one more rival, the back-and-forth method of Jacobs & Léger, our own in `back_and_forth.py`.

    python benchmarks/bench_peers.py [--quick] [--only PROBLEM ...] [--limit 5] [--threads 1] [--out DIR]

Until its residual stalls (ten to twenty iterations); its cost is the integral of the squared displacement, nearer
to the truth than its dual value. Everything else as in `pmapde/benchmark.py`, the solvers and their settings as in
`pmapde/peers.py`. Results in benchmarks/results/peers. About half an hour; `--quick` two minutes, to `--out` only.
"""
import argparse
import sys

import numpy as np
from common import RESULTS

from pmapde import benchmark, console, peers


def prepare(source, target):
    import back_and_forth
    back_and_forth.solve(np.ones((4,) * source.ndim), np.ones((4,) * source.ndim))  # compile

    def call():
        result = back_and_forth.solve(source, target)
        cost = float(((result.displacement**2).sum(axis=0) * source).mean())
        return peers.Answer(result.displacement, cost, result.iterations,
                            remark="not converged" if result.reason == "iterations" else "")

    return call


def solvers(quick):
    """Those of the package, and the rival."""
    largest = 64 if quick else 512
    return peers.solvers(quick) | {"back-and-forth": peers.Solver(
        prepare, ({},), (), tuple(n for n in (32, 64, 128, 256, 512) if n <= largest),
        tuple(n for n in (16, 32, 64) if n <= largest / 4))}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--limit", type=float)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default=RESULTS / "peers")
    options = parser.parse_args(arguments)

    def show(row):
        print(" ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()),
              file=sys.stderr, flush=True)

    with console.output(options.out, set()) as temporary:
        report = benchmark.run(options.only, solvers(options.quick), quick=options.quick, limit=options.limit,
                               threads=options.threads, progress=show)
        console.write_benchmark(report, temporary, True)
    print(report)
    return report


if __name__ == "__main__":
    main()
