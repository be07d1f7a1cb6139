"""Legendre transforms of samples; a potential as a C2 function: gradient map, its inverse, Bregman distances."""
from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy import ndimage

from .ghosts import fold
from .grid import Grid
from .kernels import legendre, spline

INVERTED = 1e-12
"""Tolerance of the inverse in the length of the target box."""


def legendre_conjugate(values, grid, conjugate_grid, between=False):
    """``u*(y) = max over the cell centres x of <x, y> - u(x)``, at the cell centres of ``conjugate_grid``.

    Exact for the samples, axis by axis, in time linear in the cells (Lucet 1997). Below the conjugate of the function
    that was sampled by at most ``d h^2 / 8`` times its largest second derivative, where the maximum is in the interior;
    with ``between`` of third order where the function is smooth.

    Parameters
    ----------
    values : array_like, (*shape)
        ``u``, not necessarily convex (the transform is that of its convex hull); ``inf`` outside its domain.
    grid, conjugate_grid : Grid
        The axes are taken as they are in space: periodicity does not count.
    between : bool
        Whether the maximum over each axis is also sought between the centres, on the parabolas through three of them,
        and between the outermost ones and the faces.

    Returns
    -------
    ndarray, (*conjugate_grid.shape)

    Raises
    ------
    TypeError, ValueError
        If the grids do not fit, or ``values`` holds NaN or ``-inf`` or is infinite everywhere.

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> grid = pmapde.Grid((65, 65), [(-2, 2), (-2, 2)])
    >>> half = (grid.cell_centres()**2).sum(axis=0) / 2
    >>> bool(np.allclose(pmapde.legendre_conjugate(half, grid, grid), half))        # its own conjugate
    True
    """
    for name, value in (("grid", grid), ("conjugate_grid", conjugate_grid)):
        if not isinstance(value, Grid):
            raise TypeError(f"`{name}` must be a pmapde.Grid, got {type(value).__name__}.")
    if grid.ndim != conjugate_grid.ndim:
        raise ValueError(f"`conjugate_grid` must have {grid.ndim} axes as `grid`, got {conjugate_grid.ndim}.")
    values = np.asarray(values, dtype=float)
    if values.shape != grid.shape or np.isnan(values).any() or (values == -np.inf).any() or values.min() == np.inf:
        raise ValueError(f"`values` must be numbers of shape {grid.shape}, inf outside the domain and finite somewhere,"
                         f" got shape {values.shape} with {int((~np.isfinite(values)).sum())} values that are not "
                         f"finite.")
    for axis in range(grid.ndim - 1, -1, -1):  # max over x1 of [x1 y1 - (-max over x2 of ...)]
        lines = np.ascontiguousarray(np.moveaxis(values, axis, -1))
        out = np.empty((*lines.shape[:-1], conjugate_grid.shape[axis]))
        legendre.conjugate_rows(grid.centres(axis), lines.reshape(-1, lines.shape[-1]), conjugate_grid.centres(axis),
                                between, out.reshape(-1, out.shape[-1]))
        values = -np.moveaxis(out, -1, axis)
    return np.ascontiguousarray(-values)


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
