"""Separable log-sum-exp along the axes of a grid, the Sinkhorn update, and the entropic map at any points.

Sums of exponentials are taken in the exponential domain where that is provably enough, and term by term in the log
domain on the lines where it is not. Exponential and logarithm are written out, because then the compiler turns whole
loops into vector instructions (0.7 ns a value against 6 and 3 of the C library's, relative error below 3e-16).
"""
import math

import numpy as np
from numba import njit, prange

LINES = 64
"""Lines that go through the sums together: the vector lanes."""
BLOCK = 1024
CHUNK = 16
LOWEST = -708.0
"""exp(LOWEST) is about the smallest normal number; smaller ones are set to zero."""
WIDEST = 690.0
"""Entries of a kernel, and values relative to the largest of their line, below exp(-WIDEST) are set to zero."""
SCALE = 490
"""Both are multiplied by 2^SCALE: products as small as exp(-2 WIDEST) then still are normal numbers (arithmetic with
others takes a hundred times longer), and sums of the largest do not overflow."""
DEEPEST = 640.0
"""Sums below exp(-DEEPEST) times the largest value of their line are left to the other ways."""
TILT, SQUARE = 600.0, 90.0
"""Largest exponents in the table of the tilted sums: of the mixed part in the window, of the squared offsets."""
DEEP = 42.0
"""Terms smaller than exp(-DEEP) times the largest are left out of a sum: 1e-18 of it for each of them."""

_LOG2E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # ln 2 in two pieces, the first exact
_HALF_ROOT = 0x3fe6a09e667f3bcd  # bits of sqrt(1/2): mantissas are taken in [sqrt(1/2), sqrt(2))


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _exp(x, bits):
    """``2^bits exp(x)`` for ``x`` up to 700, zero below LOWEST; NaN survives."""
    k = np.floor(x * _LOG2E + 0.5)
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    p = 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r * r + r + 1.0
    power = np.int64((np.int64(k) + np.int64(1023 + bits)) << np.int64(52)).view(np.float64)
    return 0.0 if x <= LOWEST else p * power


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _log(x, bits):
    """``log(x / 2^bits)`` of zero and normal positive numbers; NaN survives."""
    word = np.float64(x).view(np.int64)
    exponent = np.int64((word - np.int64(_HALF_ROOT)) >> np.int64(52))
    mantissa = np.int64(word - np.int64(exponent << np.int64(52))).view(np.float64)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    z = s * s
    p = 2.0 / 23.0
    p = p * z + 2.0 / 21.0
    p = p * z + 2.0 / 19.0
    p = p * z + 2.0 / 17.0
    p = p * z + 2.0 / 15.0
    p = p * z + 2.0 / 13.0
    p = p * z + 2.0 / 11.0
    p = p * z + 2.0 / 9.0
    p = p * z + 2.0 / 7.0
    p = p * z + 2.0 / 5.0
    p = p * z + 2.0 / 3.0
    e = np.float64(exponent - np.int64(bits))
    value = e * _LN2_HIGH + (e * _LN2_LOW + (s * z * p + 2.0 * s))
    return value if x > 0.0 else (-np.inf if x == 0.0 else np.nan)


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _four_rows(kernel, row, column, e, begin, end, sums):
    """Four rows of the kernel times the lines ``e``: ``sums[q] = sum_i kernel[row + q, column + i] e[i]``."""
    a, b, c, d = sums[0], sums[1], sums[2], sums[3]
    for t in range(LINES):
        a[t], b[t], c[t], d[t] = 0.0, 0.0, 0.0, 0.0
    ka, kb, kc, kd = (kernel[row, column:], kernel[row + 1, column:], kernel[row + 2, column:],
                      kernel[row + 3, column:])
    for i in range(begin, end, 4):
        a0, a1, a2, a3 = ka[i], ka[i + 1], ka[i + 2], ka[i + 3]
        b0, b1, b2, b3 = kb[i], kb[i + 1], kb[i + 2], kb[i + 3]
        c0, c1, c2, c3 = kc[i], kc[i + 1], kc[i + 2], kc[i + 3]
        d0, d1, d2, d3 = kd[i], kd[i + 1], kd[i + 2], kd[i + 3]
        x0, x1, x2, x3 = e[i], e[i + 1], e[i + 2], e[i + 3]
        for t in range(LINES):
            e0, e1, e2, e3 = x0[t], x1[t], x2[t], x3[t]
            a[t] = a[t] + a0 * e0 + a1 * e1 + a2 * e2 + a3 * e3
            b[t] = b[t] + b0 * e0 + b1 * e1 + b2 * e2 + b3 * e3
            c[t] = c[t] + c0 * e0 + c1 * e1 + c2 * e2 + c3 * e3
            d[t] = d[t] + d0 * e0 + d1 * e1 + d2 * e2 + d3 * e3


@njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nnan", "nsz"})
def _terms(line, log_row, terms, tops):
    """``terms = line + log_row``, the largest of each chunk in ``tops``; returns the largest. No NaN may be there."""
    top = -np.inf
    for chunk in range(tops.size):
        high, begin = -np.inf, chunk * CHUNK
        for i in range(begin, begin + CHUNK):
            value = line[i] + log_row[i]
            terms[i] = value
            high = max(high, value)
        tops[chunk] = high
        top = max(top, high)
    return top


@njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _sum_exp(terms, begin, top):
    total = 0.0
    for i in range(begin, begin + CHUNK):
        total += _exp(terms[i] - top, 0)
    return total


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _log_domain_line(line, log_kernel, terms, tops, out, base, stride):
    """One line term by term, whatever the range of the values; chunks of negligible terms are skipped."""
    clean = True
    for i in range(line.size):
        clean = clean and line[i] == line[i]
    for j in range(log_kernel.shape[0]):
        value = np.nan
        if clean:
            top = _terms(line, log_kernel[j], terms, tops)
            value = top
            if top > -np.inf:
                total = 0.0
                for chunk in range(tops.size):
                    if tops[chunk] > top - DEEP:
                        total += _sum_exp(terms, chunk * CHUNK, top)
                value = top + _log(total, 0)
        out[base + j * stride] = value


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _gather(values, base, inner, count, side_by_side, n, e):
    """``count`` lines of ``n`` values into the columns of ``e``."""
    if side_by_side:
        for i in range(n):
            e[i, :count] = values[base[0] + i * inner:base[0] + i * inner + count]
    else:
        for t in range(count):
            for i in range(n):
                e[i, t] = values[base[t] + i * inner]


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _scatter(sums, place, inner, count, side_by_side, m, out):
    """The reverse of ``_gather``."""
    if side_by_side:
        for j in range(m):
            out[place[0] + j * inner:place[0] + j * inner + count] = sums[j, :count]
    else:
        for t in range(count):
            for j in range(m):
                out[place[t] + j * inner] = sums[j, t]


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _needed(row, fall, slope, x, top, where):
    """Whether a term of this row of inputs matters to any line, for any output of the group."""
    count = 0
    for t in range(LINES):
        count += row[t] - fall - top[t] + slope * abs(x - where[t]) > -DEEP
    return count > 0


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _lost(row, fall, slope, x, top, where):
    """Whether one of the terms that matter is zero in the exponential domain before it is tilted."""
    count = 0
    for t in range(LINES):
        value = row[t] - fall - top[t]
        count += value <= LOWEST and value + slope * abs(x - where[t]) > -DEEP
    return count > 0


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _tilted(e, n, count, nodes, places, stiffness, table, m, sums, scaled):
    """``sums[j, t] = log sum_i exp(e[i, t] - stiffness (nodes[i] - places[j])^2)``, whatever the range of the values.

    The outputs go in groups. Around the middle ``c`` of a group the square is ``(x - c)^2 - 2 (x - c) (z - c) + (z -
    c)^2``. The first part goes into the exponentials, relative to their maximum over the line; the mixed one, relative
    to a node ``r`` near the maxima, is small and the same for all groups: ``table[k, p] = exp(stiffness (2 d_k w_p -
    d_k^2))`` with ``d_k`` the place of an output in its group and ``w_p`` that of an input around ``r``. What the lines
    need of the inputs is a window that only ever moves up with the outputs (for a convex cost the best input does; a
    negligible one below it stays so). ``nodes`` may be longer than ``n``: periods before and after, ``e[i mod n]``.

    Returns False where the windows of the lines are too far apart for the table, where a term that matters to one end
    of even the smallest group is too small in its middle, or a value is NaN.
    """
    rows, half, total = table.shape[0], (table.shape[1] - 5) // 2, nodes.size
    spacing, step = nodes[1] - nodes[0], places[1] - places[0]
    before = (total - n) // 2
    far = total if before == 0 else n // 2 + int(DEEP / (2.0 * stiffness * spacing * spacing * n)) + rows + 2
    alive = np.zeros(LINES, dtype=np.bool_)
    for i in range(n):
        for t in range(count):
            if e[i, t] != e[i, t]:
                return False
            alive[t] = alive[t] or e[i, t] > -np.inf
    model = -1
    for t in range(count):
        if alive[t] and model < 0:
            model = t
    if model < 0:
        sums[:m] = -np.inf
        return True
    for t in range(LINES):
        if not alive[t]:  # lines without mass follow another one, and are overwritten at the end
            for i in range(n):
                e[i, t] = e[i, model]
    top, where = np.empty(LINES), np.empty(LINES)
    size, begin, j = rows, 0, 0
    while j < m:
        centre = places[0] + (j + 0.5 * (size - 1)) * step
        slope = stiffness * (size - 1) * step
        low, high = begin, total
        if before > 0:
            middle = int((centre - nodes[0]) / spacing + 0.5)
            low, high = max(begin, middle - far), min(total, middle + far + 1)
        top[:] = -np.inf
        for i in range(low, high):
            x, row = nodes[i], e[i % n]
            fall = stiffness * (x - centre) * (x - centre)
            for t in range(LINES):
                value = row[t] - fall
                where[t] = x if value > top[t] else where[t]
                top[t] = max(top[t], value)
        while low < high - 1 and not _needed(e[low % n], stiffness * (nodes[low] - centre)**2, slope, nodes[low], top,
                                             where):
            low += 1
        while high > low + 1 and not _needed(e[(high - 1) % n], stiffness * (nodes[high - 1] - centre)**2, slope,
                                             nodes[high - 1], top, where):
            high -= 1
        reference = (low + high) // 2
        reach = max(reference - low, high - reference)
        square = 0.25 * slope * (size - 1) * step  # stiffness d_k^2 at the ends of the group
        wide = reach > half or slope * spacing * reach > TILT or square > SQUARE
        if not wide and slope * spacing * (high - low) > -LOWEST - DEEP:
            for i in range(low, high):
                wide = wide or _lost(e[i % n], stiffness * (nodes[i] - centre)**2, slope, nodes[i], top, where)
        if wide:
            if size == 4:
                return False
            size = 4 * max(1, size // 8)
            continue
        width = high - low
        for k in range(width):
            x, row, to = nodes[low + k], e[(low + k) % n], scaled[k]
            fall = stiffness * (x - centre) * (x - centre)
            for t in range(LINES):
                to[t] = _exp(row[t] - fall - top[t], 0)
        padded = (width + 3) // 4 * 4
        scaled[width:padded] = 0.0
        for q in range(0, min(size, (m - j + 3) // 4 * 4), 4):
            _four_rows(table, (rows - size) // 2 + q, low - reference + half, scaled, 0, padded, sums[j + q:j + q + 4])
        for q in range(min(size, m - j)):
            lift = 2.0 * stiffness * (q - 0.5 * (size - 1)) * step * (nodes[reference] - centre)
            row = sums[j + q]
            for t in range(LINES):
                row[t] = _log(row[t], 0) + (top[t] + lift)
        begin = low
        j += size
    for t in range(count):
        if not alive[t]:
            sums[:m, t] = -np.inf
    return True


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _plain(e, n, m, shift, kernel, lift, first, last, sums, lowest):
    """The sums of lines shifted by ``shift``, in the exponential domain; ``e`` is overwritten.

    ``lowest``: the smallest sum of every line as a logarithm, relative to its largest value and that of the kernel.
    """
    for i in range(n):
        row = e[i]
        for t in range(LINES):
            value = row[t] - shift[t]
            row[t] = 0.0 if value <= -WIDEST else _exp(value, SCALE)
    for group in range(kernel.shape[0] // 4):
        _four_rows(kernel, 4 * group, 0, e, first[group], last[group], sums[4 * group:4 * group + 4])
    lowest[:] = np.inf
    for j in range(m):
        row = sums[j]
        for t in range(LINES):
            lowest[t] = min(lowest[t], row[t])
            row[t] = _log(row[t], 2 * SCALE) + (shift[t] + lift)
    for t in range(LINES):
        lowest[t] = _log(lowest[t], 2 * SCALE)


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _tile(tile, values, n, m, inner, kernel, lift, log_kernel, first, last, bound, nodes, places, stiffness, table,
          out, depth, refused):
    """LINES lines of ``log_sums``."""
    begin = tile * LINES
    count = min(LINES, values.size // n - begin)
    # rows longer than LINES: else columns of 256 cells would fall on a few sets of the cache, and evict each other
    e, sums = np.zeros((kernel.shape[1], LINES + 8)), np.empty((m + max(4, table.shape[0]), LINES + 8))
    shift, lowest = np.full(LINES, -np.inf), np.full(LINES, -np.inf)
    o, c = divmod(begin, inner)
    side_by_side = c + count <= inner  # neighbours in memory
    base, place = np.empty(LINES, dtype=np.int64), np.empty(LINES, dtype=np.int64)
    for t in range(count):
        o, c = divmod(begin + t, inner)
        base[t], place[t] = o * n * inner + c, o * m * inner + c
    _gather(values, base, inner, count, side_by_side, n, e)
    for i in range(n):
        row = e[i]
        for t in range(LINES):
            shift[t] = max(shift[t], row[t])
    massless = shift == -np.inf  # rightly without a finite sum
    shift[massless] = 0.0
    bad, slow, done = count, 0, False
    if depth[tile] <= DEEPEST or table.size == 0:
        _plain(e, n, m, shift, kernel, lift, first, last, sums, lowest)
        bad = 0
        for t in range(count):
            bad += lowest[t] < bound and not massless[t]
        if bad > 0:
            _gather(values, base, inner, count, side_by_side, n, e)
    if bad > 0 and table.size > 0:
        done = _tilted(e, n, count, nodes, places, stiffness, table, m, sums,
                       np.empty((table.shape[1] + 8, LINES + 8)))
    if bad == 0 or done:
        _scatter(sums, place, inner, count, side_by_side, m, out)
    else:
        width = log_kernel.shape[1]
        line, terms, tops = np.full(width, -np.inf), np.empty(width), np.empty(width // CHUNK)
        slow = count
        for t in range(count):
            for i in range(n):
                line[i] = values[base[t] + i * inner]
            _log_domain_line(line, log_kernel, terms, tops, out, place[t], inner)
    deepest = 0.0
    for t in range(count):
        if not massless[t]:
            if bad > 0:
                lowest[t] = np.inf
                for j in range(m):
                    lowest[t] = min(lowest[t], out[place[t] + j * inner] - shift[t] - lift)
            deepest = max(deepest, -lowest[t])
    depth[tile], refused[tile, 0], refused[tile, 1] = deepest, count if bad > 0 else 0, slow


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def log_sums(values, n, m, inner, kernel, lift, log_kernel, first, last, bound, nodes, places, stiffness, table, out,
             depth, refused):
    """``out[o, j, c] = log sum_i exp(log_kernel[j, i] + values[o, i, c])``, the arrays flattened.

    Every line is shifted by its maximum and multiplied by ``kernel = 2^SCALE exp(log_kernel - lift)``, whose entries
    outside columns ``first[g]:last[g]`` of the four rows of group ``g`` are left out. A line with a sum, relative to
    the largest entry of the kernel, below ``exp(bound)`` may miss something: then its tile of LINES lines is done
    again, by ``_tilted`` (if ``table`` is not empty), or term by term. ``kernel`` is padded with zeros to multiples of
    4, ``log_kernel`` with ``-inf`` to whole CHUNKs of columns.

    Per tile, in ``depth``: how far the smallest sum of a line lies below its maximum, as a logarithm. Tiles that come
    in with more than DEEPEST, from the call before, are left to ``_tilted`` at once. In ``refused``: how many lines
    went another way than the first, and how many of them term by term.
    """
    for tile in prange((values.size // n + LINES - 1) // LINES):
        _tile(np.int64(tile), values, n, m, inner, kernel, lift, log_kernel, first, last, bound, nodes, places,
              stiffness, table, out, depth, refused)


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def weighted(log_mass, potential, inverse_epsilon, out):
    """``out = log_mass - potential / epsilon``."""
    for block in prange((out.size + BLOCK - 1) // BLOCK):
        for i in range(block * BLOCK, min(out.size, (block + 1) * BLOCK)):
            out[i] = log_mass[i] - potential[i] * inverse_epsilon


@njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _update_block(potential, log_sum, mass, epsilon, factor, out):
    distance, forward, reverse, inverse = 0.0, 0.0, 0.0, 1.0 / epsilon
    for i in range(potential.size):
        old = potential[i]
        difference = epsilon * log_sum[i] - old
        out[i] = old + factor * difference
        d = difference * inverse
        d = 700.0 if d > 700.0 else (-700.0 if d < -700.0 else d)
        # exp(d) - 1 - d without cancellation
        series = d * d * (0.5 + d * (1 / 6 + d * (1 / 24 + d * (1 / 120 + d * (1 / 720 + d * (1 / 5040 + d * (
            1 / 40320 + d * (1 / 362880 + d * (1 / 3628800 + d / 39916800)))))))))
        plain = _exp(d, 0) - 1.0 - d
        excess = series if abs(d) < 0.25 else plain
        distance += mass[i] * abs(excess + d)
        forward += mass[i] * excess
        reverse += mass[i] * (d * d + d * excess - excess)
    return distance, forward, reverse


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def update(potential, log_sum, mass, epsilon, factor, out, sums):
    """``out = potential + factor (epsilon log_sum - potential)``, and what it says about the marginal before.

    With ``delta = log_sum - potential / epsilon`` the marginal is ``exp(delta) mass``. Per block in ``sums``: its L1
    distance from ``mass``, ``KL(mass | marginal)`` and ``KL(marginal | mass)``, generalised to masses that differ.
    """
    for block in prange((potential.size + BLOCK - 1) // BLOCK):
        begin, end = block * BLOCK, min(potential.size, (block + 1) * BLOCK)
        sums[block, 0], sums[block, 1], sums[block, 2] = _update_block(
            potential[begin:end], log_sum[begin:end], mass[begin:end], epsilon, factor, out[begin:end])


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _axis_weights(x, nodes, slope, period, inverse_epsilon, log_weights, means):
    """Log of the kernel between ``x`` and the nodes (summed over images), and the mean displacement it gives."""
    for j in range(nodes.shape[1]):
        distance, image = x - nodes[0, j], nodes[1, j] - x
        if period == 0.0:
            log_weights[j], means[j] = -0.5 * slope * distance * distance * inverse_epsilon, image
            continue
        turns = math.floor(distance / period + 0.5)
        distance -= turns * period
        image += turns * period
        reach = 1 + int(math.sqrt(2.0 * DEEP / inverse_epsilon) / period)
        nearest, total, moment = -0.5 * distance * distance * inverse_epsilon, 0.0, 0.0
        for k in range(-reach, reach + 1):
            d = distance - k * period
            weight = math.exp(-0.5 * d * d * inverse_epsilon - nearest)
            total += weight
            moment += weight * (image + k * period)
        log_weights[j], means[j] = nearest + math.log(total), moment / total


@njit(cache=True, error_model="numpy", fastmath={"contract", "nnan"})
def box_tops(values, shape, side, tops):
    """The largest of ``values`` (3D, flattened) in every box of ``side`` cells."""
    blocks = ((shape[0] + side - 1) // side, (shape[1] + side - 1) // side, (shape[2] + side - 1) // side)
    tops[:] = -np.inf
    for i in range(shape[0]):
        for j in range(shape[1]):
            row = (i * shape[1] + j) * shape[2]
            place = ((i // side) * blocks[1] + j // side) * blocks[2]
            for k in range(shape[2]):
                tops[place + k // side] = max(tops[place + k // side], values[row + k])


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def displacement_at(points, nodes, slopes, periods, inverse_epsilon, values, shape, side, tops, blocks, out):
    """``out[:, k]``: mean of ``y - x`` under ``exp(values[j] - cost(x, y_j) / epsilon)``, at ``x = points[:, k]``.

    Always three axes (a 2D grid has a last one of a single node). Boxes of ``side^3`` nodes whose terms are all below
    ``exp(-DEEP)`` of the largest are left out: first the bound of every box (its largest value plus the largest kernel
    along each axis), then the boxes in question.
    """
    longest, most = max(shape[0], shape[1], shape[2]), max(blocks[0], blocks[1], blocks[2])
    for k in prange(points.shape[1]):
        weights, means = np.empty((3, longest)), np.empty((3, longest))
        highest, bounds = np.full((3, most), -np.inf), np.empty(blocks[0] * blocks[1] * blocks[2])
        for a in range(3):
            _axis_weights(points[a, k], nodes[a, :, :shape[a]], slopes[a], periods[a], inverse_epsilon, weights[a],
                          means[a])
            for j in range(shape[a]):
                highest[a, j // side] = max(highest[a, j // side], weights[a, j])
        best, start = -np.inf, 0
        for p in range(blocks[0]):
            for q in range(blocks[1]):
                for r in range(blocks[2]):
                    place = (p * blocks[1] + q) * blocks[2] + r
                    bounds[place] = tops[place] + highest[0, p] + highest[1, q] + highest[2, r]
                    if bounds[place] > best:
                        best, start = bounds[place], place
        top, total, m0, m1, m2 = -np.inf, 0.0, 0.0, 0.0, 0.0
        for turn in range(-1, bounds.size):  # the most promising box first: it makes the others negligible
            place = start if turn < 0 else turn
            if (turn == start) or not bounds[place] > top - DEEP:
                continue
            p, rest = divmod(place, blocks[1] * blocks[2])
            q, r = divmod(rest, blocks[2])
            high = top
            for i in range(p * side, min(shape[0], (p + 1) * side)):
                for j in range(q * side, min(shape[1], (q + 1) * side)):
                    row, known = (i * shape[1] + j) * shape[2], weights[0, i] + weights[1, j]
                    for l in range(r * side, min(shape[2], (r + 1) * side)):
                        high = max(high, values[row + l] + weights[2, l] + known)
            if not high > -np.inf:
                continue
            if high > top:
                scale = math.exp(top - high)
                total, m0, m1, m2, top = total * scale, m0 * scale, m1 * scale, m2 * scale, high
            for i in range(p * side, min(shape[0], (p + 1) * side)):
                for j in range(q * side, min(shape[1], (q + 1) * side)):
                    row, known = (i * shape[1] + j) * shape[2], weights[0, i] + weights[1, j] - top
                    sum_w, sum_d = 0.0, 0.0
                    for l in range(r * side, min(shape[2], (r + 1) * side)):
                        weight = _exp(values[row + l] + weights[2, l] + known, 0)
                        sum_w += weight
                        sum_d += weight * means[2, l]
                    total += sum_w
                    m0 += sum_w * means[0, i]
                    m1 += sum_w * means[1, j]
                    m2 += sum_d
        out[0, k], out[1, k], out[2, k] = m0 / total, m1 / total, m2 / total
