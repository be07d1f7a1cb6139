"""Kernels of the linearised operator in 3D: apply, sparse rows, and the pieces of a geometric multigrid cycle.

    A w = shift w - sum_k W_k (w(i + e_k) - 2 w(i) + w(i - e_k)) - sum_a B_a (w(i + 1_a) - w(i - 1_a))

with ``weights`` W (K, nx, ny, nz), ``drift`` B (3, nx, ny, nz) and ``offsets`` e (K, 3), the axes first.
"""
from numba import njit, prange


@njit(cache=True, parallel=True, error_model="numpy")
def apply_stencil(weights, drift, offsets, shift, field, radius, out):
    """``out = shift w - sum_k W_k D_k w - sum_a B_a (w(i + 1_a) - w(i - 1_a))`` for the ghosted ``field`` w."""
    nx, ny, nz = out.shape
    r = radius
    for i in prange(nx):
        for j in range(ny):
            row = out[i, j]
            centre = field[i + r, j + r]
            east, west = field[i + r + 1, j + r], field[i + r - 1, j + r]
            north, south = field[i + r, j + r + 1], field[i + r, j + r - 1]
            for k in range(nz):
                row[k] = (shift * centre[k + r] - drift[0, i, j, k] * (east[k + r] - west[k + r])
                          - drift[1, i, j, k] * (north[k + r] - south[k + r])
                          - drift[2, i, j, k] * (centre[k + r + 1] - centre[k + r - 1]))
            for e in range(offsets.shape[0]):
                x, y, z = offsets[e, 0], offsets[e, 1], offsets[e, 2]
                ahead, behind = field[i + r + x, j + r + y], field[i + r - x, j + r - y]
                for k in range(nz):
                    row[k] -= weights[e, i, j, k] * (ahead[k + r + z] + behind[k + r - z] - 2.0 * centre[k + r])


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
                        b = drift[e, i, j, k]
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
def _ghosts(field, periodic):
    """Refresh one ghost layer, serially, axis after axis."""
    n, m, o = field.shape
    for j in range(1, m - 1):
        for k in range(1, o - 1):
            field[0, j, k] = field[n - 2, j, k] if periodic[0] else field[1, j, k]
            field[n - 1, j, k] = field[1, j, k] if periodic[0] else field[n - 2, j, k]
    for i in range(n):
        for k in range(1, o - 1):
            field[i, 0, k] = field[i, m - 2, k] if periodic[1] else field[i, 1, k]
            field[i, m - 1, k] = field[i, 1, k] if periodic[1] else field[i, m - 2, k]
    for i in range(n):
        for j in range(m):
            field[i, j, 0] = field[i, j, o - 2] if periodic[2] else field[i, j, 1]
            field[i, j, o - 1] = field[i, j, 1] if periodic[2] else field[i, j, o - 2]


@njit(cache=True, parallel=True, error_model="numpy")
def relax(weights, drift, offsets, shift, rhs, backward, periodic, field):
    """One Gauss-Seidel sweep for ``A w = rhs`` in eight colours (the parities of i, j and k), 3x3x3 stencils."""
    count, nx, ny, nz = weights.shape
    for step in range(8):
        colour = 7 - step if backward else step
        first_i, first_j, first_k = colour // 4, (colour // 2) % 2, colour % 2
        for half in prange((nx - first_i + 1) // 2):
            i = 2 * half + first_i
            x = i + 1
            for j in range(first_j, ny, 2):
                y = j + 1
                for k in range(first_k, nz, 2):
                    z = k + 1
                    total = (rhs[i, j, k] + drift[0, i, j, k] * (field[x + 1, y, z] - field[x - 1, y, z])
                             + drift[1, i, j, k] * (field[x, y + 1, z] - field[x, y - 1, z])
                             + drift[2, i, j, k] * (field[x, y, z + 1] - field[x, y, z - 1]))
                    diagonal = shift
                    for e in range(count):
                        p, q, r = offsets[e, 0], offsets[e, 1], offsets[e, 2]
                        total += weights[e, i, j, k] * (field[x + p, y + q, z + r] + field[x - p, y - q, z - r])
                        diagonal += 2.0 * weights[e, i, j, k]
                    field[x, y, z] = total / diagonal
        _ghosts(field, periodic)


@njit(cache=True, parallel=True, error_model="numpy")
def restrict(fine, first_x, weight_x, first_y, weight_y, first_z, weight_z, out):
    """Averages over coarse cells, as in 2D."""
    for i in prange(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                total = 0.0
                for a in range(weight_x.shape[1]):
                    for b in range(weight_y.shape[1]):
                        w = weight_x[i, a] * weight_y[j, b]
                        for c in range(weight_z.shape[1]):
                            total += w * weight_z[k, c] * fine[first_x[i] + a, first_y[j] + b, first_z[k] + c]
                out[i, j, k] = total


@njit(cache=True, parallel=True, error_model="numpy")
def prolong_add(coarse, first_x, weight_x, first_y, weight_y, first_z, weight_z, periodic, fine):
    """Adds the trilinear interpolant of ``coarse`` to ``fine`` (both with one ghost layer) and refreshes its ghosts."""
    for i in prange(fine.shape[0] - 2):
        a = first_x[i]
        for j in range(fine.shape[1] - 2):
            b = first_y[j]
            w00 = weight_x[i, 0] * weight_y[j, 0]
            w01 = weight_x[i, 0] * weight_y[j, 1]
            w10 = weight_x[i, 1] * weight_y[j, 0]
            w11 = weight_x[i, 1] * weight_y[j, 1]
            for k in range(fine.shape[2] - 2):
                c = first_z[k]
                fine[i + 1, j + 1, k + 1] += (
                    weight_z[k, 0] * (w00 * coarse[a, b, c] + w01 * coarse[a, b + 1, c]
                                      + w10 * coarse[a + 1, b, c] + w11 * coarse[a + 1, b + 1, c])
                    + weight_z[k, 1] * (w00 * coarse[a, b, c + 1] + w01 * coarse[a, b + 1, c + 1]
                                        + w10 * coarse[a + 1, b, c + 1] + w11 * coarse[a + 1, b + 1, c + 1]))
    _ghosts(fine, periodic)
