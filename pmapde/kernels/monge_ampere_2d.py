"""Monge-Ampère kernels in 2D, in index space: M = H D2u H with H the spacings, second differences along integer offsets

    D_e u = u(i + e) - 2 u(i) + u(i - e) = D_e phi + sum_a quadratic[a] e_a^2,      quadratic[a] = slope_a spacing_a^2,

of ``phi`` with ``radius`` ghost layers filled by the caller. ``out`` has no ghosts. Inadmissible cells give NaN.
"""
import math

import numpy as np
from numba import njit, prange


@njit(cache=True, error_model="numpy")
def _difference(phi, i, j, x, y, quadratic):
    return (phi[i + x, j + y] - phi[i, j]) - (phi[i, j] - phi[i - x, j - y]) + quadratic[0] * x * x + quadratic[1] * y * y


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
def _monotone_extension(differences, direction, log_image, low, high, weights):
    """The extension at one cell (see ``monotone``): its value less ``log_image``, weights in ``weights`` (K,)."""
    image = math.exp(log_image)
    smallest = math.exp(low) * image / max(differences[0], differences[1], math.sqrt(image))
    best, active = math.inf, 0
    best_a, best_b, best_c = 0.0, 0.0, 0.0
    for s in range(direction.shape[0]):
        a, b, c = differences[direction[s, 0]], differences[direction[s, 1]], differences[direction[s, 2]]
        h, da, db, dc = _selling(max(a, smallest), max(b, smallest), max(c, smallest))
        # shrink the point of tangency to the largest determinant allowed; h has degree two, grad log h degree -1
        ratio = min(1.0, math.sqrt(math.exp(high) * image / h))
        da, db, dc = da / (h * ratio), db / (h * ratio), dc / (h * ratio)
        value = math.log(h * ratio * ratio) - 2.0 + da * a + db * b + dc * c
        if value < best:
            best, active, best_a, best_b, best_c = value, s, da, db, dc
    weights[:] = 0.0
    weights[direction[active, 0]] = best_a
    weights[direction[active, 1]] = best_b
    weights[direction[active, 2]] = best_c
    return best - log_image


@njit(cache=True, parallel=True, error_model="numpy")
def monotone(phi, radius, offsets, direction, quadratic, log_image, low, high, with_weights, weights, out, extended):
    """``out = log min_superbases h(D_e0 u, D_e1 u, D_e2 u) - log_image``, MA-LBR in logarithmic form, and its weights.

    ``offsets`` (K, 2) are all offsets up to sign, the axes first; ``direction`` (S, 3) the rows of them that each
    superbase consists of. ``weights`` (K, nx, ny), if asked for: the derivative with respect to the second differences,
    grad log h of the active superbase, all non-negative.

    Where ``out`` leaves ``[low, high]`` or a second difference is not positive, the logarithm is replaced by its tangent
    at second differences no smaller than ``exp(low) image / (largest)`` with a determinant no larger than
    ``exp(high) image``: finite, and the policy (the weights) bounded. ``extended[i]`` counts these cells of row ``i``. With ``low = -inf`` and ``high = inf`` nothing is replaced: NaN where ``u`` is inadmissible.
    """
    nx, ny = out.shape
    count, bases = offsets.shape[0], direction.shape[0]
    for i in prange(nx):
        differences = np.empty((count, ny))  # one row of cells: stays in the first-level cache
        policy = np.empty((4, ny))
        active = np.empty(ny, dtype=np.int8)
        column, column_weights = np.empty(count), np.empty(count)
        for k in range(count):
            x, y = offsets[k, 0], offsets[k, 1]
            constant = quadratic[0] * x * x + quadratic[1] * y * y
            row, ahead, behind = phi[i + radius], phi[i + radius + x], phi[i + radius - x]
            for j in range(ny):
                centre = row[j + radius]
                differences[k, j] = (ahead[j + radius + y] - centre) - (centre - behind[j + radius - y]) + constant
        for s in range(bases):
            first, second, third = differences[direction[s, 0]], differences[direction[s, 1]], differences[direction[s, 2]]
            for j in range(ny):
                h, da, db, dc = _selling(first[j], second[j], third[j])
                if s == 0 or h < policy[3, j]:
                    policy[0, j], policy[1, j], policy[2, j], policy[3, j], active[j] = da, db, dc, h, s
        if with_weights:
            for k in range(count):
                weights[k, i, :] = 0.0
            for s in range(bases):
                for m in range(3):
                    line = weights[direction[s, m], i]
                    for j in range(ny):
                        line[j] += policy[m, j] / policy[3, j] if active[j] == s else 0.0
        tangents = 0
        for j in range(ny):
            value = math.log(policy[3, j]) - log_image[i, j]
            positive = True
            for k in range(count):
                positive = positive and differences[k, j] > 0.0
            if not (positive and low <= value <= high):
                if low == -math.inf:
                    value = math.nan
                else:
                    tangents += 1
                    column[:] = differences[:, j]
                    value = _monotone_extension(column, direction, log_image[i, j], low, high, column_weights)
                    for k in range(count):
                        value = math.nan if math.isnan(column[k]) else value
                    if with_weights:
                        weights[:, i, j] = column_weights
            out[i, j] = value
        extended[i] = tangents


