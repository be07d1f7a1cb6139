"""R18: work counts and errors of twelve cases against those written down (``expected.json``)."""
import json
import warnings
from pathlib import Path

import numpy as np

import pmapde
from pmapde import exact

from .setting import rough

EXPECTED = Path(__file__).with_name("expected.json")
COUNT_SHARE, ERROR_SHARE = 0.2, 0.05


def cases():
    """Exact problems, whose error is the RMS of the map's, and rough ones, whose error is their misplaced mass."""
    return {
        "32^2": exact.manufactured((32, 32)), "64^2": exact.manufactured((64, 64)),
        "128^2": exact.manufactured((128, 128)), "60x84": exact.manufactured((60, 84)),
        "torus 64^2": exact.manufactured((64, 64), periodic=True),
        "array target 64^2": exact.manufactured((64, 64), array_target=True),
        "16^3": exact.manufactured((16,) * 3), "32^3": exact.manufactured((32,) * 3),
        "torus 24^3": exact.manufactured((24,) * 3, periodic=True),
        "log-Gaussian": rough("log-Gaussian", (32, 32), 1e3), "microscopy": rough("microscopy", (32, 32), 1e3),
        "white noise 16^3": rough("white noise", (16,) * 3, 10.0),
    }


def measured(case):
    """``[Newton steps, preconditioner applications, error]`` of a case."""
    known = isinstance(case, exact.ExactProblem)
    problem = case.problem if known else case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pmapde.StencilWarning)
        solution = pmapde.solve(problem)
    if known:
        x = problem.grid.cell_centres()
        moved = (case.map(x.reshape(problem.ndim, -1).T).T.reshape(x.shape)) - x
        error = float(np.sqrt(((solution.displacement - moved) ** 2).sum(axis=0).mean()))
    else:
        error = solution.push_forward_error
    applications = sum(counters["applications"] for counters in solution.stats["linear"].values())
    return [solution.stats["newton_iterations"], applications, error]


def record():
    """Write down what the cases give now."""
    found = {name: measured(case) for name, case in cases().items()}
    EXPECTED.write_text("{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in found.items())
                        + "\n}\n")


def drift(full):
    """Counts within a fifth (one at least), errors within a twentieth."""
    expected, drifted, tried = json.loads(EXPECTED.read_text()), [], 0
    for name, case in cases().items():
        if not full and isinstance(case, pmapde.TransportProblem):
            continue
        *counts, error = measured(case)
        *known, known_error = expected[name]
        tried += 1
        if (any(abs(now - then) > max(1, COUNT_SHARE * then) for now, then in zip(counts, known))
                or abs(error - known_error) > ERROR_SHARE * known_error):
            drifted.append(f"{name}: {counts} {error:.2e} were {known} {known_error:.2e}")
    return not drifted, f"{tried - len(drifted)} of {tried} cases as written down {'; '.join(drifted)}"
