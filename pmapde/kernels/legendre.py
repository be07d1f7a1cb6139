"""Legendre-Fenchel transform of samples, along rows, in linear time."""
import numpy as np
from numba import njit, prange


@njit(cache=True, parallel=True, error_model="numpy")
def conjugate_rows(points, values, slopes, out):
    """``out[r, i] = max_j slopes[i] points[j] - values[r, j]``; ``points`` and ``slopes`` increase.

    Lower convex hull of each row, then one walk along it (Lucet 1997, Numer. Algorithms 16, algorithm LLT). Infinite
    values stand for points that are not there.
    """
    rows, n = values.shape
    for row in prange(rows):
        hull = np.empty(n, dtype=np.int64)
        size = 0
        for j in range(n):
            if values[row, j] == np.inf:
                continue
            while size > 1:
                a, b = hull[size - 2], hull[size - 1]
                if ((values[row, b] - values[row, a]) * (points[j] - points[b])
                        < (values[row, j] - values[row, b]) * (points[b] - points[a])):
                    break
                size -= 1
            hull[size] = j
            size += 1
        at = 0
        for i in range(slopes.shape[0]):
            if size == 0:
                out[row, i] = -np.inf
                continue
            best = slopes[i] * points[hull[at]] - values[row, hull[at]]
            while at + 1 < size:
                further = slopes[i] * points[hull[at + 1]] - values[row, hull[at + 1]]
                if further < best:
                    break
                best = further
                at += 1
            out[row, i] = best
