"""Kernels of the linearised operator in 3D: apply, sparse rows, and the pieces of a geometric multigrid cycle.

    A w = shift w - sum_k W_k (w(i + e_k) - 2 w(i) + w(i - e_k)) - sum_a B_a (w(i + 1_a) - w(i - 1_a))

with ``weights`` W (9, nx, ny, nz) of the offsets (1,0,0), (0,1,0), (0,0,1), (1,-1,0), (1,1,0), (1,0,-1), (1,0,1),
(0,1,-1), (0,1,1), or (13, nx, ny, nz) with (1,-1,-1), (1,-1,1), (1,1,-1), (1,1,1) too, and ``drift`` B
(3, nx, ny, nz) or (3, 1, ny, nz). Conventions of fields, ghosts and ``shift`` as in 2D.
"""
import numpy as np
from numba import njit, prange

SLABS = 16
"""Coarse slabs, half of the fine ones, that are relaxed at a time; see ``stencil_2d.ROWS``."""


@njit(cache=True, parallel=True, error_model="numpy")
def stencil_rows(weights, drift, offsets, shift, neighbours_x, neighbours_y, neighbours_z, columns, values):
    """The same operator as rows of a sparse matrix: ``columns`` and ``values`` (nx * ny * nz, 2K + 1).

    ``neighbours_a[i + radius]`` is the cell that position ``i`` (ghosts included) stands for.
    """
    count, nx, ny, nz = weights.shape
    r = (neighbours_x.shape[0] - nx) // 2
    for i in prange(nx):
        for j in range(ny):
            for k in range(nz):
                p = (i * ny + j) * nz + k
                total = 0.0
                for e in range(count):
                    x, y, z = offsets[e, 0], offsets[e, 1], offsets[e, 2]
                    b = 0.0
                    if e < 3:  # the offsets start with the axes
                        b = drift[e, min(np.int64(i), drift.shape[1] - 1), j, k]
                    columns[p, 2 * e] = ((neighbours_x[i + x + r] * ny + neighbours_y[j + y + r]) * nz
                                         + neighbours_z[k + z + r])
                    columns[p, 2 * e + 1] = ((neighbours_x[i - x + r] * ny + neighbours_y[j - y + r]) * nz
                                             + neighbours_z[k - z + r])
                    values[p, 2 * e] = -weights[e, i, j, k] - b
                    values[p, 2 * e + 1] = -weights[e, i, j, k] + b
                    total += 2.0 * weights[e, i, j, k]
                columns[p, 2 * count] = p
                values[p, 2 * count] = shift + total


@njit(cache=True, error_model="numpy")
def _add_corners(weights, slab_below, slab, slab_above, i, j, out, diagonal):
    """What the offsets along the diagonals of the cube add to one row of ``rhs - A w``, and to the diagonal of A."""
    own = slab[j + 1]
    for e in range(9, 13):
        line, y, z = weights[e, i, j], 1 if e > 10 else -1, -1 if e % 2 == 1 else 1
        above, below = slab_above[j + 1 + y], slab_below[j + 1 - y]
        for k in range(out.shape[0]):
            out[k] += line[k] * (above[k + 1 + z] + below[k + 1 - z] - 2.0 * own[k + 1])
            diagonal[k] += 2.0 * line[k]


