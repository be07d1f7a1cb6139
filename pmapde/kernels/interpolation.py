"""Positive interpolation of cell-centred densities: value and gradient of the logarithm at scattered points.

``coefficients`` carry a ghost layer as wide as the spline reaches (one cell for the linear, two for the cubic spline),
filled by the caller. Coordinates are index coordinates, ``t = (y - lower) / spacing``, inside ``[0, n]``.
"""
import math

import numpy as np
from numba import njit, prange

BLOCK = 1024


@njit(cache=True, error_model="numpy")
def _spline(t, n, cubic, weight, slope):
    """Weights and slopes of the linear or cubic B-spline around ``t``; returns the first (ghosted) coefficient."""
    s = t - 0.5
    i = int(math.floor(s))
    if cubic:
        i = min(max(i, -1), n - 1)
        f = s - i
        g = 1.0 - f
        weight[0] = g * g * g / 6.0
        weight[1] = (3.0 * f * f * f - 6.0 * f * f + 4.0) / 6.0
        weight[2] = (3.0 * g * g * g - 6.0 * g * g + 4.0) / 6.0
        weight[3] = f * f * f / 6.0
        slope[0] = -g * g / 2.0
        slope[1] = f * (3.0 * f - 4.0) / 2.0
        slope[2] = -g * (3.0 * g - 4.0) / 2.0
        slope[3] = f * f / 2.0
        return i + 1  # ghost layer of two: cell i - 1 is stored at i + 1
    i = min(max(i, -1), n - 1)
    f = s - i
    weight[0] = 1.0 - f
    weight[1] = f
    slope[0] = -1.0
    slope[1] = 1.0
    return i + 1  # ghost layer of one: cell i is stored at i + 1


@njit(cache=True, parallel=True, error_model="numpy")
def log_density_2d(coefficients, shape, lower, spacing, periodic, cubic, points, with_gradient, value, gradient):
    """``value = log(spline)`` and, if asked, ``gradient = grad spline / spline`` at ``points`` (2, n)."""
    width = 4 if cubic else 2
    count = points.shape[1]
    nx, ny = shape[0], shape[1]
    for block in prange((count + BLOCK - 1) // BLOCK):
        weight_x = np.empty(4)
        weight_y = np.empty(4)
        slope_x = np.empty(4)
        slope_y = np.empty(4)
        for p in range(block * BLOCK, min(count, (block + 1) * BLOCK)):
            x = (points[0, p] - lower[0]) / spacing[0]
            y = (points[1, p] - lower[1]) / spacing[1]
            if not (math.isfinite(x) and math.isfinite(y)):
                value[p] = math.nan
                continue
            x = x - nx * math.floor(x / nx) if periodic[0] else min(max(x, 0.0), float(nx))
            y = y - ny * math.floor(y / ny) if periodic[1] else min(max(y, 0.0), float(ny))
            i = _spline(x, nx, cubic, weight_x, slope_x)
            j = _spline(y, ny, cubic, weight_y, slope_y)
            v = 0.0
            vx = 0.0
            vy = 0.0
            for a in range(width):
                row = 0.0
                row_slope = 0.0
                for b in range(width):
                    c = coefficients[i + a, j + b]
                    row += weight_y[b] * c
                    row_slope += slope_y[b] * c
                v += weight_x[a] * row
                vx += slope_x[a] * row
                vy += weight_x[a] * row_slope
            value[p] = math.log(v)
            if with_gradient:
                gradient[0, p] = vx / (v * spacing[0])
                gradient[1, p] = vy / (v * spacing[1])


@njit(cache=True, parallel=True, error_model="numpy")
def log_density_3d(coefficients, shape, lower, spacing, periodic, cubic, points, with_gradient, value, gradient):
    """The same in 3D, ``points`` (3, n)."""
    width = 4 if cubic else 2
    count = points.shape[1]
    nx, ny, nz = shape[0], shape[1], shape[2]
    for block in prange((count + BLOCK - 1) // BLOCK):
        weight_x = np.empty(4)
        weight_y = np.empty(4)
        weight_z = np.empty(4)
        slope_x = np.empty(4)
        slope_y = np.empty(4)
        slope_z = np.empty(4)
        for p in range(block * BLOCK, min(count, (block + 1) * BLOCK)):
            x = (points[0, p] - lower[0]) / spacing[0]
            y = (points[1, p] - lower[1]) / spacing[1]
            z = (points[2, p] - lower[2]) / spacing[2]
            if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
                value[p] = math.nan
                continue
            x = x - nx * math.floor(x / nx) if periodic[0] else min(max(x, 0.0), float(nx))
            y = y - ny * math.floor(y / ny) if periodic[1] else min(max(y, 0.0), float(ny))
            z = z - nz * math.floor(z / nz) if periodic[2] else min(max(z, 0.0), float(nz))
            i = _spline(x, nx, cubic, weight_x, slope_x)
            j = _spline(y, ny, cubic, weight_y, slope_y)
            k = _spline(z, nz, cubic, weight_z, slope_z)
            v = 0.0
            vx = 0.0
            vy = 0.0
            vz = 0.0
            for a in range(width):
                plane = 0.0
                plane_y = 0.0
                plane_z = 0.0
                for b in range(width):
                    row = 0.0
                    row_slope = 0.0
                    for c in range(width):
                        value_c = coefficients[i + a, j + b, k + c]
                        row += weight_z[c] * value_c
                        row_slope += slope_z[c] * value_c
                    plane += weight_y[b] * row
                    plane_y += slope_y[b] * row
                    plane_z += weight_y[b] * row_slope
                v += weight_x[a] * plane
                vx += slope_x[a] * plane
                vy += weight_x[a] * plane_y
                vz += weight_x[a] * plane_z
            value[p] = math.log(v)
            if with_gradient:
                gradient[0, p] = vx / (v * spacing[0])
                gradient[1, p] = vy / (v * spacing[1])
                gradient[2, p] = vz / (v * spacing[2])
