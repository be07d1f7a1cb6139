"""The monotone Monge-Ampère determinant in 3D, in index space as in 2D, on the 26 neighbours of a cell.

    log det M = min over w >= 0 of  sum_k w_k v_k' M v_k - log det(sum_k w_k v_k v_k') - 3,

and the scheme puts the second differences ``D_v u`` of six offsets v for ``v' M v``, the offsets of one superbase, and
takes the least over the 28 superbases of Z^3 whose six offsets are among the 26 neighbours: an infimum of linear
degenerate-elliptic operators, so concave and monotone. (After Mirebeau, Discretization of the 3D Monge-Ampère operator,
between wide stencils and power diagrams, M2AN 49, 2015; here in the logarithm, and over all non-negative w.) It is
exact for quadratics with Hessian M if Selling's decomposition of M^-1 uses one of these superbases.

Within a superbase everything is the network K4: the offsets are its edges, w their conductances,
``det(sum w v v')`` Kirchhoff's sum over spanning trees. The dual problem is ``max log det M(q) over q <= p`` where
``p`` are the second differences and M(q) is the matrix with ``v' M v = q``; w = d log det / dq are its multipliers. If
all w are non-negative at ``q = p`` that is it: Selling's formula. If not the maximum lies on a face, where some q are
below their bounds and their w are zero. It is approached from below, which lets a superbase be given up as soon as it
exceeds the least of the others. In one q alone the determinant is a quadratic, whose maximum is known: with the
Laplacian L of the network, ``det M(q + t e_ab) / det M(q) = 1 + w_ab t - (L_aa L_bb - w_ab^2) t^2 / 4`` (a change of an
edge has rank two). Mostly a single q is below its bound, and that is all; else Newton's method goes on from there.
"""
import itertools
import math

import numpy as np
from numba import njit, prange

OFFSETS = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -1, 0), (1, 1, 0), (1, 0, -1), (1, 0, 1), (0, 1, -1),
                    (0, 1, 1), (1, -1, -1), (1, -1, 1), (1, 1, -1), (1, 1, 1)], dtype=np.int64)
STEPS = 100
ASCENTS = 4
"""Of one second difference at a time before Newton's method takes over."""
NEGLIGIBLE = 1e-13
"""Of ``w q`` at a maximum."""


def _superbases():
    """The offsets (28, 6) of the edges 01, 02, 03, 12, 13, 23: ``f_a`` for 0a and ``f_a - f_b`` for ab, up to sign."""
    number = {tuple(sign * e): k for k, e in enumerate(OFFSETS) for sign in (1, -1)}
    found = {}
    for f in itertools.combinations(OFFSETS, 3):
        if abs(round(np.linalg.det(f))) != 1:
            continue
        for signs in itertools.product((1, -1), repeat=2):
            a, b, c = f[0], signs[0] * f[1], signs[1] * f[2]
            edges = [number.get(tuple(v)) for v in (a, b, c, a - b, a - c, b - c)]
            if None not in edges:
                found.setdefault(frozenset(edges), edges)
    return np.array(list(found.values()), dtype=np.int64)


SUPERBASES = _superbases()


@njit(cache=True, error_model="numpy")
def _differences(phi, i, j, k, quadratic, out):
    """Second differences along the offsets at cell (i, j, k), counted with the ghosts; the least of them."""
    centre, least = phi[i, j, k], math.inf
    for e in range(13):
        x, y, z = OFFSETS[e, 0], OFFSETS[e, 1], OFFSETS[e, 2]
        out[e] = ((phi[i + x, j + y, k + z] - centre) - (centre - phi[i - x, j - y, k - z])
                  + quadratic[0] * x * x + quadratic[1] * y * y + quadratic[2] * z * z)
        if not out[e] >= least:  # NaN wins, and stays
            least = out[e] if not math.isnan(least) else least
    return least


@njit(cache=True, error_model="numpy")
def _cofactors(q):
    """``det M(q)``, and its derivatives by the six q. Not positive where M is not positive definite."""
    xx, yy, zz = q[0], q[1], q[2]
    xy, xz, yz = 0.5 * (xx + yy - q[3]), 0.5 * (xx + zz - q[4]), 0.5 * (yy + zz - q[5])
    cxx, cyy, czz = yy * zz - yz * yz, xx * zz - xz * xz, xx * yy - xy * xy
    cxy, cxz, cyz = xz * yz - xy * zz, xy * yz - xz * yy, xy * xz - yz * xx
    determinant = xx * cxx + xy * cxy + xz * cxz
    if not (xx > 0.0 and czz > 0.0):
        determinant = -1.0
    return determinant, (cxx + cxy + cxz, cxy + cyy + cyz, cxz + cyz + czz, -cxy, -cxz, -cyz)


