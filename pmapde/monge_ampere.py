"""The Monge-Ampère operator on a grid: log residual, linearisation, admissibility, map."""
from __future__ import annotations

import math

import numpy as np

from .ghosts import fill_ghosts
from .kernels import monge_ampere_2d, monge_ampere_3d
from .linear.stencil import Stencil

OFFSETS_3D = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -1, 0), (1, 1, 0), (1, 0, -1), (1, 0, 1),
                       (0, 1, -1), (0, 1, 1)], dtype=np.int64)


ROUGH = 0.5
"""A target whose logarithm jumps by more between neighbouring cells is averaged over the images of the source cells."""


def superbases_2d(radius):
    """All superbases (e0, e1, -e0 - e1) of Z^2 with offsets of size at most ``radius``, and the offsets up to sign.

    Returns ``superbases`` (S, 3, 2), ``offsets`` (K, 2) with the axes first, and ``direction`` (S, 3), the row of
    ``offsets`` that each superbase vector is, up to sign. For radius 1 these are the two superbases of the 3x3 stencil.
    """
    offsets = [(1, 0), (0, 1)] + [(x, y) for x in range(1, radius + 1) for y in range(-radius, radius + 1)
                                  if y and math.gcd(x, abs(y)) == 1]
    index = {e: k for k, e in enumerate(offsets)} | {(-x, -y): k for k, (x, y) in enumerate(offsets)}
    found = {}
    for a in offsets:
        for b in index:
            c = (-a[0] - b[0], -a[1] - b[1])
            if abs(a[0] * b[1] - a[1] * b[0]) == 1 and c in index:
                triple = sorted((a, b, c), key=index.get)
                found.setdefault(tuple(index[e] for e in triple), triple)
    return (np.array(list(found.values()), dtype=np.int64), np.array(offsets, dtype=np.int64),
            np.array(list(found), dtype=np.int64))


