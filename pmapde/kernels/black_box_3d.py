"""Kernels of black-box multigrid in 3D (Dendy 1982): 27-point rows, operator-dependent interpolation, zebra lines.

``rows`` (27, nx, ny, nz) hold the coefficient of neighbour ``(i + dx, j + dy, k + dz)``, number
``9 (dx + 1) + 3 (dy + 1) + dz + 1`` of the cube, at index ``AT[number]``: the corners of the cube come last, and a
19-point stencil has none of them, (19, nx, ny, nz). Neighbours beyond a no-flux face are folded back, so their
coefficients are zero. Fields carry one ghost layer, zero or wrapped.

``ratio`` r is 2 along the axes that are coarsened, 1 along the others: the coarse cell ``(I, J, K)`` is the fine cell
``(rx I, ry J, rz K)``. ``transfer`` (27, mx, my, mz) holds the columns of the interpolation P, by numbers of the cube:
the weight that the neighbour (dx, dy, dz) of that fine cell takes from the coarse cell. Only cells with an odd number
on a coarsened axis take something from beside; one that does not exist takes nothing: beyond a no-flux face, and
between the last and the first cell of a periodic axis with an odd number of cells.
"""
from functools import partial

import numpy as np
from numba import njit, prange

ORDER = np.array(sorted(range(27), key=lambda m: (abs(m // 9 - 1) + abs(m // 3 % 3 - 1) + abs(m % 3 - 1) == 3, m)))
AT = np.argsort(ORDER)
CENTRE = AT[13]


@njit(cache=True, error_model="numpy")
def _add(line, out, factor):
    for k in range(out.size):
        out[k] += factor * line[k]


@njit(cache=True, error_model="numpy")
def _fold(rows, m, step, i, j):
    """Add coefficient number ``m`` of row (i, j) to the one ``step`` numbers before: a face is in between."""
    _add(rows[AT[m], i, j], rows[AT[m - step], i, j], 1.0)
    rows[AT[m], i, j].fill(0.0)


@njit(cache=True, error_model="numpy")
def _assemble(weights, drift, offsets, shift, row_weight, periodic, i, j, rows):
    nx, ny, nz = row_weight.shape
    centre = rows[CENTRE, i, j]
    centre.fill(shift)
    for e in range(len(offsets)):
        _add(weights[e, i, j], centre, 2.0)
        for sign in range(-1, 2, 2):
            line = rows[AT[13 + sign * (9 * offsets[e, 0] + 3 * offsets[e, 1] + offsets[e, 2])], i, j]
            _add(weights[e, i, j], line, -1.0)
            if e < 3:  # the offsets start with the axes
                _add(drift[e, min(np.int64(i), drift.shape[1] - 1), j], line, -sign)
    for m in range(len(rows)):
        line = rows[m, i, j]
        for k in range(nz):
            line[k] *= row_weight[i, j, k]
    for m in ORDER[:len(rows)]:  # a reflected neighbour is the cell on this side of the face, axis after axis
        if not periodic[0] and (m // 9 == 0 and i == 0 or m // 9 == 2 and i == nx - 1):
            _fold(rows, m, 9 * (m // 9 - 1), i, j)
    for m in ORDER[:len(rows)]:
        if not periodic[1] and (m // 3 % 3 == 0 and j == 0 or m // 3 % 3 == 2 and j == ny - 1):
            _fold(rows, m, 3 * (m // 3 % 3 - 1), i, j)
    for m in ORDER[:len(rows)]:
        dz = m % 3 - 1
        if not periodic[2] and dz != 0:
            k = 0 if dz < 0 else nz - 1
            rows[AT[m - dz], i, j, k] += rows[AT[m], i, j, k]
            rows[AT[m], i, j, k] = 0.0


@njit(cache=True, parallel=True, error_model="numpy")
def assemble(weights, drift, offsets, shift, row_weight, periodic, rows):
    """Rows of ``row_weight (shift w - sum_k W_k D_k w - sum_a B_a (w(+1_a) - w(-1_a)))``; ``rows`` come as zeros."""
    nx, ny, _ = row_weight.shape
    for index in prange(nx):
        i = np.int64(index)  # numba's own is unsigned
        for j in range(ny):
            _assemble(weights, drift, offsets, shift, row_weight, periodic, i, j, rows)


@njit(cache=True, error_model="numpy")
def _parent(fine, ratio, coarse_count, periodic):
    """Coarse number of the fine number ``fine`` that has one, possibly just beyond the end; -1: does not exist."""
    if fine // ratio < coarse_count:
        return fine // ratio
    return 0 if periodic else -1


@njit(cache=True, error_model="numpy")
def _interpolate(rows, ratio, periodic, x, y, odd_z, buffer, transfer):
    """Weights of the cells of row (x, y) with even or odd numbers; those of cells with fewer odd numbers are known.

    The rows are collapsed along the axes where the cells lie on coarse ones. A parent gets the coupling to itself, and
    the couplings to the neighbours towards it times what these take from it; positive ones do not count.
    """
    nz, (mx, my, mz) = rows.shape[3], transfer.shape[1:]
    odd_x, odd_y, count = x % ratio[0], y % ratio[1], (nz - odd_z + ratio[2] - 1) // ratio[2]
    coupling, total, parents = buffer[:27], buffer[27], buffer[28]
    buffer.fill(0.0)
    for m in range(len(rows)):
        dx, dy, dz = ORDER[m] // 9 - 1, ORDER[m] // 3 % 3 - 1, ORDER[m] % 3 - 1
        line, sums = rows[m, x, y], coupling[13 + 9 * dx * odd_x + 3 * dy * odd_y + dz * odd_z]
        for k in range(count):
            sums[k] -= line[ratio[2] * k + odd_z]
    for turn in range(2):  # find the weights, then divide them by their sum
        for cx in range(-odd_x, odd_x + 1, 2):  # (cx, cy, cz): from the cell to the parent
            i = _parent(x + cx, ratio[0], mx, periodic[0])
            for cy in range(-odd_y, odd_y + 1, 2):
                j = _parent(y + cy, ratio[1], my, periodic[1])
                if i < 0 or j < 0:
                    continue
                for cz in range(-odd_z, odd_z + 1, 2):
                    own, step = 13 - 9 * cx - 3 * cy - cz, 1 if cz > 0 else 0
                    weight, wraps = transfer[own, i, j], count + step > mz
                    for k in range(count - 1 if wraps and not periodic[2] else count):
                        parent = 0 if wraps and k == count - 1 else k + step
                        if turn == 1:
                            weight[parent] = weight[parent] / total[k] if total[k] > 0.0 else 1.0 / parents[k]
                            continue
                        parents[k] += 1.0
                        for dx in range(min(0, cx), max(0, cx) + 1):
                            for dy in range(min(0, cy), max(0, cy) + 1):
                                for dz in range(min(0, cz), max(0, cz) + 1):
                                    to = 9 * dx + 3 * dy + dz
                                    if to != 0:
                                        share = transfer[own + to, i, j, parent]
                                        weight[parent] += max(coupling[13 + to, k], 0.0) * share
                        total[k] += weight[parent]


@njit(cache=True, parallel=True, error_model="numpy")
def interpolation(rows, periodic, ratio, transfer):
    """Columns of P from the rows; ``transfer`` comes as zeros.

    Cells between two coarse ones come first, then those between four, then those between eight. Weights of a cell add
    up to one, so constants are interpolated exactly.
    """
    nx, ny = rows.shape[1:3]
    transfer[13].fill(1.0)
    for between in range(1, 4):
        for index in prange(nx):
            x = np.int64(index)
            buffer = np.empty((29, transfer.shape[3]))
            for y in range(ny):
                odd_z = between - x % ratio[0] - y % ratio[1]
                if 0 <= odd_z < ratio[2]:
                    _interpolate(rows, ratio, periodic, x, y, odd_z, buffer, transfer)


@njit(cache=True, error_model="numpy")
def _turn(index, count):
    """An index at most ``count`` beyond either end, brought back around."""
    return index + count if index < 0 else (index - count if index >= count else index)


@njit(cache=True, error_model="numpy")
def _place(child, step, ratio, coarse, fine_count, coarse_count):
    """Where a neighbour's neighbour lies, 0 to 4 with the coarse cells at 0, 2 and 4.

    Around the seam of a periodic axis with an odd number of cells one place is left out: it would be the odd one.
    """
    place = child + step
    if ratio == 1:
        return 2 * step
    if fine_count % 2 == 1 and place == 1 and coarse == 0:
        return 0
    if fine_count % 2 == 1 and place == 3 and coarse == coarse_count - 1:
        return 4
    return place


@njit(cache=True, error_model="numpy")
def _gather(rows, ratio, m, x, y, weights, block):
    """Add the couplings number m, m + 1, m + 2 of row (x, y) times the weights of its cells, to five places along z."""
    nz, mz = rows.shape[3], block.shape[1]
    level = rows[AT[m + 1], x, y]
    corners = AT[m] < len(rows)  # otherwise there are no others, and `level` stands in for them
    down, up = (rows[AT[m], x, y], rows[AT[m + 2], x, y]) if corners else (level, level)
    a, b, c = weights[0], weights[1], weights[2]
    if ratio == 1:
        for k in range(mz):
            block[2, k] += b[k] * level[k]
            if corners:
                block[0, k] += b[k] * down[k]
                block[4, k] += b[k] * up[k]
        return
    for k in range(mz):
        behind = 2 * k - 1 if k > 0 else nz - 1
        ahead = 2 * k + 1 if 2 * k + 1 < nz else 0
        block[1, k] += a[k] * level[behind]
        block[2, k] += b[k] * level[2 * k]
        block[3, k] += c[k] * level[ahead]
        if corners:
            block[0, k] += a[k] * down[behind]
            block[1, k] += b[k] * down[2 * k]
            block[2, k] += a[k] * up[behind] + c[k] * down[ahead]
            block[3, k] += b[k] * up[2 * k]
            block[4, k] += c[k] * up[ahead]


@njit(cache=True, error_model="numpy")
def _galerkin(rows, ratio, transfer, i, j, block, coarse):
    """Coarse rows of the line (i, j); ``block`` (5, 5, 5, mz): its rows of P' A on the fine cells around."""
    nx, ny, nz = rows.shape[1:]
    mx, my, mz = transfer.shape[1:]
    block.fill(0.0)
    for m in range(0, 27, 3):
        dx, dy = m // 9, m // 3 % 3
        if dx != 1 and ratio[0] == 1 or dy != 1 and ratio[1] == 1:
            continue
        x, y = _turn(ratio[0] * i + dx - 1, nx), _turn(ratio[1] * j + dy - 1, ny)
        for a in range(3):
            p = _place(dx, a, ratio[0], i, nx, mx)
            for b in range(3):
                q = _place(dy, b, ratio[1], j, ny, my)
                _gather(rows, ratio[2], 9 * a + 3 * b, x, y, transfer[m:m + 3, i, j], block[p, q])
    if ratio[2] == 2 and nz % 2 == 1:  # what `_place` does, along z
        for p in range(5):
            for q in range(5):
                line = block[p, q]
                line[0, 0], line[1, 0] = line[0, 0] + line[1, 0], 0.0
                line[4, mz - 1], line[3, mz - 1] = line[4, mz - 1] + line[3, mz - 1], 0.0
    for a in range(3):
        for b in range(3):
            x, y, m = _turn(i + a - 1, mx), _turn(j + b - 1, my), 9 * a + 3 * b
            down, level, up = coarse[AT[m], i, j], coarse[AT[m + 1], i, j], coarse[AT[m + 2], i, j]
            for k in range(mz):
                down[k], level[k], up[k] = 0.0, 0.0, 0.0
            for p in range(max(0, 1 - 2 * a), min(3, 6 - 2 * a)):
                for q in range(max(0, 1 - 2 * b), min(3, 6 - 2 * b)):
                    line, n = block[2 * a + p - 1, 2 * b + q - 1], 9 * p + 3 * q
                    behind, own, ahead = transfer[n, x, y], transfer[n + 1, x, y], transfer[n + 2, x, y]
                    for k in range(mz):
                        before, after = k - 1 if k > 0 else mz - 1, k + 1 if k + 1 < mz else 0
                        down[k] += line[0, k] * own[before] + line[1, k] * ahead[before]
                        level[k] += line[1, k] * behind[k] + line[2, k] * own[k] + line[3, k] * ahead[k]
                        up[k] += line[3, k] * behind[after] + line[4, k] * own[after]


@njit(cache=True, parallel=True, error_model="numpy")
def galerkin(rows, ratio, transfer, coarse):
    """``coarse`` (27, mx, my, mz): the rows of P' A P."""
    _, mx, my, mz = transfer.shape
    for index in prange(mx):
        i = np.int64(index)
        block = np.empty((5, 5, 5, mz))
        for j in range(my):
            _galerkin(rows, ratio, transfer, i, j, block, coarse)


@njit(cache=True, error_model="numpy")
def _factor_line(rows, axis, periodic, i, j, k, inverse_pivot, closing):
    """The line along ``axis`` that starts at the cell (i, j, k)."""
    length = inverse_pivot.shape[axis]
    before, after = AT[13 - 9 // 3**axis], AT[13 + 9 // 3**axis]
    step_i, step_j, step_k = (1, 0, 0) if axis == 0 else ((0, 1, 0) if axis == 1 else (0, 0, 1))
    gamma, corner = -rows[CENTRE, i, j, k], rows[before, i, j, k]
    pivot = rows[CENTRE, i, j, k]
    if periodic:
        pivot -= gamma
        closing[i, j, k] = gamma / pivot
    inverse = 1.0 / pivot
    inverse_pivot[i, j, k] = inverse
    for place in range(1, length):
        upper = rows[after, i, j, k]
        left = closing[i, j, k] if periodic else 0.0
        i, j, k = i + step_i, j + step_j, k + step_k
        pivot = rows[CENTRE, i, j, k] - rows[before, i, j, k] * upper * inverse
        right = 0.0
        if periodic and place == length - 1:
            right = rows[after, i, j, k]
            pivot -= corner * right / gamma
        inverse = 1.0 / pivot
        inverse_pivot[i, j, k] = inverse
        if periodic:
            closing[i, j, k] = (right - rows[before, i, j, k] * left) * inverse
    if periodic:
        last = closing[i, j, k]
        value = last
        for _ in range(length - 1):
            i, j, k = i - step_i, j - step_j, k - step_k
            value = closing[i, j, k] - rows[after, i, j, k] * inverse_pivot[i, j, k] * value
            closing[i, j, k] = value
        scale = 1.0 + value + corner / gamma * last
        for _ in range(length):
            closing[i, j, k] /= scale
            i, j, k = i + step_i, j + step_j, k + step_k


@njit(cache=True, parallel=True, error_model="numpy")
def factor_lines(rows, axis, periodic, inverse_pivot, closing):
    """Factors of the tridiagonal systems of all lines along ``axis``: inverse pivots of Gauss elimination.

    On a periodic axis the two corner entries are a rank-one change: ``closing`` is the solution of the changed system
    for it, divided by the denominator of Sherman & Morrison's formula; empty otherwise.
    """
    nx, ny, nz = inverse_pivot.shape
    slabs = ny if axis == 0 else nx
    for index in prange(slabs):
        slab = np.int64(index)
        for line in range(ny if axis == 2 else nz):
            i, j, k = (0, slab, line) if axis == 0 else ((slab, 0, line) if axis == 1 else (slab, line, 0))
            _factor_line(rows, axis, periodic, i, j, k, inverse_pivot, closing)


@njit(cache=True, error_model="numpy")
def _lines(count, periodic, colour):
    """First line, number of lines two apart, of a colour; the third is the last of an odd number on a periodic axis."""
    odd_seam = 1 if periodic and count % 2 == 1 else 0
    if colour == 0:
        return 0, (count + 1) // 2 - odd_seam
    if colour == 1:
        return 1, count // 2
    return count - 1, odd_seam


@njit(cache=True, error_model="numpy")
def _copy(line, out):
    for k in range(out.size):
        out[k] = line[k]


@njit(cache=True, error_model="numpy")
def _wrap(field, axis):
    """Refresh the ghosts at both ends of a periodic axis."""
    n, m, o = field.shape
    for i in range(n if axis > 0 else m):
        if axis == 0:
            _copy(field[n - 2, i], field[0, i])
            _copy(field[1, i], field[n - 1, i])
        elif axis == 1:
            _copy(field[i, m - 2], field[i, 0])
            _copy(field[i, 1], field[i, m - 1])
        else:
            for j in range(m):
                field[i, j, 0], field[i, j, o - 1] = field[i, j, o - 2], field[i, j, 1]


@njit(cache=True, error_model="numpy")
def _subtract(rows, m, i, j, line, out):
    """``out -=`` the couplings number m, m + 1, m + 2 of row (i, j) to the ghosted ``line``."""
    level = rows[AT[m + 1], i, j]
    if AT[m] < len(rows):
        behind, ahead = rows[AT[m], i, j], rows[AT[m + 2], i, j]
        for k in range(out.size):
            out[k] -= behind[k] * line[k] + level[k] * line[k + 1] + ahead[k] * line[k + 2]
    else:
        for k in range(out.size):
            out[k] -= level[k] * line[k + 1]


@njit(cache=True, error_model="numpy")
def _rest(rows, rhs, field, i, j, own, out):
    """``out``: the right-hand side of the line (i, j) less the lines around it, and less itself if ``own``."""
    for k in range(out.size):
        out[k] = rhs[i, j, k]
    for m in range(0, 27, 3):
        if own or m != 12:
            _subtract(rows, m, i, j, field[i + m // 9, j + m // 3 % 3], out)


@njit(cache=True, error_model="numpy")
def _relax_slab(rows, inverse_pivot, closing, rhs, axis, s, backward, periodic, field):
    """The lines along ``axis`` (0 or 1) of slab ``s`` of the other of these two axes, colour by colour along z.

    What comes from the slabs beside is gathered once for all colours.
    """
    length, nz = rhs.shape[axis], rhs.shape[2]
    along, across = (9, 3) if axis == 0 else (3, 9)
    before, after = AT[13 - along], AT[13 + along]
    right, amount = np.empty((length, nz)), np.empty(nz)
    for p in range(length):
        i, j = (p, s) if axis == 0 else (s, p)
        value = right[p]
        for k in range(nz):
            value[k] = rhs[i, j, k]
        for a in range(3):
            for b in range(0, 3, 2):
                x, y = (i + a, j + b) if axis == 0 else (i + b, j + a)
                _subtract(rows, along * a + across * b, i, j, field[x, y], value)
    for turn in range(3):
        begin, lines = _lines(nz, periodic[2], 2 - turn if backward else turn)
        end = begin + 2 * lines
        for p in range(length if lines > 0 else 0):
            i, j = (p, s) if axis == 0 else (s, p)
            x, y = (1, 0) if axis == 0 else (0, 1)
            below, own, above = field[i + 1 - x, j + 1 - y], field[i + 1, j + 1], field[i + 1 + x, j + 1 + y]
            value = right[p]
            for k in range(begin, end, 2):
                value[k] -= (rows[AT[12 - along], i, j, k] * below[k] + rows[AT[14 - along], i, j, k] * below[k + 2]
                             + rows[AT[12], i, j, k] * own[k] + rows[AT[14], i, j, k] * own[k + 2]
                             + rows[AT[12 + along], i, j, k] * above[k] + rows[AT[14 + along], i, j, k] * above[k + 2])
            if p > 0:
                previous = right[p - 1]
                for k in range(begin, end, 2):
                    value[k] -= rows[before, i, j, k] * previous[k]
            for k in range(begin, end, 2):
                value[k] *= inverse_pivot[i, j, k]
        for p in range(length - 2 if lines > 0 else -1, -1, -1):
            i, j = (p, s) if axis == 0 else (s, p)
            value, following = right[p], right[p + 1]
            for k in range(begin, end, 2):
                value[k] -= rows[after, i, j, k] * inverse_pivot[i, j, k] * following[k]
        if periodic[axis]:
            i, j = (0, s) if axis == 0 else (s, 0)
            for k in range(begin, end, 2):
                amount[k] = right[0, k] - rows[before, i, j, k] / rows[CENTRE, i, j, k] * right[length - 1, k]
            for p in range(length):
                i, j = (p, s) if axis == 0 else (s, p)
                for k in range(begin, end, 2):
                    right[p, k] -= amount[k] * closing[i, j, k]
        for p in range(-1, length + 1):  # the ghosts of the line are zero, or its other end
            own = field[p + 1, s + 1] if axis == 0 else field[s + 1, p + 1]
            if 0 <= p < length or periodic[axis]:
                for k in range(begin, end, 2):
                    own[k + 1] = right[_turn(p, length), k]
                if periodic[2]:
                    own[0], own[nz + 1] = own[nz], own[1]


@njit(cache=True, parallel=True, error_model="numpy")
def relax_across(axis, rows, inverse_pivot, closing, rhs, backward, periodic, field):
    """One zebra sweep of line Gauss-Seidel, lines along ``axis`` (0 or 1): colours by the parities of the other two."""
    slabs = rhs.shape[1 - axis]
    for step in range(3):
        first, count = _lines(slabs, periodic[1 - axis], 2 - step if backward else step)
        for index in prange(count):
            s = first + 2 * np.int64(index)
            _relax_slab(rows, inverse_pivot, closing, rhs, axis, s, backward, periodic, field)
        if periodic[1 - axis]:
            _wrap(field, 1 - axis)


relax_x, relax_y = partial(relax_across, 0), partial(relax_across, 1)


@njit(cache=True, error_model="numpy")
def _relax_line(rows, inverse_pivot, closing, i, j, periodic, right, own):
    """Solve for the line (i, j) along z, given what the right-hand side less the lines beside leaves."""
    nz = right.size
    before, after = rows[AT[12], i, j], rows[AT[14], i, j]
    value = right[0] * inverse_pivot[i, j, 0]
    own[1] = value
    for k in range(1, nz):
        value = (right[k] - before[k] * value) * inverse_pivot[i, j, k]
        own[k + 1] = value
    for k in range(nz - 2, -1, -1):
        value = own[k + 1] - after[k] * inverse_pivot[i, j, k] * value
        own[k + 1] = value
    if periodic:
        amount = own[1] - before[0] / rows[CENTRE, i, j, 0] * own[nz]
        for k in range(nz):
            own[k + 1] -= amount * closing[i, j, k]
        own[0], own[nz + 1] = own[nz], own[1]


@njit(cache=True, parallel=True, error_model="numpy")
def relax_z(rows, inverse_pivot, closing, rhs, backward, periodic, field):
    """The same with lines along z."""
    nx, ny, nz = rhs.shape
    for step in range(3):
        first, count = _lines(nx, periodic[0], 2 - step if backward else step)
        for index in prange(count):
            i = first + 2 * np.int64(index)
            right = np.empty(nz)
            for turn in range(3):
                begin, lines = _lines(ny, periodic[1], 2 - turn if backward else turn)
                for j in range(begin, begin + 2 * lines, 2):
                    _rest(rows, rhs, field, i, j, False, right)
                    _relax_line(rows, inverse_pivot, closing, i, j, periodic[2], right, field[i + 1, j + 1])
                for side in range(0, ny + 2, ny + 1):
                    if periodic[1]:
                        _copy(field[i + 1, ny if side == 0 else 1], field[i + 1, side])
        if periodic[0]:
            _wrap(field, 0)


@njit(cache=True, parallel=True, error_model="numpy")
def residual(rows, rhs, field, out):
    """``out = rhs - A field``."""
    nx, ny, _ = rhs.shape
    for index in prange(nx):
        i = np.int64(index)
        for j in range(ny):
            _rest(rows, rhs, field, i, j, True, out[i, j])


@njit(cache=True, error_model="numpy")
def _restrict(fine, ratio, transfer, i, j, own):
    nx, ny, nz = fine.shape
    mz = own.size
    own.fill(0.0)
    for m in range(0, 27, 3):  # the weights of cells that do not exist are zero
        line = fine[_turn(ratio[0] * i + m // 9 - 1, nx), _turn(ratio[1] * j + m // 3 % 3 - 1, ny)]
        behind, level, ahead = transfer[m, i, j], transfer[m + 1, i, j], transfer[m + 2, i, j]
        if ratio[2] == 1:
            for k in range(nz):
                own[k] += level[k] * line[k]
        else:
            own[0] += behind[0] * line[nz - 1]
            for k in range(1, mz):
                own[k] += behind[k] * line[2 * k - 1]
            for k in range(mz):
                own[k] += level[k] * line[2 * k]
            for k in range(nz // 2):
                own[k] += ahead[k] * line[2 * k + 1]


@njit(cache=True, parallel=True, error_model="numpy")
def restrict(fine, ratio, transfer, coarse):
    """``coarse = P' fine``, (mx, my, mz); both without ghosts."""
    mx, my, _ = coarse.shape
    for index in prange(mx):
        i = np.int64(index)
        for j in range(my):
            _restrict(fine, ratio, transfer, i, j, coarse[i, j])


@njit(cache=True, error_model="numpy")
def _prolong(coarse, ratio, transfer, i, j, own):
    _, mx, my, mz = transfer.shape
    nz, odd_x, odd_y = own.size - 2, i % ratio[0], j % ratio[1]
    for a in range(1 + odd_x):
        for b in range(1 + odd_y):
            line = coarse[i // ratio[0] + a + 1, j // ratio[1] + b + 1]
            m, x, y = 9 * (1 + odd_x - 2 * a) + 3 * (1 + odd_y - 2 * b), i // ratio[0] + a, j // ratio[1] + b
            x, y = _turn(x, mx), _turn(y, my)
            behind, level, ahead = transfer[m, x, y], transfer[m + 1, x, y], transfer[m + 2, x, y]
            if ratio[2] == 1:
                for k in range(nz):
                    own[k + 1] += level[k] * line[k + 1]
            else:
                for k in range(mz):
                    own[2 * k + 1] += level[k] * line[k + 1]
                for k in range(nz // 2):
                    own[2 * k + 2] += ahead[k] * line[k + 1]
                for k in range(1, mz):
                    own[2 * k] += behind[k] * line[k + 1]
                if nz % 2 == 0:
                    own[nz] += behind[0] * line[mz + 1]


@njit(cache=True, parallel=True, error_model="numpy")
def prolong_add(coarse, ratio, transfer, periodic, fine):
    """``fine += P coarse``, both with ghosts; those of ``fine`` are refreshed."""
    nx, ny, _ = fine.shape
    for index in prange(nx - 2):
        i = np.int64(index)
        for j in range(ny - 2):
            _prolong(coarse, ratio, transfer, i, j, fine[i + 1, j + 1])
    for axis in range(3):
        if periodic[axis]:
            _wrap(fine, axis)
