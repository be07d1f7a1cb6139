"""Exact mean densities over boxes: the images of the cells of a grid under the gradient of a potential.

The density is multilinear between the cell centres, ``cells`` its values with one ghost layer. Along every axis the
image of cell ``i`` lies between the one-sided differences of the potential, in index coordinates of the density
(``[0, n]``; cell ``k`` is centred at ``k + 1/2``)

    low = face + step i + scale (phi(i) - phi(i - 1)),      high = face + step (i + 1) + scale (phi(i + 1) - phi(i)),

``phi`` with one ghost layer. Outside a no-flux box the density is constant along the normal. Boxes that touch four
cells or fewer along every axis are sums of four values a row; for others, integrals along the last axis come from
prefix sums, those along the others from a loop over the rows of cells that the box touches: the cost grows with the
width, and what rounding the sums bring is that of a row.

``value`` is the mean. If asked for, ``drift[a] = d log value / d D_a phi`` and ``moment[a] = d log value / d D_aa phi``
with ``D_a phi = phi(i + 1_a) - phi(i - 1_a)`` and ``D_aa phi`` the second difference. Where the images of neighbours
share their faces the masses add up to that of the target, and along an axis ``width value`` is the difference of one
increasing function at two one-sided differences: degenerate elliptic, whatever the density.
"""
import math

import numpy as np
from numba import njit, prange

from .lanes import box_sums

