"""A million points through maps: there and back, back and there, and the seconds that takes, 2D and 3D.

    python benchmarks/bench_maps.py [--quick]

Points uniform in the box. Smooth: manufactured, array target. Photographs: grace_hopper to relief, floor 0.03.
Log-Gaussian fields and white noise of contrast 1000. Errors are the largest distances of points from where they come
back to, in a box of length 1; every map is checked (converged, nothing folded, round trips within 1e-8) before it is
timed. "First" is the first call of ``inverse_map``, which sorts the cells of the map into bins.
"""
import argparse
import time

import numpy as np
from common import report, seconds
from random_fields import pair

import pmapde
from pmapde import exact, gallery


def problems(quick):
    plane, space = (128, 32) if quick else (512, 64)
    for n, d in ((plane, 2), (space, 3)):
        yield "smooth", exact.manufactured((n,) * d, array_target=True).problem
        if d == 2:
            pictures = (gallery.load(name, (n, n)) for name in ("grace_hopper", "relief"))
            yield "photographs", pmapde.TransportProblem(*pictures, floor=0.03)
        for kind in ("log-Gaussian", "white noise"):
            yield kind, pmapde.TransportProblem(*pair(kind, (n,) * d, 1e3, 0))


def row(name, problem, count):
    solution = pmapde.solve(problem)
    points = np.random.default_rng(0).random((count, problem.ndim))
    begin = time.perf_counter()
    preimage = solution.inverse_map(points)
    first = time.perf_counter() - begin
    there = np.abs(solution.map(preimage) - points).max()
    back = np.abs(solution.inverse_map(solution.map(points)) - points).max()
    good = solution.success and solution.folded_mass == 0 and max(there, back) < 1e-8
    calls = {"map": solution.map, "inverse_map": solution.inverse_map, "jacobian": solution.jacobian,
             "geodesic": lambda x: solution.geodesic(x, 0.5)}
    return {"data": name, "grid": "x".join(map(str, problem.grid.shape)), "checked": "yes" if good else "NO",
            "map(inverse_map)": there, "inverse_map(map)": back, "first": first,
            **{call: seconds(lambda function=function: function(points)) for call, function in calls.items()}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ten thousand points on small grids, nothing written")
    quick = parser.parse_args().quick
    import numba
    count = 10_000 if quick else 1_000_000
    title = f"{count} points through maps: errors of round trips, seconds; {numba.get_num_threads()} thread(s)"
    report("maps", title, [row(name, problem, count) for name, problem in problems(quick)], write=not quick)


if __name__ == "__main__":
    main()