class MongeAmpere:
    """``R(phi) = log det D2u + log nu(grad u) - log mu``, ``u = q + phi``, discretised on ``problem.grid``.

    Parameters
    ----------
    problem : TransportProblem
    scheme : {"monotone", "centred"}
        ``"monotone"`` (2D): log of the MA-LBR determinant of Benamou, Collino & Mirebeau (2016) on the 3x3 stencil,
        an infimum of linear degenerate-elliptic operators: concave, monotone, its linearisation (up to the
        lower-order term) an M-matrix. Exact for Hessians (in index space) of condition number up to 5.8 in any
        direction. ``"centred"``: the ordinary 9-point (19-point) differences. Both second order.
    """

    def __init__(self, problem, scheme="monotone", radius=1):
        self.problem = problem
        self.grid = grid = problem.grid
        self.scheme = scheme
        self.quadratic = problem.slopes * grid.spacing**2
        self.log_source = np.log(problem.source_values)
        self.row_weight = problem.source_values / problem.source_values.max()
        self.log_cell = 2 * float(np.log(grid.spacing).sum())
        self.radius = radius
        self.samples = self._target_samples()
        self.kernels = monge_ampere_2d if grid.ndim == 2 else monge_ampere_3d
        if scheme == "monotone":
            self.superbases, self.offsets, self.direction = superbases_2d(radius)
        else:
            self.offsets = superbases_2d(1)[1] if grid.ndim == 2 else OFFSETS_3D
        self.affine = [(problem.offsets[a] + problem.slopes[a] * (grid.centres(a) - grid.lower[a])).reshape(
            [-1 if b == a else 1 for b in range(grid.ndim)]) for a in range(grid.ndim)]
        self._padded = np.empty(tuple(n + 2 * radius for n in grid.shape))

    def _target_samples(self):
        """Points per axis at which the target is averaged over the image of a cell: 1 unless the target is rough."""
        if self.problem.target.roughness < ROUGH:
            return 1
        return 4 if self.grid.ndim == 2 else 3

    def _pad(self, phi):
        self._padded[(slice(self.radius, -self.radius),) * phi.ndim] = phi
        fill_ghosts(self._padded, self.radius, self.grid.periodic)
        return self._padded

    def map(self, phi):
        """``grad u`` at the cell centres, (d, *shape); beyond a periodic box where it leads there."""
        image = np.empty((self.grid.ndim, *self.grid.shape))
        self.kernels.displacement(self._pad(phi), self.radius, self.grid.spacing, image)
        for axis, affine in enumerate(self.affine):
            image[axis] += affine
        return image

    def log_determinant(self, phi):
        """``log det D2u``, NaN where ``u`` is inadmissible."""
        out = np.empty(self.grid.shape)
        if self.scheme == "monotone":
            self.kernels.monotone_log_determinant(self._pad(phi), self.radius, self.offsets, self.direction,
                                                  self.quadratic, self.log_cell, out)
        else:
            self.kernels.centred_log_determinant(self._pad(phi), self.quadratic, self.log_cell, out)
        return out

    def _log_target(self, phi, gradient):
        """``log nu`` at (or averaged over) the image of every cell, its gradient, and its derivative in ``D2u h``."""
        target, dimension = self.problem.target, self.grid.ndim
        if target.is_uniform and not gradient:
            return target.log_density_by_component(np.zeros((dimension, 1)), False)[0][0], None, None
        points = self.map(phi).reshape(dimension, -1)
        if self.samples == 1:
            value, slope = target.log_density_by_component(points, gradient)
            moment = None
        else:
            edges = np.empty((dimension, dimension, *self.grid.shape))
            self.kernels.image_edges(self._pad(phi), self.radius, self.quadratic, self.grid.spacing, edges)
            value, slope, moment = target.log_average(points, edges.reshape(dimension, dimension, -1), self.samples,
                                                      gradient)
        shape = self.grid.shape
        return (value.reshape(shape), slope.reshape(dimension, *shape) if gradient else None,
                moment.reshape(dimension, dimension, *shape) if moment is not None else None)

    def residual(self, phi):
        """The log residual, (*shape); NaN where ``u`` is inadmissible. Its mean is the drift."""
        residual = self.log_determinant(phi)
        residual += self._log_target(phi, False)[0]
        residual -= self.log_source
        return residual

    def linearise(self, phi, shift=0.0):
        """The :class:`Stencil` of ``shift - dR/dphi`` at an admissible ``phi``."""
        weights = np.empty((len(self.offsets), *self.grid.shape))
        if self.scheme == "monotone":
            self.kernels.monotone_weights(self._pad(phi), self.radius, self.superbases, self.direction,
                                          self.quadratic, weights, np.empty(self.grid.shape, dtype=np.bool_))
        else:
            self.kernels.centred_weights(self._pad(phi), self.quadratic, weights)
        drift = np.zeros((self.grid.ndim, *self.grid.shape))
        if not self.problem.target.is_uniform:
            _, slope, moment = self._log_target(phi, True)
            for axis, spacing in enumerate(self.grid.spacing):
                np.divide(slope[axis], 2 * spacing, out=drift[axis])
            if moment is not None:
                self._add_moments(weights, moment)
        return Stencil(weights, drift, self.offsets, self.grid.periodic, shift, self.row_weight)

    def _add_moments(self, weights, moment):
        """Dependence of the averaged target on the Hessian: ``sum_ab moment[a, b] h_b D_ab w``, centred differences."""
        h, rows = self.grid.spacing, {tuple(e): k for k, e in enumerate(self.offsets)}
        for a in range(self.grid.ndim):
            weights[a] += moment[a, a] / h[a]
            for b in range(a + 1, self.grid.ndim):
                mixed = (moment[a, b] / h[a] + moment[b, a] / h[b]) / 4  # D_ab = (D_{a+b} - D_{a-b}) / 4
                for sign in (1, -1):
                    offset = [0] * self.grid.ndim
                    offset[a], offset[b] = 1, sign
                    weights[rows[tuple(offset)]] += sign * mixed

    def narrow_cells(self, phi):
        """Cells where the stencil is too narrow for the Hessian: the log determinant is then inconsistent there."""
        narrow = np.zeros(self.grid.shape, dtype=np.bool_)
        if self.scheme == "monotone":
            self.kernels.monotone_weights(self._pad(phi), self.radius, self.superbases, self.direction,
                                          self.quadratic, np.empty((len(self.offsets), *self.grid.shape)), narrow)
        return narrow

    def margin(self, phi):
        """Smallest second difference (monotone) or Hessian eigenvalue (centred) of ``u`` relative to that of ``q``.

        Affine in ``phi``: ``margin(t phi) = 1 - t (1 - margin(phi))`` for ``t >= 0``.
        """
        rows = np.empty(self.grid.shape[0])
        if self.scheme == "monotone":
            self.kernels.monotone_margin(self._pad(phi), self.radius, self.offsets, self.quadratic, rows)
        else:
            self.kernels.centred_margin(self._pad(phi), self.quadratic, rows)
        return float(rows.min())
