"""Kernels of the linearised operator in 2D: apply, sparse rows, and the pieces of a geometric multigrid cycle.

    A w = shift w - sum_k W_k (w(i + e_k) - 2 w(i) + w(i - e_k)) - sum_a B_a (w(i + 1_a) - w(i - 1_a))

with ``weights`` W (K, nx, ny), ``drift`` B (2, nx, ny) and ``offsets`` e (K, 2), the axes first.
"""
from numba import njit, prange


@njit(cache=True, parallel=True, error_model="numpy")
def apply_stencil(weights, drift, offsets, shift, field, radius, out):
    """``out = shift w - sum_k W_k D_k w - sum_a B_a (w(i + 1_a) - w(i - 1_a))`` for the ghosted ``field`` w."""
    nx, ny = out.shape
    for i in prange(nx):
        row = out[i]
        k, l = i + radius, radius
        for j in range(ny):
            row[j] = (shift * field[k, j + l] - drift[0, i, j] * (field[k + 1, j + l] - field[k - 1, j + l])
                      - drift[1, i, j] * (field[k, j + l + 1] - field[k, j + l - 1]))
        for e in range(offsets.shape[0]):
            x, y = offsets[e, 0], offsets[e, 1]
            for j in range(ny):
                row[j] -= weights[e, i, j] * (field[k + x, j + l + y] + field[k - x, j + l - y] - 2.0 * field[k, j + l])


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
def _ghosts(field, periodic):
    """Refresh one ghost layer, serially: cheap against a sweep, and the same on any number of threads."""
    n, m = field.shape
    for j in range(1, m - 1):
        field[0, j] = field[n - 2, j] if periodic[0] else field[1, j]
        field[n - 1, j] = field[1, j] if periodic[0] else field[n - 2, j]
    for i in range(n):
        field[i, 0] = field[i, m - 2] if periodic[1] else field[i, 1]
        field[i, m - 1] = field[i, 1] if periodic[1] else field[i, m - 2]


@njit(cache=True, parallel=True, error_model="numpy")
def relax(weights, drift, offsets, shift, rhs, backward, periodic, field):
    """One Gauss-Seidel sweep for ``A w = rhs`` in four colours (the parities of i and j), 3x3 stencils.

    ``field`` has one ghost layer, refreshed after each colour; cells of one colour do not touch each other.
    """
    count, nx, ny = weights.shape
    for step in range(4):
        colour = 3 - step if backward else step
        first_i, first_j = colour // 2, colour % 2
        for half in prange((nx - first_i + 1) // 2):
            i = 2 * half + first_i
            k = i + 1
            for j in range(first_j, ny, 2):
                l = j + 1
                total = (rhs[i, j] + drift[0, i, j] * (field[k + 1, l] - field[k - 1, l])
                         + drift[1, i, j] * (field[k, l + 1] - field[k, l - 1]))
                diagonal = shift
                for e in range(count):
                    x, y = offsets[e, 0], offsets[e, 1]
                    total += weights[e, i, j] * (field[k + x, l + y] + field[k - x, l - y])
                    diagonal += 2.0 * weights[e, i, j]
                field[k, l] = total / diagonal
        _ghosts(field, periodic)


@njit(cache=True, parallel=True, error_model="numpy")
def restrict(fine, first_x, weight_x, first_y, weight_y, out):
    """Averages over coarse cells: ``out[I, J] = sum_ab weight_x[I, a] weight_y[J, b] fine[first_x[I] + a, ...]``."""
    for i in prange(out.shape[0]):
        for j in range(out.shape[1]):
            total = 0.0
            for a in range(weight_x.shape[1]):
                for b in range(weight_y.shape[1]):
                    total += weight_x[i, a] * weight_y[j, b] * fine[first_x[i] + a, first_y[j] + b]
            out[i, j] = total


@njit(cache=True, parallel=True, error_model="numpy")
def prolong_add(coarse, first_x, weight_x, first_y, weight_y, periodic, fine):
    """Adds the bilinear interpolant of ``coarse`` to ``fine`` (both with one ghost layer) and refreshes its ghosts."""
    for i in prange(fine.shape[0] - 2):
        a = first_x[i]
        u, v = weight_x[i, 0], weight_x[i, 1]
        for j in range(fine.shape[1] - 2):
            b = first_y[j]
            fine[i + 1, j + 1] += (weight_y[j, 0] * (u * coarse[a, b] + v * coarse[a + 1, b])
                                   + weight_y[j, 1] * (u * coarse[a, b + 1] + v * coarse[a + 1, b + 1]))
    _ghosts(fine, periodic)
