"""The inverse of the small matrices where geometric hierarchies end."""
import numpy as np
from numba import njit


@njit(cache=True, error_model="numpy")
def inverse(weights, drift, shift, row_weight, offsets, shape, periodic, out):
    """``out`` (n, n) takes ``f`` to the mean-free ``w`` with ``r (A w) + c = f`` for some constant ``c``; returns
    whether there is one.

    ``A`` is the operator of ``stencil_2d`` and ``stencil_3d`` on a grid of ``shape``, n cells, its offsets at most one
    cell long: ``weights`` (K, n), ``drift`` (d, n), or (d, 0) where there is none, ``shift`` (n,); ``row_weight`` r
    (n,). The matrix is bordered by a constant as large as its diagonal, whatever the units; Gauss-Jordan elimination
    with partial pivoting.
    """
    count, n = weights.shape
    dimension = shape.shape[0]
    width = n + 1
    rows, index = np.zeros((width, 2 * width)), np.empty(dimension, dtype=np.int64)
    for p in range(n):
        rest = p
        for a in range(dimension - 1, -1, -1):
            index[a] = rest % shape[a]
            rest //= shape[a]
        rows[p, p] += row_weight[p] * shift[p]
        for k in range(count):
            slope = drift[k, p] if k < dimension and drift.shape[1] else 0.0  # the offsets start with the axes
            for side in (-1, 1):
                q = 0
                for a in range(dimension):
                    x, last = index[a] + side * offsets[k, a], shape[a] - 1
                    if x < 0:
                        x = last if periodic[a] else 0
                    elif x > last:
                        x = 0 if periodic[a] else last
                    q = q * shape[a] + x
                rows[p, q] -= row_weight[p] * (weights[k, p] + side * slope)
            rows[p, p] += row_weight[p] * 2.0 * weights[k, p]
    border = 0.0
    for p in range(n):
        border = max(border, abs(rows[p, p]))
    for p in range(n):
        rows[p, n] = rows[n, p] = border
    for p in range(width):
        rows[p, width + p] = 1.0
    for p in range(width):
        best = p
        for q in range(p + 1, width):
            if abs(rows[q, p]) > abs(rows[best, p]):
                best = q
        if not abs(rows[best, p]) > 0.0:
            return False
        for j in range(2 * width):
            rows[p, j], rows[best, j] = rows[best, j], rows[p, j]
        pivot = 1.0 / rows[p, p]
        for j in range(2 * width):
            rows[p, j] *= pivot
        for q in range(width):
            factor = rows[q, p]
            if q != p and factor != 0.0:
                for j in range(2 * width):
                    rows[q, j] -= factor * rows[p, j]
    for p in range(n):
        for q in range(n):
            out[p, q] = rows[p, width + q]
    return True
