"""Kernels of the linearised operator in 2D: apply, sparse rows, and the pieces of a geometric multigrid cycle.

    A w = shift w - sum_k W_k (w(i + e_k) - 2 w(i) + w(i - e_k)) - sum_a B_a (w(i + 1_a) - w(i - 1_a))

with ``weights`` W (4, nx, ny) of the offsets e = (1,0), (0,1), (1,-1), (1,1) and ``drift`` B (2, nx, ny). In the
multigrid kernels ``shift`` is a number, or a field on coarse grids, passed
as an array of the shape of a cell or of the grid. Fields have one ghost layer; every kernel that writes a field fills
its ghosts, each by the row that owns the values, so that nothing depends on the number of threads.
"""
import numpy as np
from numba import njit, prange


@njit(cache=True, parallel=True, error_model="numpy")
def stencil_rows(weights, drift, offsets, shift, neighbours_x, neighbours_y, columns, values):
    """The same operator as rows of a sparse matrix: ``columns`` and ``values`` (nx * ny, 2K + 1).

    ``neighbours_a[i + radius]`` is the cell that position ``i`` (ghosts included) stands for.
    """
    count, nx, ny = weights.shape
    radius = (neighbours_x.shape[0] - nx) // 2
    for i in prange(nx):
        for j in range(ny):
            p = i * ny + j
            total = 0.0
            for e in range(count):
                x, y = offsets[e, 0], offsets[e, 1]
                b = 0.0  # the offsets start with the axes: (1, 0), (0, 1)
                if e == 0:
                    b = drift[0, i, j]
                elif e == 1:
                    b = drift[1, i, j]
                columns[p, 2 * e] = neighbours_x[i + x + radius] * ny + neighbours_y[j + y + radius]
                columns[p, 2 * e + 1] = neighbours_x[i - x + radius] * ny + neighbours_y[j - y + radius]
                values[p, 2 * e] = -weights[e, i, j] - b
                values[p, 2 * e + 1] = -weights[e, i, j] + b
                total += 2.0 * weights[e, i, j]
            columns[p, 2 * count] = p
            values[p, 2 * count] = shift + total


@njit(cache=True, error_model="numpy")
def _residual_row(weights, drift, shift, rhs, field, i, out, diagonal):
    """One row of ``rhs - A w``, and the diagonal of A there."""
    wx, wy, wm, wp, bx, by = weights[0, i], weights[1, i], weights[2, i], weights[3, i], drift[0, i], drift[1, i]
    below, own, above = field[i], field[i + 1], field[i + 2]
    right = rhs[i]
    for j in range(out.shape[0]):
        twice = 2.0 * own[j + 1]
        out[j] = (right[j] + wx[j] * (above[j + 1] + below[j + 1] - twice) + wy[j] * (own[j + 2] + own[j] - twice)
                  + wm[j] * (above[j] + below[j + 2] - twice) + wp[j] * (above[j + 2] + below[j] - twice)
                  + bx[j] * (above[j + 1] - below[j + 1]) + by[j] * (own[j + 2] - own[j]))
        diagonal[j] = 2.0 * (wx[j] + wy[j] + wm[j] + wp[j])
    if shift.shape[0] == 1:
        if shift[0, 0] != 0.0:
            for j in range(out.shape[0]):
                out[j] -= shift[0, 0] * own[j + 1]
                diagonal[j] += shift[0, 0]
    else:
        extra = shift[i]
        for j in range(out.shape[0]):
            out[j] -= extra[j] * own[j + 1]
            diagonal[j] += extra[j]


@njit(cache=True, error_model="numpy")
def _close(field, i, periodic):
    """Ghosts of the finished row ``i`` (from 0) of ``field``, and the ghost row that is a copy of it."""
    nx, ny = field.shape[0] - 2, field.shape[1] - 2
    row = field[i + 1]
    row[0] = row[ny] if periodic[1] else row[1]
    row[ny + 1] = row[1] if periodic[1] else row[ny]
    if i == 0:
        field[nx + 1 if periodic[0] else 0, :] = row
    if i == nx - 1:
        field[0 if periodic[0] else nx + 1, :] = row


