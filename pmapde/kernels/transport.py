"""Piecewise affine maps on the Kuhn triangulation of a lattice, in any dimension: evaluate, invert, push forward.

A lattice cell with corner values v is split into d! simplices: the one with t_p0 >= t_p1 >= ... holds the local
coordinates t of that order, and the map there is v(0) + sum_k t_pk (v(e_p0 + ... + e_pk) - v(e_p0 + ... + e_p(k-1))).
``nodes`` (components, number of lattice nodes) is flat with ``strides``, a tuple: the dimension is known when a kernel
is compiled. ``axes`` (d, longest) holds the node positions.
"""
import math

import numpy as np
from numba import njit, prange

BLOCK = 256
MOST_PIECES = 12


@njit(cache=True, error_model="numpy")
def _cell(x, lower, spacing, n, periodic, axis_nodes):
    """Lattice cell and local coordinate of ``x`` along one axis, and the periods taken off."""
    s = (x - lower) / spacing
    turns = 0.0
    if periodic:
        turns = math.floor(s / n)
        s -= n * turns
        k = min(max(int(math.floor(s + 0.5)), 0), n)
    else:
        s = min(max(s, 0.0), float(n))
        k = min(max(int(math.floor(s + 0.5)), 0), n)
    position = lower + s * spacing
    t = (position - axis_nodes[k]) / (axis_nodes[k + 1] - axis_nodes[k])
    return k, min(max(t, 0.0), 1.0), turns


@njit(cache=True, error_model="numpy")
def _evaluate(nodes, base, strides, room, order):
    """Value ``room[1]`` of the piecewise affine interpolant at local coordinates ``room[0]`` of the cell whose first
    corner is ``base``."""
    dimension = len(strides)
    for a in range(dimension):
        order[a] = a
    for a in range(1, dimension):  # insertion sort, descending t
        b = a
        while b > 0 and room[0, order[b]] > room[0, order[b - 1]]:
            order[b], order[b - 1] = order[b - 1], order[b]
            b -= 1
    for c in range(nodes.shape[0]):
        here = base
        value = nodes[c, here]
        for a in range(dimension):
            there = here + strides[order[a]]
            value += room[0, order[a]] * (nodes[c, there] - nodes[c, here])
            here = there
        room[1, c] = value


