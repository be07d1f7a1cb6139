"""Tensor-product cubic B-splines in two or three dimensions: value, gradient, Hessian; inverse of the gradient map.

``coefficients`` (n1 + 4, n2 + 4, n3 + 4 | 1) carry two ghost layers per axis, filled by the caller; in 2D the third
axis has one entry. Points are (d, n). Cell centre i is at ``lower + (i + 1/2) spacing``.
"""
import math

import numpy as np
from numba import njit, prange

BLOCK = 256
ITERATIONS = 50
HALVINGS = 10


@njit(cache=True, error_model="numpy")
def _jet(coefficients, shape, lower, spacing, periodic, x, first, basis, gradient, hessian):
    """Value at ``x``; gradient and Hessian are written. ``first`` (3) and ``basis`` (3, 3, 4) are work space:
    first coefficient and weights of the value, slope and curvature along each axis."""
    dimension = shape.shape[0]
    for a in range(dimension):
        n = shape[a]
        t = (x[a] - lower[a]) / spacing[a]
        if periodic[a]:
            t -= n * math.floor(t / n)
        s = (min(max(t, 0.0), float(n)) if t == t else 0.0) - 0.5
        i = min(int(math.floor(s)), n - 1)
        f, h = s - i, spacing[a]
        g = 1.0 - f
        first[a] = i + 1  # cell i - 1 is stored at i + 1
        b = basis[a]
        b[0, 0], b[0, 3] = g * g * g / 6.0, f * f * f / 6.0
        b[0, 1] = (3.0 * f * f * f - 6.0 * f * f + 4.0) / 6.0
        b[0, 2] = (3.0 * g * g * g - 6.0 * g * g + 4.0) / 6.0
        b[1, 0], b[1, 3] = -g * g / (2.0 * h), f * f / (2.0 * h)
        b[1, 1], b[1, 2] = f * (3.0 * f - 4.0) / (2.0 * h), -g * (3.0 * g - 4.0) / (2.0 * h)
        b[2, 0], b[2, 3] = g / (h * h), f / (h * h)
        b[2, 1], b[2, 2] = (3.0 * f - 2.0) / (h * h), (3.0 * g - 2.0) / (h * h)
    depth = 4
    if dimension == 2:
        first[2], depth = 0, 1
        basis[2, 0, 0], basis[2, 1, 0], basis[2, 2, 0] = 1.0, 0.0, 0.0
    value = 0.0
    gradient[:] = 0.0
    hessian[:] = 0.0
    for i in range(4):
        for j in range(4):
            line = coefficients[first[0] + i, first[1] + j]
            plain, slope, curve = 0.0, 0.0, 0.0
            for k in range(depth):
                c = line[first[2] + k]
                plain += basis[2, 0, k] * c
                slope += basis[2, 1, k] * c
                curve += basis[2, 2, k] * c
            u, du, ddu = basis[0, 0, i], basis[0, 1, i], basis[0, 2, i]
            v, dv, ddv = basis[1, 0, j], basis[1, 1, j], basis[1, 2, j]
            value += u * v * plain
            gradient[0] += du * v * plain
            gradient[1] += u * dv * plain
            gradient[2] += u * v * slope
            hessian[0, 0] += ddu * v * plain
            hessian[0, 1] += du * dv * plain
            hessian[1, 1] += u * ddv * plain
            hessian[0, 2] += du * v * slope
            hessian[1, 2] += u * dv * slope
            hessian[2, 2] += u * v * curve
    return value


@njit(cache=True, parallel=True, error_model="numpy")
def evaluate(coefficients, shape, lower, spacing, periodic, points, value, gradient):
    """The spline and its gradient at points."""
    dimension, count = points.shape
    for block in prange((count + BLOCK - 1) // BLOCK):
        first, basis = np.empty(3, dtype=np.int64), np.empty((3, 3, 4))
        slope, hessian, x = np.empty(3), np.empty((3, 3)), np.empty(3)
        for k in range(block * BLOCK, min(count, (block + 1) * BLOCK)):
            for a in range(dimension):
                x[a] = points[a, k]
            value[k] = _jet(coefficients, shape, lower, spacing, periodic, x, first, basis, slope, hessian)
            for a in range(dimension):
                gradient[a, k] = slope[a]


@njit(cache=True, error_model="numpy")
def _newton_direction(dimension, g, h, slopes, d):
    """``-H^-1 g`` by Cholesky's factorisation; ``-g / slopes`` where H is not positive definite."""
    a, b, c = h[0, 0], h[0, 1], h[1, 1]
    positive = a > 0.0
    l10 = b / a
    p = c - b * l10
    positive = positive and p > 0.0
    if dimension == 2 and positive:
        y = g[1] - l10 * g[0]
        d[1] = -y / p
        d[0] = -g[0] / a - l10 * d[1]
        return
    if dimension == 3 and positive:
        l20 = h[0, 2] / a
        l21 = (h[1, 2] - l20 * b) / p
        r = h[2, 2] - l20 * h[0, 2] - l21 * l21 * p
        if r > 0.0:
            y1 = g[1] - l10 * g[0]
            y2 = g[2] - l20 * g[0] - l21 * y1
            d[2] = -y2 / r
            d[1] = -y1 / p - l21 * d[2]
            d[0] = -g[0] / a - l10 * d[1] - l20 * d[2]
            return
    for k in range(dimension):
        d[k] = -g[k] / slopes[k]


@njit(cache=True, parallel=True, error_model="numpy")
def invert(coefficients, shape, lower, spacing, periodic, slopes, offsets, images, tolerance, points, value, residual):
    """``points`` with ``slopes (x - lower) + offsets + gradient of the spline = images``.

    Damped Newton from the ``points`` given, clipped to the box on axes that are not periodic. ``value``: the spline
    there; ``residual``: largest component of what is missing to the image.
    """
    dimension, count = images.shape
    for block in prange((count + BLOCK - 1) // BLOCK):
        first, basis = np.empty(3, dtype=np.int64), np.empty((3, 3, 4))
        g, h, x, d, trial = np.empty(3), np.empty((3, 3)), np.empty(3), np.empty(3), np.empty(3)
        for k in range(block * BLOCK, min(count, (block + 1) * BLOCK)):
            for a in range(dimension):
                x[a] = points[a, k]
            v, size = math.nan, math.inf
            for iteration in range(ITERATIONS):
                step = 1.0 if iteration else 0.0
                accepted = False
                for _ in range(HALVINGS):
                    for a in range(dimension):
                        y = x[a] + step * d[a] if iteration else x[a]
                        if not periodic[a]:
                            y = min(max(y, lower[a]), lower[a] + shape[a] * spacing[a])
                        trial[a] = y
                    new = _jet(coefficients, shape, lower, spacing, periodic, trial, first, basis, g, h)
                    largest = 0.0
                    for a in range(dimension):
                        g[a] += slopes[a] * (trial[a] - lower[a]) + offsets[a] - images[a, k]
                        h[a, a] += slopes[a]
                        largest = max(largest, abs(g[a]))
                    if largest < size:
                        accepted = True
                        break
                    step *= 0.5
                if not accepted:
                    break
                v, size = new, largest
                for a in range(dimension):
                    x[a] = trial[a]
                if size <= tolerance:
                    break
                _newton_direction(dimension, g, h, slopes, d)
            value[k], residual[k] = v, size
            for a in range(dimension):
                points[a, k] = x[a]
