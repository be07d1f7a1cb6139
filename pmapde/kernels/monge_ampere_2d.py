"""Monge-Ampère kernels in 2D, in index space: M = H D2u H with H the spacings, second differences along integer offsets

    D_e u = u(i + e) - 2 u(i) + u(i - e) = D_e phi + sum_a quadratic[a] e_a^2,      quadratic[a] = slope_a spacing_a^2,

of ``phi`` with one ghost layer filled by the caller; ``out`` has no ghosts. The weights of the linearisation belong to
the offsets (1, 0), (0, 1), (1, -1), (1, 1). Logarithms are taken elsewhere, in vectors (``reductions``).
"""
import math

import numpy as np
from numba import njit, prange


@njit(cache=True, error_model="numpy")
def _difference(phi, i, j, x, y, quadratic):
    return ((phi[i + x, j + y] - phi[i, j]) - (phi[i, j] - phi[i - x, j - y])
            + quadratic[0] * x * x + quadratic[1] * y * y)


@njit(cache=True, error_model="numpy")
def _selling(a, b, c):
    """h(a, b, c) of Benamou, Collino & Mirebeau (MA-LBR), the determinant seen through one superbase, and grad h.

    ``bc`` where ``a >= b + c`` and so on, else ``(ab + bc + ca) / 2 - (a^2 + b^2 + c^2) / 4``. In Selling's parameters
    ``(b + c - a) / 2, ...``, which are grad h, both are one formula once each is clipped to its bounds.
    """
    # summed from the largest: stretched boxes have a, c far above b, and their difference decides
    low_a, low_b, low_c = min(b, c), min(c, a), min(a, b)
    da = max(0.0, min(0.5 * ((max(b, c) - a) + low_a), low_a))
    db = max(0.0, min(0.5 * ((max(c, a) - b) + low_b), low_b))
    dc = max(0.0, min(0.5 * ((max(a, b) - c) + low_c), low_c))
    return da * db + db * dc + dc * da, da, db, dc


@njit(cache=True, error_model="numpy")
def _differences(phi, i, j, quadratic):
    """Second differences along the four offsets at cell (i, j), counted with the ghosts."""
    a = _difference(phi, i, j, 1, 0, quadratic)
    b = _difference(phi, i, j, 0, 1, quadratic)
    return a, b, _difference(phi, i, j, 1, -1, quadratic), _difference(phi, i, j, 1, 1, quadratic)


@njit(cache=True, parallel=True, error_model="numpy")
def monotone(phi, quadratic, with_weights, weights, out, inadmissible):
    """``out = min over superbases of h(D_e0 u, D_e1 u, D_e2 u)``, MA-LBR, and the weights of its logarithm.

    The superbases of the 3x3 stencil are (1,0), (0,1) with (1,-1) or (1,1). ``weights`` (4, nx, ny), if asked for:
    grad log h of the active superbase, all non-negative. ``inadmissible[i]`` counts the cells of row ``i`` where a
    second difference is not positive.
    """
    nx, ny = out.shape
    for i in prange(nx):
        below, own, above = phi[i], phi[i + 1], phi[i + 2]
        row, qx, qy = out[i], quadratic[0], quadratic[1]
        bad = 0
        if with_weights:
            wx, wy, wm, wp = weights[0, i], weights[1, i], weights[2, i], weights[3, i]
            for j in range(ny):
                centre = own[j + 1]
                a = (above[j + 1] - centre) - (centre - below[j + 1]) + qx
                b = (own[j + 2] - centre) - (centre - own[j]) + qy
                m = (above[j] - centre) - (centre - below[j + 2]) + (qx + qy)
                p = (above[j + 2] - centre) - (centre - below[j]) + (qx + qy)
                h_m, a_m, b_m, m_m = _selling(a, b, m)
                h_p, a_p, b_p, p_p = _selling(a, b, p)
                first = h_m < h_p
                h = h_m if first else h_p
                inverse = 1.0 / h
                wx[j] = (a_m if first else a_p) * inverse
                wy[j] = (b_m if first else b_p) * inverse
                wm[j] = m_m * inverse if first else 0.0
                wp[j] = 0.0 if first else p_p * inverse
                row[j] = h
                bad += 0 if (a > 0.0) & (b > 0.0) & (m > 0.0) & (p > 0.0) else 1  # NaN counts
        else:
            for j in range(ny):
                centre = own[j + 1]
                a = (above[j + 1] - centre) - (centre - below[j + 1]) + qx
                b = (own[j + 2] - centre) - (centre - own[j]) + qy
                m = (above[j] - centre) - (centre - below[j + 2]) + (qx + qy)
                p = (above[j + 2] - centre) - (centre - below[j]) + (qx + qy)
                row[j] = min(_selling(a, b, m)[0], _selling(a, b, p)[0])
                bad += 0 if (a > 0.0) & (b > 0.0) & (m > 0.0) & (p > 0.0) else 1  # NaN counts
        inadmissible[i] = bad


