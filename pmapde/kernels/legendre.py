"""Legendre-Fenchel transform of samples, along rows, in linear time."""
import numpy as np
from numba import njit, prange


@njit(cache=True, error_model="numpy")
def _gain(points, values, hull, at, slope):
    """What the maximum gains if half a spacing either side of the best point count too, on the parabola through it and
    its neighbours (at an end: the next parabola inwards); none beside points that are not on the hull."""
    mid = min(max(at, 1), hull.shape[0] - 2)
    if mid < 1 or hull[mid + 1] - hull[mid - 1] != 2:
        return 0.0
    a, b, c = hull[mid - 1], hull[mid], hull[mid + 1]
    left, right = points[b] - points[a], points[c] - points[b]
    before, after = (values[b] - values[a]) / left, (values[c] - values[b]) / right
    curvature = 2 * (after - before) / (left + right)
    moved = points[hull[at]] - points[b]
    excess = slope - (before * right + after * left) / (left + right) - curvature * moved
    if curvature <= 0:
        return 0.0
    shift = min(max(excess / curvature, -left / 2), right / 2)
    return max(excess * shift - curvature * shift**2 / 2, 0.0)


@njit(cache=True, parallel=True, error_model="numpy")
def conjugate_rows(points, values, slopes, between, out):
    """``out[r, i] = max_j slopes[i] points[j] - values[r, j]``; ``points`` and ``slopes`` increase.

    Lower convex hull of each row, then one walk along it (Lucet 1997, Numer. Algorithms 16, algorithm LLT). Infinite
    values stand for points that are not there. ``between``: adds :func:`_gain`.
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
            out[row, i] = best + _gain(points, values[row], hull[:size], at, slopes[i]) if between else best