@njit(cache=True, error_model="numpy")
def _conductances(q):
    """``det M(q)``, and w = d log det / dq. The determinant is not positive where M is not positive definite."""
    determinant, c = _cofactors(q)
    inverse = 1.0 / determinant
    return determinant, (c[0] * inverse, c[1] * inverse, c[2] * inverse, c[3] * inverse, c[4] * inverse, c[5] * inverse)


@njit(cache=True, error_model="numpy")
def _rises_to(determinant, c, bound):
    """Whether the determinant with derivatives ``c``, some negative, reaches ``bound`` where one q falls alone:
    ``det / (1 - w_ab^2 / (L_aa L_bb))``."""
    a0, a1, a2, a3 = c[0] + c[1] + c[2], c[0] + c[3] + c[4], c[1] + c[3] + c[5], c[2] + c[4] + c[5]
    share = 1.0 - determinant / bound
    return (c[0] < 0.0 and c[0] * c[0] >= share * a0 * a1 or c[1] < 0.0 and c[1] * c[1] >= share * a0 * a2
            or c[2] < 0.0 and c[2] * c[2] >= share * a0 * a3 or c[3] < 0.0 and c[3] * c[3] >= share * a1 * a2
            or c[4] < 0.0 and c[4] * c[4] >= share * a1 * a3 or c[5] < 0.0 and c[5] * c[5] >= share * a2 * a3)


@njit(cache=True, error_model="numpy")
def _laplacian(w, out):
    """Laplacian of K4 with conductances w: the inverse of M(q), bordered so that its rows and columns add up to 0."""
    out[:] = 0.0
    for e in range(6):
        a, b = _ends(e)
        out[a, b] = out[b, a] = -w[e]
        out[a, a] += w[e]
        out[b, b] += w[e]


@njit(cache=True, error_model="numpy")
def _ends(edge):
    """The nodes of an edge of K4."""
    if edge < 3:
        return 0, edge + 1
    return (1, edge - 1) if edge < 5 else (2, 3)


@njit(cache=True, error_model="numpy")
def _start(p, q):
    """A point ``q <= p`` with a positive definite M(q): the longest edge on the shortest spanning tree's path.

    Such distances are an ultrametric, which is of strictly negative type: M(q) is positive definite, whatever p > 0.
    """
    part = np.arange(4)
    for _ in range(3):  # Kruskal
        shortest = -1
        for e in range(6):
            a, b = _ends(e)
            if part[a] != part[b] and (shortest < 0 or p[e] < p[shortest]):
                shortest = e
        one, other = part[_ends(shortest)[0]], part[_ends(shortest)[1]]
        for e in range(6):
            a, b = _ends(e)
            if (part[a] == one and part[b] == other) or (part[a] == other and part[b] == one):
                q[e] = p[shortest]
        for c in range(4):
            if part[c] == other:
                part[c] = one


@njit(cache=True, error_model="numpy")
def workspace():
    """Room for Newton's method on faces: allocated once a slab."""
    return np.empty(6), np.empty((4, 4)), np.empty((6, 7)), np.empty(6), np.empty(6, dtype=np.int64)


@njit(cache=True, error_model="numpy")
def _six(values):
    return values[0], values[1], values[2], values[3], values[4], values[5]


@njit(cache=True, error_model="numpy")
def _with(values, e, value):
    """The six values, the one numbered e replaced."""
    return (value if e == 0 else values[0], value if e == 1 else values[1], value if e == 2 else values[2],
            value if e == 3 else values[3], value if e == 4 else values[4], value if e == 5 else values[5])


