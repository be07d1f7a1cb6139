"""Kernels of the linearised operator in 2D: apply, sparse rows, and the pieces of a geometric multigrid cycle.

    A w = shift w - sum_k W_k (w(i + e_k) - 2 w(i) + w(i - e_k)) - sum_a B_a (w(i + 1_a) - w(i - 1_a))

with ``weights`` W (4, nx, ny) of the offsets e = (1,0), (0,1), (1,-1), (1,1) and ``drift`` B (2, nx, ny), or
(2, 1, ny) where one row of zeros stands for all. In the multigrid kernels ``shift`` is a number, or a field on coarse
grids, passed as an array of the shape of a cell or of the grid. Fields have one ghost layer; every kernel that writes a
field fills its ghosts, each by the row that owns the values, so that nothing depends on the number of threads.
"""
import numpy as np
from numba import njit, prange

ROWS = 32
"""Coarse rows, half of the fine ones, that are relaxed at a time; what is done twice between them is a few per cent."""


@njit(cache=True, parallel=True, error_model="numpy")
def stencil_rows(weights, drift, offsets, shift, neighbours_x, neighbours_y, columns, values):
    """The same operator as rows of a sparse matrix: ``columns`` and ``values`` (nx * ny, 2K + 1).

    ``neighbours_a[i + radius]`` is the cell that position ``i`` (ghosts included) stands for.
    """
    count, nx, ny = weights.shape
    radius = (neighbours_x.shape[0] - nx) // 2
    for i in prange(nx):
        row = min(np.int64(i), drift.shape[1] - 1)
        for j in range(ny):
            p = i * ny + j
            total = 0.0
            for e in range(count):
                x, y = offsets[e, 0], offsets[e, 1]
                b = 0.0  # the offsets start with the axes: (1, 0), (0, 1)
                if e == 0:
                    b = drift[0, row, j]
                elif e == 1:
                    b = drift[1, row, j]
                columns[p, 2 * e] = neighbours_x[i + x + radius] * ny + neighbours_y[j + y + radius]
                columns[p, 2 * e + 1] = neighbours_x[i - x + radius] * ny + neighbours_y[j - y + radius]
                values[p, 2 * e] = -weights[e, i, j] - b
                values[p, 2 * e + 1] = -weights[e, i, j] + b
                total += 2.0 * weights[e, i, j]
            columns[p, 2 * count] = p
            values[p, 2 * count] = shift + total


@njit(cache=True, error_model="numpy")
def _residual_row(weights, drift, shift, rhs, below, own, above, i, out, diagonal):
    """Row ``i`` of ``rhs - A w``, and the diagonal of A there; ``below``, ``own``, ``above``: w beside and on it."""
    wx, wy, wm, wp, right = weights[0, i], weights[1, i], weights[2, i], weights[3, i], rhs[i]
    row = min(np.int64(i), drift.shape[1] - 1)  # one row of zeros stands for all
    bx, by = drift[0, row], drift[1, row]
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
    for index in prange(nx):
        i = np.int64(index)
        wx, wy, wm, wp, one = weights[0, i], weights[1, i], weights[2, i], weights[3, i], min(i, drift.shape[1] - 1)
        below, own, above, bx, by = field[i], field[i + 1], field[i + 2], drift[0, one], drift[1, one]
        row = out[i]
        for j in range(ny):
            twice = 2.0 * own[j + 1]
            row[j] = (shift * own[j + 1]
                      - wx[j] * (above[j + 1] + below[j + 1] - twice) - wy[j] * (own[j + 2] + own[j] - twice)
                      - wm[j] * (above[j] + below[j + 2] - twice) - wp[j] * (above[j + 2] + below[j] - twice)
                      - bx[j] * (above[j + 1] - below[j + 1]) - by[j] * (own[j + 2] - own[j]))


@njit(cache=True, parallel=True, error_model="numpy")
def residual(weights, drift, shift, rhs, field, row_weight, out, sums):
    """``out = rhs - A w``; ``sums[i]``: sum of ``row_weight out`` over row ``i``."""
    nx, ny = rhs.shape
    for i in prange(nx):
        diagonal = np.empty(ny)
        _residual_row(weights, drift, shift, rhs, field[i], field[i + 1], field[i + 2], i, out[i], diagonal)
        total = 0.0
        for j in range(ny):
            total += row_weight[i, j] * out[i, j]
        sums[i] = total


