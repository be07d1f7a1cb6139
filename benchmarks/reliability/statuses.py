"""R3: every stop has a named reason."""
import warnings
from unittest import mock

import numpy as np

import pmapde
from pmapde import schedules
from pmapde.models import MODELS
from pmapde.status import Status
from pmapde.transport import PiecewiseAffineMap

from .setting import rough, smooth


def _folded():
    """A solution whose folds stay: straightening them, which succeeds on nearly everything, is left out."""
    with mock.patch.object(PiecewiseAffineMap, "unfolded", lambda self, source_values: self):
        return pmapde.solve(rough(seed=2), pmapde.PseudoTransient(subdivision=1, entropic=False))


def statuses():
    """How each Status is reached: a function without arguments that returns the result."""
    grid = pmapde.Grid((32, 32))
    centres = grid.cell_centres().reshape(2, -1).T

    def holes(x):  # finite at the cell centres, where the problem looks; not between them
        return np.where(np.abs(x[:, None, 0] - centres[None, ::32, 0]).min(axis=1) < 1e-9, 0.0, np.inf)

    wave = 1 + 0.5 * np.cos(np.pi * grid.cell_centres()[0])
    not_finite = pmapde.TransportProblem(wave, pmapde.LogDensity(holes, gradient=lambda x: 0 * x))
    plain, easy = pmapde.PseudoTransient(conserve=False), smooth(24)
    impatient = pmapde.PseudoTransient(conserve=False, nested=False, smallest_step=1e3,
                                       newton=pmapde.Newton(max_halvings=0))
    return {
        Status.CONVERGED: lambda: pmapde.solve(easy),
        Status.FINAL_TIME: lambda: pmapde.flow(easy, 0.01),
        Status.MARGINALS_MET: lambda: pmapde.sinkhorn(easy, 0.01),
        Status.SWEEPS_DONE: lambda: pmapde.sinkhorn(easy, 0.01, 2),
        Status.STOPPED: lambda: pmapde.solve(easy, callback=lambda step: True),
        Status.MAX_STEPS: lambda: pmapde.solve(rough(), max_steps=1),
        Status.MAX_SWEEPS: lambda: pmapde.sinkhorn(easy, 1e-3, 2, tolerance=1e-9),
        Status.MAX_SECONDS: lambda: pmapde.solve(rough(), max_seconds=0),
        Status.STAGNATED: lambda: pmapde.solve(rough("logit", (12, 12, 12), 1e6), plain, tolerance=1e-300),
        Status.NEWTON_STALLED: lambda: pmapde.flow(rough("photographs", (32, 32)), 1.0, pmapde.BackwardEuler(
            step=0.5, max_iterations=1)),
        Status.STEP_TOO_SMALL: lambda: pmapde.solve(rough("white noise", (32, 32), 1e3), impatient),
        Status.MASS_MISPLACED: lambda: pmapde.solve(rough(shape=(32, 32)), plain),
        Status.FOLDED: _folded,
        Status.LINEAR_STALLED: lambda: pmapde.solve(rough("shapes", (16, 16), 1e6), pmapde.PseudoTransient(
            conserve=False, nested=False, linear=pmapde.Spectral())),
        Status.NOT_RESOLVED: lambda: MODELS["two_modes"].posterior(tolerance=1e-9, max_cells=2**14).fit(),
        Status.DIVERGED: lambda: pmapde.sinkhorn(easy, 1e-3, 600, step=2.2e-3),
        Status.NONFINITE: lambda: pmapde.solve(not_finite),
        Status.CONVEXITY_LOST: lambda: pmapde.mirror_descent(easy, schedules.constant(100.0, True), 3),
    }


def every_status(full):
    reached = {}
    for status, run in statuses().items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reached[status] = run().status
    wrong = [f"{status.name} gave {got.name}" for status, got in reached.items() if got is not status]
    missing = set(Status) - set(reached)
    return not wrong and not missing, f"{len(reached) - len(wrong)} of {len(Status)} reached {'; '.join(wrong)}"