@njit(cache=True, parallel=True, error_model="numpy")
def pad(field, periodic, out):
    """``out``: ``field`` with one ghost layer, even about no-flux faces, wrapped on periodic axes."""
    for i in prange(field.shape[0]):
        out[i + 1, 1:-1] = field[i]
        _close(out, i, periodic)


@njit(cache=True, parallel=True, error_model="numpy")
def apply_stencil(weights, drift, shift, field, out):
    """``out = A w``."""
    nx, ny = out.shape
    for i in prange(nx):
        wx, wy, wm, wp, bx, by = weights[0, i], weights[1, i], weights[2, i], weights[3, i], drift[0, i], drift[1, i]
        below, own, above = field[i], field[i + 1], field[i + 2]
        row = out[i]
        for j in range(ny):
            twice = 2.0 * own[j + 1]
            row[j] = (shift * own[j + 1]
                      - wx[j] * (above[j + 1] + below[j + 1] - twice) - wy[j] * (own[j + 2] + own[j] - twice)
                      - wm[j] * (above[j] + below[j + 2] - twice) - wp[j] * (above[j + 2] + below[j] - twice)
                      - bx[j] * (above[j + 1] - below[j + 1]) - by[j] * (own[j + 2] - own[j]))


@njit(cache=True, parallel=True, error_model="numpy")
def relax_from_zero(weights, shift, rhs, omega, periodic, field):
    """One damped Jacobi step for ``A w = rhs`` from zero: ``w = omega rhs / diagonal``."""
    nx, ny = rhs.shape
    for i in prange(nx):
        row = field[i + 1]
        for j in range(ny):
            extra = shift[0, 0] if shift.shape[0] == 1 else shift[i, j]
            row[j + 1] = omega * rhs[i, j] / (2.0 * (weights[0, i, j] + weights[1, i, j] + weights[2, i, j]
                                                     + weights[3, i, j]) + extra)
        _close(field, i, periodic)


@njit(cache=True, parallel=True, error_model="numpy")
def relax(weights, drift, shift, rhs, omega, periodic, field, out):
    """One damped Jacobi step: ``out = w + omega (rhs - A w) / diagonal``."""
    nx, ny = rhs.shape
    for i in prange(nx):
        residual, diagonal = np.empty(ny), np.empty(ny)
        _residual_row(weights, drift, shift, rhs, field, i, residual, diagonal)
        own, new = field[i + 1], out[i + 1]
        for j in range(ny):
            new[j + 1] = own[j + 1] + omega * residual[j] / diagonal[j]
        _close(out, i, periodic)


@njit(cache=True, parallel=True, error_model="numpy")
def residual(weights, drift, shift, rhs, field, row_weight, out, sums):
    """``out = rhs - A w``; ``sums[i]``: sum of ``row_weight out`` over row ``i``."""
    nx, ny = rhs.shape
    for i in prange(nx):
        diagonal = np.empty(ny)
        _residual_row(weights, drift, shift, rhs, field, i, out[i], diagonal)
        total = 0.0
        for j in range(ny):
            total += row_weight[i, j] * out[i, j]
        sums[i] = total


@njit(cache=True, parallel=True, error_model="numpy")
def restrict_residual(weights, drift, shift, rhs, field, row_weight, first_x, weight_x, first_y, weight_y, out):
    """``out``: averages over coarse cells of ``row_weight (rhs - A w)``; an empty ``row_weight`` stands for one."""
    ny = rhs.shape[1]
    for i in prange(out.shape[0]):
        residual, diagonal, total = np.empty(ny), np.empty(ny), np.zeros(ny)
        for a in range(weight_x.shape[1]):
            x = first_x[i] + a
            if weight_x[i, a] == 0.0:
                continue
            _residual_row(weights, drift, shift, rhs, field, x, residual, diagonal)
            if row_weight.shape[0] > 0:
                for j in range(ny):
                    total[j] += weight_x[i, a] * row_weight[x, j] * residual[j]
            else:
                for j in range(ny):
                    total[j] += weight_x[i, a] * residual[j]
        for j in range(out.shape[1]):
            value = 0.0
            for b in range(weight_y.shape[1]):
                value += weight_y[j, b] * total[first_y[j] + b]
            out[i, j] = value


