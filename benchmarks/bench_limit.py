"""Local rates in epsilon of the distance between Sinkhorn and the flow, on torus and box, for several pairs and grids.

    python benchmarks/bench_limit.py [--quick]

``pmapde.sinkhorn_limit`` from epsilon = 1/100 on, halved from row to row. *sup*: over the closed box; *centres*: over
the cell centres alone, which on a box are half a cell from where the difference is largest; *middle*: over the middle
60 %; *W2*: of the marginals; *blur* of the smaller temperature, in cells; *floor*: the flow's own error in space over
the distance. The torus and the first box are those of ``pmapde rates --only limit`` and
``notebooks/sinkhorn_limit.ipynb``; of the others some have no normal derivative on the faces and some do. With
``tight`` the flow's tolerance in time is 1e-8 instead of 1e-6.

Results in benchmarks/results/limit.{txt,csv}. Two minutes.
"""
import argparse

import numpy as np
from common import report

import pmapde

EPSILONS = [1 / 100, 1 / 200, 1 / 400, 1 / 800, 1 / 1600]


def pairs(n):
    """Name to ``(periodic, source, target, time)``."""
    x = ((np.arange(n) + 0.5) / n)[:, None]
    y, cos, one = x.T, lambda z: np.cos(np.pi * z), np.ones((n, n))
    wave = 1 + 0.3 * cos(x) * cos(2 * y)
    return {"torus": (True, 1 + 0.3 * cos(2 * x) * cos(2 * y), (1 + 0.3 * np.cos(2 * np.pi * x + 0.5)) * one, 0.05),
            "box": (False, wave, (1 + 0.3 * cos(2 * x)) * one, 0.05),
            "box, later": (False, wave, (1 + 0.3 * cos(2 * x)) * one, 0.2),
            "box, stronger": (False, 1 + 0.7 * cos(x) * cos(y), (1 + 0.6 * cos(2 * y)) * one, 0.1),
            "box, uniform target": (False, wave, one, 0.05),
            "box, uniform source": (False, one, wave, 0.05),
            "box, slopes on the faces": (False, 1 + 0.5 * (x - 0.5) + 0.2 * y, 1 - 0.4 * (y - 0.5) * x, 0.05)}


def rows(name, n, shifted=False, tolerance=1e-6):
    periodic, source, target, time = pairs(n)[name]
    problem = pmapde.TransportProblem(source, target, grid=pmapde.Grid((n, n), periodic=periodic))
    gap = pmapde.sinkhorn_limit(problem, EPSILONS, time, shifted=shifted, checkpoints=0, tolerance=tolerance)
    rates = {measure: gap.slopes(column) for measure, column in (("sup", "sup"), ("centres", "centres"),
                                                                 ("middle", "interior"), ("L2", "l2"), ("W2", "w2"))}
    for k, (epsilon, distance) in enumerate(zip(gap.epsilon[1:], gap.sup[1:].tolist())):
        yield {"pair": name, "grid": f"{n}^2", "start": "half-shifted" if shifted else "plain",
               "tight": "yes" if tolerance < 1e-6 else "", "1/epsilon": round(1 / epsilon),
               "distance": distance, **{measure: round(float(rate[k]), 4) for measure, rate in rates.items()},
               "blur": float(gap.blur[k + 1]), "floor": gap.floor / distance}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="64^2 only, nothing written")
    quick = parser.parse_args(arguments).quick
    cases = [(name, 64 if quick else 256) for name in pairs(4)]
    found = [row for case in cases for row in rows(*case)]
    found += [row for name in ("torus", "box") for row in rows(name, cases[0][1], shifted=True)]
    if not quick:
        found += [row for n in (64, 128, 512) for row in rows("box", n)]
        found += rows("box", 128, tolerance=1e-8)
    report("limit", "Sinkhorn against the flow: local rates in epsilon", found, write=not quick)
    return found


if __name__ == "__main__":
    main()