@njit(cache=True, error_model="numpy")
def _residual_row(weights, drift, shift, rhs, below, slab, above, i, j, out, diagonal):
    """Row ``j`` of slab ``i`` of ``rhs - A w``, and the diagonal of A there; ``below``, ``slab``, ``above``: w beside
    and on the slab."""
    # one slab of zeros stands for all
    right, zero = rhs[min(np.int64(i), rhs.shape[0] - 1), j], min(np.int64(i), drift.shape[1] - 1)
    own, east, west, north, south = slab[j + 1], above[j + 1], below[j + 1], slab[j + 2], slab[j]
    east_north, west_south, east_south, west_north = above[j + 2], below[j], above[j], below[j + 2]
    w0, w1, w2 = weights[0, i, j], weights[1, i, j], weights[2, i, j]
    w3, w4, w5 = weights[3, i, j], weights[4, i, j], weights[5, i, j]
    w6, w7, w8 = weights[6, i, j], weights[7, i, j], weights[8, i, j]
    bx, by, bz = drift[0, zero, j], drift[1, zero, j], drift[2, zero, j]
    for k in range(out.shape[0]):
        twice = 2.0 * own[k + 1]
        out[k] = (right[k] + w0[k] * (east[k + 1] + west[k + 1] - twice) + w1[k] * (north[k + 1] + south[k + 1] - twice)
                  + w2[k] * (own[k + 2] + own[k] - twice) + w3[k] * (east_south[k + 1] + west_north[k + 1] - twice)
                  + w4[k] * (east_north[k + 1] + west_south[k + 1] - twice) + w5[k] * (east[k] + west[k + 2] - twice)
                  + w6[k] * (east[k + 2] + west[k] - twice) + w7[k] * (north[k] + south[k + 2] - twice)
                  + w8[k] * (north[k + 2] + south[k] - twice) + bx[k] * (east[k + 1] - west[k + 1])
                  + by[k] * (north[k + 1] - south[k + 1]) + bz[k] * (own[k + 2] - own[k]))
        diagonal[k] = 2.0 * (w0[k] + w1[k] + w2[k] + w3[k] + w4[k] + w5[k] + w6[k] + w7[k] + w8[k])
    if weights.shape[0] == 13:
        _add_corners(weights, below, slab, above, i, j, out, diagonal)
    if shift.shape[0] == 1:
        if shift[0, 0, 0] != 0.0:
            for k in range(out.shape[0]):
                out[k] -= shift[0, 0, 0] * own[k + 1]
                diagonal[k] += shift[0, 0, 0]
    else:
        extra = shift[i, j]
        for k in range(out.shape[0]):
            out[k] -= extra[k] * own[k + 1]
            diagonal[k] += extra[k]


@njit(cache=True, error_model="numpy")
def _close_slab(slab, periodic):
    """Ghosts of a finished slab within its plane."""
    ny, nz = slab.shape[0] - 2, slab.shape[1] - 2
    for j in range(1, ny + 1):
        row = slab[j]
        row[0] = row[nz] if periodic[2] else row[1]
        row[nz + 1] = row[1] if periodic[2] else row[nz]
    slab[0, :] = slab[ny if periodic[1] else 1]
    slab[ny + 1, :] = slab[1 if periodic[1] else ny]


@njit(cache=True, error_model="numpy")
def _close(field, i, periodic):
    """Ghosts of the finished slab ``i`` (from 0) of ``field``, and the ghost slab that is a copy of it."""
    nx, slab = field.shape[0] - 2, field[i + 1]
    _close_slab(slab, periodic)
    if i == 0:
        field[nx + 1 if periodic[0] else 0, :, :] = slab
    if i == nx - 1:
        field[0 if periodic[0] else nx + 1, :, :] = slab


@njit(cache=True, parallel=True, error_model="numpy")
def pad(field, periodic, out):
    """``out``: ``field`` with one ghost layer, even about no-flux faces, wrapped on periodic axes."""
    for i in prange(field.shape[0]):
        out[i + 1, 1:-1, 1:-1] = field[i]
        _close(out, i, periodic)


@njit(cache=True, parallel=True, error_model="numpy")
def apply_stencil(weights, drift, shift, field, out):
    """``out = A w``."""
    nx, ny, nz = out.shape
    zero, size = np.zeros((1, ny, nz)), np.full((1, 1, 1), shift)
    for i in prange(nx):
        diagonal = np.empty(nz)
        for j in range(ny):
            row = out[i, j]
            _residual_row(weights, drift, size, zero, field[i], field[i + 1], field[i + 2], i, j, row, diagonal)
            for k in range(nz):
                row[k] = -row[k]


@njit(cache=True, parallel=True, error_model="numpy")
def residual(weights, drift, shift, rhs, field, row_weight, out, sums):
    """``out = rhs - A w``; ``sums[i]``: sum of ``row_weight out`` over slab ``i``."""
    nx, ny, nz = rhs.shape
    for i in prange(nx):
        diagonal = np.empty(nz)
        total = 0.0
        for j in range(ny):
            _residual_row(weights, drift, shift, rhs, field[i], field[i + 1], field[i + 2], i, j, out[i, j], diagonal)
            for k in range(nz):
                total += row_weight[i, j, k] * out[i, j, k]
        sums[i] = total


