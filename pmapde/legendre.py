"""A potential on the grid as a C2 function: its gradient map, the inverse of that, Bregman distances."""
from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy import ndimage

from .ghosts import fold
from .kernels import spline

INVERTED = 1e-12
"""Tolerance of the inverse in the length of the target box."""


class SmoothPotential:
    """``u = q + phi`` with ``phi`` the cubic spline through its values at the cell centres.

    Even about no-flux faces (half-sample symmetry, so the gradient map sends faces to faces) or periodic. Where the
    spline is convex its gradient map is a bijection of the source box onto the target box. Gradient third, on smooth
    data at the cell centres fourth order in the spacing.

    Parameters
    ----------
    problem : TransportProblem
    phi : ndarray, (*shape)
        Displacement potential at the cell centres.
    """

    def __init__(self, problem, phi):
        self.problem, self.grid, self.phi = problem, problem.grid, np.ascontiguousarray(phi)

    @cached_property
    def _coefficients(self):
        coefficients = self.phi
        for axis, wraps in enumerate(self.grid.periodic):
            coefficients = ndimage.spline_filter1d(coefficients, 3, axis, mode="grid-wrap" if wraps else "reflect")
        for axis, (n, wraps) in enumerate(zip(self.grid.shape, self.grid.periodic)):
            coefficients = np.take(coefficients, fold(np.arange(-2, n + 2), n, wraps), axis=axis)
        return np.ascontiguousarray(coefficients.reshape(*coefficients.shape, *(1,) * (3 - self.grid.ndim)))

    @property
    def _spline(self):
        grid = self.grid
        return self._coefficients, np.array(grid.shape), grid.lower, grid.spacing, np.array(grid.periodic)

    def _affine(self, points):
        lower = self.grid.lower[:, None]
        return self.problem.slopes[:, None] * (points - lower) + self.problem.offsets[:, None]

    @cached_property
    def image(self):
        """``grad u`` at the cell centres, (d, cells), not wrapped."""
        return self.gradient(self.grid.cell_centres().reshape(self.grid.ndim, -1))[1]

    def gradient(self, points):
        """``phi`` and ``grad u`` at points (d, n), not wrapped."""
        value, slope = np.empty(points.shape[1]), np.empty(points.shape)
        spline.evaluate(*self._spline, points, value, slope)
        return value, slope + self._affine(points)

    def inverse(self, images, start):
        """``(x, phi(x), residual)``: ``grad u(x) = images`` (d, n), by damped Newton from ``start`` (d, n).

        ``residual`` (n,) is above ``INVERTED`` times the target's length where no such point was found.
        """
        points, value, residual = np.array(start), np.empty(images.shape[1]), np.empty(images.shape[1])
        spline.invert(*self._spline, self.problem.slopes, self.problem.offsets, np.ascontiguousarray(images),
                      INVERTED * float(self.problem.target_grid.lengths.max()), points, value, residual)
        return points, value, residual

    def bregman(self, other, density, start=None):
        """``(D, x, missed)``: the Bregman divergence of half W2^2 to the target, from the maps.

        ``D(sigma | rho) = integral of u(x) - u(z) - <grad u(z), x - z> dsigma(x)``, ``grad u(z) = grad u_sigma(x)``,
        where ``u`` is this potential (that of rho) and ``other`` that of sigma, whose values at the cells are
        ``density``. ``start`` (d, cells): first guess of z; ``missed`` the mass of cells whose z was not found (they do
        not count).
        """
        x = self.grid.cell_centres().reshape(self.grid.ndim, -1)
        images = other.image
        z, value, residual = self.inverse(images, x if start is None else start)
        slope = images - self._affine(z)  # grad phi(z), to the accuracy of the inverse
        gap = self.phi.ravel() - value
        for axis, stretch in enumerate(self.problem.slopes):
            step = x[axis] - z[axis]
            gap += step * (0.5 * stretch * step - slope[axis])
        found = residual <= 1e3 * INVERTED * float(self.problem.target_grid.lengths.max())
        mass = density.ravel() * self.grid.cell_volume
        return float((gap * mass)[found].sum()), z, float(mass[~found].sum())