@njit(cache=True, error_model="numpy")
def _newton_direction(free, count, w, laplacian, matrix, direction):
    """Newton's direction for log det in the ``count`` coordinates ``free``; its squared length in the Hessian's norm.

    d w_ab / d q_cd = -(L_ac L_bd + L_ad L_bc) / 2 with the Laplacian L, scaled to a unit diagonal: Cholesky.
    """
    for i in range(count):
        a, b = _ends(free[i])
        for j in range(i + 1):
            c, d = _ends(free[j])
            matrix[i, j] = 0.5 * (laplacian[a, c] * laplacian[b, d] + laplacian[a, d] * laplacian[b, c])
    for i in range(count):
        direction[i] = w[free[i]] / math.sqrt(matrix[i, i])
    for i in range(count):  # the diagonal is needed last
        for j in range(i):
            matrix[i, j] /= math.sqrt(matrix[i, i] * matrix[j, j])
    length = 0.0
    for i in range(count):
        scale = matrix[i, i]
        pivot = 1.0
        for j in range(i):
            total = matrix[i, j]
            for k in range(j):
                total -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = total / matrix[j, 4]
            pivot -= matrix[i, j] * matrix[i, j]
        matrix[i, 4] = math.sqrt(max(pivot, 1e-14))  # column 4: the diagonal of the factor, 5: the scale
        matrix[i, 5] = math.sqrt(scale)
        for j in range(i):
            direction[i] -= matrix[i, j] * direction[j]
        direction[i] /= matrix[i, 4]
        length += direction[i] * direction[i]
    for i in range(count - 1, -1, -1):
        for j in range(i + 1, count):
            direction[i] -= matrix[j, i] * direction[j]
        direction[i] /= matrix[i, 4]
    for i in range(count):
        direction[i] /= matrix[i, 5]
    return length


@njit(cache=True, error_model="numpy")
def _seen_through(p, bound, space):
    """The determinant as a superbase with second differences ``p`` > 0 sees it, and the weights of its logarithm.

    Infinity where it is known to be at least ``bound``. Sixes are tuples: they stay in registers.
    """
    q, (determinant, w) = p, _conductances(p)
    if not determinant > 0.0:  # no matrix has these second differences
        _start(p, space[0])
        q = _six(space[0])
        determinant, w = _conductances(q)
    for _ in range(ASCENTS):
        edge, value, gain = _steepest(p, q, w)
        if determinant * (1.0 + gain) >= bound:
            return math.inf, w
        if edge < 0:
            return determinant, _complementary(p, q, w)
        reached, there = _conductances(_with(q, edge, value))
        if not reached > determinant * (1.0 - 1e-12):  # rounding
            break
        q, determinant, w = _with(q, edge, value), reached, there
    return _on_a_face(p, bound, determinant, q, w, space)


@njit(cache=True, error_model="numpy")
def _steepest(p, q, w):
    """The edge along which the determinant rises most, its q there, and by what part; -1 if there is none."""
    a0, a1, a2, a3 = w[0] + w[1] + w[2], w[0] + w[3] + w[4], w[1] + w[3] + w[5], w[2] + w[4] + w[5]
    products = a0 * a1, a0 * a2, a0 * a3, a1 * a2, a1 * a3, a2 * a3  # of the Laplacian's diagonal
    edge, value, gain = -1, 0.0, 0.0
    for e in range(6):
        if abs(w[e]) * q[e] <= NEGLIGIBLE or (w[e] > 0.0 and q[e] >= p[e]):
            continue
        curvature = 0.25 * (products[e] - w[e] * w[e])
        t = min(0.5 * w[e] / curvature, p[e] - q[e])
        rise = t * (w[e] - curvature * t)
        if rise > gain:
            edge, value, gain = e, min(p[e], q[e] + t), rise
    return edge, value, gain


@njit(cache=True, error_model="numpy")
def _complementary(p, q, w):
    """The multipliers at a maximum: non-negative, zero where q is below its bound."""
    return (max(w[0], 0.0) if q[0] == p[0] else 0.0, max(w[1], 0.0) if q[1] == p[1] else 0.0,
            max(w[2], 0.0) if q[2] == p[2] else 0.0, max(w[3], 0.0) if q[3] == p[3] else 0.0,
            max(w[4], 0.0) if q[4] == p[4] else 0.0, max(w[5], 0.0) if q[5] == p[5] else 0.0)