BLOCK = 1024
NARROWEST = 1e-3
"""Boxes are at least this wide, in cells of the density: narrower ones are all rounding errors."""


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _span(low, high, n, periodic):
    """``(low, high, sense)``: ordered, at least ``NARROWEST`` apart and at most a period, ``low`` in the first period;
    ``sense`` is the derivative of the width with respect to ``high - low``. NaN stays."""
    sense = 1.0 if high >= low else -1.0
    width, middle = abs(high - low), 0.5 * (low + high)
    if width < NARROWEST or (periodic and width > n):
        sense, width = 0.0, NARROWEST if width < NARROWEST else float(n)
        low, high = middle - 0.5 * width, middle + 0.5 * width
    elif sense < 0.0:
        low, high = high, low
    if periodic:
        turn = n * math.floor(low / n)
        low, high = low - turn, high - turn
    return low, high, sense


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _inside(x, n, periodic):
    """The point of the no-flux box nearest to ``x``."""
    return x if periodic else min(max(x, 0.0), float(n))


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _hat(t):
    """The hat function of a cell centre, ``t`` past the lower face of the cell, and its integral up to there."""
    s = min(max(t + 0.5, 0.0), 2.0)
    rest = 2.0 - s
    return (s, 0.5 * s * s) if s < 1.0 else (rest, 1.0 - 0.5 * rest * rest)


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _weight(k, low, high, inside_low, inside_high):
    """Integral of the hat of cell ``k`` over a span, and its values at both ends."""
    at_low, below_low = _hat(inside_low - k)
    at_high, below_high = _hat(inside_high - k)
    return (below_high - below_low + (high - inside_high) * at_high - (low - inside_low) * at_low), at_low, at_high


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _place(x):
    """First stored cell and fraction of a point between two cell centres."""
    first = math.floor(x - 0.5)
    return int(first) + 1, x - 0.5 - first


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _up_to(row, sums, k, f, beyond):
    """Integral of a row of cells up to a point, and the density there; the part beyond the box included."""
    here = row[k] + f * (row[k + 1] - row[k])
    return sums[k] + f * (row[k] + 0.5 * f * (row[k + 1] - row[k])) + beyond * here, here


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _across(face, step, scale, before, own, after, low, high):
    """Ends of the images of a row of cells along another axis than the row's; ``before``, ``after``: rows beside it."""
    for q in range(low.shape[0]):
        low[q] = face + scale * (own[q] - before[q])
        high[q] = face + step + scale * (after[q] - own[q])


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _along(face, step, scale, begin, own, low, high):
    """The same along the row's own axis, ``own`` with a neighbour on either side."""
    for q in range(low.shape[0]):
        low[q] = face + step * (begin + q) + scale * (own[q + 1] - own[q])
        high[q] = face + step * (begin + q + 1) + scale * (own[q + 2] - own[q + 1])


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _windows(n, periodic, low, high, sense, start, span):
    """Orders the ends; ``span`` for :func:`box_sums` and where it starts, -1 where four stored cells do not do."""
    for q in range(low.shape[0]):
        low[q], high[q], sense[q] = _span(low[q], high[q], n, periodic)
    for q in range(low.shape[0]):
        inside_low, inside_high = _inside(low[q], n, periodic), _inside(high[q], n, periodic)
        first, last = np.floor(inside_low - 0.5), np.floor(inside_high - 0.5)
        corner = min(first, n - 3.0)  # there is one ghost
        fits = (last - first < 3.0) & (last < n) & (corner > -2.0)
        start[q] = np.int32(corner + 1.0 if fits else -1.0)
        span[0, q], span[1, q] = inside_low - corner, inside_high - corner
        span[2, q], span[3, q] = low[q] - inside_low, high[q] - inside_high


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _four(span, q):
    return span[0, q], span[1, q], span[2, q], span[3, q]


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _keep(found, q, sums):
    for k in range(len(sums)):
        found[k, q] = sums[k]


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _derivatives(scale, low, high, sense, mass, difference, total, drift, moment):
    """Along one axis, from what its faces contribute."""
    for q in range(drift.shape[0]):
        inverse = 1.0 / mass[q]
        drift[q] = 0.5 * scale * difference[q] * inverse
        moment[q] = sense[q] * scale * (0.5 * total[q] * inverse - 1.0 / (high[q] - low[q]))


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _any_2d(cells, sums, periodic, low, high, left, right):
    """What :func:`box_sums` gives, for any box."""
    nx, ny = cells.shape[0] - 2, cells.shape[1] - 2
    inside_low, inside_high = _inside(low, nx, periodic[0]), _inside(high, nx, periodic[0])
    inside_left = _inside(left, ny, periodic[1])
    wrapped = periodic[1] and right > ny
    inside_right = right - ny if wrapped else _inside(right, ny, periodic[1])
    beyond_left, beyond_right = left - inside_left, 0.0 if wrapped else right - inside_right
    first, f = _place(inside_left)
    last, g = _place(inside_right)
    mass, at_low, at_high, at_left, at_right = 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(int(math.floor(inside_low - 0.5)), int(math.floor(inside_high - 0.5)) + 2):
        stored = (k % nx if periodic[0] else k) + 1
        row, along = cells[stored], sums[stored]
        weight, hat_low, hat_high = _weight(k, low, high, inside_low, inside_high)
        until_left, density_left = _up_to(row, along, first, f, beyond_left)
        until_right, density_right = _up_to(row, along, last, g, beyond_right)
        line = until_right - until_left
        if wrapped:
            line += along[ny + 1] - along[1]
        mass += weight * line
        at_low += hat_low * line
        at_high += hat_high * line
        at_left += weight * density_left
        at_right += weight * density_right
    return mass, at_high - at_low, at_high + at_low, at_right - at_left, at_right + at_left


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def average_2d(cells, sums, periodic, face, step, scale, phi, with_derivatives, value, drift, moment):
    """``sums`` (as ``cells``): integrals along the last axis up to the cell centres."""
    n = cells.shape[0] - 2, cells.shape[1] - 2
    stride = np.int64(cells.shape[1])
    for i in prange(value.shape[0]):
        for begin in range(0, value.shape[1], BLOCK):
            end = min(begin + BLOCK, value.shape[1])
            count = end - begin
            low, high, sense = np.empty((2, count)), np.empty((2, count)), np.empty((2, count))
            start, span, found = np.empty((2, count), dtype=np.int32), np.empty((2, 4, count)), np.empty((5, count))
            _across(face[0] + step[0] * i, step[0], scale[0], phi[i, begin + 1:end + 1], phi[i + 1, begin + 1:end + 1],
                    phi[i + 2, begin + 1:end + 1], low[0], high[0])
            _along(face[1], step[1], scale[1], begin, phi[i + 1, begin:end + 2], low[1], high[1])
            for axis in range(2):
                _windows(float(n[axis]), periodic[axis], low[axis], high[axis], sense[axis], start[axis], span[axis])
            for q in range(count):
                row, column = np.int64(start[0, q]), np.int64(start[1, q])
                if row >= 0 and column >= 0:
                    _keep(found, q, box_sums(cells, row * stride + column, (_four(span[0], q), _four(span[1], q))))
                elif math.isfinite((high[0, q] - low[0, q]) * (high[1, q] - low[1, q])):
                    _keep(found, q, _any_2d(cells, sums, periodic, low[0, q], high[0, q], low[1, q], high[1, q]))
                else:
                    found[:, q] = math.nan
            for q in range(count):
                value[i, begin + q] = found[0, q] / ((high[0, q] - low[0, q]) * (high[1, q] - low[1, q]))
            if with_derivatives:
                for axis in range(2):
                    _derivatives(scale[axis], low[axis], high[axis], sense[axis], found[0], found[1 + 2 * axis],
                                 found[2 + 2 * axis], drift[axis, i, begin:end], moment[axis, i, begin:end])


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _any_3d(cells, sums, periodic, low, high, front, back, left, right):
    """The same in 3D."""
    nx, ny, nz = cells.shape[0] - 2, cells.shape[1] - 2, cells.shape[2] - 2
    inside_low, inside_high = _inside(low, nx, periodic[0]), _inside(high, nx, periodic[0])
    inside_front, inside_back = _inside(front, ny, periodic[1]), _inside(back, ny, periodic[1])
    inside_left = _inside(left, nz, periodic[2])
    wrapped = periodic[2] and right > nz
    inside_right = right - nz if wrapped else _inside(right, nz, periodic[2])
    beyond_left, beyond_right = left - inside_left, 0.0 if wrapped else right - inside_right
    first, f = _place(inside_left)
    last, g = _place(inside_right)
    mass, at_low, at_high, at_front, at_back, at_left, at_right = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(int(math.floor(inside_low - 0.5)), int(math.floor(inside_high - 0.5)) + 2):
        x = (k % nx if periodic[0] else k) + 1
        weight, hat_low, hat_high = _weight(k, low, high, inside_low, inside_high)
        plane, plane_front, plane_back, plane_left, plane_right = 0.0, 0.0, 0.0, 0.0, 0.0
        for m in range(int(math.floor(inside_front - 0.5)), int(math.floor(inside_back - 0.5)) + 2):
            y = (m % ny if periodic[1] else m) + 1
            row, along = cells[x, y], sums[x, y]
            share, hat_front, hat_back = _weight(m, front, back, inside_front, inside_back)
            until_left, density_left = _up_to(row, along, first, f, beyond_left)
            until_right, density_right = _up_to(row, along, last, g, beyond_right)
            line = until_right - until_left
            if wrapped:
                line += along[nz + 1] - along[1]
            plane += share * line
            plane_front += hat_front * line
            plane_back += hat_back * line
            plane_left += share * density_left
            plane_right += share * density_right
        mass += weight * plane
        at_low += hat_low * plane
        at_high += hat_high * plane
        at_front += weight * plane_front
        at_back += weight * plane_back
        at_left += weight * plane_left
        at_right += weight * plane_right
    return (mass, at_high - at_low, at_high + at_low, at_back - at_front, at_back + at_front, at_right - at_left,
            at_right + at_left)


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def average_3d(cells, sums, periodic, face, step, scale, phi, with_derivatives, value, drift, moment):
    """The same in 3D."""
    n = cells.shape[0] - 2, cells.shape[1] - 2, cells.shape[2] - 2
    row_stride = np.int64(cells.shape[2])
    plane_stride = row_stride * cells.shape[1]
    count = value.shape[2]
    for i in prange(value.shape[0]):
        low, high, sense = np.empty((3, count)), np.empty((3, count)), np.empty((3, count))
        start, span, found = np.empty((3, count), dtype=np.int32), np.empty((3, 4, count)), np.empty((7, count))
        for j in range(value.shape[1]):
            own = phi[i + 1, j + 1, 1:count + 1]
            _across(face[0] + step[0] * i, step[0], scale[0], phi[i, j + 1, 1:count + 1], own,
                    phi[i + 2, j + 1, 1:count + 1], low[0], high[0])
            _across(face[1] + step[1] * j, step[1], scale[1], phi[i + 1, j, 1:count + 1], own,
                    phi[i + 1, j + 2, 1:count + 1], low[1], high[1])
            _along(face[2], step[2], scale[2], 0, phi[i + 1, j + 1], low[2], high[2])
            for axis in range(3):
                _windows(float(n[axis]), periodic[axis], low[axis], high[axis], sense[axis], start[axis], span[axis])
            for q in range(count):
                x, y, z = np.int64(start[0, q]), np.int64(start[1, q]), np.int64(start[2, q])
                if x >= 0 and y >= 0 and z >= 0:
                    _keep(found, q, box_sums(cells, x * plane_stride + y * row_stride + z,
                                             (_four(span[0], q), _four(span[1], q), _four(span[2], q))))
                elif math.isfinite((high[0, q] - low[0, q]) * (high[1, q] - low[1, q]) * (high[2, q] - low[2, q])):
                    _keep(found, q, _any_3d(cells, sums, periodic, low[0, q], high[0, q], low[1, q], high[1, q],
                                            low[2, q], high[2, q]))
                else:
                    found[:, q] = math.nan
            for q in range(count):
                value[i, j, q] = found[0, q] / ((high[0, q] - low[0, q]) * (high[1, q] - low[1, q])
                                                * (high[2, q] - low[2, q]))
            if with_derivatives:
                for axis in range(3):
                    _derivatives(scale[axis], low[axis], high[axis], sense[axis], found[0], found[1 + 2 * axis],
                                 found[2 + 2 * axis], drift[axis, i, j], moment[axis, i, j])
