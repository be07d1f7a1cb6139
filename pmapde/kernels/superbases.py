"""MA-LBR over superbases wider than the 3x3 stencil, 2D; otherwise as ``monge_ampere_2d.monotone``.

``phi`` has as many ghost layers as the offsets are long. ``bases`` (B, 3): the offsets of each superbase by number;
``edge`` (B, 3): whether the superbase beyond the one without weight on that member is missing from the family.
"""
import math

import numpy as np
from numba import njit, prange


@njit(cache=True, error_model="numpy")
def _selling(a, b, c):
    """``h(a, b, c)`` and its gradient, as in ``monge_ampere_2d``: jitted helpers live where they are called."""
    low_a, low_b, low_c = min(b, c), min(c, a), min(a, b)
    da = max(0.0, min(0.5 * ((max(b, c) - a) + low_a), low_a))
    db = max(0.0, min(0.5 * ((max(c, a) - b) + low_b), low_b))
    dc = max(0.0, min(0.5 * ((max(a, b) - c) + low_c), low_c))
    return da * db + db * dc + dc * da, da, db, dc


@njit(cache=True, error_model="numpy")
def _differences(phi, i, j, radius, offsets, quadratic, out):
    """Second differences along all offsets at cell (i, j); the smallest, NaN if one is."""
    smallest, centre = math.inf, phi[i + radius, j + radius]
    for k in range(len(offsets)):
        x, y = offsets[k, 0], offsets[k, 1]
        out[k] = ((phi[i + radius + x, j + radius + y] - centre) - (centre - phi[i + radius - x, j + radius - y])
                  + quadratic[0] * x * x + quadratic[1] * y * y)
        if not out[k] >= smallest:
            smallest = out[k]
    return smallest


@njit(cache=True, error_model="numpy")
def _least(differences, bases, floor):
    """``(h, superbase)`` of the smallest h, differences raised to ``floor``."""
    best, active = math.inf, 0
    for s in range(len(bases)):
        h = _selling(max(differences[bases[s, 0]], floor), max(differences[bases[s, 1]], floor),
                     max(differences[bases[s, 2]], floor))[0]
        if h < best:
            best, active = h, s
    return best, active


@njit(cache=True, parallel=True, error_model="numpy")
def monotone(phi, radius, offsets, bases, quadratic, with_weights, weights, out, inadmissible):
    nx, ny = out.shape
    for i in prange(nx):
        differences, bad = np.empty(len(offsets)), 0
        for j in range(ny):
            smallest = _differences(phi, i, j, radius, offsets, quadratic, differences)
            h, s = _least(differences, bases, -math.inf)
            out[i, j] = h
            bad += 0 if smallest > 0.0 else 1  # NaN counts
            if with_weights:
                p, q, r = bases[s]
                _, a, b, c = _selling(differences[p], differences[q], differences[r])
                weights[:, i, j] = 0.0
                weights[p, i, j], weights[q, i, j], weights[r, i, j] = a / h, b / h, c / h
        inadmissible[i] = bad


@njit(cache=True, parallel=True, error_model="numpy")
def monotone_extension(phi, radius, offsets, bases, quadratic, log_image, low, high, with_weights, weights, out,
                       extended):
    nx, ny = out.shape
    for i in prange(nx):
        differences, tangents = np.empty(len(offsets)), 0
        for j in range(ny):
            least = _differences(phi, i, j, radius, offsets, quadratic, differences)
            if least > 0.0 and low <= out[i, j] <= high:
                continue
            if low == -math.inf or math.isnan(least):
                out[i, j] = math.nan
                continue
            tangents += 1
            image = math.exp(log_image[i, j])
            floor = math.exp(low) * image / max(differences[0], differences[1], math.sqrt(image))
            best, active, best_a, best_b, best_c = math.inf, 0, 0.0, 0.0, 0.0
            for s in range(len(bases)):
                a, b, c = differences[bases[s, 0]], differences[bases[s, 1]], differences[bases[s, 2]]
                h, da, db, dc = _selling(max(a, floor), max(b, floor), max(c, floor))
                ratio = min(1.0, math.sqrt(math.exp(high) * image / h))
                da, db, dc = da / (h * ratio), db / (h * ratio), dc / (h * ratio)
                value = math.log(h * ratio * ratio) - 2.0 + da * a + db * b + dc * c
                if value < best:
                    best, active, best_a, best_b, best_c = value, s, da, db, dc
            out[i, j] = best - log_image[i, j]
            if with_weights:
                weights[:, i, j] = 0.0
                p, q, r = bases[active]
                weights[p, i, j], weights[q, i, j], weights[r, i, j] = best_a, best_b, best_c
        extended[i] = tangents


@njit(cache=True, parallel=True, error_model="numpy")
def monotone_checks(phi, radius, offsets, bases, edge, quadratic, mass, margin, narrow):
    nx, ny = mass.shape
    for i in prange(nx):
        differences, smallest, total = np.empty(len(offsets)), math.inf, 0.0
        for j in range(ny):
            _differences(phi, i, j, radius, offsets, quadratic, differences)
            for k in range(len(offsets)):
                ratio = differences[k] / (quadratic[0] * offsets[k, 0] ** 2 + quadratic[1] * offsets[k, 1] ** 2)
                if ratio < smallest or math.isnan(ratio):
                    smallest = ratio
            _, s = _least(differences, bases, -math.inf)
            _, a, b, c = _selling(differences[bases[s, 0]], differences[bases[s, 1]], differences[bases[s, 2]])
            if a == 0.0 and edge[s, 0] or b == 0.0 and edge[s, 1] or c == 0.0 and edge[s, 2]:
                total += mass[i, j]
        margin[i], narrow[i] = smallest, total
