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
    """h(a, b, c) of Benamou, Collino & Mirebeau (MA-LBR): the determinant seen through one superbase."""
    if a >= b + c:
        return b * c
    if b >= a + c:
        return a * c
    if c >= a + b:
        return a * b
    return 0.5 * (a * b + b * c + c * a) - 0.25 * (a * a + b * b + c * c)


@njit(cache=True, parallel=True, error_model="numpy")
def monotone_log_determinant(phi, radius, offsets, direction, quadratic, log_cell, out):
    """``log min_superbases h(D_e0 u, D_e1 u, D_e2 u) - log_cell``; the monotone determinant in logarithmic form.

    ``offsets`` (K, 2) are all offsets up to sign, ``direction`` (S, 3) the rows of them that each superbase consists of.
    """
    nx, ny = out.shape
    count = offsets.shape[0]
    for i in prange(nx):
        differences = np.empty((count, ny))  # one row of cells: stays in the first-level cache
        for k in range(count):
            x, y = offsets[k, 0], offsets[k, 1]
            constant = quadratic[0] * x * x + quadratic[1] * y * y
            row, ahead, behind = phi[i + radius], phi[i + radius + x], phi[i + radius - x]
            for j in range(ny):
                centre = row[j + radius]
                differences[k, j] = (ahead[j + radius + y] - centre) - (centre - behind[j + radius - y]) + constant
        for j in range(ny):
            smallest = math.inf
            lowest = differences[0, j]
            for k in range(1, count):
                if differences[k, j] < lowest or math.isnan(differences[k, j]):
                    lowest = differences[k, j]
            for s in range(direction.shape[0]):
                smallest = min(smallest, _selling(differences[direction[s, 0], j], differences[direction[s, 1], j],
                                                  differences[direction[s, 2], j]))
            out[i, j] = math.log(smallest) - log_cell if lowest > 0.0 else math.nan


@njit(cache=True, parallel=True, error_model="numpy")
def monotone_weights(phi, radius, superbases, direction, quadratic, weights, bound):
    """Weights of the second differences in the linearised log-determinant, all non-negative: grad log h, active superbase.

    ``direction[s, k]`` is the row of ``weights`` (K, nx, ny) that holds offset ``superbases[s, k]``. ``bound`` (nx, ny)
    is set where an axis carries no weight: the Hessian is more anisotropic than the stencil resolves.
    """
    count, nx, ny = weights.shape
    for i in prange(nx):
        for j in range(ny):
            smallest = math.inf
            active = 0
            a_active = 0.0
            b_active = 0.0
            c_active = 0.0
            for s in range(superbases.shape[0]):
                a = _difference(phi, i + radius, j + radius, superbases[s, 0, 0], superbases[s, 0, 1], quadratic)
                b = _difference(phi, i + radius, j + radius, superbases[s, 1, 0], superbases[s, 1, 1], quadratic)
                c = _difference(phi, i + radius, j + radius, superbases[s, 2, 0], superbases[s, 2, 1], quadratic)
                h = _selling(a, b, c)
                if h < smallest:
                    smallest, active, a_active, b_active, c_active = h, s, a, b, c
            a, b, c = a_active, b_active, c_active
            if a >= b + c:
                da, db, dc = 0.0, c, b
            elif b >= a + c:
                da, db, dc = c, 0.0, a
            elif c >= a + b:
                da, db, dc = b, a, 0.0
            else:
                da, db, dc = 0.5 * (b + c - a), 0.5 * (a + c - b), 0.5 * (a + b - c)
            bound[i, j] = da == 0.0 or db == 0.0
            for k in range(count):
                weights[k, i, j] = 0.0
            weights[direction[active, 0], i, j] = da / smallest
            weights[direction[active, 1], i, j] = db / smallest
            weights[direction[active, 2], i, j] = dc / smallest


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


@njit(cache=True, parallel=True, error_model="numpy")
def centred_log_determinant(phi, quadratic, log_cell, out):
    """``log(D_10 u D_01 u - m^2) - log_cell`` with the centred mixed difference m (one ghost layer)."""
    nx, ny = out.shape
    for i in prange(nx):
        for j in range(ny):
            a, b, m = _hessian(phi, i + 1, j + 1, quadratic)
            determinant = a * b - m * m
            out[i, j] = math.log(determinant) - log_cell if a > 0.0 and b > 0.0 and determinant > 0.0 else math.nan


@njit(cache=True, parallel=True, error_model="numpy")
def centred_weights(phi, quadratic, weights):
    """Weights (4, nx, ny) of the differences along (1,0), (0,1), (1,-1), (1,1): tr(M^-1 D2 w), mixed term split."""
    nx, ny = weights.shape[1:]
    for i in prange(nx):
        for j in range(ny):
            a, b, m = _hessian(phi, i + 1, j + 1, quadratic)
            determinant = a * b - m * m
            weights[0, i, j] = b / determinant
            weights[1, i, j] = a / determinant
            weights[2, i, j] = 0.5 * m / determinant
            weights[3, i, j] = -0.5 * m / determinant


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