@njit(cache=True, error_model="numpy")
def _beside(ring, slab, nx, wraps):
    """Slabs ``slab - 1``, ``slab``, ``slab + 1`` of a field of which ``ring`` keeps the last three."""
    own = ring[slab % 3]
    below = own if slab == 0 and not wraps else ring[(slab - 1) % 3]
    above = own if slab == nx - 1 and not wraps else ring[(slab + 1) % 3]
    return below, own, above


@njit(cache=True, error_model="numpy")
def _relax_slab(weights, drift, shift, rhs, omega, below, own, above, i, periodic, residual, diagonal, new):
    """Slab ``i`` of a damped Jacobi step, ``new = w + omega (rhs - A w) / diagonal``, with its ghosts in the plane."""
    for j in range(rhs.shape[1]):
        _residual_row(weights, drift, shift, rhs, below, own, above, i, j, residual, diagonal)
        old, row = own[j + 1], new[j + 1]
        for k in range(rhs.shape[2]):
            row[k + 1] = old[k + 1] + omega * residual[k] / diagonal[k]
    _close_slab(new, periodic)


@njit(cache=True, error_model="numpy")
def _start_slab(weights, shift, rhs, omega, i, periodic, diagonal, new):
    """The same from zero: ``new = omega rhs / diagonal``."""
    one = shift.shape[0] == 1
    for j in range(rhs.shape[1]):
        w0, w1, w2 = weights[0, i, j], weights[1, i, j], weights[2, i, j]
        w3, w4, w5 = weights[3, i, j], weights[4, i, j], weights[5, i, j]
        w6, w7, w8 = weights[6, i, j], weights[7, i, j], weights[8, i, j]
        for k in range(rhs.shape[2]):
            diagonal[k] = 2.0 * (w0[k] + w1[k] + w2[k] + w3[k] + w4[k] + w5[k] + w6[k] + w7[k] + w8[k])
        for e in range(9, weights.shape[0]):
            line = weights[e, i, j]
            for k in range(rhs.shape[2]):
                diagonal[k] += 2.0 * line[k]
        right, row, extra = rhs[i, j], new[j + 1], shift[0 if one else i, 0 if one else j]
        for k in range(rhs.shape[2]):
            row[k + 1] = omega * right[k] / (diagonal[k] + extra[0 if one else k])
    _close_slab(new, periodic)


@njit(cache=True, error_model="numpy")
def _averaged_row(line, first, weight, out):
    """``out[k] = sum_c weight[k, c] line[first[k] + c]``; exact halving in a loop that the compiler can vectorise."""
    m = out.shape[0]
    if weight.shape[1] == 2 and first[m - 1] == 2 * (m - 1):
        for k in range(m):
            out[k] = weight[k, 0] * line[2 * k] + weight[k, 1] * line[2 * k + 1]
    else:
        for k in range(m):
            value = 0.0
            for c in range(weight.shape[1]):
                value += weight[k, c] * line[first[k] + c]
            out[k] = value


