"""Exact mean densities over boxes: the images of the cells of a grid under the gradient of a potential.

The density is multilinear between the cell centres, ``cells`` its values with one ghost layer. Along every axis the
image of cell ``i`` lies between the one-sided differences of the potential, in index coordinates of the density
(``[0, n]``; cell ``k`` is centred at ``k + 1/2``)

    low = face + step i + scale (phi(i) - phi(i - 1)),      high = face + step (i + 1) + scale (phi(i + 1) - phi(i)),

``phi`` with one ghost layer. Outside a no-flux box the density is constant along the normal. Integrals along the last
axis come from prefix sums, those along the others from a loop over the rows of cells that the box touches: the cost
grows with the width, and what rounding the sums bring is that of a row.

``value`` is the mean. If asked for, ``drift[a] = d log value / d D_a phi`` and ``moment[a] = d log value / d D_aa phi``
with ``D_a phi = phi(i + 1_a) - phi(i - 1_a)`` and ``D_aa phi`` the second difference. Where the images of neighbours
share their faces the masses add up to that of the target, and along an axis ``width value`` is the difference of one
increasing function at two one-sided differences: degenerate elliptic, whatever the density.
"""
import math

from numba import njit, prange

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


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def average_2d(cells, sums, periodic, face, step, scale, phi, with_derivatives, value, drift, moment):
    """``sums`` (as ``cells``): integrals along the last axis up to the cell centres."""
    nx, ny = cells.shape[0] - 2, cells.shape[1] - 2
    for i in prange(value.shape[0]):
        for j in range(value.shape[1]):
            centre = phi[i + 1, j + 1]
            low, high, sense_x = _span(face[0] + step[0] * i + scale[0] * (centre - phi[i, j + 1]),
                                       face[0] + step[0] * (i + 1) + scale[0] * (phi[i + 2, j + 1] - centre),
                                       nx, periodic[0])
            left, right, sense_y = _span(face[1] + step[1] * j + scale[1] * (centre - phi[i + 1, j]),
                                         face[1] + step[1] * (j + 1) + scale[1] * (phi[i + 1, j + 2] - centre),
                                         ny, periodic[1])
            area = (high - low) * (right - left)
            if not math.isfinite(area):
                value[i, j] = math.nan
                continue
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
            value[i, j] = mass / area
            if with_derivatives:
                inverse = 1.0 / mass
                drift[0, i, j] = 0.5 * scale[0] * (at_high - at_low) * inverse
                drift[1, i, j] = 0.5 * scale[1] * (at_right - at_left) * inverse
                moment[0, i, j] = sense_x * scale[0] * (0.5 * (at_high + at_low) * inverse - 1.0 / (high - low))
                moment[1, i, j] = sense_y * scale[1] * (0.5 * (at_right + at_left) * inverse - 1.0 / (right - left))


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def average_3d(cells, sums, periodic, face, step, scale, phi, with_derivatives, value, drift, moment):
    """The same in 3D."""
    nx, ny, nz = cells.shape[0] - 2, cells.shape[1] - 2, cells.shape[2] - 2
    for i in prange(value.shape[0]):
        for j in range(value.shape[1]):
            for l in range(value.shape[2]):
                centre = phi[i + 1, j + 1, l + 1]
                low, high, sense_x = _span(
                    face[0] + step[0] * i + scale[0] * (centre - phi[i, j + 1, l + 1]),
                    face[0] + step[0] * (i + 1) + scale[0] * (phi[i + 2, j + 1, l + 1] - centre), nx, periodic[0])
                front, back, sense_y = _span(
                    face[1] + step[1] * j + scale[1] * (centre - phi[i + 1, j, l + 1]),
                    face[1] + step[1] * (j + 1) + scale[1] * (phi[i + 1, j + 2, l + 1] - centre), ny, periodic[1])
                left, right, sense_z = _span(
                    face[2] + step[2] * l + scale[2] * (centre - phi[i + 1, j + 1, l]),
                    face[2] + step[2] * (l + 1) + scale[2] * (phi[i + 1, j + 1, l + 2] - centre), nz, periodic[2])
                volume = (high - low) * (back - front) * (right - left)
                if not math.isfinite(volume):
                    value[i, j, l] = math.nan
                    continue
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
                value[i, j, l] = mass / volume
                if with_derivatives:
                    inverse = 1.0 / mass
                    drift[0, i, j, l] = 0.5 * scale[0] * (at_high - at_low) * inverse
                    drift[1, i, j, l] = 0.5 * scale[1] * (at_back - at_front) * inverse
                    drift[2, i, j, l] = 0.5 * scale[2] * (at_right - at_left) * inverse
                    moment[0, i, j, l] = sense_x * scale[0] * (0.5 * (at_high + at_low) * inverse - 1.0 / (high - low))
                    moment[1, i, j, l] = sense_y * scale[1] * (0.5 * (at_back + at_front) * inverse
                                                               - 1.0 / (back - front))
                    moment[2, i, j, l] = sense_z * scale[2] * (0.5 * (at_right + at_left) * inverse
                                                               - 1.0 / (right - left))