@njit(cache=True, parallel=True, error_model="numpy")
def monotone_extension(phi, quadratic, log_image, low, high, with_weights, weights, out, extended):
    """Replaces ``out = log det - log_image`` (and the weights) where it leaves ``[low, high]`` or a difference is not
    positive.

    There the logarithm gives way to its tangent at second differences no smaller than ``exp(low) image / (largest)``
    with a determinant no larger than ``exp(high) image``: finite, and the policy (the weights) bounded. ``extended[i]``
    counts the cells of row ``i``. With ``low = -inf`` nothing is replaced: NaN where ``u`` is inadmissible.
    """
    nx, ny = out.shape
    for i in prange(nx):
        tangents = 0
        for j in range(ny):
            a, b, m, p = _differences(phi, i + 1, j + 1, quadratic)
            if a > 0.0 and b > 0.0 and m > 0.0 and p > 0.0 and low <= out[i, j] <= high:
                continue
            if low == -math.inf or math.isnan(a + b + m + p):
                out[i, j] = math.nan
                continue
            tangents += 1
            image = math.exp(log_image[i, j])
            smallest = math.exp(low) * image / max(a, b, math.sqrt(image))
            best, active, best_a, best_b, best_c = math.inf, 0, 0.0, 0.0, 0.0
            for s in range(2):
                c = m if s == 0 else p
                h, da, db, dc = _selling(max(a, smallest), max(b, smallest), max(c, smallest))
                # shrink the point of tangency to the largest determinant allowed;
                # h has degree two, grad log h degree -1
                ratio = min(1.0, math.sqrt(math.exp(high) * image / h))
                da, db, dc = da / (h * ratio), db / (h * ratio), dc / (h * ratio)
                value = math.log(h * ratio * ratio) - 2.0 + da * a + db * b + dc * c
                if value < best:
                    best, active, best_a, best_b, best_c = value, s, da, db, dc
            out[i, j] = best - log_image[i, j]
            if with_weights:
                weights[0, i, j], weights[1, i, j] = best_a, best_b
                weights[2 + active, i, j], weights[3 - active, i, j] = best_c, 0.0
        extended[i] = tangents


@njit(cache=True, parallel=True, error_model="numpy")
def monotone_checks(phi, quadratic, mass, margin, narrow):
    """Row by row the smallest ``D_e u / D_e q`` over the offsets, positive where ``u`` is admissible, and the ``mass``
    of cells where an axis carries no weight: the Hessian is too anisotropic for the stencil."""
    nx, ny = mass.shape
    for i in prange(nx):
        ratio, least = np.empty(ny), np.empty(ny)  # first by vector arithmetic, then reduced
        qx, qy = quadratic[0], quadratic[1]
        for j in range(ny):
            a, b, m, p = _differences(phi, i + 1, j + 1, quadratic)
            ratio[j] = min(min(a / qx, b / qy), min(m, p) / (qx + qy)) + 0.0 * (a + b + m + p)  # NaN stays
            h_m, a_m, b_m, _ = _selling(a, b, m)
            h_p, a_p, b_p, _ = _selling(a, b, p)
            least[j] = min(a_m, b_m) if h_m < h_p else min(a_p, b_p)
        smallest, total = math.inf, 0.0
        for j in range(ny):
            if ratio[j] < smallest or math.isnan(ratio[j]):  # NaN wins, and stays
                smallest = ratio[j]
            if least[j] == 0.0:
                total += mass[i, j]
        margin[i], narrow[i] = smallest, total


@njit(cache=True, error_model="numpy")
def _hessian(phi, i, j, quadratic):
    a = _difference(phi, i, j, 1, 0, quadratic)
    b = _difference(phi, i, j, 0, 1, quadratic)
    m = 0.25 * (phi[i + 1, j + 1] - phi[i + 1, j - 1] - phi[i - 1, j + 1] + phi[i - 1, j - 1])
    return a, b, m


