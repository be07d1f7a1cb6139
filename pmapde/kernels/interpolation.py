"""Positive interpolation of cell-centred densities: value and gradient of the logarithm at scattered points.

``coefficients`` carry two ghost layers, filled by the caller. Coordinates are index coordinates,
``t = (y - lower) / spacing``, inside ``[0, n]``.

Products and sums may be contracted to fused operations (a tenth faster); NaN survives it.
"""
import math

import numpy as np
from numba import njit, prange

BLOCK = 1024


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _weights(f, cubic):
    """The four spline weights at the fraction ``f`` between two cell centres, cubic (1.0) or linear (0.0):
    no branches."""
    g = 1.0 - f
    inner, outer = (3.0 * f * f * f - 6.0 * f * f + 4.0) / 6.0, (3.0 * g * g * g - 6.0 * g * g + 4.0) / 6.0
    return cubic * (g * g * g / 6.0), g + cubic * (inner - g), f + cubic * (outer - f), cubic * (f * f * f / 6.0)


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _slopes(f, cubic):
    g = 1.0 - f
    return (-0.5 * cubic * g * g, cubic * (0.5 * f * (3.0 * f - 4.0) + 1.0) - 1.0,
            1.0 - cubic * (0.5 * g * (3.0 * g - 4.0) + 1.0), 0.5 * cubic * f * f)


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _locate(points, lower, spacing, n, periodic, begin, index, fraction):
    """First coefficient and fraction of a block of points along one axis, NaN kept in the fraction."""
    for q in range(index.shape[0]):
        t = (points[begin + q] - lower) / spacing
        if periodic:
            t -= n * math.floor(t / n)
        s = (min(max(t, 0.0), float(n)) if t == t else 0.0) - 0.5
        first = min(math.floor(s), n - 1.0)
        fraction[q] = s - first if t == t else math.nan
        index[q] = np.uint32(int(first) + 1)


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def density_2d(coefficients, shape, lower, spacing, periodic, cubic, points, with_gradient, value, gradient):
    """``value`` of the spline at ``points`` (2, n) and, if asked for, the ``gradient`` (2, n) of its logarithm."""
    kind = 1.0 if cubic else 0.0
    count, flat, stride = points.shape[1], coefficients.ravel(), np.uint32(coefficients.shape[1])
    one, two, three = np.uint32(1), np.uint32(2), np.uint32(3)
    for block in prange((count + BLOCK - 1) // BLOCK):
        begin = np.int64(block) * BLOCK
        size = min(count - begin, BLOCK)
        base, column = np.empty(size, dtype=np.uint32), np.empty(size, dtype=np.uint32)
        fx, fy = np.empty(size), np.empty(size)
        _locate(points[0], lower[0], spacing[0], shape[0], periodic[0], begin, base, fx)
        _locate(points[1], lower[1], spacing[1], shape[1], periodic[1], begin, column, fy)
        for q in range(size):  # explicit: the compiler turns it into gathers and vector arithmetic
            v0, v1, v2, v3 = _weights(fy[q], kind)
            w0, w1, w2, w3 = _weights(fx[q], kind)
            k = base[q] * stride + column[q]
            a0, a1, a2, a3 = flat[k], flat[k + one], flat[k + two], flat[k + three]
            k += stride
            b0, b1, b2, b3 = flat[k], flat[k + one], flat[k + two], flat[k + three]
            k += stride
            c0, c1, c2, c3 = flat[k], flat[k + one], flat[k + two], flat[k + three]
            k += stride
            d0, d1, d2, d3 = flat[k], flat[k + one], flat[k + two], flat[k + three]
            a, b = v0 * a0 + v1 * a1 + v2 * a2 + v3 * a3, v0 * b0 + v1 * b1 + v2 * b2 + v3 * b3
            c, d = v0 * c0 + v1 * c1 + v2 * c2 + v3 * c3, v0 * d0 + v1 * d1 + v2 * d2 + v3 * d3
            total = w0 * a + w1 * b + w2 * c + w3 * d
            value[begin + q] = total
            if with_gradient:
                s0, s1, s2, s3 = _slopes(fx[q], kind)
                gradient[0, begin + q] = (s0 * a + s1 * b + s2 * c + s3 * d) / (total * spacing[0])
                s0, s1, s2, s3 = _slopes(fy[q], kind)
                gradient[1, begin + q] = (
                    s0 * (w0 * a0 + w1 * b0 + w2 * c0 + w3 * d0) + s1 * (w0 * a1 + w1 * b1 + w2 * c1 + w3 * d1)
                    + s2 * (w0 * a2 + w1 * b2 + w2 * c2 + w3 * d2) + s3 * (w0 * a3 + w1 * b3 + w2 * c3 + w3 * d3)
                ) / (total * spacing[1])


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def density_3d(coefficients, shape, lower, spacing, periodic, cubic, points, with_gradient, value, gradient):
    """The same in 3D, ``points`` (3, n)."""
    kind = 1.0 if cubic else 0.0
    count = points.shape[1]
    for block in prange((count + BLOCK - 1) // BLOCK):
        begin = np.int64(block) * BLOCK
        size = min(count - begin, BLOCK)
        index, fraction = np.empty((3, size), dtype=np.uint32), np.empty((3, size))
        for axis in range(3):
            _locate(points[axis], lower[axis], spacing[axis], shape[axis], periodic[axis], begin, index[axis],
                    fraction[axis])
        for q in range(size):
            u, v = _weights(fraction[0, q], kind), _weights(fraction[1, q], kind)
            w0, w1, w2, w3 = _weights(fraction[2, q], kind)
            slope_u, slope_v = _slopes(fraction[0, q], kind), _slopes(fraction[1, q], kind)
            z0, z1, z2, z3 = _slopes(fraction[2, q], kind)
            i, j, k = index[0, q], index[1, q], index[2, q]
            total, along_x, along_y, along_z = 0.0, 0.0, 0.0, 0.0
            for a in range(4):
                plane, plane_y, plane_z = 0.0, 0.0, 0.0
                for b in range(4):
                    line = coefficients[i + np.uint32(a), j + np.uint32(b)]
                    c0, c1, c2, c3 = line[k], line[k + np.uint32(1)], line[k + np.uint32(2)], line[k + np.uint32(3)]
                    row = w0 * c0 + w1 * c1 + w2 * c2 + w3 * c3
                    plane += v[b] * row
                    plane_y += slope_v[b] * row
                    plane_z += v[b] * (z0 * c0 + z1 * c1 + z2 * c2 + z3 * c3)
                total += u[a] * plane
                along_x += slope_u[a] * plane
                along_y += u[a] * plane_y
                along_z += u[a] * plane_z
            value[begin + q] = total
            if with_gradient:
                gradient[0, begin + q] = along_x / (total * spacing[0])
                gradient[1, begin + q] = along_y / (total * spacing[1])
                gradient[2, begin + q] = along_z / (total * spacing[2])