@njit(cache=True, parallel=True, error_model="numpy")
def descend(weights, drift, shift, rhs, row_weight, omegas, periodic, first_x, weight_x, first_y, weight_y, first_z,
            weight_z, field, out):
    """Damped Jacobi steps from zero and the restriction of the residual they leave, in one pass, as in 2D."""
    nx, ny, nz = rhs.shape
    mx, steps, width = out.shape[0], omegas.shape[0], weight_x.shape[1]
    for block in prange((mx + SLABS - 1) // SLABS):
        coarse, last = np.int64(block) * SLABS, min((np.int64(block) + 1) * SLABS, mx)
        begin, end, until = first_x[coarse], first_x[last - 1] + width, nx if last == mx else first_x[last]
        rings, residuals = np.empty((steps, 3, ny + 2, nz + 2)), np.empty((width, ny, nz))
        residual, diagonal, total = np.empty(nz), np.empty(nz), np.empty(nz)
        for front in range(begin - steps, end + steps):
            for step in range(steps):
                slab = front - step
                if slab < begin - steps + step or slab >= end + steps - step or not (periodic[0] or 0 <= slab < nx):
                    continue
                i, new = slab % nx, rings[step, slab % 3]
                if step == 0:
                    _start_slab(weights, shift, rhs, omegas[0], i, periodic, diagonal, new)
                else:
                    below, own, above = _beside(rings[step - 1], slab, nx, periodic[0])
                    _relax_slab(weights, drift, shift, rhs, omegas[step], below, own, above, i, periodic, residual,
                                diagonal, new)
                if step == steps - 1 and begin <= slab < until:
                    field[slab + 1] = new
                    _close(field, slab, periodic)
            slab = front - steps
            if slab < begin:
                continue
            below, own, above = _beside(rings[steps - 1], slab, nx, periodic[0])
            for j in range(ny):
                line = residuals[slab % width, j]
                _residual_row(weights, drift, shift, rhs, below, own, above, slab, j, line, diagonal)
                if row_weight.shape[0] > 0:
                    for k in range(nz):
                        line[k] *= row_weight[slab, j, k]
            while coarse < last and first_x[coarse] + width - 1 == slab:
                for j in range(out.shape[1]):
                    total[:] = 0.0
                    for a in range(width):
                        for b in range(weight_y.shape[1]):
                            share = weight_x[coarse, a] * weight_y[j, b]
                            if share == 0.0:
                                continue
                            line = residuals[(first_x[coarse] + a) % width, first_y[j] + b]
                            for k in range(nz):
                                total[k] += share * line[k]
                    _averaged_row(total, first_z, weight_z, out[coarse, j])
                coarse += 1


@njit(cache=True, error_model="numpy")
def _interpolate_row(line, first, weight, own, new):
    """``new[j] = own[j] + weight[j, 0] line[first[j]] + weight[j, 1] line[first[j] + 1]``; both with ghosts."""
    n = weight.shape[0]
    if n % 2 == 0 and line.shape[0] == n // 2 + 2:
        for k in range(n // 2):
            new[2 * k + 1] = own[2 * k + 1] + (weight[2 * k, 0] * line[k] + weight[2 * k, 1] * line[k + 1])
            new[2 * k + 2] = own[2 * k + 2] + (weight[2 * k + 1, 0] * line[k + 1] + weight[2 * k + 1, 1] * line[k + 2])
    else:
        for j in range(n):
            b = first[j]
            new[j + 1] = own[j + 1] + (weight[j, 0] * line[b] + weight[j, 1] * line[b + 1])


@njit(cache=True, parallel=True, error_model="numpy")
def ascend(coarse, first_x, weight_x, first_y, weight_y, first_z, weight_z, weights, drift, shift, rhs, omegas,
           periodic, field, out):
    """Trilinear interpolation and damped Jacobi steps after it, in one pass, as in 2D."""
    nx, ny, nz = rhs.shape
    steps, mz = omegas.shape[0], coarse.shape[2]
    for block in prange((nx + 2 * SLABS - 1) // (2 * SLABS)):
        begin, end = np.int64(block) * 2 * SLABS, min((np.int64(block) + 1) * 2 * SLABS, nx)
        rings, line = np.empty((steps + 1, 3, ny + 2, nz + 2)), np.empty(mz)
        residual, diagonal = np.empty(nz), np.empty(nz)
        for front in range(begin - steps, end + steps):
            for step in range(steps + 1):
                slab = front - step
                if slab < begin - steps + step or not (periodic[0] or 0 <= slab < nx):
                    continue
                i, new = slab % nx, rings[step, slab % 3]
                if step == 0:
                    low, high, u, v = coarse[first_x[i]], coarse[first_x[i] + 1], weight_x[i, 0], weight_x[i, 1]
                    for j in range(ny):
                        b, w00, w01 = first_y[j], u * weight_y[j, 0], u * weight_y[j, 1]
                        w10, w11 = v * weight_y[j, 0], v * weight_y[j, 1]
                        for k in range(mz):
                            line[k] = w00 * low[b, k] + w01 * low[b + 1, k] + w10 * high[b, k] + w11 * high[b + 1, k]
                        _interpolate_row(line, first_z, weight_z, field[i + 1, j + 1], new[j + 1])
                    _close_slab(new, periodic)
                else:
                    below, own, above = _beside(rings[step - 1], slab, nx, periodic[0])
                    _relax_slab(weights, drift, shift, rhs, omegas[step - 1], below, own, above, i, periodic, residual,
                                diagonal, new)
                if step == steps:
                    out[slab + 1] = new
                    _close(out, slab, periodic)


@njit(cache=True, parallel=True, error_model="numpy")
def coarsen(weights, drift, shift, row_weight, ratio, first_x, weight_x, first_y, weight_y, first_z, weight_z,
            coarse_weights, coarse_drift, coarse_shift):
    """Coarse couplings as in 2D: averaged, in the coarse index space, made M-matrix rows where the drift dominates.

    Always nine: the diagonals of the cube become those of its faces, ``vv'`` with v = (1, s, t) being the sum of those
    of (1, s, 0), (1, 0, t) and (0, s, t) less the three axes.
    """
    nz = weights.shape[3]
    mx, my, mz = coarse_shift.shape
    for i in prange(mx):
        total, value, scale = np.empty((13, nz)), np.empty(13), np.empty(nz)
        for j in range(my):
            total[:] = 0.0
            for a in range(weight_x.shape[1]):
                for b in range(weight_y.shape[1]):
                    x, y, share = first_x[i] + a, first_y[j] + b, weight_x[i, a] * weight_y[j, b]
                    if share == 0.0:
                        continue
                    scale[:] = share
                    if row_weight.shape[0] > 0:
                        for k in range(nz):
                            scale[k] *= row_weight[x, y, k]
                    for e in range(13):
                        line = (weights[e, x, y] if e < 9 else drift[e - 9, min(x, drift.shape[1] - 1), y] if e < 12
                                else shift[x, y] if shift.shape[0] > 1 else shift[0, 0])
                        if line.shape[0] == 1:
                            for k in range(nz):
                                total[e, k] += scale[k] * line[0]
                        else:
                            for k in range(nz):
                                total[e, k] += scale[k] * line[k]
                    for e in range(9, weights.shape[0]):
                        line, up, right = weights[e, x, y], e > 10, e % 2 == 0
                        for k in range(nz):
                            for axis in range(3):
                                total[axis, k] -= scale[k] * line[k]
                            total[4 if up else 3, k] += scale[k] * line[k]
                            total[6 if right else 5, k] += scale[k] * line[k]
                            total[8 if up == right else 7, k] += scale[k] * line[k]
            for k in range(mz):
                for e in range(13):
                    value[e] = 0.0
                    for c in range(weight_z.shape[1]):
                        value[e] += weight_z[k, c] * total[e, first_z[k] + c]
                for axis in range(3):  # total couplings along the axes, then in the coarse index space
                    pairs = value[3 if axis < 2 else 5] + value[4 if axis < 2 else 6]
                    pairs += value[5 if axis == 0 else 7] + value[6 if axis == 0 else 8]
                    value[axis] = (value[axis] + pairs) * ratio[axis] * ratio[axis]
                    value[9 + axis] *= ratio[axis]
                for e in range(2):
                    value[3 + e] *= ratio[0] * ratio[1]
                    value[5 + e] *= ratio[0] * ratio[2]
                    value[7 + e] *= ratio[1] * ratio[2]
                for axis in range(3):
                    pairs = value[3 if axis < 2 else 5] + value[4 if axis < 2 else 6]
                    pairs += value[5 if axis == 0 else 7] + value[6 if axis == 0 else 8]
                    coarse_weights[axis, i, j, k] = max(value[axis] - pairs, abs(value[9 + axis]))
                    if coarse_drift.shape[1] == mx:
                        coarse_drift[axis, i, j, k] = value[9 + axis]
                for e in range(3, 9):
                    coarse_weights[e, i, j, k] = value[e]
                coarse_shift[i, j, k] = value[12]


@njit(cache=True, parallel=True, error_model="numpy")
def add_correction(field, spacing, periodic, first, total, squares):
    """``total += field`` (``total = field`` if it is the ``first``); ``squares[i]``: sum over slab ``i`` of
    ``|grad field|^2``, as in 2D."""
    nx, ny, nz = field.shape[0] - 2, field.shape[1] - 2, field.shape[2] - 2
    for i in prange(nx):
        size = 0.0
        for j in range(ny):
            own, goal = field[i + 1, j + 1], total[i + 1, j + 1]
            east, north = field[min(i + 2, nx), j + 1], field[i + 1, min(j + 2, ny)]
            for k in range(nz):
                dx, dy = (east[k + 1] - own[k + 1]) / spacing[0], (north[k + 1] - own[k + 1]) / spacing[1]
                size += dx * dx + dy * dy
                goal[k + 1] = own[k + 1] if first else goal[k + 1] + own[k + 1]
            for k in range(1, nz):
                dz = (own[k + 1] - own[k]) / spacing[2]
                size += dz * dz
        squares[i] = size
        _close(total, i, periodic)