@njit(cache=True, error_model="numpy")
def _beside(ring, row, nx, wraps):
    """Rows ``row - 1``, ``row``, ``row + 1`` of a field of which ``ring`` keeps the last three."""
    own = ring[row % 3]
    below = own if row == 0 and not wraps else ring[(row - 1) % 3]
    above = own if row == nx - 1 and not wraps else ring[(row + 1) % 3]
    return below, own, above


@njit(cache=True, error_model="numpy")
def _relax_row(weights, drift, shift, rhs, omega, below, own, above, i, periodic, residual, diagonal, new):
    """Row ``i`` of a damped Jacobi step: ``new = w + omega (rhs - A w) / diagonal``, with its two ghosts."""
    ny = rhs.shape[1]
    _residual_row(weights, drift, shift, rhs, below, own, above, i, residual, diagonal)
    for j in range(ny):
        new[j + 1] = own[j + 1] + omega * residual[j] / diagonal[j]
    new[0], new[ny + 1] = (new[ny], new[1]) if periodic[1] else (new[1], new[ny])


@njit(cache=True, error_model="numpy")
def _start_row(weights, shift, rhs, omega, i, periodic, new):
    """The same from zero: ``new = omega rhs / diagonal``."""
    ny = rhs.shape[1]
    wx, wy, wm, wp, right, one = weights[0, i], weights[1, i], weights[2, i], weights[3, i], rhs[i], shift.shape[0] == 1
    extra = shift[0 if one else i]
    for j in range(ny):
        new[j + 1] = omega * right[j] / (2.0 * (wx[j] + wy[j] + wm[j] + wp[j]) + extra[0 if one else j])
    new[0], new[ny + 1] = (new[ny], new[1]) if periodic[1] else (new[1], new[ny])


@njit(cache=True, error_model="numpy")
def _averaged_row(line, first, weight, out):
    """``out[j] = sum_b weight[j, b] line[first[j] + b]``; exact halving in a loop that the compiler can vectorise."""
    m = out.shape[0]
    if weight.shape[1] == 2 and first[m - 1] == 2 * (m - 1):
        for j in range(m):
            out[j] = weight[j, 0] * line[2 * j] + weight[j, 1] * line[2 * j + 1]
    else:
        for j in range(m):
            value = 0.0
            for b in range(weight.shape[1]):
                value += weight[j, b] * line[first[j] + b]
            out[j] = value