@njit(cache=True, parallel=True, error_model="numpy")
def prolong_add(coarse, first_x, weight_x, first_y, weight_y, periodic, fine):
    """Adds the bilinear interpolant of ``coarse`` to ``fine`` (both with one ghost layer)."""
    for i in prange(fine.shape[0] - 2):
        a = first_x[i]
        u, v = weight_x[i, 0], weight_x[i, 1]
        row = np.empty(coarse.shape[1])
        for j in range(coarse.shape[1]):
            row[j] = u * coarse[a, j] + v * coarse[a + 1, j]
        own = fine[i + 1]
        for j in range(fine.shape[1] - 2):
            b = first_y[j]
            own[j + 1] += weight_y[j, 0] * row[b] + weight_y[j, 1] * row[b + 1]
        _close(fine, i, periodic)


@njit(cache=True, parallel=True, error_model="numpy")
def coarsen(weights, drift, shift, row_weight, ratio, first_x, weight_x, first_y, weight_y, coarse_weights,
            coarse_drift, coarse_shift):
    """Coarse couplings: averages of ``row_weight`` times the fine ones, in the coarse index space, made M-matrix rows.

    A second difference counts in squared inverse spacings, the drift in inverse ones; ``ratio`` (2,) fine by coarse
    cell widths. An axis whose own coupling would be weaker than its drift is upwinded.
    """
    ny = weights.shape[2]
    mx, my = coarse_drift.shape[1:]
    for i in prange(mx):
        total, scale = np.zeros((7, ny)), np.empty(ny)
        for a in range(weight_x.shape[1]):
            x, share = first_x[i] + a, weight_x[i, a]
            if share == 0.0:
                continue
            scale[:] = share
            if row_weight.shape[0] > 0:
                for j in range(ny):
                    scale[j] *= row_weight[x, j]
            for k in range(7):
                line = weights[k, x] if k < 4 else drift[k - 4, x] if k < 6 else shift[x if shift.shape[0] > 1 else 0]
                if line.shape[0] == 1:
                    for j in range(ny):
                        total[k, j] += scale[j] * line[0]
                else:
                    for j in range(ny):
                        total[k, j] += scale[j] * line[j]
        value = np.zeros((7, my))
        for k in range(7):
            for b in range(weight_y.shape[1]):
                for j in range(my):
                    value[k, j] += weight_y[j, b] * total[k, first_y[j] + b]
        for j in range(my):
            pairs = value[2, j] + value[3, j]  # the total coupling along an axis contains both diagonals
            mixed_m, mixed_p = value[2, j] * ratio[0] * ratio[1], value[3, j] * ratio[0] * ratio[1]
            drift_x, drift_y = value[4, j] * ratio[0], value[5, j] * ratio[1]
            along_x, along_y = (value[0, j] + pairs) * ratio[0] * ratio[0], (value[1, j] + pairs) * ratio[1] * ratio[1]
            coarse_weights[0, i, j] = max(along_x - mixed_m - mixed_p, abs(drift_x))
            coarse_weights[1, i, j] = max(along_y - mixed_m - mixed_p, abs(drift_y))
            coarse_weights[2, i, j], coarse_weights[3, i, j] = mixed_m, mixed_p
            coarse_drift[0, i, j], coarse_drift[1, i, j] = drift_x, drift_y
            coarse_shift[i, j] = value[6, j]


@njit(cache=True, parallel=True, error_model="numpy")
def add_correction(field, spacing, periodic, first, total, squares):
    """``total += field`` (``total = field`` if it is the ``first``); ``squares[i]``: sum over row ``i`` of
    ``|grad field|^2``, forward differences inside the grid.

    ``field`` may have anything in its ghosts, those of ``total`` are filled.
    """
    nx, ny = field.shape[0] - 2, field.shape[1] - 2
    for i in prange(nx):
        own, goal = field[i + 1], total[i + 1]
        above = field[min(i + 2, nx)]
        size = 0.0
        for j in range(ny):
            dx = (above[j + 1] - own[j + 1]) / spacing[0]
            size += dx * dx
            goal[j + 1] = own[j + 1] if first else goal[j + 1] + own[j + 1]
        for j in range(1, ny):
            dy = (own[j + 1] - own[j]) / spacing[1]
            size += dy * dy
        squares[i] = size
        _close(total, i, periodic)
