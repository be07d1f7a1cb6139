"""Kernels of black-box multigrid in 2D (Dendy 1982): nine-point rows, operator-dependent interpolation, zebra lines.

``rows`` (9, nx, ny) hold the coefficient of neighbour ``(i + dx, j + dy)`` at index ``3 (dx + 1) + dy + 1``; neighbours
beyond a no-flux face are folded back, so their coefficients are zero. Fields carry one ghost layer, zero or wrapped.
The coarse cell ``(I, J)`` is the fine cell ``(2I, 2J)``. A fine cell between two coarse ones along x has the weight
``along_x[I, J]`` from the left one (the rest from the right one), likewise ``along_y``; one between four has
``between[:, I, J]``, in the order (I, J), (I + 1, J), (I, J + 1), (I + 1, J + 1).
"""

import numpy as np
from numba import njit, prange


@njit(cache=True, parallel=True, error_model="numpy")
def assemble(weights, drift, offsets, shift, row_weight, periodic, rows):
    """Rows of ``row_weight (shift w - sum_k W_k D_k w - sum_a B_a (w(+1_a) - w(-1_a)))`` on the 3x3 stencil."""
    count, nx, ny = weights.shape
    for index in prange(nx):
        i = np.int64(index)  # numba's own is unsigned
        for k in range(9):
            rows[k, i, :] = 0.0
        rows[4, i, :] = shift
        for e in range(count):
            centre = rows[4, i]
            for j in range(ny):
                centre[j] += 2.0 * weights[e, i, j]
            for side in range(2):
                sign = 1 - 2 * side
                line = rows[3 * (sign * offsets[e, 0] + 1) + sign * offsets[e, 1] + 1, i]
                for j in range(ny):
                    line[j] -= weights[e, i, j]
                if e < 2:  # the offsets start with the axes
                    part = drift[e, min(i, drift.shape[1] - 1)]
                    for j in range(ny):
                        line[j] -= sign * part[j]
        for k in range(9):
            line = rows[k, i]
            for j in range(ny):
                line[j] *= row_weight[i, j]
        for k in range(3):  # a reflected neighbour is the cell on this side of the face
            if not periodic[0] and i == 0:
                rows[3 + k, i] += rows[k, i]
                rows[k, i] = 0.0
            if not periodic[0] and i == nx - 1:
                rows[3 + k, i] += rows[6 + k, i]
                rows[6 + k, i] = 0.0
        for k in range(3):
            if not periodic[1]:
                rows[3 * k + 1, i, 0] += rows[3 * k, i, 0]
                rows[3 * k, i, 0] = 0.0
                rows[3 * k + 1, i, ny - 1] += rows[3 * k + 2, i, ny - 1]
                rows[3 * k + 2, i, ny - 1] = 0.0


@njit(cache=True, error_model="numpy")
def _share(left, right):
    """Weight of the left one of two couplings (coefficients, negative in an M-matrix row)."""
    left, right = max(-left, 0.0), max(-right, 0.0)
    return left / (left + right) if left + right > 0.0 else 0.5


@njit(cache=True, parallel=True, error_model="numpy")
def interpolation(rows, periodic, along_x, along_y, between):
    """Interpolation weights from the rows: collapsed for cells between two, their own for cells between four.

    Weights of a cell add up to one, so constants are interpolated exactly.
    """
    nx, ny = rows.shape[1:]
    mx, my = along_x.shape
    for index in prange(mx):
        i = np.int64(index)
        for j in range(my):
            x, y = 2 * i, 2 * j
            if x + 1 < nx:
                along_x[i, j] = _share(rows[0, x + 1, y] + rows[1, x + 1, y] + rows[2, x + 1, y],
                                       rows[6, x + 1, y] + rows[7, x + 1, y] + rows[8, x + 1, y])
                if x + 2 >= nx and not periodic[0]:
                    along_x[i, j] = 1.0
            if y + 1 < ny:
                along_y[i, j] = _share(rows[0, x, y + 1] + rows[3, x, y + 1] + rows[6, x, y + 1],
                                       rows[2, x, y + 1] + rows[5, x, y + 1] + rows[8, x, y + 1])
                if y + 2 >= ny and not periodic[1]:
                    along_y[i, j] = 1.0
    for index in prange(mx):
        i = np.int64(index)
        ahead = i + 1 if i + 1 < mx else 0
        for j in range(my):
            above = j + 1 if j + 1 < my else 0
            x, y = 2 * i + 1, 2 * j + 1
            if x < nx and y < ny:
                west, east = max(-rows[1, x, y], 0.0), max(-rows[7, x, y], 0.0)
                south, north = max(-rows[3, x, y], 0.0), max(-rows[5, x, y], 0.0)
                a = max(-rows[0, x, y], 0.0) + west * along_y[i, j] + south * along_x[i, j]
                b = max(-rows[6, x, y], 0.0) + east * along_y[ahead, j] + south * (1.0 - along_x[i, j])
                c = max(-rows[2, x, y], 0.0) + west * (1.0 - along_y[i, j]) + north * along_x[i, above]
                d = max(-rows[8, x, y], 0.0) + east * (1.0 - along_y[ahead, j]) + north * (1.0 - along_x[i, above])
                if not periodic[0] and x + 1 >= nx:
                    a, b, c, d = a + b, 0.0, c + d, 0.0
                if not periodic[1] and y + 1 >= ny:
                    a, b, c, d = a + c, b + d, 0.0, 0.0
                total = a + b + c + d
                between[0, i, j] = a / total if total > 0.0 else 1.0
                between[1, i, j] = b / total if total > 0.0 else 0.0
                between[2, i, j] = c / total if total > 0.0 else 0.0
                between[3, i, j] = d / total if total > 0.0 else 0.0