@njit(cache=True, error_model="numpy")
def _centred_extension(a, b, m, log_image, low, high):
    """The extension at one cell (see ``centred_extension``): ``tr(D M) - log det D - 2 - log_image``,
    and the policy D."""
    image = math.exp(log_image)
    root = math.sqrt(image)
    mean, radius = 0.5 * (a + b), math.hypot(0.5 * (a - b), m)
    smallest = math.exp(low) * image / max(mean + radius, root)
    large, small = max(mean + radius, smallest), max(mean - radius, smallest)
    ratio = min(1.0, math.sqrt(math.exp(high) * image / (large * small)))
    large, small = 1.0 / (large * ratio), 1.0 / (small * ratio)
    # D has the eigenvectors of M: the projections are (1 -+ (M - mean) / radius) / 2
    middle, turn = 0.5 * (large + small), 0.5 * (large - small) / radius if radius > 0.0 else 0.0
    xx, yy, xy = middle + turn * 0.5 * (a - b), middle - turn * 0.5 * (a - b), turn * m
    value = xx * a + yy * b + 2.0 * xy * m - math.log(large * small) - 2.0 - log_image
    return value, xx, yy, xy


@njit(cache=True, parallel=True, error_model="numpy")
def centred(phi, quadratic, with_weights, weights, out, inadmissible):
    """``out = D_10 u D_01 u - m^2`` with the centred mixed difference m, and the weights of its logarithm.

    ``weights`` (4, nx, ny): tr(M^-1 D2 w), the mixed term split over both diagonals.
    ``inadmissible`` as in ``monotone``.
    """
    nx, ny = out.shape
    for i in prange(nx):
        bad = 0
        for j in range(ny):
            a, b, m = _hessian(phi, i + 1, j + 1, quadratic)
            determinant = a * b - m * m
            out[i, j] = determinant
            bad += 0 if a > 0.0 and b > 0.0 and determinant > 0.0 else 1
            if with_weights:
                weights[0, i, j] = b / determinant
                weights[1, i, j] = a / determinant
                weights[2, i, j] = 0.5 * m / determinant
                weights[3, i, j] = -0.5 * m / determinant
        inadmissible[i] = bad


@njit(cache=True, parallel=True, error_model="numpy")
def centred_extension(phi, quadratic, log_image, low, high, with_weights, weights, out, extended):
    """As ``monotone_extension``: the tangent at a matrix with bounded eigenvalues."""
    nx, ny = out.shape
    for i in prange(nx):
        tangents = 0
        for j in range(ny):
            a, b, m = _hessian(phi, i + 1, j + 1, quadratic)
            if a > 0.0 and b > 0.0 and a * b - m * m > 0.0 and low <= out[i, j] <= high:
                continue
            if low == -math.inf or math.isnan(a + b + m):
                out[i, j] = math.nan
                continue
            tangents += 1
            out[i, j], xx, yy, xy = _centred_extension(a, b, m, log_image[i, j], low, high)
            if with_weights:
                weights[0, i, j], weights[1, i, j], weights[2, i, j], weights[3, i, j] = xx, yy, -0.5 * xy, 0.5 * xy
        extended[i] = tangents


@njit(cache=True, parallel=True, error_model="numpy")
def centred_margin(phi, quadratic, out):
    """``out[i]``: smallest eigenvalue of the centred Hessian relative to D2q, row by row."""
    ny, inverse = phi.shape[1] - 2, 1.0 / math.sqrt(quadratic[0] * quadratic[1])
    for i in prange(out.shape[0]):
        eigenvalue = np.empty(ny)  # first by vector arithmetic, then reduced
        for j in range(ny):
            a, b, m = _hessian(phi, i + 1, j + 1, quadratic)
            a, b, m = a / quadratic[0], b / quadratic[1], m * inverse
            eigenvalue[j] = 0.5 * (a + b) - math.sqrt(0.25 * (a - b) * (a - b) + m * m)
        smallest = math.inf
        for j in range(ny):
            if eigenvalue[j] < smallest or math.isnan(eigenvalue[j]):  # NaN wins, and stays
                smallest = eigenvalue[j]
        out[i] = smallest


@njit(cache=True, parallel=True, error_model="numpy")
def displacement(phi, spacing, out):
    """``out[a] = d phi / d x_a`` by centred differences, (2, nx, ny)."""
    nx, ny = out.shape[1:]
    for i in prange(nx):
        for j in range(ny):
            k, l = i + 1, j + 1
            out[0, i, j] = (phi[k + 1, l] - phi[k - 1, l]) / (2.0 * spacing[0])
            out[1, i, j] = (phi[k, l + 1] - phi[k, l - 1]) / (2.0 * spacing[1])

