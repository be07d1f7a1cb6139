"""Folds of a map on the simplices of a lattice of nodes: where they are, and the sweeps that straighten them.

``nodes`` (d, n): images of the padded lattice's nodes, flat; a lattice cell is known by its first corner. What works on
lists of nodes and cells is serial: lists are short, and their order decides nothing.
"""
import numpy as np
from numba import njit, prange


@njit(cache=True, error_model="numpy")
def _orientation(nodes, base, strides, permutation, matrix):
    """Determinant of the map on one simplex, positive where it keeps its orientation."""
    dimension = len(strides)
    here = base
    for k in range(dimension):
        there = here + strides[permutation[k]]
        for c in range(dimension):  # column of its axis: the simplex and its reference then agree in orientation
            matrix[c, permutation[k]] = nodes[c, there] - nodes[c, here]
        here = there
    if dimension == 2:
        return matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
    return (matrix[0, 0] * (matrix[1, 1] * matrix[2, 2] - matrix[1, 2] * matrix[2, 1])
            - matrix[0, 1] * (matrix[1, 0] * matrix[2, 2] - matrix[1, 2] * matrix[2, 0])
            + matrix[0, 2] * (matrix[1, 0] * matrix[2, 1] - matrix[1, 1] * matrix[2, 0]))


@njit(cache=True, parallel=True, error_model="numpy")
def folded(nodes, strides, permutations, shape, first, slabs, out):
    """``out[s, cell]``: volume fraction of the simplices of each lattice cell of slab ``slabs[s]`` along the first axis
    that the map does not keep positively oriented."""
    dimension = len(strides)
    for part in prange(slabs.shape[0]):
        matrix = np.empty((dimension, dimension))
        for cell in range(out.shape[1]):
            base, rest = slabs[part] * strides[0], cell
            for a in range(dimension - 1, 0, -1):
                width = shape[a] + 1 - first[a]
                base += (rest % width + first[a]) * strides[a]
                rest //= width
            bad = 0
            for s in range(permutations.shape[0]):
                if not _orientation(nodes, base, strides, permutations[s], matrix) > 0.0:
                    bad += 1
            out[part, cell] = bad / permutations.shape[0]


@njit(cache=True, parallel=True, error_model="numpy")
def folded_rows_2d(nodes, out):
    """``out[i]``: simplices of lattice row ``i`` that ``folded`` would count; ``nodes`` (2, rows, columns)."""
    x, y = nodes[0], nodes[1]
    for i in prange(out.shape[0]):
        bad = 0
        for j in range(nodes.shape[2] - 1):
            ax, ay = x[i + 1, j] - x[i, j], y[i + 1, j] - y[i, j]
            bx, by = x[i + 1, j + 1] - x[i + 1, j], y[i + 1, j + 1] - y[i + 1, j]
            cx, cy = x[i, j + 1] - x[i, j], y[i, j + 1] - y[i, j]
            dx, dy = x[i + 1, j + 1] - x[i, j + 1], y[i + 1, j + 1] - y[i, j + 1]
            bad += 0 if ax * by - ay * bx > 0.0 and dx * cy - dy * cx > 0.0 else 1
        out[i] = bad


@njit(cache=True, error_model="numpy")
def _triple(ax, ay, az, bx, by, bz, cx, cy, cz):
    return ax * (by * cz - bz * cy) - ay * (bx * cz - bz * cx) + az * (bx * cy - by * cx)


@njit(cache=True, parallel=True, error_model="numpy")
def folded_rows_3d(nodes, out):
    """The same in 3D, one count per slab: the six tetrahedra share the diagonal of their cell."""
    x, y, z = nodes[0], nodes[1], nodes[2]
    for i in prange(out.shape[0]):
        bad = 0
        for j in range(nodes.shape[2] - 1):
            for k in range(nodes.shape[3] - 1):
                px, py, pz = x[i, j, k], y[i, j, k], z[i, j, k]
                gx, gy, gz = x[i + 1, j + 1, k + 1] - px, y[i + 1, j + 1, k + 1] - py, z[i + 1, j + 1, k + 1] - pz
                ax, ay, az = x[i + 1, j, k] - px, y[i + 1, j, k] - py, z[i + 1, j, k] - pz
                bx, by, bz = x[i, j + 1, k] - px, y[i, j + 1, k] - py, z[i, j + 1, k] - pz
                cx, cy, cz = x[i, j, k + 1] - px, y[i, j, k + 1] - py, z[i, j, k + 1] - pz
                abx, aby, abz = x[i + 1, j + 1, k] - px, y[i + 1, j + 1, k] - py, z[i + 1, j + 1, k] - pz
                acx, acy, acz = x[i + 1, j, k + 1] - px, y[i + 1, j, k + 1] - py, z[i + 1, j, k + 1] - pz
                bcx, bcy, bcz = x[i, j + 1, k + 1] - px, y[i, j + 1, k + 1] - py, z[i, j + 1, k + 1] - pz
                least = _triple(ax, ay, az, abx, aby, abz, gx, gy, gz)
                least = min(least, -_triple(ax, ay, az, acx, acy, acz, gx, gy, gz))
                least = min(least, -_triple(bx, by, bz, abx, aby, abz, gx, gy, gz))
                least = min(least, _triple(bx, by, bz, bcx, bcy, bcz, gx, gy, gz))
                least = min(least, _triple(cx, cy, cz, acx, acy, acz, gx, gy, gz))
                least = min(least, -_triple(cx, cy, cz, bcx, bcy, bcz, gx, gy, gz))
                bad += 0 if least > 0.0 else 1
        out[i] = bad