@njit(cache=True, parallel=True, error_model="numpy")
def evaluate(nodes, axes, strides, shape, lower, spacing, periodic, periods, points, out):
    """``out[:, p]``: interpolant at ``points[:, p]``;
    whole periods of the argument come back as ``periods`` of the value.

    Points outside a no-flux box are taken to its nearest point; NaN gives NaN.
    """
    dimension, count = len(strides), points.shape[1]
    for block in prange((count + BLOCK - 1) // BLOCK):
        room = np.empty((2, max(dimension, nodes.shape[0])))
        order = np.empty(dimension, dtype=np.int64)
        turns = np.zeros(dimension)
        for p in range(block * BLOCK, min(count, (block + 1) * BLOCK)):
            base = 0
            finite = True
            for a in range(dimension):
                if not math.isfinite(points[a, p]):
                    finite = False
                    continue
                k, room[0, a], turns[a] = _cell(points[a, p], lower[a], spacing[a], shape[a], periodic[a], axes[a])
                base += k * strides[a]
            _evaluate(nodes, base, strides, room, order)
            for c in range(nodes.shape[0]):
                shift = turns[c] * periods[c] if nodes.shape[0] == dimension else 0.0
                out[c, p] = room[1, c] + shift if finite else math.nan


@njit(cache=True, parallel=True, error_model="numpy")
def jacobian(nodes, axes, strides, shape, lower, spacing, periodic, points, out):
    """``out[c, a, p]``: derivative of component ``c`` along axis ``a`` on the simplex of ``points[:, p]``."""
    dimension, count = len(strides), points.shape[1]
    for block in prange((count + BLOCK - 1) // BLOCK):
        room, widths = np.empty((2, max(dimension, nodes.shape[0]))), np.empty(dimension)
        order = np.empty(dimension, dtype=np.int64)
        for p in range(block * BLOCK, min(count, (block + 1) * BLOCK)):
            base = 0
            finite = True
            for a in range(dimension):
                if not math.isfinite(points[a, p]):
                    finite = False
                    continue
                k, room[0, a], _ = _cell(points[a, p], lower[a], spacing[a], shape[a], periodic[a], axes[a])
                widths[a] = axes[a, k + 1] - axes[a, k]
                base += k * strides[a]
            if not finite:
                out[:, :, p] = math.nan
                continue
            _evaluate(nodes, base, strides, room, order)  # for the order of the local coordinates
            here = base
            for k in range(dimension):
                a = order[k]
                there = here + strides[a]
                for c in range(nodes.shape[0]):
                    out[c, a, p] = (nodes[c, there] - nodes[c, here]) / widths[a]
                here = there


@njit(cache=True, error_model="numpy")
def _first_corner(cell, shape, first, strides):
    """Flat index of the first corner of a lattice cell, cells numbered in C order from ``first``."""
    base = 0
    for a in range(len(strides) - 1, -1, -1):
        width = shape[a] + 1 - first[a]
        base += (cell % width + first[a]) * strides[a]
        cell //= width
    return base


@njit(cache=True, error_model="numpy")
def _corner_range(nodes, base, strides, component):
    dimension = len(strides)
    low = math.inf
    high = -math.inf
    for corner in range(1 << dimension):
        index = base
        for a in range(dimension):
            if corner >> a & 1:
                index += strides[a]
        low = min(low, nodes[component, index])
        high = max(high, nodes[component, index])
    return low, high


@njit(cache=True, error_model="numpy")
def bin_cells(nodes, strides, shape, first, lower, spacing, bins, periodic, start, entries, fill):
    """Lists the lattice cells whose images may touch each bin of the target box (bounding boxes),
    counting pass or fill.

    With ``fill`` false, ``start[b + 1]`` counts; with it true, ``entries`` is filled and ``start`` advanced.
    """
    dimension = len(strides)
    cells = 1
    for a in range(dimension):
        cells *= shape[a] + 1 - first[a]
    begin = np.empty(dimension, dtype=np.int64)
    extent = np.empty(dimension, dtype=np.int64)
    for cell in range(cells):
        base = _first_corner(np.int64(cell), shape, first, strides)
        total = 1
        for a in range(dimension):
            low, high = _corner_range(nodes, base, strides, a)
            begin[a] = int(math.floor((low - lower[a]) / spacing[a] - 1e-9))
            end = int(math.floor((high - lower[a]) / spacing[a] + 1e-9))
            if periodic[a]:
                end = min(end, begin[a] + bins[a] - 1)
            else:
                begin[a] = min(max(begin[a], 0), bins[a] - 1)
                end = min(max(end, 0), bins[a] - 1)
            extent[a] = end - begin[a] + 1
            total *= extent[a]
        for number in range(total):
            rest = number
            index = 0
            scale = 1
            for a in range(dimension - 1, -1, -1):
                b = begin[a] + rest % extent[a]
                rest //= extent[a]
                index += (b % bins[a]) * scale
                scale *= bins[a]
            if fill:
                entries[start[index]] = base
                start[index] += 1
            else:
                start[index + 1] += 1


@njit(cache=True, error_model="numpy")
def _simplex(nodes, base, strides, permutation, y, matrix, t):
    """Local coordinates of ``y`` in one simplex (Cramer); returns the smallest barycentric coordinate."""
    dimension = len(strides)
    here = base
    for k in range(dimension):
        there = here + strides[permutation[k]]
        for c in range(dimension):
            matrix[c, k] = nodes[c, there] - nodes[c, here]
        here = there
    if dimension == 2:
        r0, r1 = y[0] - nodes[0, base], y[1] - nodes[1, base]
        determinant = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
        t[permutation[0]] = (r0 * matrix[1, 1] - matrix[0, 1] * r1) / determinant
        t[permutation[1]] = (matrix[0, 0] * r1 - r0 * matrix[1, 0]) / determinant
    else:
        r0, r1, r2 = y[0] - nodes[0, base], y[1] - nodes[1, base], y[2] - nodes[2, base]
        c0 = matrix[1, 1] * matrix[2, 2] - matrix[1, 2] * matrix[2, 1]
        c1 = matrix[1, 2] * matrix[2, 0] - matrix[1, 0] * matrix[2, 2]
        c2 = matrix[1, 0] * matrix[2, 1] - matrix[1, 1] * matrix[2, 0]
        determinant = matrix[0, 0] * c0 + matrix[0, 1] * c1 + matrix[0, 2] * c2
        t[permutation[0]] = (r0 * c0 + r1 * (matrix[0, 2] * matrix[2, 1] - matrix[0, 1] * matrix[2, 2])
                             + r2 * (matrix[0, 1] * matrix[1, 2] - matrix[0, 2] * matrix[1, 1])) / determinant
        t[permutation[1]] = (r0 * c1 + r1 * (matrix[0, 0] * matrix[2, 2] - matrix[0, 2] * matrix[2, 0])
                             + r2 * (matrix[0, 2] * matrix[1, 0] - matrix[0, 0] * matrix[1, 2])) / determinant
        t[permutation[2]] = (r0 * c2 + r1 * (matrix[0, 1] * matrix[2, 0] - matrix[0, 0] * matrix[2, 1])
                             + r2 * (matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0])) / determinant
    smallest = min(1.0 - t[permutation[0]], t[permutation[dimension - 1]])
    for k in range(dimension - 1):
        smallest = min(smallest, t[permutation[k]] - t[permutation[k + 1]])
    return smallest


@njit(cache=True, parallel=True, error_model="numpy")
def invert(nodes, axes, strides, permutations, lower, spacing, bins, periodic, start, entries, points, out, lift):
    """``out[:, p]``: a point that the map takes to ``points[:, p] + lift[:, p]`` (``lift``: whole periods).

    The simplex in which the point lies deepest; where images overlap (folds) one of the preimages.
    """
    dimension, count = len(strides), points.shape[1]
    for block in prange((count + BLOCK - 1) // BLOCK):
        y = np.empty(dimension)
        t = np.empty(dimension)
        matrix = np.empty((dimension, dimension))
        for p in range(block * BLOCK, min(count, (block + 1) * BLOCK)):
            index = 0
            finite = True
            for a in range(dimension):
                value = points[a, p]
                if not math.isfinite(value):
                    finite = False
                    continue
                length = bins[a] * spacing[a]
                if periodic[a]:
                    value -= length * math.floor((value - lower[a]) / length)
                else:
                    value = min(max(value, lower[a]), lower[a] + length)
                b = min(max(int(math.floor((value - lower[a]) / spacing[a])), 0), bins[a] - 1)
                index = index * bins[a] + b
                y[a] = value
            best = -math.inf
            for a in range(dimension):
                out[a, p] = math.nan
                lift[a, p] = 0.0
            if not finite:
                continue
            for attempt in range(2):  # cells that hold the point in their bounding box; if there are none, any
                for e in range(start[index], start[index + 1]):
                    base = entries[e]
                    away = False
                    for a in range(dimension):
                        if periodic[a]:
                            length = bins[a] * spacing[a]
                            y[a] += length * np.round((nodes[a, base] - y[a]) / length)
                        low, high = _corner_range(nodes, base, strides, a)
                        away = away or y[a] < low or y[a] > high
                    if away and attempt == 0:
                        continue
                    for s in range(permutations.shape[0]):
                        depth = _simplex(nodes, base, strides, permutations[s], y, matrix, t)
                        if depth > best:
                            best = depth
                            rest = base
                            for a in range(dimension):
                                k = rest // strides[a]
                                rest -= k * strides[a]
                                local = min(max(t[a], 0.0), 1.0)
                                out[a, p] = axes[a, k] + local * (axes[a, k + 1] - axes[a, k])
                                lift[a, p] = y[a] - points[a, p]
                    if best >= 0.0:
                        break
                if best > -1e-9:  # boxes and simplices round differently
                    break


@njit(cache=True, error_model="numpy")
def _share_out(room, share, cells, periodic, part, out):
    """Shares ``share`` between the target cell ``room[2]`` and the next ones, a fraction ``room[3]`` along every
    axis."""
    dimension = len(cells)
    for corner in range(1 << dimension):
        index = 0
        weight = share
        for a in range(dimension):
            if corner >> a & 1:
                weight *= room[3, a]
                b = int(room[2, a]) + 1
            else:
                weight *= 1.0 - room[3, a]
                b = int(room[2, a])
            if weight == 0.0:
                break
            if b < 0 or b >= cells[a]:
                b = b % cells[a] if periodic[a] else min(max(b, 0), cells[a] - 1)
            index = index * cells[a] + b
        if weight > 0.0:
            out[part, index] += weight


@njit(cache=True, error_model="numpy")
def _stored(index, n, periodic):
    """The target cell ``index`` along an axis, brought into the box."""
    if 0 <= index < n:
        return index
    return index % n if periodic else min(max(index, 0), n - 1)


@njit(cache=True, error_model="numpy")
def _reached(position, lower, scale, width, inverse):
    """The target cell along an axis that an image of ``width`` cells around ``position`` begins in, and its share in
    the next one."""
    s = (position - lower) * scale
    first = np.floor(s - 0.5 * width)
    return np.int64(first), max(0.0, s + 0.5 * width - first - 1.0) * inverse


@njit(cache=True, error_model="numpy")
def _pieces_2d(nodes, strides, periodic, share, lower, cells, count, local, offset, scale, width, out):
    """Shares out the pieces of a source cell, of the mass ``share`` each, between the target cells ``out``; see
    :func:`_deposit_pieces`."""
    first, second, inverse_x, inverse_y = nodes[0], nodes[1], 1.0 / width[0], 1.0 / width[1]
    for q in range(count[0]):
        for r in range(count[1]):
            s, t, here = local[0, q], local[1, r], offset[0, q] + offset[1, r]
            there, opposite = here + (strides[1] if t > s else strides[0]), here + strides[0] + strides[1]
            s, t = max(s, t), min(s, t)
            x = first[here] + s * (first[there] - first[here]) + t * (first[opposite] - first[there])
            y = second[here] + s * (second[there] - second[here]) + t * (second[opposite] - second[there])
            i, over_x = _reached(x, lower[0], scale[0], width[0], inverse_x)
            j, over_y = _reached(y, lower[1], scale[1], width[1], inverse_y)
            row, column = _stored(i, cells[0], periodic[0]) * cells[1], _stored(j, cells[1], periodic[1])
            if over_x == 0.0 and over_y == 0.0:
                out[row + column] += share
                continue
            next_row = _stored(i + 1, cells[0], periodic[0]) * cells[1]
            next_column = _stored(j + 1, cells[1], periodic[1])
            out[row + column] += share * (1.0 - over_x) * (1.0 - over_y)
            out[row + next_column] += share * (1.0 - over_x) * over_y
            out[next_row + column] += share * over_x * (1.0 - over_y)
            out[next_row + next_column] += share * over_x * over_y


@njit(cache=True, error_model="numpy")
def _pieces_3d(nodes, strides, periodic, share, lower, cells, count, local, offset, scale, width, out):
    """The same in 3D."""
    first, second, third = nodes[0], nodes[1], nodes[2]
    inverse_x, inverse_y, inverse_z = 1.0 / width[0], 1.0 / width[1], 1.0 / width[2]
    for q in range(count[0]):
        for r in range(count[1]):
            for m in range(count[2]):
                here = offset[0, q] + offset[1, r] + offset[2, m]
                s, along_s, t, along_t, v, along_v = (local[0, q], strides[0], local[1, r], strides[1], local[2, m],
                                                      strides[2])
                if t > s:
                    s, along_s, t, along_t = t, along_t, s, along_s
                if v > t:
                    t, along_t, v, along_v = v, along_v, t, along_t
                if t > s:
                    s, along_s, t, along_t = t, along_t, s, along_s
                a, b, c = here + along_s, here + along_s + along_t, here + along_s + along_t + along_v
                x = (first[here] + s * (first[a] - first[here]) + t * (first[b] - first[a])
                     + v * (first[c] - first[b]))
                y = (second[here] + s * (second[a] - second[here]) + t * (second[b] - second[a])
                     + v * (second[c] - second[b]))
                z = (third[here] + s * (third[a] - third[here]) + t * (third[b] - third[a])
                     + v * (third[c] - third[b]))
                i, over_x = _reached(x, lower[0], scale[0], width[0], inverse_x)
                j, over_y = _reached(y, lower[1], scale[1], width[1], inverse_y)
                k, over_z = _reached(z, lower[2], scale[2], width[2], inverse_z)
                slab = _stored(i, cells[0], periodic[0]) * cells[1] * cells[2]
                row, column = _stored(j, cells[1], periodic[1]) * cells[2], _stored(k, cells[2], periodic[2])
                if over_x == 0.0 and over_y == 0.0 and over_z == 0.0:
                    out[slab + row + column] += share
                    continue
                next_slab = _stored(i + 1, cells[0], periodic[0]) * cells[1] * cells[2]
                next_row = _stored(j + 1, cells[1], periodic[1]) * cells[2]
                next_column = _stored(k + 1, cells[2], periodic[2])
                near, far = share * (1.0 - over_x), share * over_x
                out[slab + row + column] += near * (1.0 - over_y) * (1.0 - over_z)
                out[slab + row + next_column] += near * (1.0 - over_y) * over_z
                out[slab + next_row + column] += near * over_y * (1.0 - over_z)
                out[slab + next_row + next_column] += near * over_y * over_z
                out[next_slab + row + column] += far * (1.0 - over_y) * (1.0 - over_z)
                out[next_slab + row + next_column] += far * (1.0 - over_y) * over_z
                out[next_slab + next_row + column] += far * over_y * (1.0 - over_z)
                out[next_slab + next_row + next_column] += far * over_y * over_z


@njit(cache=True, error_model="numpy")
def _deposit_pieces(nodes, strides, shape, at_faces, periodic, position, centre, mass, target_lower, cells, smooth,
                    widest, count, local, offset, scale, width, out):
    """One source cell cut into pieces at most ``widest`` target cells wide in the image (up to
    ``MOST_PIECES`` per axis); a quarter if ``smooth``, which makes the grain of equal masses a few thousandths.

    Room for it: ``count`` (d,), pieces per axis; ``local`` and ``offset`` (d, MOST_PIECES), local coordinates of the
    pieces and their lattice cells; ``width`` (d,), of their images in target cells. ``scale`` (d,): target cells per
    length. Not seen through views, which would have to be made for every cell.
    """
    dimension = len(strides)
    finer, share = 4.0 if smooth else 1.0, mass
    for c in range(dimension):
        width[c] = 1.0 if smooth else 1e-300
    for a in range(dimension):
        longest = 0.0
        for c in range(dimension):
            stretch = 0.5 * scale[c] * abs(nodes[c, centre + strides[a]] - nodes[c, centre - strides[a]])
            longest = max(longest, stretch)
        last = min(max(int(math.ceil(finer * longest / widest)), 2), MOST_PIECES)
        count[a] = last
        step = 1.0 / last
        share *= step
        if not smooth:
            for c in range(dimension):
                stretch = 0.5 * scale[c] * abs(nodes[c, centre + strides[a]] - nodes[c, centre - strides[a]])
                width[c] = min(width[c] + stretch * step, 1.0)
        for q in range(last):
            place = (q + 0.5) * step
            ahead = 1 if place >= 0.5 else 0  # of the node at the centre
            k, place = position[a] + ahead, place + 0.5 - ahead
            if k == 0 and at_faces[a, 0]:  # the lattice cell has half the width
                place = 2.0 * place - 1.0
            elif k == shape[a] and at_faces[a, 1]:
                place *= 2.0
            local[a, q], offset[a, q] = place, k * strides[a]
    arguments = nodes, strides, periodic, share, target_lower, cells, count, local, offset, scale, width, out
    if dimension == 2:
        _pieces_2d(*arguments)
    else:
        _pieces_3d(*arguments)


@njit(cache=True, error_model="numpy")
def _overlaps(line, base, strides, target_lower, target_spacing, n, pitch, periodic, low, high, over, widths):
    """Along one axis of the target, of a row of source cells: ``widths`` of their images, in target cells; ``low`` and
    ``high``, the first of these cells that an image reaches and the next, inside the box, times ``pitch``; ``over``,
    how wide the image is in the next."""
    inverse, length, last, scale = 1.0 / target_spacing, float(n), n - 1.0, float(pitch)
    for j in range(widths.shape[0]):
        widths[j] = 0.0
    for a in range(len(strides)):
        ahead, behind = line[base + strides[a]:], line[base - strides[a]:]  # views: no negative indices to look for
        for j in range(widths.shape[0]):
            edge = 0.5 * inverse * (ahead[j] - behind[j])
            widths[j] += edge * edge
    own = line[base:]
    for j in range(widths.shape[0]):
        width = math.sqrt(widths[j])
        s = (own[j] - target_lower) * inverse
        first = np.floor(s - 0.5 * width)
        beyond = s + 0.5 * width - first - 1.0
        widths[j], over[j] = width, max(0.0, beyond)
        low[j], high[j] = first, first + 1.0
    if periodic:
        for j in range(widths.shape[0]):
            low[j] -= length * np.floor(low[j] / length)
            high[j] -= length * np.floor(high[j] / length)
    for j in range(widths.shape[0]):
        low[j], high[j] = scale * min(max(low[j], 0.0), last), scale * min(max(high[j], 0.0), last)


@njit(cache=True, error_model="numpy")
def _wider(widths, widest):
    """How many of ``widths`` are wider than ``widest``."""
    count = 0
    for c in range(widths.shape[0]):
        for j in range(widths.shape[1]):
            count += 1 if widths[c, j] > widest else 0
    return count


@njit(cache=True, error_model="numpy")
def _in_one_cell(line, base, strides, target_lower, target_spacing, widths, ahead, behind, whole):
    """Along one axis of the target, of a row of source cells: unsets ``whole`` where the image does not lie in the
    target cell that :func:`_overlaps` begins with. Half of the longest edges, of the simplices at its centre, to nodes
    ahead and to nodes behind reach as far."""
    inverse, own = 1.0 / target_spacing, line[base:]
    for j in range(widths.shape[0]):
        ahead[j], behind[j] = 0.0, 0.0
    for corner in range(1, 1 << len(strides)):
        step = 0
        for a in range(len(strides)):
            step += (corner >> a & 1) * strides[a]
        after, before = line[base + step:], line[base - step:]
        for j in range(widths.shape[0]):
            ahead[j] = max(ahead[j], abs(after[j] - own[j]))
            behind[j] = max(behind[j], abs(before[j] - own[j]))
    for j in range(widths.shape[0]):
        s, reach = (own[j] - target_lower) * inverse, 0.5 * inverse * (ahead[j] + behind[j])
        first = np.floor(s - 0.5 * widths[j])
        whole[j] &= (s - reach >= first) & (s + reach <= first + 1.0)


@njit(cache=True, parallel=True, error_model="numpy")
def place(displacement, first, second, third, nodes):
    """``nodes[c] = displacement[c] + x_c`` inside ghost layers, 3D (there are none along an axis of one cell).

    The coordinate ``x_c`` is ``first[c, i] + second[c, j] + third[c, k]``, two of them zero.
    """
    low = [(m - n) // 2 for m, n in zip(nodes.shape[1:], displacement.shape[1:])]
    for i in prange(displacement.shape[1]):
        for c in range(displacement.shape[0]):
            for j in range(displacement.shape[2]):
                own, out = displacement[c, i, j], nodes[c, i + low[0], j + low[1], low[2]:]
                shift = first[c, i] + second[c, j]
                for k in range(own.shape[0]):
                    out[k] = own[k] + (shift + third[c, k])


@njit(cache=True, parallel=True, error_model="numpy")
def deposit(nodes, strides, shape, at_faces, periodic, mass, target_lower, target_spacing, cells, smooth, widest, out):
    """Moves the mass of every source cell through the map onto the cells of the target box; the total is kept.

    The image of a source cell is taken as the box with the second moments of the parallelotope along every axis, and
    the mass shared between the target cells by overlap, if it lies in one or is narrower than ``widest`` of them (at
    most 1); others are cut into pieces. With ``smooth`` every cell is cut, and the box is one target cell wide
    (bilinear sharing: less grain, blurred by half a cell). ``at_faces`` (d, 2): whether the first and the last lattice
    cells of an axis end at a face. ``out`` (parts, cells) is added to; part p takes its share of the source's first
    axis, so the sum over parts does not depend on the number of threads.
    """
    dimension = len(strides)
    parts, length, scale = out.shape[0], shape[dimension - 1], 1.0 / target_spacing
    rows = mass.shape[0] // length // shape[0]  # along the last axis, in a slab of the first
    for part in prange(parts):
        position = np.zeros(dimension, dtype=np.int64)
        low, high, over = np.empty((dimension, length)), np.empty((dimension, length)), np.empty((dimension, length))
        widths, whole = np.empty((dimension, length)), np.empty(length, dtype=np.bool_)
        ahead, behind = np.empty(length), np.empty(length)
        local, offset = np.empty((dimension, MOST_PIECES)), np.empty((dimension, MOST_PIECES), dtype=np.int64)
        count, width, share = np.empty(dimension, dtype=np.int64), np.empty(dimension), np.empty(dimension)
        target = out[part]
        begin, end = np.int64(part) * shape[0] // parts, (np.int64(part) + 1) * shape[0] // parts
        for row in range(begin * rows, end * rows):
            rest, base = row, strides[dimension - 1]
            for a in range(dimension - 2, -1, -1):
                position[a] = rest % shape[a]
                rest //= shape[a]
                base += (position[a] + 1) * strides[a]
            pitch = 1
            for c in range(dimension - 1, -1, -1):
                _overlaps(nodes[c], base, strides, target_lower[c], target_spacing[c], cells[c], pitch, periodic[c],
                          low[c], high[c], over[c], widths[c])
                pitch *= cells[c]
            if not smooth and _wider(widths, widest):
                whole[:] = True
                for c in range(dimension):
                    _in_one_cell(nodes[c], base, strides, target_lower[c], target_spacing[c], widths[c], ahead, behind,
                                 whole)
            masses = mass[row * length:]
            for j in range(length):
                amount, index = masses[j], 0.0
                inside, narrow = not smooth, not smooth
                for c in range(dimension):
                    inside = inside and over[c, j] == 0.0
                    narrow = narrow and widths[c, j] <= widest
                    index += low[c, j]
                if inside and (narrow or whole[j]):
                    target[int(index)] += amount
                elif narrow:
                    for c in range(dimension):
                        share[c] = over[c, j] / max(widths[c, j], 1e-300)
                    for corner in range(1 << dimension):
                        index, weight = 0.0, amount
                        for c in range(dimension):
                            next_one = corner >> c & 1
                            index += high[c, j] if next_one else low[c, j]
                            weight *= share[c] if next_one else 1.0 - share[c]
                        target[int(index)] += weight
                else:
                    position[dimension - 1] = j
                    _deposit_pieces(nodes, strides, shape, at_faces, periodic, position, base + j, amount, target_lower,
                                    cells, smooth, widest, count, local, offset, scale, width, target)
