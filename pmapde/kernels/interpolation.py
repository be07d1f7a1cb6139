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

from .lanes import spline_value, spline_value_and_slopes

BLOCK = 1024


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
def _evaluate_2d(coefficients, cubic, index, fraction, with_gradient, scale, value, along_x, along_y):
    """Values of the spline, and ``scale[a]`` times the derivatives of its logarithm in index coordinates."""
    stride = np.int64(coefficients.shape[1])
    for q in range(value.shape[0]):
        first, place = np.int64(index[0, q]) * stride + np.int64(index[1, q]), (fraction[0, q], fraction[1, q])
        if with_gradient:
            value[q], slope_x, slope_y = spline_value_and_slopes(coefficients, first, place, cubic)
            inverse = 1.0 / value[q]
            along_x[q], along_y[q] = scale[0] * inverse * slope_x, scale[1] * inverse * slope_y
        else:
            value[q] = spline_value(coefficients, first, place, cubic)[0]


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def points_2d(coefficients, shape, periodic, cubic, lower, spacing, points, with_gradient, value, gradient):
    """``value`` of the spline at ``points`` (2, n) and, if asked for, the ``gradient`` (2, n) of its logarithm."""
    count = points.shape[1]
    for block in prange((count + BLOCK - 1) // BLOCK):
        begin = np.int64(block) * BLOCK
        end = min(begin + BLOCK, count)
        index, place = np.empty((2, end - begin), dtype=np.uint32), np.empty((2, end - begin))
        for axis in range(2):
            _points(points[axis], begin, lower[axis], spacing[axis], place[axis])
            _locate(place[axis], shape[axis], periodic[axis], index[axis])
        last = end if with_gradient else begin
        _evaluate_2d(coefficients, cubic, index, place, with_gradient, 1.0 / spacing, value[begin:end],
                     gradient[0, begin:last], gradient[1, begin:last])


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def images_2d(coefficients, shape, periodic, cubic, face, step, scale, phi, with_drift, value, drift):
    """``value`` of the spline at the images of the cells; if asked for, ``drift[a]``, the derivative of its logarithm
    in ``phi(i + 1_a) - phi(i - 1_a)``."""
    ny = value.shape[1]
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
            _evaluate_2d(coefficients, cubic, index, place, with_drift, 0.5 * scale, value[i, begin:end],
                         drift[0, row, begin:last], drift[1, row, begin:last])


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _evaluate_3d(coefficients, cubic, index, fraction, with_gradient, scale, value, along_x, along_y, along_z):
    row = np.int64(coefficients.shape[2])
    plane = row * coefficients.shape[1]
    for q in range(value.shape[0]):
        first = np.int64(index[0, q]) * plane + np.int64(index[1, q]) * row + np.int64(index[2, q])
        place = (fraction[0, q], fraction[1, q], fraction[2, q])
        if with_gradient:
            value[q], slope_x, slope_y, slope_z = spline_value_and_slopes(coefficients, first, place, cubic)
            inverse = 1.0 / value[q]
            along_x[q], along_y[q] = scale[0] * inverse * slope_x, scale[1] * inverse * slope_y
            along_z[q] = scale[2] * inverse * slope_z
        else:
            value[q] = spline_value(coefficients, first, place, cubic)[0]


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def points_3d(coefficients, shape, periodic, cubic, lower, spacing, points, with_gradient, value, gradient):
    """The same in 3D, ``points`` (3, n)."""
    count = points.shape[1]
    for block in prange((count + BLOCK - 1) // BLOCK):
        begin = np.int64(block) * BLOCK
        end = min(begin + BLOCK, count)
        index, place = np.empty((3, end - begin), dtype=np.uint32), np.empty((3, end - begin))
        for axis in range(3):
            _points(points[axis], begin, lower[axis], spacing[axis], place[axis])
            _locate(place[axis], shape[axis], periodic[axis], index[axis])
        last = end if with_gradient else begin
        _evaluate_3d(coefficients, cubic, index, place, with_gradient, 1.0 / spacing, value[begin:end],
                     gradient[0, begin:last], gradient[1, begin:last], gradient[2, begin:last])


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def images_3d(coefficients, shape, periodic, cubic, face, step, scale, phi, with_drift, value, drift):
    """The same in 3D."""
    ny, nz = value.shape[1], value.shape[2]
    for i in prange(value.shape[0]):
        index, place = np.empty((3, nz), dtype=np.uint32), np.empty((3, nz))
        for j in range(ny):
            _across(face[0] + step[0] * (i + 0.5), scale[0], phi[i, j + 1], phi[i + 2, j + 1], 0, place[0])
            _across(face[1] + step[1] * (j + 0.5), scale[1], phi[i + 1, j], phi[i + 1, j + 2], 0, place[1])
            _along(face[2], step[2], scale[2], phi[i + 1, j + 1], 0, place[2])
            for axis in range(3):
                _locate(place[axis], shape[axis], periodic[axis], index[axis])
            x, y, last = (np.int64(i), j, nz) if with_drift else (0, 0, 0)
            _evaluate_3d(coefficients, cubic, index, place, with_drift, 0.5 * scale, value[i, j],
                         drift[0, x, y, :last], drift[1, x, y, :last], drift[2, x, y, :last])