@njit(cache=True, error_model="numpy")
def _on_a_face(p, bound, determinant, q, w, space):
    """The maximum over ``q <= p`` from a feasible ``q``: Newton in the coordinates below their bounds.

    log det is self-concordant: a step of 1 / (1 + length) stays inside and rises. It ends at the first bound it meets.
    """
    there, laplacian, matrix, direction, free = space
    for _ in range(STEPS):
        if determinant >= bound:
            return math.inf, w
        _laplacian(w, laplacian)
        count, off = 0, 0.0
        for e in range(6):
            if q[e] < p[e] or w[e] < 0.0:
                free[count] = e
                count += 1
                off = max(off, abs(w[e]) * q[e])
        if off <= NEGLIGIBLE:
            break
        while True:
            length = _newton_direction(free, count, w, laplacian, matrix, direction)
            kept = 0
            for i in range(count):  # one at its bound may only leave it downwards
                if q[free[i]] < p[free[i]] or direction[i] < 0.0:
                    free[kept] = free[i]
                    kept += 1
            if kept == count:
                break
            count = kept
        step = 1.0 if length < 0.0625 else 1.0 / (1.0 + math.sqrt(length))
        hit = -1
        for i in range(count):
            e = free[i]
            if direction[i] * step > p[e] - q[e]:
                step, hit = (p[e] - q[e]) / direction[i], e
        for e in range(6):
            there[e] = q[e]
        for i in range(count):
            there[free[i]] = min(p[free[i]], there[free[i]] + step * direction[i])
        if hit >= 0:
            there[hit] = p[hit]
        reached, weights = _conductances(_six(there))
        if not reached >= determinant * (1.0 - 1e-12):  # rounding: this is as good as it gets
            break
        q, w, determinant = _six(there), weights, reached
    if determinant >= bound:
        return math.inf, w
    return determinant, _complementary(p, q, w)


@njit(cache=True, error_model="numpy")
def _through(differences, number):
    """Those of the offsets of one superbase."""
    return (differences[SUPERBASES[number, 0]], differences[SUPERBASES[number, 1]], differences[SUPERBASES[number, 2]],
            differences[SUPERBASES[number, 3]], differences[SUPERBASES[number, 4]], differences[SUPERBASES[number, 5]])


@njit(cache=True, error_model="numpy")
def _least(differences, space, active, weights):
    """Least determinant over the superbases; ``active``: number of the last one that was, tried first.

    ``weights`` (13,): of the logarithm, all non-negative. Returns ``(determinant, active)``.
    """
    best, first = math.inf, active
    for s in range(-1, 28):
        number = first if s < 0 else s
        if s == first:
            continue
        p = _through(differences, number)
        determinant, c = _cofactors(p)  # here, not there: a call that does not get into line takes as long as this
        if determinant >= best or determinant > 0.0 and _rises_to(determinant, c, best):
            continue
        value, w = _seen_through(p, best, space)
        if value < best:
            best, active = value, number
            for e in range(13):
                weights[e] = 0.0
            for e in range(6):
                weights[SUPERBASES[number, e]] = w[e]
    return best, active


@njit(cache=True, parallel=True, error_model="numpy")
def monotone(phi, quadratic, with_weights, weights, out, inadmissible):
    """``out``: the monotone determinant; ``weights`` (13, nx, ny, nz), if asked for, those of its logarithm.

    ``inadmissible[i]`` counts the cells of slab ``i`` where a second difference is not positive (NaN there).
    """
    nx, ny, nz = out.shape
    for i in prange(nx):
        differences, space = np.empty(13), workspace()
        row, active, bad = np.empty(13), 0, 0
        for j in range(ny):
            for k in range(nz):
                if not _differences(phi, i + 1, j + 1, k + 1, quadratic, differences) > 0.0:
                    out[i, j, k] = math.nan
                    bad += 1
                    if with_weights:
                        for e in range(13):
                            weights[e, i, j, k] = math.nan
                    continue
                out[i, j, k], active = _least(differences, space, active, row)
                if with_weights:
                    for e in range(13):
                        weights[e, i, j, k] = row[e]
        inadmissible[i] = bad


@njit(cache=True, error_model="numpy")
def _tangent(p, smallest, top, space):
    """``(value, weights)`` at second differences ``p`` of the tangent where they are no smaller than ``smallest``,
    shrunk until the logarithm of the determinant is no larger than ``top``."""
    h, w = _seen_through((max(p[0], smallest), max(p[1], smallest), max(p[2], smallest),
                          max(p[3], smallest), max(p[4], smallest), max(p[5], smallest)), math.inf, space)
    shrink = min(0.0, (top - math.log(h)) / 3.0)  # h has degree three
    inverse = math.exp(-shrink)
    w = w[0] * inverse, w[1] * inverse, w[2] * inverse, w[3] * inverse, w[4] * inverse, w[5] * inverse
    slope = w[0] * p[0] + w[1] * p[1] + w[2] * p[2] + w[3] * p[3] + w[4] * p[4] + w[5] * p[5]
    return math.log(h) + 3.0 * shrink - 3.0 + slope, w


