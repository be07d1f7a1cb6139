"""Fields from one uniform grid of a box to another, axis by axis, for any ratio of sizes."""
from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.sparse import csr_matrix

from .ghosts import fold
from .threads import refuse_forked


@lru_cache(maxsize=64)
def averaging_matrix(n_from, n_to):
    """Cell averages on ``n_to`` cells from averages on ``n_from`` cells of one interval; conserves the integral."""
    edges = np.union1d(np.arange(n_from + 1) * n_to, np.arange(n_to + 1) * n_from)  # in units of 1/(n_from*n_to)
    middle = (edges[:-1] + edges[1:]) / 2
    weights = np.diff(edges) / n_from
    return csr_matrix((weights, ((middle // n_from).astype(int), (middle // n_to).astype(int))), (n_to, n_from))


@lru_cache(maxsize=64)
def cubic_table(n_from, n_to, periodic, inside=False):
    """Four-point Lagrange interpolation between cell centres, order 4: indices and weights, both (n_to, 4).

    At the ends even reflection or wrap-around; with ``inside`` the last four cells of a no-flux axis instead of
    reflection.
    """
    position = (np.arange(n_to) + 0.5) * (n_from / n_to) - 0.5
    first = np.floor(position).astype(np.int64)
    if inside and not periodic:
        first = np.clip(first, 1, n_from - 3)
    t = position - first
    weights = np.stack([-t * (t - 1) * (t - 2) / 6, (t + 1) * (t - 1) * (t - 2) / 2,
                        -(t + 1) * t * (t - 2) / 2, (t + 1) * t * (t - 1) / 6], axis=1)
    return fold(first[:, None] + np.arange(-1, 3), n_from, periodic), weights


def apply_axes(matrices, field):
    """``field`` multiplied by one matrix along every axis, None for the identity."""
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            moved = np.moveaxis(field, axis, 0)
            result = matrix @ moved.reshape(moved.shape[0], -1)
            field = np.moveaxis(result.reshape(-1, *moved.shape[1:]), 0, axis)
    return np.ascontiguousarray(field)


def average(field, shape):
    """Cell averages of ``field`` on another uniform grid of the same box (exact overlaps); conserves the integral."""
    if field.dtype == float and field.flags.c_contiguous and all(m % n == 0 for m, n in zip(field.shape, shape)):
        from .kernels import transfer
        refuse_forked()
        out, ones = np.empty(shape), (1,) * (3 - field.ndim)
        transfer.block_means(field.reshape(ones + field.shape), out.reshape(ones + out.shape))
        return out
    return apply_axes([averaging_matrix(m, n) if m != n else None for m, n in zip(field.shape, shape)], field)


def interpolate_cubic(field, shape, periodic):
    """Tensor-product cubic interpolation of a cell-centred field, even about the faces,
    to another grid of the same box."""
    return interpolate_by_tables(field, shape, [cubic_table(m, n, wraps)
                                                for m, n, wraps in zip(field.shape, shape, periodic)])


def interpolate_inside(field, shape, periodic, out=None):
    """The same of a field that is not even about the faces; at least four cells an axis."""
    return interpolate_by_tables(field, shape, [cubic_table(m, n, wraps, True)
                                                for m, n, wraps in zip(field.shape, shape, periodic)], out)


def with_faces(field, periodic):
    """A cell-centred field that need not be even, completed on no-flux axes by its values on the two faces.

    One-sided extrapolation from the four outermost cells, order 4 (fewer if there are fewer).
    """
    for axis, wraps in enumerate(periodic):
        if wraps:
            continue
        cells = np.moveaxis(field, axis, 0)
        weights = np.array({2: [24, -8], 3: [30, -20, 6]}.get(len(cells), [35, -35, 21, -5])) / 16
        lower, upper = (np.tensordot(weights, side[:len(weights)], 1)[None] for side in (cells, cells[::-1]))
        field = np.moveaxis(np.concatenate([lower, cells, upper]), 0, axis)
    return field


def interpolate_by_tables(field, shape, tables, out=None):
    """Tensor product of one table per axis, as of :func:`cubic_table`; written to ``out`` if given."""
    from .kernels import transfer
    kernel = transfer.interpolate_2d if field.ndim == 2 else transfer.interpolate_3d
    out = np.empty(shape) if out is None else out
    kernel(field, *(array for table in tables for array in table), out)
    return out