@njit(cache=True, parallel=True, error_model="numpy")
def descend(weights, drift, shift, rhs, row_weight, omegas, periodic, first_x, weight_x, first_y, weight_y, field,
            out):
    """``field``: damped Jacobi steps for ``A w = rhs`` from zero, one for each of ``omegas``; ``out``: averages over
    coarse cells of ``row_weight (rhs - A w)`` then (an empty ``row_weight`` stands for one).

    One pass, every step a row behind the one before: the coefficients of a row are still in the cache.
    """
    nx, ny = rhs.shape
    mx, steps, width = out.shape[0], omegas.shape[0], weight_x.shape[1]
    for block in prange((mx + ROWS - 1) // ROWS):
        coarse, last = np.int64(block) * ROWS, min((np.int64(block) + 1) * ROWS, mx)
        begin, end, until = first_x[coarse], first_x[last - 1] + width, nx if last == mx else first_x[last]
        rings, residuals = np.empty((steps, 3, ny + 2)), np.empty((width, ny))
        residual, diagonal, total = np.empty(ny), np.empty(ny), np.empty(ny)
        for front in range(begin - steps, end + steps):
            for step in range(steps):
                row = front - step
                if row < begin - steps + step or row >= end + steps - step or not (periodic[0] or 0 <= row < nx):
                    continue
                i, new = row % nx, rings[step, row % 3]
                if step == 0:
                    _start_row(weights, shift, rhs, omegas[0], i, periodic, new)
                else:
                    below, own, above = _beside(rings[step - 1], row, nx, periodic[0])
                    _relax_row(weights, drift, shift, rhs, omegas[step], below, own, above, i, periodic, residual,
                               diagonal, new)
                if step == steps - 1 and begin <= row < until:
                    field[row + 1] = new
                    _close(field, row, periodic)
            row = front - steps
            if row < begin:
                continue
            below, own, above = _beside(rings[steps - 1], row, nx, periodic[0])
            _residual_row(weights, drift, shift, rhs, below, own, above, row, residuals[row % width], diagonal)
            while coarse < last and first_x[coarse] + width - 1 == row:
                total[:] = 0.0
                for a in range(width):
                    x, share = first_x[coarse] + a, weight_x[coarse, a]
                    line = residuals[x % width]
                    if share == 0.0:
                        continue
                    if row_weight.shape[0] > 0:
                        for j in range(ny):
                            total[j] += share * row_weight[x, j] * line[j]
                    else:
                        for j in range(ny):
                            total[j] += share * line[j]
                _averaged_row(total, first_y, weight_y, out[coarse])
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
def ascend(coarse, first_x, weight_x, first_y, weight_y, weights, drift, shift, rhs, omegas, periodic, field, out):
    """``out``: ``field`` and the bilinear interpolant of ``coarse``, after damped Jacobi steps, one for each of
    ``omegas``; all with one ghost layer. One pass, as in ``descend``."""
    nx, ny = rhs.shape
    steps = omegas.shape[0]
    for block in prange((nx + 2 * ROWS - 1) // (2 * ROWS)):
        begin, end = np.int64(block) * 2 * ROWS, min((np.int64(block) + 1) * 2 * ROWS, nx)
        rings, line = np.empty((steps + 1, 3, ny + 2)), np.empty(coarse.shape[1])
        residual, diagonal = np.empty(ny), np.empty(ny)
        for front in range(begin - steps, end + steps):
            for step in range(steps + 1):
                row = front - step
                if row < begin - steps + step or not (periodic[0] or 0 <= row < nx):
                    continue
                i, new = row % nx, rings[step, row % 3]
                if step == 0:
                    a, u, v = first_x[i], weight_x[i, 0], weight_x[i, 1]
                    for j in range(line.shape[0]):
                        line[j] = u * coarse[a, j] + v * coarse[a + 1, j]
                    _interpolate_row(line, first_y, weight_y, field[i + 1], new)
                    new[0], new[ny + 1] = (new[ny], new[1]) if periodic[1] else (new[1], new[ny])
                else:
                    below, own, above = _beside(rings[step - 1], row, nx, periodic[0])
                    _relax_row(weights, drift, shift, rhs, omegas[step - 1], below, own, above, i, periodic, residual,
                               diagonal, new)
                if step == steps:
                    out[row + 1] = new
                    _close(out, row, periodic)


@njit(cache=True, parallel=True, error_model="numpy")
def coarsen(weights, drift, shift, row_weight, ratio, first_x, weight_x, first_y, weight_y, coarse_weights,
            coarse_drift, coarse_shift):
    """Coarse couplings: averages of ``row_weight`` times the fine ones, in the coarse index space, made M-matrix rows.

    A second difference counts in squared inverse spacings, the drift in inverse ones; ``ratio`` (2,) fine by coarse
    cell widths. An axis whose own coupling would be weaker than its drift is upwinded.
    """
    ny, width = weights.shape[2], weight_x.shape[1]
    mx, my = coarse_shift.shape
    for index in prange(mx):
        i = np.int64(index)
        total, scale, value = np.empty(ny), np.empty((width, ny)), np.empty((7, my))
        for a in range(width):
            scale[a] = weight_x[i, a]
            if row_weight.shape[0] > 0 and weight_x[i, a] != 0.0:
                for j in range(ny):
                    scale[a, j] *= row_weight[first_x[i] + a, j]
        for k in range(7):
            total[:] = 0.0
            for a in range(width):
                x = first_x[i] + a
                if weight_x[i, a] == 0.0:
                    continue
                line = (weights[k, x] if k < 4 else drift[k - 4, min(x, drift.shape[1] - 1)] if k < 6
                        else shift[x if shift.shape[0] > 1 else 0])
                if line.shape[0] == 1:
                    for j in range(ny):
                        total[j] += scale[a, j] * line[0]
                else:
                    for j in range(ny):
                        total[j] += scale[a, j] * line[j]
            _averaged_row(total, first_y, weight_y, value[k])
        for j in range(my):
            pairs = value[2, j] + value[3, j]  # the total coupling along an axis contains both diagonals
            mixed_m, mixed_p = value[2, j] * ratio[0] * ratio[1], value[3, j] * ratio[0] * ratio[1]
            drift_x, drift_y = value[4, j] * ratio[0], value[5, j] * ratio[1]
            along_x, along_y = (value[0, j] + pairs) * ratio[0] * ratio[0], (value[1, j] + pairs) * ratio[1] * ratio[1]
            coarse_weights[0, i, j] = max(along_x - mixed_m - mixed_p, abs(drift_x))
            coarse_weights[1, i, j] = max(along_y - mixed_m - mixed_p, abs(drift_y))
            coarse_weights[2, i, j], coarse_weights[3, i, j] = mixed_m, mixed_p
            if coarse_drift.shape[1] == mx:
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
