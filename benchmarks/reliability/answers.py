"""R5: answers that symmetry, or doing nothing, gives."""
import numpy as np

import pmapde

from .setting import rough


def special_cases(full):
    """Flips and rotations of both densities flip the map; the identity; mass."""
    problem = rough("Gaussian, moderate", (24, 24), 10)
    source, target = problem.source_values, problem.target_values
    here, worst = pmapde.solve(problem), 0.0
    for change, back in ((lambda a: a[::-1], lambda d: np.stack([-d[0][::-1], d[1][::-1]])),
                         (lambda a: a.T, lambda d: np.stack([d[1].T, d[0].T])),
                         (lambda a: a[::-1, ::-1], lambda d: -d[:, ::-1, ::-1])):
        there = pmapde.solve(pmapde.TransportProblem(change(source), change(target)))
        worst = max(worst, float(np.abs(back(there.displacement) - here.displacement).max()))
    identity = pmapde.solve(pmapde.TransportProblem(source, source), pmapde.PseudoTransient(conserve=False))
    mass = abs(here.push_forward().sum() * problem.target_grid.cell_volume - 1)
    still = float(np.abs(identity.displacement).max())
    return worst < 1e-12 and mass < 1e-12 and still < 0.1 / 24, (  # a tenth of a cell: the discretisation
        f"flips and transposes to {worst:.0e}, identity moves {still:.0e} (cells of 4e-02), mass {mass:.0e}")
