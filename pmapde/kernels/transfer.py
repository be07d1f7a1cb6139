"""Between uniform grids: tensor-product four-point interpolation, indices (n, 4) and weights (n, 4) per axis; means of
blocks of cells."""
import numpy as np
from numba import njit, prange


@njit(cache=True, parallel=True, error_model="numpy")
def interpolate_2d(coarse, index_x, weight_x, index_y, weight_y, out):
    """``out[i, j] = sum_ab weight_x[i, a] weight_y[j, b] coarse[index_x[i, a], index_y[j, b]]``."""
    ny = out.shape[1]
    for i in prange(out.shape[0]):
        row = np.empty(coarse.shape[1])
        a, b, c, d = (coarse[index_x[i, 0]], coarse[index_x[i, 1]], coarse[index_x[i, 2]], coarse[index_x[i, 3]])
        u, v, w, x = weight_x[i, 0], weight_x[i, 1], weight_x[i, 2], weight_x[i, 3]
        for j in range(row.shape[0]):
            row[j] = u * a[j] + v * b[j] + w * c[j] + x * d[j]
        for j in range(ny):
            out[i, j] = (weight_y[j, 0] * row[index_y[j, 0]] + weight_y[j, 1] * row[index_y[j, 1]]
                         + weight_y[j, 2] * row[index_y[j, 2]] + weight_y[j, 3] * row[index_y[j, 3]])


@njit(cache=True, parallel=True, error_model="numpy")
def interpolate_3d(coarse, index_x, weight_x, index_y, weight_y, index_z, weight_z, out):
    """The same in 3D."""
    ny, nz = out.shape[1], out.shape[2]
    for i in prange(out.shape[0]):
        slab, row = np.zeros(coarse.shape[1:]), np.empty(coarse.shape[2])
        for a in range(4):
            share, source = weight_x[i, a], coarse[index_x[i, a]]
            for j in range(slab.shape[0]):
                for k in range(slab.shape[1]):
                    slab[j, k] += share * source[j, k]
        for j in range(ny):
            row[:] = 0.0
            for b in range(4):
                share, line = weight_y[j, b], slab[index_y[j, b]]
                for k in range(row.shape[0]):
                    row[k] += share * line[k]
            for k in range(nz):
                out[i, j, k] = (weight_z[k, 0] * row[index_z[k, 0]] + weight_z[k, 1] * row[index_z[k, 1]]
                                + weight_z[k, 2] * row[index_z[k, 2]] + weight_z[k, 3] * row[index_z[k, 3]])


@njit(cache=True, error_model="numpy")
def _mean_row(block, share, row, out):
    """``out[k]``: ``share`` times the sum of its cells of a block of rows."""
    row[:] = 0.0
    for a in range(block.shape[0]):
        for b in range(block.shape[1]):
            line = block[a, b]
            for k in range(row.shape[0]):
                row[k] += line[k]
    long = row.shape[0] // out.shape[0]
    for k in range(out.shape[0]):
        total = 0.0
        for c in range(long):
            total += row[k * long + c]
        out[k] = share * total


@njit(cache=True, parallel=True, error_model="numpy")
def block_means(fine, out):
    """``out[i, j, k]``: mean of the block of cells of ``fine`` that it is made of."""
    wide, deep = fine.shape[0] // out.shape[0], fine.shape[1] // out.shape[1]
    share = out.size / fine.size
    for i in prange(out.shape[0]):
        row = np.empty(fine.shape[2])
        for j in range(out.shape[1]):
            _mean_row(fine[i * wide:(i + 1) * wide, j * deep:(j + 1) * deep], share, row, out[i, j])


@njit(cache=True, parallel=True, error_model="numpy")
def add_blocks(values, reference, weight, start, edge, out):
    """``out[:, i, j, k]`` plus the sums of ``weight (values - reference)`` and of ``weight`` over the cells of its
    block, ``edge`` cells wide; ``values[0, 0, 0]`` is the cell ``start``."""
    for i in prange(out.shape[1]):
        row = np.empty(values.shape[2])
        for a in range(max(i * edge[0] - start[0], 0), min((i + 1) * edge[0] - start[0], values.shape[0])):
            for b in range(values.shape[1]):
                own, heavy = values[a, b], weight[a, b]
                for k in range(row.shape[0]):
                    row[k] = heavy[k] * (own[k] - reference)
                line, mass = out[0, i, (b + start[1]) // edge[1]], out[1, i, (b + start[1]) // edge[1]]
                for k in range(line.shape[0]):
                    total, weights = 0.0, 0.0
                    for c in range(max(k * edge[2] - start[2], 0), min((k + 1) * edge[2] - start[2], row.shape[0])):
                        total += row[c]
                        weights += heavy[c]
                    line[k] += total
                    mass[k] += weights
