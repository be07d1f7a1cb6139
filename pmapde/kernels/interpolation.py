"""Positive interpolation of cell-centred densities: value and gradient of the logarithm, at scattered points and at the
images of the cells of a grid under the gradient of a potential.

``coefficients`` carry two ghost layers, filled by the caller. Coordinates are index coordinates,
``t = (y - lower) / spacing``, inside ``[0, n]``. Along an axis the image of cell ``i`` is

    face + step (i + 1/2) + scale (phi(i + 1) - phi(i - 1)) / 2,

``phi`` with one ghost layer.

Products and sums may be contracted to fused operations (a tenth faster); NaN survives it.
"""
import math

import numpy as np
from numba import njit, prange

BLOCK = 1024
SIXTH, TWO_THIRDS = 1 / 6, 2 / 3  # divisions would take most of the time


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _weights(f, cubic):
    """The four spline weights at the fraction ``f`` between two cell centres, cubic (1.0) or linear (0.0):
    no branches."""
    g = 1.0 - f
    inner, outer = TWO_THIRDS - f * f * (1.0 - 0.5 * f), TWO_THIRDS - g * g * (1.0 - 0.5 * g)
    sixth = cubic * SIXTH
    return sixth * (g * g * g), g + cubic * (inner - g), f + cubic * (outer - f), sixth * (f * f * f)


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _slopes(f, cubic):
    g = 1.0 - f
    return (-0.5 * cubic * g * g, cubic * (f * (1.5 * f - 2.0) + 1.0) - 1.0,
            1.0 - cubic * (g * (1.5 * g - 2.0) + 1.0), 0.5 * cubic * f * f)


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _locate(place, n, periodic, index):
    """First coefficient of points along one axis; ``place`` becomes their fraction, NaN kept."""
    for q in range(place.shape[0]):
        t = place[q]
        if periodic:
            t -= n * math.floor(t / n)
        s = (min(max(t, 0.0), float(n)) if t == t else 0.0) - 0.5
        first = min(math.floor(s), n - 1.0)
        place[q] = s - first if t == t else math.nan
        index[q] = np.uint32(int(first) + 1)


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _points(points, begin, lower, spacing, place):
    inverse = 1.0 / spacing
    for q in range(place.shape[0]):
        place[q] = (points[begin + q] - lower) * inverse


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _across(centre, scale, before, after, begin, place):
    """Images of a row of cells along another axis than the row's; ``before``, ``after``: the rows beside it."""
    for q in range(place.shape[0]):
        place[q] = centre + 0.5 * scale * (after[begin + q + 1] - before[begin + q + 1])


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _along(face, step, scale, own, begin, place):
    """The same along the row's own axis."""
    for q in range(place.shape[0]):
        place[q] = face + step * (begin + q + 0.5) + 0.5 * scale * (own[begin + q + 2] - own[begin + q])


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _evaluate_2d(coefficients, kind, i, j, fx, fy, with_gradient, scale, value, along_x, along_y):
    """Values of the spline, and ``scale[a]`` times the derivatives of its logarithm in index coordinates."""
    flat, stride = coefficients.ravel(), np.uint32(coefficients.shape[1])
    one, two, three = np.uint32(1), np.uint32(2), np.uint32(3)
    for q in range(fx.shape[0]):
        v0, v1, v2, v3 = _weights(fy[q], kind)
        w0, w1, w2, w3 = _weights(fx[q], kind)
        k = i[q] * stride + j[q]
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
        value[q] = total
        if with_gradient:
            inverse = 1.0 / total
            s0, s1, s2, s3 = _slopes(fx[q], kind)
            along_x[q] = scale[0] * inverse * (s0 * a + s1 * b + s2 * c + s3 * d)
            s0, s1, s2, s3 = _slopes(fy[q], kind)
            along_y[q] = scale[1] * inverse * (
                s0 * (w0 * a0 + w1 * b0 + w2 * c0 + w3 * d0) + s1 * (w0 * a1 + w1 * b1 + w2 * c1 + w3 * d1)
                + s2 * (w0 * a2 + w1 * b2 + w2 * c2 + w3 * d2) + s3 * (w0 * a3 + w1 * b3 + w2 * c3 + w3 * d3))


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def points_2d(coefficients, shape, periodic, cubic, lower, spacing, points, with_gradient, value, gradient):
    """``value`` of the spline at ``points`` (2, n) and, if asked for, the ``gradient`` (2, n) of its logarithm."""
    kind, count = 1.0 if cubic else 0.0, points.shape[1]
    for block in prange((count + BLOCK - 1) // BLOCK):
        begin = np.int64(block) * BLOCK
        end = min(begin + BLOCK, count)
        index, place = np.empty((2, end - begin), dtype=np.uint32), np.empty((2, end - begin))
        for axis in range(2):
            _points(points[axis], begin, lower[axis], spacing[axis], place[axis])
            _locate(place[axis], shape[axis], periodic[axis], index[axis])
        last = end if with_gradient else begin
        _evaluate_2d(coefficients, kind, index[0], index[1], place[0], place[1], with_gradient, 1.0 / spacing,
                     value[begin:end], gradient[0, begin:last], gradient[1, begin:last])


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def images_2d(coefficients, shape, periodic, cubic, face, step, scale, phi, with_drift, value, drift):
    """``value`` of the spline at the images of the cells; if asked for, ``drift[a]``, the derivative of its logarithm
    in ``phi(i + 1_a) - phi(i - 1_a)``."""
    kind, ny = 1.0 if cubic else 0.0, value.shape[1]
    for i in prange(value.shape[0]):
        for begin in range(0, ny, BLOCK):
            end = min(begin + BLOCK, ny)
            index, place = np.empty((2, end - begin), dtype=np.uint32), np.empty((2, end - begin))
            _across(face[0] + step[0] * (i + 0.5), scale[0], phi[i], phi[i + 2], begin, place[0])
            _along(face[1], step[1], scale[1], phi[i + 1], begin, place[1])
            for axis in range(2):
                _locate(place[axis], shape[axis], periodic[axis], index[axis])
            row = np.int64(i) if with_drift else 0
            last = end if with_drift else begin
            _evaluate_2d(coefficients, kind, index[0], index[1], place[0], place[1], with_drift, 0.5 * scale,
                         value[i, begin:end], drift[0, row, begin:last], drift[1, row, begin:last])


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _evaluate_3d(coefficients, kind, index, fraction, with_gradient, scale, value, along_x, along_y, along_z):
    one, two, three = np.uint32(1), np.uint32(2), np.uint32(3)
    for q in range(value.shape[0]):
        u, v = _weights(fraction[0, q], kind), _weights(fraction[1, q], kind)
        w0, w1, w2, w3 = _weights(fraction[2, q], kind)
        slope_u, slope_v = _slopes(fraction[0, q], kind), _slopes(fraction[1, q], kind)
        z0, z1, z2, z3 = _slopes(fraction[2, q], kind)
        i, j, k = index[0, q], index[1, q], index[2, q]
        total, sum_x, sum_y, sum_z = 0.0, 0.0, 0.0, 0.0
        for a in range(4):
            plane, plane_y, plane_z = 0.0, 0.0, 0.0
            for b in range(4):
                line = coefficients[i + np.uint32(a), j + np.uint32(b)]
                c0, c1, c2, c3 = line[k], line[k + one], line[k + two], line[k + three]
                row = w0 * c0 + w1 * c1 + w2 * c2 + w3 * c3
                plane += v[b] * row
                if with_gradient:
                    plane_y += slope_v[b] * row
                    plane_z += v[b] * (z0 * c0 + z1 * c1 + z2 * c2 + z3 * c3)
            total += u[a] * plane
            if with_gradient:
                sum_x += slope_u[a] * plane
                sum_y += u[a] * plane_y
                sum_z += u[a] * plane_z
        value[q] = total
        if with_gradient:
            inverse = 1.0 / total
            along_x[q] = scale[0] * inverse * sum_x
            along_y[q] = scale[1] * inverse * sum_y
            along_z[q] = scale[2] * inverse * sum_z


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def points_3d(coefficients, shape, periodic, cubic, lower, spacing, points, with_gradient, value, gradient):
    """The same in 3D, ``points`` (3, n)."""
    kind, count = 1.0 if cubic else 0.0, points.shape[1]
    for block in prange((count + BLOCK - 1) // BLOCK):
        begin = np.int64(block) * BLOCK
        end = min(begin + BLOCK, count)
        index, place = np.empty((3, end - begin), dtype=np.uint32), np.empty((3, end - begin))
        for axis in range(3):
            _points(points[axis], begin, lower[axis], spacing[axis], place[axis])
            _locate(place[axis], shape[axis], periodic[axis], index[axis])
        last = end if with_gradient else begin
        _evaluate_3d(coefficients, kind, index, place, with_gradient, 1.0 / spacing, value[begin:end],
                     gradient[0, begin:last], gradient[1, begin:last], gradient[2, begin:last])


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def images_3d(coefficients, shape, periodic, cubic, face, step, scale, phi, with_drift, value, drift):
    """The same in 3D."""
    kind, ny, nz = 1.0 if cubic else 0.0, value.shape[1], value.shape[2]
    for i in prange(value.shape[0]):
        index, place = np.empty((3, nz), dtype=np.uint32), np.empty((3, nz))
        for j in range(ny):
            _across(face[0] + step[0] * (i + 0.5), scale[0], phi[i, j + 1], phi[i + 2, j + 1], 0, place[0])
            _across(face[1] + step[1] * (j + 0.5), scale[1], phi[i + 1, j], phi[i + 1, j + 2], 0, place[1])
            _along(face[2], step[2], scale[2], phi[i + 1, j + 1], 0, place[2])
            for axis in range(3):
                _locate(place[axis], shape[axis], periodic[axis], index[axis])
            x, y, last = (np.int64(i), j, nz) if with_drift else (0, 0, 0)
            _evaluate_3d(coefficients, kind, index, place, with_drift, 0.5 * scale, value[i, j],
                         drift[0, x, y, :last], drift[1, x, y, :last], drift[2, x, y, :last])