@njit(cache=True, error_model="numpy")
def _around(items, count, start, width, low, high, periodic, shape, strides, seen, stamp, out):
    """All ``items`` moved by ``start``, ..., ``start + width - 1`` along every axis, each once, wrapped on periodic
    axes, without those outside ``[low, high]``; returns how many. ``seen`` holds the ``stamp`` of those in ``out``."""
    found = 0
    for k in range(count):
        for number in range(width ** len(strides)):
            rest, digits, flat, inside = items[k], number, 0, True
            for a in range(len(strides)):
                at = rest // strides[a]
                rest -= at * strides[a]
                at += start + digits % width
                digits //= width
                if periodic[a]:
                    at = (at - low[a]) % shape[a] + low[a]
                elif at < low[a] or at > high[a]:
                    inside = False
                flat += at * strides[a]
            if inside and seen[flat] != stamp:
                seen[flat] = stamp
                out[found] = flat
                found += 1
    return found


@njit(cache=True, error_model="numpy")
def _towards_mean(nodes, chosen, count, weight, light, keep, velocity, change, strides, shape):
    """Moves the ``chosen`` nodes towards the mean of their neighbours, all from where they are before: by less, the
    more ``weight`` they carry compared with ``light``; and on by the share ``keep`` of how they moved last."""
    dimension = len(strides)
    for k in range(count):
        here, rest, index = chosen[k], chosen[k], 0
        for a in range(dimension):
            at = rest // strides[a]
            rest -= at * strides[a]
            index = index * shape[a] + at - 1
        share = 0.8 * light / (light + weight[index])
        for c in range(dimension):
            mean = 0.0
            for a in range(dimension):
                mean += nodes[c, here + strides[a]] + nodes[c, here - strides[a]]
            change[c, k] = share * (mean / (2 * dimension) - nodes[c, here]) + keep * velocity[c, here]
    for k in range(count):
        for c in range(dimension):
            velocity[c, chosen[k]] = change[c, k]
            nodes[c, chosen[k]] += change[c, k]


@njit(cache=True, error_model="numpy")
def _complete(nodes, chosen, count, strides, shape, periodic, periods):
    """Brings the nodes beyond the faces up to date that repeat ``chosen`` ones: even about a no-flux face but for the
    coordinate across it, which the face keeps; a period away across a seam."""
    dimension = len(strides)
    step, lift = np.empty(dimension, dtype=np.int64), np.empty(dimension)
    for k in range(count):
        rest, repeated = chosen[k], 0  # bits of the axes along which it has a copy
        for a in range(dimension):
            at = rest // strides[a]
            rest -= at * strides[a]
            if at == 1 or at == shape[a]:
                repeated |= 1 << a
                lower = at == 1
                step[a] = (shape[a] if periodic[a] else 1) * (1 if lower == periodic[a] else -1) * strides[a]
                lift[a] = periods[a] if lower else -periods[a]
        if not repeated:
            continue
        for copy in range(1, 1 << dimension):
            if copy & ~repeated:
                continue
            there = chosen[k]
            for a in range(dimension):
                there += step[a] if copy >> a & 1 else 0
            for c in range(dimension):
                across = copy >> c & 1
                if not across or periodic[c]:
                    nodes[c, there] = nodes[c, chosen[k]] + (lift[c] if across else 0.0)


@njit(cache=True, error_model="numpy")
def _still_folded(nodes, cells, count, strides, permutations):
    """Keeps those of the ``cells`` that have a simplex turned over, at the front; returns how many."""
    dimension = len(strides)
    matrix, kept = np.empty((dimension, dimension)), 0
    for k in range(count):
        for s in range(permutations.shape[0]):
            if not _orientation(nodes, cells[k], strides, permutations[s], matrix) > 0.0:
                cells[kept] = cells[k]
                kept += 1
                break
    return kept


SWEEPS, LONG, GROWTH, LIGHT = 2000, 400, 1.015, 0.01
"""Most sweeps; sweeps before the neighbourhood grows; growth, a sweep, of the mass that counts as light; that mass at
first, of the mean, and again whenever the neighbourhood has grown."""
SETTLED, MOMENTUM = 50, 0.7
"""Sweeps after which only large folds are left, and what their nodes then keep of the last change."""


@njit(cache=True, error_model="numpy")
def straighten(nodes, cells, count, begin, end, weight, mean, work, first, strides, shape, periodic, periods,
               permutations, chosen, seen, velocity, change):
    """Sweeps ``begin`` to ``end`` over the nodes around the first ``count`` of ``cells``, the folded ones: until none
    is, or as many cells were visited as ``work`` says. Returns how many are left at the front of ``cells``, and of
    ``work``.

    ``weight``, and its ``mean``: of the inner nodes; ``first``: lattice cell of every axis; room that is kept between
    calls: ``chosen`` and ``seen`` (n,), zero at first, ``velocity``, zero at first, and ``change`` (d, n).
    """
    dimension, inner = len(strides), np.ones_like(shape)
    for sweep in range(begin, end):
        reach = sweep // LONG
        work -= count * (2 + 2 * reach) ** dimension
        if count == 0 or work < 0:
            break
        light = LIGHT * GROWTH ** (sweep % LONG) * mean
        moved = _around(cells, count, -reach, 2 + 2 * reach, inner, shape, periodic, shape, strides, seen,
                        2 * sweep + 1, chosen)
        _towards_mean(nodes, chosen, moved, weight, light, MOMENTUM if sweep >= SETTLED else 0.0, velocity, change,
                      strides, shape)
        _complete(nodes, chosen, moved, strides, shape, periodic, periods)
        count = _around(chosen, moved, -1, 2, first, shape, periodic, shape, strides, seen, 2 * sweep + 2, cells)
        count = _still_folded(nodes, cells, count, strides, permutations)
    return count, work
