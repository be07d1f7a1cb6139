"""Positive interpolation of cell-centred densities: value and gradient of the logarithm at scattered points.

``coefficients`` carry a ghost layer as wide as the spline reaches (one cell for the linear, two for the cubic spline),
filled by the caller. Coordinates are index coordinates, ``t = (y - lower) / spacing``, inside ``[0, n]``.

With ``samples > 1`` the density is averaged over the image of a source cell before the logarithm is taken: over the
``samples^d`` points ``point + sum_b delta_b columns[:, b]`` with ``delta_b`` at the midpoints of [-1/2, 1/2].
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


@njit(cache=True, error_model="numpy")
def _inside(x, n, periodic):
    return x - n * math.floor(x / n) if periodic else min(max(x, 0.0), float(n))


@njit(cache=True, parallel=True, error_model="numpy")
def log_density_2d(coefficients, shape, lower, spacing, periodic, cubic, points, columns, samples, with_gradient,
                   value, gradient, moment):
    """``value = log(spline)`` and, if asked, ``gradient = grad spline / spline`` at ``points`` (2, n).

    ``columns`` (2, 2, n) is read, and ``moment[a, b] = mean(d_a density delta_b) / mean(density)``, the derivative with
    respect to ``columns[a, b]``, written only where ``samples > 1``.
    """
    width = 4 if cubic else 2
    count = points.shape[1]
    nx, ny = shape[0], shape[1]
    for block in prange((count + BLOCK - 1) // BLOCK):
        weight_x, slope_x = np.empty(4), np.empty(4)
        weight_y, slope_y = np.empty(4), np.empty(4)
        sums = np.empty((2, 2))
        for p in range(block * BLOCK, min(count, (block + 1) * BLOCK)):
            if not (math.isfinite(points[0, p]) and math.isfinite(points[1, p])):
                value[p] = math.nan
                continue
            v = 0.0
            vx = 0.0
            vy = 0.0
            sums[:] = 0.0
            for sample in range(samples * samples):
                x, y = points[0, p], points[1, p]
                first, second = 0.0, 0.0
                if samples > 1:
                    first = (sample // samples + 0.5) / samples - 0.5
                    second = (sample % samples + 0.5) / samples - 0.5
                    x += columns[0, 0, p] * first + columns[0, 1, p] * second
                    y += columns[1, 0, p] * first + columns[1, 1, p] * second
                i = _spline(_inside((x - lower[0]) / spacing[0], nx, periodic[0]), nx, cubic, weight_x, slope_x)
                j = _spline(_inside((y - lower[1]) / spacing[1], ny, periodic[1]), ny, cubic, weight_y, slope_y)
                sample_x = 0.0
                sample_y = 0.0
                for a in range(width):
                    row = 0.0
                    row_slope = 0.0
                    for b in range(width):
                        c = coefficients[i + a, j + b]
                        row += weight_y[b] * c
                        row_slope += slope_y[b] * c
                    v += weight_x[a] * row
                    sample_x += slope_x[a] * row
                    sample_y += weight_x[a] * row_slope
                vx += sample_x
                vy += sample_y
                sums[0, 0] += sample_x * first
                sums[0, 1] += sample_x * second
                sums[1, 0] += sample_y * first
                sums[1, 1] += sample_y * second
            value[p] = math.log(v / (samples * samples))
            if with_gradient:
                gradient[0, p] = vx / (v * spacing[0])
                gradient[1, p] = vy / (v * spacing[1])
                if samples > 1:
                    for a in range(2):
                        for b in range(2):
                            moment[a, b, p] = sums[a, b] / (v * spacing[a])


@njit(cache=True, parallel=True, error_model="numpy")
def log_density_3d(coefficients, shape, lower, spacing, periodic, cubic, points, columns, samples, with_gradient,
                   value, gradient, moment):
    """The same in 3D, ``points`` (3, n), ``columns`` (3, 3, n)."""
    width = 4 if cubic else 2
    count = points.shape[1]
    nx, ny, nz = shape[0], shape[1], shape[2]
    for block in prange((count + BLOCK - 1) // BLOCK):
        weight_x, slope_x = np.empty(4), np.empty(4)
        weight_y, slope_y = np.empty(4), np.empty(4)
        weight_z, slope_z = np.empty(4), np.empty(4)
        delta = np.empty(3)
        sums = np.empty((3, 3))
        for p in range(block * BLOCK, min(count, (block + 1) * BLOCK)):
            if not (math.isfinite(points[0, p]) and math.isfinite(points[1, p]) and math.isfinite(points[2, p])):
                value[p] = math.nan
                continue
            v = 0.0
            vx = 0.0
            vy = 0.0
            vz = 0.0
            sums[:] = 0.0
            for sample in range(samples * samples * samples):
                x, y, z = points[0, p], points[1, p], points[2, p]
                if samples > 1:
                    delta[0] = (sample // (samples * samples) + 0.5) / samples - 0.5
                    delta[1] = ((sample // samples) % samples + 0.5) / samples - 0.5
                    delta[2] = (sample % samples + 0.5) / samples - 0.5
                    for b in range(3):
                        x += columns[0, b, p] * delta[b]
                        y += columns[1, b, p] * delta[b]
                        z += columns[2, b, p] * delta[b]
                i = _spline(_inside((x - lower[0]) / spacing[0], nx, periodic[0]), nx, cubic, weight_x, slope_x)
                j = _spline(_inside((y - lower[1]) / spacing[1], ny, periodic[1]), ny, cubic, weight_y, slope_y)
                k = _spline(_inside((z - lower[2]) / spacing[2], nz, periodic[2]), nz, cubic, weight_z, slope_z)
                sample_x = 0.0
                sample_y = 0.0
                sample_z = 0.0
                for a in range(width):
                    plane = 0.0
                    plane_y = 0.0
                    plane_z = 0.0
                    for b in range(width):
                        row = 0.0
                        row_slope = 0.0
                        for c in range(width):
                            coefficient = coefficients[i + a, j + b, k + c]
                            row += weight_z[c] * coefficient
                            row_slope += slope_z[c] * coefficient
                        plane += weight_y[b] * row
                        plane_y += slope_y[b] * row
                        plane_z += weight_y[b] * row_slope
                    v += weight_x[a] * plane
                    sample_x += slope_x[a] * plane
                    sample_y += weight_x[a] * plane_y
                    sample_z += weight_x[a] * plane_z
                vx += sample_x
                vy += sample_y
                vz += sample_z
                if samples > 1:
                    for b in range(3):
                        sums[0, b] += sample_x * delta[b]
                        sums[1, b] += sample_y * delta[b]
                        sums[2, b] += sample_z * delta[b]
            value[p] = math.log(v / (samples * samples * samples))
            if with_gradient:
                gradient[0, p] = vx / (v * spacing[0])
                gradient[1, p] = vy / (v * spacing[1])
                gradient[2, p] = vz / (v * spacing[2])
                if samples > 1:
                    for a in range(3):
                        for b in range(3):
                            moment[a, b, p] = sums[a, b] / (v * spacing[a])
