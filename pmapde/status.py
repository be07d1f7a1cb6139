"""Why a run stopped. The value of a member is its diagnosis and remedy, shown wherever the status is."""
from enum import Enum


class Status(Enum):
    """Reason for a stop; ``success`` is true for the first five.

    Examples
    --------
    >>> import pmapde
    >>> pmapde.Status.CONVERGED.success
    True
    """

    CONVERGED = "The equation is solved to the tolerance."
    FINAL_TIME = "The requested time or step was reached."
    MARGINALS_MET = "The marginals of the entropic plan are within the tolerance."
    SWEEPS_DONE = "The sweeps asked for were made."
    STOPPED = "The callback asked to stop."
    MAX_STEPS = "The step limit was reached before the tolerance: raise max_steps, or loosen tolerance if the residual no longer falls."
    MAX_SWEEPS = "The sweep limit was reached before the marginal tolerance: raise iterations, loosen tolerance, take a larger epsilon, or leave overrelaxation and annealing to their defaults."
    MAX_SECONDS = "The time limit was reached before the tolerance: raise max_seconds; solve() goes on from the partial potential with start=."
    STAGNATED = "The residual stopped falling above the tolerance, at the level of rounding errors: loosen tolerance."
    NEWTON_STALLED = "No step, however damped, lowered the residual: the target varies too fast for this grid; use a finer grid, a larger floor or a smoother target, or solve problem.swapped(); a fixed step of the flow: take a shorter one, or none for error control."
    STEP_TOO_SMALL = "The implicit step shrank to nothing: the densities vary too fast for this grid; use a finer grid, a larger floor or a smoother target."
    MASS_MISPLACED = "The equation is solved, but its map leaves more than 2 % of the mass in the wrong place: the densities vary too much from cell to cell for this grid; use a finer grid, a larger floor or smoother densities."
    FOLDED = "The equation is solved, but its map is not one-to-one and could not be straightened: the densities vary too much from cell to cell for this grid; use a finer grid, a larger floor or smoother densities."
    NOT_RESOLVED = "The stated tail and discretisation errors were not met on the largest grid allowed: raise max_cells or tolerance, give bounds= that cut off long tails, or reparametrise towards a Gaussian."
    LINEAR_STALLED = "The linear solver missed its tolerance with every preconditioner allowed: use linear=Automatic(), or raise max_applications."
    DIVERGED = "The marginals of the entropic plan ran away: take step below 2 epsilon, overrelaxation='auto', or a start that is a convex potential."
    NONFINITE = "NaN or infinity appeared in the residual: the target's log-density is not finite where the map goes: check its function and box; arrays of extreme contrast need a floor."
    CONVEXITY_LOST = "An explicit step left the convex potentials: take a smaller step (explicit_limit tells the limit), on_convexity_loss='shorten', or scheme='implicit'."

    @property
    def success(self):
        return self in (Status.CONVERGED, Status.FINAL_TIME, Status.MARGINALS_MET, Status.SWEEPS_DONE, Status.STOPPED)


class SolverError(RuntimeError):
    """Raised by ``solve(..., throw=True)`` on failure; ``status`` says why, ``solution`` holds the partial result."""

    def __init__(self, status, solution):
        super().__init__(f"{status.name}: {status.value}")
        self.status = status
        self.solution = solution
