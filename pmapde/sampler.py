"""Draws through one map, and how good they are; references whose tails match those of a posterior's box."""
from __future__ import annotations

import math

import numpy as np
from scipy import special

from .density import LogDensity
from .grid import Grid
from .importance import pareto_k
from .samples import uniforms

DIAGNOSED = 2**14
"""Draws (quasi-Monte Carlo) behind the KL gap and Pareto's k."""


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

    Attributes
    ----------
    log_mass, log_evidence : float
        By quadrature on the solution's grid; that less the solution's drift.
    mean, covariance, moment_error, kl_gap, pareto_k
        See :class:`~pmapde.variational.BrenierPosterior`.
    """

    def __init__(self, locator, reference, solution):
        self.locator, self.reference, self.solution = locator, reference, solution
        problem, whitening = solution.problem, locator.whitening
        grid = problem.grid
        self.log_mass = problem.source_log_mass
        self.log_evidence = self.log_mass - solution.drift
        mean, covariance = _weighted(grid.cell_centres(), problem.source_values)
        self.mean, self.covariance = whitening.backward(mean[None])[0], whitening.root @ covariance @ whitening.root.T
        y = problem.target_grid.cell_centres().reshape(grid.ndim, -1).T
        own_mean, own_covariance = _weighted(whitening.backward(solution.inverse_map(y)).T, problem.target_values)
        sd = np.sqrt(np.diag(self.covariance))
        self.moment_error = float(max((np.abs(own_mean - self.mean) / sd).max(),
                                      np.abs(np.sqrt(np.diag(own_covariance)) / sd - 1).max()))
        _, log_weights = self.importance(uniforms(DIAGNOSED, grid.ndim, np.random.default_rng(0), "sobol"))
        self.kl_gap = float(np.mean(self.log_mass - log_weights)) if np.isfinite(log_weights).all() else math.inf
        self.pareto_k = pareto_k(log_weights)

    @property
    def maps_well(self):
        return self.solution.success and not self.pareto_k > 0.5

    def draw(self, uniform):
        """``(x, y, z)``: uniform numbers (n, d) as draws of the posterior, of the reference, and in whitened
        coordinates."""
        y = self.reference.quantiles(uniform)
        z = self.solution.inverse_map(y)
        return self.locator.whitening.backward(z), y, z

    def importance(self, uniform):
        """``(x, log_weights)``, see :meth:`~pmapde.variational.BrenierPosterior.importance`."""
        x, y, z = self.draw(uniform)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_model = self.reference.log_density(y) + np.log(np.linalg.det(self.solution.jacobian(z)))
        return x, self.locator.values(x) + self.locator.whitening.log_determinant - log_model


def _weighted(x, weights):
    """Mean and covariance of points (d, ...) with weights (...)."""
    x, weights = x.reshape(len(x), -1), weights.ravel() / weights.sum()
    mean = x @ weights
    return mean, ((x - mean[:, None]) * weights) @ (x - mean[:, None]).T