@njit(cache=True, parallel=True, error_model="numpy")
def monotone_margin(phi, radius, offsets, quadratic, out):
    """``out[i]``: smallest ``D_e u / D_e q`` of row ``i`` over ``offsets`` (K, 2); positive where ``u`` is admissible."""
    for i in prange(out.shape[0]):
        smallest = math.inf
        for j in range(phi.shape[1] - 2 * radius):
            for k in range(offsets.shape[0]):
                x, y = offsets[k, 0], offsets[k, 1]
                ratio = (_difference(phi, i + radius, j + radius, x, y, quadratic)
                         / (quadratic[0] * x * x + quadratic[1] * y * y))
                if ratio < smallest or math.isnan(ratio):  # NaN wins, and stays
                    smallest = ratio
        out[i] = smallest


@njit(cache=True, error_model="numpy")
def _hessian(phi, i, j, quadratic):
    a = _difference(phi, i, j, 1, 0, quadratic)
    b = _difference(phi, i, j, 0, 1, quadratic)
    m = 0.25 * (phi[i + 1, j + 1] - phi[i + 1, j - 1] - phi[i - 1, j + 1] + phi[i - 1, j - 1])
    return a, b, m


@njit(cache=True, error_model="numpy")
def _centred_extension(a, b, m, log_image, low, high):
    """The extension at one cell (see ``centred``): ``tr(D M) - log det D - 2 - log_image``, and the policy D."""
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
def centred(phi, radius, quadratic, log_image, low, high, with_weights, weights, out, extended):
    """``out = log(D_10 u D_01 u - m^2) - log_image`` with the centred mixed difference m, and its weights.

    ``weights`` (4, nx, ny) of the second differences along (1,0), (0,1), (1,-1), (1,1): tr(M^-1 D2 w), mixed term split.
    Outside ``[low, high]`` the tangent at a matrix with bounded eigenvalues replaces it, as in ``monotone``.
    """
    nx, ny = out.shape
    for i in prange(nx):
        tangents = 0
        for j in range(ny):
            a, b, m = _hessian(phi, i + radius, j + radius, quadratic)
            determinant = a * b - m * m
            value = math.log(determinant) - log_image[i, j]
            xx, yy, xy = b / determinant, a / determinant, -m / determinant
            if not (a > 0.0 and b > 0.0 and determinant > 0.0 and low <= value <= high):
                if low == -math.inf or math.isnan(determinant):
                    value = math.nan
                else:
                    tangents += 1
                    value, xx, yy, xy = _centred_extension(a, b, m, log_image[i, j], low, high)
            out[i, j] = value
            if with_weights:
                weights[0, i, j] = xx
                weights[1, i, j] = yy
                weights[2, i, j] = -0.5 * xy
                weights[3, i, j] = 0.5 * xy
        extended[i] = tangents


@njit(cache=True, parallel=True, error_model="numpy")
def centred_margin(phi, quadratic, out):
    """``out[i]``: smallest eigenvalue of the centred Hessian relative to D2q, row by row."""
    for i in prange(out.shape[0]):
        smallest = math.inf
        for j in range(phi.shape[1] - 2):
            a, b, m = _hessian(phi, i + 1, j + 1, quadratic)
            a /= quadratic[0]
            b /= quadratic[1]
            m /= math.sqrt(quadratic[0] * quadratic[1])
            eigenvalue = 0.5 * (a + b) - math.hypot(0.5 * (a - b), m)
            if eigenvalue < smallest or math.isnan(eigenvalue):
                smallest = eigenvalue
        out[i] = smallest


@njit(cache=True, parallel=True, error_model="numpy")
def displacement(phi, radius, spacing, out):
    """``out[a] = d phi / d x_a`` by centred differences, (2, nx, ny)."""
    nx, ny = out.shape[1:]
    for i in prange(nx):
        for j in range(ny):
            k, l = i + radius, j + radius
            out[0, i, j] = (phi[k + 1, l] - phi[k - 1, l]) / (2.0 * spacing[0])
            out[1, i, j] = (phi[k, l + 1] - phi[k, l - 1]) / (2.0 * spacing[1])


@njit(cache=True, parallel=True, error_model="numpy")
def image_edges(phi, radius, quadratic, spacing, out):
    """``out[a, b] = D2u[a, b] spacing[b]``, (2, 2, nx, ny): edges of the image of a cell, by centred differences."""
    nx, ny = out.shape[2:]
    for i in prange(nx):
        for j in range(ny):
            xx, yy, xy = _hessian(phi, i + radius, j + radius, quadratic)
            out[0, 0, i, j] = xx / spacing[0]
            out[1, 1, i, j] = yy / spacing[1]
            out[0, 1, i, j] = xy / spacing[0]
            out[1, 0, i, j] = xy / spacing[1]
