"""Draws through one map, and how good they are; references whose tails match those of a posterior's box."""
from __future__ import annotations

import math

import numpy as np
from scipy import special

from .density import LogDensity
from .grid import Grid
from .importance import pareto_k
from .samples import stream

DIAGNOSED, COUNTED = 2**14, 2**17
"""Draws (quasi-Monte Carlo) behind the KL gap and Pareto's k, and behind the share that edges reject."""

EQUAL = 1.05
"""Importance weights that are all below this multiple of their mean are as good as equal, the tail of their differences
says nothing."""

AT_A_TIME = 2**20
"""Draws of which some are rejected."""


class MatchedReference:
    """A reference with the tails of the posterior's box: independent standard normals, each cut off where it leaves
    ``share`` of its mass on either side, or uniforms on the unit box."""

    def __init__(self, name, dimension, share):
        self.name, self.uniform, self.dimension = name, name == "uniform", dimension
        self.reach = 0.5 if self.uniform else float(-special.ndtri(share))
        self.log_mass = 0.0 if self.uniform else dimension * math.log1p(-2 * share)
        self.share = share

    def grid(self, shape):
        return Grid(shape, [(-self.reach, self.reach)] * self.dimension)

    def log_density(self, y):
        """(n, d) to (n,), normalised on the box."""
        if self.uniform:
            return np.zeros(len(y))
        return -0.5 * (y**2).sum(axis=1) - 0.5 * self.dimension * math.log(2 * math.pi) - self.log_mass

    def density(self, background):
        """As a target, no lower than a uniform background of the given mass."""
        lowest = math.log(background) - self.dimension * math.log(2 * self.reach)

        def value(y):
            return np.logaddexp(self.log_density(y), lowest)

        def gradient(y):
            return np.zeros_like(y) if self.uniform else -y * special.expit(self.log_density(y) - lowest)[:, None]
        return LogDensity(value, gradient)

    def quantiles(self, uniform):
        """Uniform numbers (n, d) as draws."""
        if self.uniform:
            return uniform - 0.5
        return special.ndtri(self.share + (1 - 2 * self.share) * uniform)


class Sampler:
    """A posterior as the image of a reference under the inverse map of one solution, and what is measured of it.

    Where the posterior jumps to zero the source is its continuation (:func:`pmapde.support.continued`): draws beyond
    the edge are rejected, and the model is what is left.

    Parameters
    ----------
    locator : Locator
    reference : MatchedReference
    solution : Solution
    log_masses : ndarray, (*shape)
        Of the posterior in the cells of the solution's grid, up to the determinant of the whitening.

    Attributes
    ----------
    log_mass, log_evidence : float
        By quadrature on the solution's grid; the mass of the source less the solution's drift, and of what is accepted.
    accepted : float
        Share of the draws that are not rejected.
    mean, covariance, moment_error, kl_gap, pareto_k, largest_weight
        See :class:`~pmapde.variational.BrenierPosterior`.
    """

    def __init__(self, locator, reference, solution, log_masses):
        self.locator, self.reference, self.solution = locator, reference, solution
        problem, whitening = solution.problem, locator.whitening
        grid, highest = problem.grid, log_masses.max()
        masses = np.exp(log_masses - highest)
        self.log_mass = float(highest + np.log(masses.sum())) + whitening.log_determinant
        mean, covariance = _weighted(grid.cell_centres(), masses)
        self.mean, self.covariance = whitening.backward(mean[None])[0], whitening.root @ covariance @ whitening.root.T
        following = stream(grid.ndim, np.random.default_rng(0), "sobol")
        x, log_weights = self.importance(following(DIAGNOSED))
        inside = self._inside(x)
        self.accepted = float(inside.mean())
        if self.accepted < 1:
            others = self._inside(self.map(following(COUNTED - DIAGNOSED))[0])
            self.accepted = float((inside.sum() + others.sum()) / COUNTED)
        with np.errstate(divide="ignore"):
            rejected = float(np.log(self.accepted))
        self.log_evidence = problem.source_log_mass - solution.drift + rejected
        gaps = self.log_mass - log_weights[inside]
        self.kl_gap = float(gaps.mean()) - rejected if len(gaps) and np.isfinite(gaps).all() else math.inf
        self.pareto_k = pareto_k(log_weights[inside])
        self.largest_weight = _largest(log_weights[inside])
        self.moment_error = self._moment_error()

    def _moment_error(self):
        y = self.solution.problem.target_grid.cell_centres().reshape(len(self.mean), -1).T
        x = self.locator.whitening.backward(self.solution.inverse_map(y))
        weights = self.solution.problem.target_values.ravel()
        if self.accepted < 1:
            weights = weights * self._inside(x)
        mean, covariance = _weighted(x.T, weights)
        sd = np.sqrt(np.diag(self.covariance))
        return float(max((np.abs(mean - self.mean) / sd).max(), np.abs(np.sqrt(np.diag(covariance)) / sd - 1).max()))

    @property
    def maps_well(self):
        return self.solution.success and self.weighs_well

    @property
    def weighs_well(self):
        return not (self.pareto_k > 0.5 and not self.largest_weight < EQUAL)

    def _inside(self, x):
        return self.locator.values(x) > -np.inf

    def map(self, uniform):
        """``(x, y, z)``: uniform numbers (n, d) as draws of the posterior, of the reference, and in whitened
        coordinates; some beyond the edges of the posterior."""
        y = self.reference.quantiles(uniform)
        z = self.solution.inverse_map(y)
        return self.locator.whitening.backward(z), y, z

    def draw(self, n, numbers):
        """``n`` draws of the posterior from ``numbers(m)``, the next m uniform ones, (m, d); those beyond its edges are
        rejected."""
        if not self.accepted > 0:
            raise ValueError("no draw lies where the posterior is positive: the fit has failed, see `status`.")
        if self.accepted == 1:
            return self.map(numbers(n))[0]
        found = np.empty((0, len(self.mean)))
        while len(found) < n:
            needed = math.ceil(1.02 * (n - len(found)) / self.accepted) + 8
            x, _, _ = self.map(numbers(min(needed, AT_A_TIME)))
            found = np.vstack([found, x[self._inside(x)]])
        return found[:n]

    def importance(self, uniform):
        """``(x, log_weights)``, see :meth:`~pmapde.variational.BrenierPosterior.importance`."""
        x, y, z = self.map(uniform)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_model = self.reference.log_density(y) + np.log(np.linalg.det(self.solution.jacobian(z)))
            return x, self.locator.values(x) + self.locator.whitening.log_determinant - log_model


def _largest(log_weights):
    """In units of the mean; NaN where there are none, or one is infinite or not a number."""
    if not len(log_weights) or not log_weights.max() < np.inf:
        return math.nan
    weights = np.exp(log_weights - log_weights.max())
    return float(1 / weights.mean())


def _weighted(x, weights):
    """Mean and covariance of points (d, ...) with weights (...)."""
    x, weights = x.reshape(len(x), -1), weights.ravel() / weights.sum()
    mean = x @ weights
    return mean, ((x - mean[:, None]) * weights) @ (x - mean[:, None]).T