@njit(cache=True, parallel=True, error_model="numpy")
def monotone_extension(phi, quadratic, log_image, low, high, with_weights, weights, out, extended):
    """Replaces ``out = log det - log_image`` (and the weights) where it leaves ``[low, high]`` or a difference is not
    positive, as in 2D: by the tangent at second differences no smaller than ``exp(low) image / (product of two)`` with
    a determinant no larger than ``exp(high) image``, superbase by superbase.

    Where no difference is too small, all tangents are at multiples of the differences, and the least is that of the
    superbase whose determinant is. Where some are, superbases without them are of use only if their determinants are
    small.
    """
    nx, ny, nz = out.shape
    for i in prange(nx):
        differences, space = np.empty(13), workspace()
        tangents = 0
        for j in range(ny):
            for k in range(nz):
                least = _differences(phi, i + 1, j + 1, k + 1, quadratic, differences)
                if least > 0.0 and low <= out[i, j, k] <= high:
                    continue
                if low == -math.inf or math.isnan(least):
                    out[i, j, k] = math.nan
                    continue
                tangents += 1
                image, root = math.exp(log_image[i, j, k]), math.exp(log_image[i, j, k] / 3.0)
                large, middle = root, root  # the two largest along the axes, at least that of a ball
                for e in range(3):
                    if differences[e] > large:
                        large, middle = differences[e], large
                    elif differences[e] > middle:
                        middle = differences[e]
                smallest = math.exp(low) * image / (large * middle)
                if least >= smallest:
                    shrink = min(0.0, (high - out[i, j, k]) / 3.0)
                    out[i, j, k] += 3.0 * shrink - 3.0 + 3.0 * math.exp(-shrink)
                    if with_weights:
                        for e in range(13):
                            weights[e, i, j, k] *= math.exp(-shrink)
                    continue
                top, best = high + log_image[i, j, k], math.inf
                for s in range(56):  # first those with differences that are too small
                    p = _through(differences, s % 28)
                    clipped = min(min(p[0], p[1], p[2]), min(p[3], p[4], p[5])) < smallest
                    if clipped != (s < 28):
                        continue
                    if not clipped:
                        determinant, _ = _cofactors(p)
                        if determinant > 0.0 and math.log(determinant) >= best:  # the tangent is higher than that
                            continue
                    value, w = _tangent(p, smallest, top, space)
                    if value < best:
                        best = value
                        if with_weights:
                            for e in range(13):
                                weights[e, i, j, k] = 0.0
                            for e in range(6):
                                weights[SUPERBASES[s % 28, e], i, j, k] = w[e]
                out[i, j, k] = best - log_image[i, j, k]
        extended[i] = tangents


@njit(cache=True, parallel=True, error_model="numpy")
def monotone_checks(phi, quadratic, mass, margin, narrow):
    """As in 2D: slab by slab the smallest ``D_v u / D_v q``, and the ``mass`` of cells where fewer than six offsets
    carry weight: the Hessian is too anisotropic for the stencil, or aligned with it."""
    nx, ny, nz = mass.shape
    for i in prange(nx):
        differences, space = np.empty(13), workspace()
        row, active, smallest, total = np.empty(13), 0, math.inf, 0.0
        for j in range(ny):
            for k in range(nz):
                least = _differences(phi, i + 1, j + 1, k + 1, quadratic, differences)
                for e in range(13):
                    plain = 0.0
                    for a in range(3):
                        plain += quadratic[a] * OFFSETS[e, a] * OFFSETS[e, a]
                    if differences[e] / plain < smallest or math.isnan(least):
                        smallest = differences[e] / plain if not math.isnan(least) else math.nan
                if least > 0.0:
                    _, active = _least(differences, space, active, row)
                    count = 0
                    for e in range(13):
                        count += 1 if row[e] > 0.0 else 0
                    # a tree has lost the mixed derivatives that the Hessian has
                    if count <= 3 and _is_mixed(differences):
                        total += mass[i, j, k]
        margin[i], narrow[i] = smallest, total


@njit(cache=True, error_model="numpy")
def _is_mixed(differences):
    """Whether a centred mixed derivative is more than a tenth of the mean of the second derivatives."""
    mean = (differences[0] + differences[1] + differences[2]) / 3.0
    return (abs(differences[4] - differences[3]) > 0.4 * mean or abs(differences[6] - differences[5]) > 0.4 * mean
            or abs(differences[8] - differences[7]) > 0.4 * mean)