@njit(cache=True, error_model="numpy")
def _galerkin_cell(rows, along_x, along_y, between, i, j, local):
    """``local`` (9,): the row of P' A P of any coarse cell, next to a face or a seam included."""
    nx, ny = rows.shape[1:]
    mx, my = along_x.shape
    local[:] = 0.0
    for fx in range(2 * i - 1, 2 * i + 2):
        # beyond a periodic seam a fine cell is x, its coarse neighbours are numbered on from there
        x = fx + nx if fx < 0 else (fx - nx if fx >= nx else fx)
        if x % 2 == 0 and fx != 2 * i:
            continue  # an odd number of cells on a periodic axis: two coarse cells side by side
        for fy in range(2 * j - 1, 2 * j + 2):
            y = fy + ny if fy < 0 else (fy - ny if fy >= ny else fy)
            if y % 2 == 0 and fy != 2 * j:
                continue
            if fx == 2 * i and fy == 2 * j:
                weight = 1.0
            elif fy == 2 * j:
                weight = along_x[x // 2, j] if fx > 2 * i else 1.0 - along_x[x // 2, j]
            elif fx == 2 * i:
                weight = along_y[i, y // 2] if fy > 2 * j else 1.0 - along_y[i, y // 2]
            else:
                weight = between[(0 if fx > 2 * i else 1) + (0 if fy > 2 * j else 2), x // 2, y // 2]
            if (fx < 0 or fx >= nx or fy < 0 or fy >= ny) and weight == 0.0:
                continue
            for k in range(9):
                value = weight * rows[k, x, y]
                if value == 0.0:
                    continue
                # the neighbour of (x, y), its parents P and their numbers relative to (i, j)
                gx, gy = x + k // 3 - 1, y + k % 3 - 1
                turn_x, turn_y = i, j
                if fx < 0:
                    turn_x += mx
                elif fx >= nx:
                    turn_x -= mx
                if fy < 0:
                    turn_y += my
                elif fy >= ny:
                    turn_y -= my
                if gx < 0:
                    gx, turn_x = gx + nx, turn_x + mx
                elif gx >= nx:
                    gx, turn_x = gx - nx, turn_x - mx
                if gy < 0:
                    gy, turn_y = gy + ny, turn_y + my
                elif gy >= ny:
                    gy, turn_y = gy - ny, turn_y - my
                px, py = gx // 2, gy // 2
                at = 3 * (px - turn_x + 1) + py - turn_y + 1
                if gx % 2 == 0 and gy % 2 == 0:
                    local[at] += value
                elif gy % 2 == 0:
                    share = along_x[px, py]
                    local[at] += value * share
                    if share != 1.0:
                        local[at + 3] += value * (1.0 - share)
                elif gx % 2 == 0:
                    share = along_y[px, py]
                    local[at] += value * share
                    if share != 1.0:
                        local[at + 1] += value * (1.0 - share)
                else:
                    for m in range(4):
                        share = between[m, px, py]
                        if share != 0.0:
                            local[at + 3 * (m % 2) + m // 2] += value * share


WIDTH = 64  # coarse cells side by side in `_galerkin_inside`


@njit(cache=True, error_model="numpy")
def _galerkin_inside(rows, along_x, along_y, between, i, begin, end, product, weight, coarse):
    """The same for the coarse cells ``begin <= j < end`` of row ``i``, whose 5x5 fine cells are all inside the grid.

    ``product`` (25, WIDTH) is P' A, by fine cell around each coarse one; then P is applied from the right.
    """
    count = end - begin
    product[:] = 0.0
    for dx in range(-1, 2):
        for dy in range(-1, 2):
            px, py = i - (1 if dx < 0 else 0), begin - (1 if dy < 0 else 0)
            if dx == 0 and dy == 0:
                weight[:] = 1.0
            elif dy == 0:
                for j in range(count):
                    weight[j] = along_x[px, py + j] if dx > 0 else 1.0 - along_x[px, py + j]
            elif dx == 0:
                for j in range(count):
                    weight[j] = along_y[px, py + j] if dy > 0 else 1.0 - along_y[px, py + j]
            else:
                share = between[(0 if dx > 0 else 1) + (0 if dy > 0 else 2), px]
                for j in range(count):
                    weight[j] = share[py + j]
            for k in range(9):
                line, target = rows[k, 2 * i + dx], product[5 * (dx + k // 3 + 1) + dy + k % 3 + 1]
                for j in range(count):
                    target[j] += weight[j] * line[2 * (begin + j) + dy]
    for k in range(9):
        coarse[k, i, begin:end] = 0.0
    for x in range(5):
        for y in range(5):
            source, at = product[5 * x + y], 3 * (x // 2) + y // 2
            px, py = i - 1 + x // 2, begin - 1 + y // 2
            if x % 2 == 0 and y % 2 == 0:
                here = coarse[at, i]
                for j in range(count):
                    here[begin + j] += source[j]
            elif x % 2 == 1 and y % 2 == 1:
                for m in range(4):
                    here, share = coarse[at + 3 * (m % 2) + m // 2, i], between[m, px]
                    for j in range(count):
                        here[begin + j] += source[j] * share[py + j]
            else:
                share = along_x[px] if x % 2 == 1 else along_y[px]
                here, there = coarse[at, i], coarse[at + (3 if x % 2 == 1 else 1), i]
                for j in range(count):
                    here[begin + j] += source[j] * share[py + j]
                    there[begin + j] += source[j] * (1.0 - share[py + j])


@njit(cache=True, parallel=True, error_model="numpy")
def galerkin(rows, along_x, along_y, between, coarse):
    """``coarse`` (9, mx, my): the rows of P' A P."""
    nx, ny = rows.shape[1:]
    mx, my = along_x.shape
    for index in prange(mx):
        i = np.int64(index)  # numba's own is unsigned
        local, product, weight = np.empty(9), np.empty((25, WIDTH)), np.empty(WIDTH)
        first, last = (1, (ny - 1) // 2) if i > 0 and 2 * i + 2 < nx else (0, 0)  # inside: their fine cells are there
        last = max(first, last)
        for begin in range(first, last, WIDTH):
            _galerkin_inside(rows, along_x, along_y, between, i, begin, min(begin + WIDTH, last), product, weight,
                             coarse)
        for j in range(my):
            if first <= j < last:
                continue
            _galerkin_cell(rows, along_x, along_y, between, i, j, local)
            for k in range(9):
                coarse[k, i, j] = local[k]


@njit(cache=True, parallel=True, error_model="numpy")
def factor_lines(rows, axis, periodic, inverse_pivot, closing):
    """Factors of the tridiagonal systems of all lines along ``axis``: inverse pivots of Gauss elimination, (nx, ny).

    On a periodic axis the two corner entries are a rank-one change: ``closing`` (nx, ny) is the solution of the changed
    system for it, divided by the denominator of Sherman & Morrison's formula; empty otherwise.
    """
    nx, ny = rows.shape[1:]
    before, after = (1, 7) if axis == 0 else (3, 5)
    lines, length = (ny, nx) if axis == 0 else (nx, ny)
    if axis == 0 and not periodic:  # columns side by side
        for block in prange((ny + WIDTH - 1) // WIDTH):
            begin = np.int64(block) * WIDTH
            end = min(begin + WIDTH, ny)
            for j in range(begin, end):
                inverse_pivot[0, j] = 1.0 / rows[4, 0, j]
            for i in range(1, nx):
                for j in range(begin, end):
                    inverse_pivot[i, j] = 1.0 / (rows[4, i, j]
                                                 - rows[1, i, j] * rows[7, i - 1, j] * inverse_pivot[i - 1, j])
        return
    step_i, step_j = (1, 0) if axis == 0 else (0, 1)
    for index in prange(lines):
        line = np.int64(index)  # numba's own is unsigned
        i, j = (0, line) if axis == 0 else (line, 0)
        last_i, last_j = i + (length - 1) * step_i, j + (length - 1) * step_j
        gamma = -rows[4, i, j]
        pivot = rows[4, i, j]
        if periodic:
            pivot -= gamma
            closing[i, j] = gamma / pivot
        inverse_pivot[i, j] = 1.0 / pivot
        for k in range(1, length):
            i, j = i + step_i, j + step_j
            behind_i, behind_j = i - step_i, j - step_j
            pivot = (rows[4, i, j]
                     - rows[before, i, j] * rows[after, behind_i, behind_j] * inverse_pivot[behind_i, behind_j])
            right = 0.0
            if periodic and k == length - 1:
                corner = rows[before, i - k * step_i, j - k * step_j]
                pivot -= corner * rows[after, i, j] / gamma
                right = rows[after, i, j]
            inverse_pivot[i, j] = 1.0 / pivot
            if periodic:
                closing[i, j] = (right - rows[before, i, j] * closing[behind_i, behind_j]) / pivot
        if periodic:
            for _ in range(length - 1):
                i, j = i - step_i, j - step_j
                closing[i, j] -= rows[after, i, j] * inverse_pivot[i, j] * closing[i + step_i, j + step_j]
            scale = 1.0 + closing[i, j] + rows[before, i, j] / gamma * closing[last_i, last_j]
            for k in range(length):
                closing[i + k * step_i, j + k * step_j] /= scale


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
def _wrap_x(field):
    n = field.shape[0]
    field[0, :] = field[n - 2, :]
    field[n - 1, :] = field[1, :]


@njit(cache=True, error_model="numpy")
def _wrap_y(field):
    for i in range(field.shape[0]):
        field[i, 0] = field[i, field.shape[1] - 2]
        field[i, field.shape[1] - 1] = field[i, 1]


@njit(cache=True, parallel=True, error_model="numpy")
def relax_y(rows, inverse_pivot, closing, rhs, backward, periodic, field):
    """One zebra sweep of line Gauss-Seidel, lines along y: the even ones,
    then the odd ones (or the other way round)."""
    nx, ny = rhs.shape
    for step in range(3):
        first, count = _lines(nx, periodic[0], 2 - step if backward else step)
        for line in prange(count):
            i = 2 * np.int64(line) + first
            below, own, above = field[i], field[i + 1], field[i + 2]
            right = np.empty(ny)
            for j in range(ny):
                right[j] = (rhs[i, j] - rows[0, i, j] * below[j] - rows[1, i, j] * below[j + 1]
                            - rows[2, i, j] * below[j + 2] - rows[6, i, j] * above[j] - rows[7, i, j] * above[j + 1]
                            - rows[8, i, j] * above[j + 2])
            value = right[0] * inverse_pivot[i, 0]
            own[1] = value
            for j in range(1, ny):
                value = (right[j] - rows[3, i, j] * value) * inverse_pivot[i, j]
                own[j + 1] = value
            for j in range(ny - 2, -1, -1):
                value = own[j + 1] - rows[5, i, j] * inverse_pivot[i, j] * value
                own[j + 1] = value
            if periodic[1]:
                amount = own[1] - rows[3, i, 0] / rows[4, i, 0] * own[ny]
                for j in range(ny):
                    own[j + 1] -= amount * closing[i, j]
                own[0], own[ny + 1] = own[ny], own[1]
        if periodic[0]:
            _wrap_x(field)


LINES = 256
"""Lines along x side by side: their points follow each other in memory."""


@njit(cache=True, parallel=True, error_model="numpy")
def relax_x(rows, inverse_pivot, closing, rhs, backward, periodic, field):
    """The same with lines along x, up to ``LINES`` of them side by side."""
    nx, ny = rhs.shape
    for step in range(3):
        first, count = _lines(ny, periodic[1], 2 - step if backward else step)
        width = max(16, min(LINES, count // 4))  # four blocks or more are left for threads
        for index in prange((count + width - 1) // width):
            block = np.int64(index)
            begin = first + 2 * width * block
            end = first + 2 * min(width * (block + 1), count)
            for i in range(nx):
                below, own, above = field[i], field[i + 1], field[i + 2]
                for j in range(begin, end, 2):
                    value = (rhs[i, j] - rows[0, i, j] * below[j] - rows[3, i, j] * own[j] - rows[6, i, j] * above[j]
                             - rows[2, i, j] * below[j + 2] - rows[5, i, j] * own[j + 2] - rows[8, i, j] * above[j + 2])
                    if i > 0:
                        value -= rows[1, i, j] * below[j + 1]
                    own[j + 1] = value * inverse_pivot[i, j]
            for i in range(nx - 2, -1, -1):
                own, above = field[i + 1], field[i + 2]
                for j in range(begin, end, 2):
                    own[j + 1] -= rows[7, i, j] * inverse_pivot[i, j] * above[j + 1]
            if periodic[0]:
                for j in range(begin, end, 2):
                    amount = field[1, j + 1] - rows[1, 0, j] / rows[4, 0, j] * field[nx, j + 1]
                    for i in range(nx):
                        field[i + 1, j + 1] -= amount * closing[i, j]
        if periodic[0]:
            _wrap_x(field)
        if periodic[1]:
            _wrap_y(field)


@njit(cache=True, parallel=True, error_model="numpy")
def residual(rows, rhs, field, out):
    """``out = rhs - A field``."""
    nx, ny = rhs.shape
    for i in prange(nx):
        below, own, above = field[i], field[i + 1], field[i + 2]
        for j in range(ny):
            out[i, j] = (rhs[i, j]
                         - rows[0, i, j] * below[j] - rows[1, i, j] * below[j + 1] - rows[2, i, j] * below[j + 2]
                         - rows[3, i, j] * own[j] - rows[4, i, j] * own[j + 1] - rows[5, i, j] * own[j + 2]
                         - rows[6, i, j] * above[j] - rows[7, i, j] * above[j + 1] - rows[8, i, j] * above[j + 2])


@njit(cache=True, parallel=True, error_model="numpy")
def restrict(fine, along_x, along_y, between, coarse):
    """``coarse = P' fine``, (mx, my); both without ghosts. Weights across a no-flux face are zero."""
    nx, ny = fine.shape
    mx, my = coarse.shape
    for index in prange(mx):
        i = np.int64(index)
        x = 2 * i
        right = x + 1 < nx
        left, i_left = x - 1, i - 1
        if left < 0 and nx % 2 == 0:
            left, i_left = nx - 1, mx - 1
        for j in range(my):
            y = 2 * j
            above = y + 1 < ny
            below, j_below = y - 1, j - 1
            if below < 0 and ny % 2 == 0:
                below, j_below = ny - 1, my - 1
            total = fine[x, y]
            if right:
                total += along_x[i, j] * fine[x + 1, y]
                if above:
                    total += between[0, i, j] * fine[x + 1, y + 1]
                if below >= 0:
                    total += between[2, i, j_below] * fine[x + 1, below]
            if left >= 0:
                total += (1.0 - along_x[i_left, j]) * fine[left, y]
                if above:
                    total += between[1, i_left, j] * fine[left, y + 1]
                if below >= 0:
                    total += between[3, i_left, j_below] * fine[left, below]
            if above:
                total += along_y[i, j] * fine[x, y + 1]
            if below >= 0:
                total += (1.0 - along_y[i, j_below]) * fine[x, below]
            coarse[i, j] = total


@njit(cache=True, parallel=True, error_model="numpy")
def prolong_add(coarse, along_x, along_y, between, periodic, fine):
    """``fine += P coarse``, both with ghosts; those of ``fine`` are refreshed."""
    nx, ny = fine.shape[0] - 2, fine.shape[1] - 2
    for index in prange(nx):
        i = np.int64(index)
        own = fine[i + 1]
        a, b = coarse[i // 2 + 1], coarse[i // 2 + 2]
        x = i // 2
        if i % 2 == 0:
            for j in range(0, ny, 2):
                own[j + 1] += a[j // 2 + 1]
            for j in range(1, ny, 2):
                y = j // 2
                own[j + 1] += along_y[x, y] * a[y + 1] + (1.0 - along_y[x, y]) * a[y + 2]
        else:
            for j in range(0, ny, 2):
                y = j // 2
                own[j + 1] += along_x[x, y] * a[y + 1] + (1.0 - along_x[x, y]) * b[y + 1]
            for j in range(1, ny, 2):
                y = j // 2
                own[j + 1] += (between[0, x, y] * a[y + 1] + between[1, x, y] * b[y + 1] + between[2, x, y] * a[y + 2]
                               + between[3, x, y] * b[y + 2])
    if periodic[0]:
        _wrap_x(fine)
    if periodic[1]:
        _wrap_y(fine)
