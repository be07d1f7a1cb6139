"""The operator once more in plain NumPy, for any number of axes: shares no code with the package."""
from itertools import combinations

import numpy as np

SUPERBASES = (((1, 0), (0, 1), (-1, -1)), ((1, 0), (0, -1), (-1, 1)))


def padded(field, periodic):
    """One ghost layer: wrap-around on periodic axes, even reflection on the others."""
    for axis, wraps in enumerate(periodic):
        width = [(int(other == axis),) * 2 for other in range(field.ndim)]
        field = np.pad(field, width, mode="wrap" if wraps else "symmetric")
    return field


def shifted(ghosted, offset):
    return ghosted[tuple(slice(1 + e, n - 1 + e) for e, n in zip(offset, ghosted.shape))]


def second_difference(phi, offset, quadratic, periodic):
    """``u(i + e) - 2 u(i) + u(i - e)`` of ``u = q + phi`` with ``q = sum_a quadratic[a] i_a^2 / 2``."""
    ghosted = padded(phi, periodic)
    minus = tuple(-e for e in offset)
    return (shifted(ghosted, offset) - 2 * phi + shifted(ghosted, minus)
            + sum(q * e**2 for q, e in zip(quadratic, offset)))


def _seen_through(a, b, c):
    """MA-LBR (Benamou, Collino & Mirebeau 2016): the determinant as one superbase sees it."""
    middle = (a * b + b * c + c * a) / 2 - (a**2 + b**2 + c**2) / 4
    return np.select([a >= b + c, b >= a + c, c >= a + b], [b * c, a * c, a * b], middle)


def monotone_log_determinant(phi, quadratic, spacing, periodic):
    """NaN where a second difference along the superbases is not positive."""
    triples = [[second_difference(phi, e, quadratic, periodic) for e in superbase] for superbase in SUPERBASES]
    admissible = np.all([difference > 0 for triple in triples for difference in triple], axis=0)
    determinant = np.min([_seen_through(*triple) for triple in triples], axis=0)
    return np.log(np.where(admissible, determinant, np.nan)) - 2 * np.log(spacing).sum()


def centred_hessian(phi, quadratic, spacing, periodic):
    """``D2u`` by centred differences, (*shape, d, d)."""
    ndim, ghosted = phi.ndim, padded(phi, periodic)
    units = np.eye(ndim, dtype=int)
    hessian = np.empty((*phi.shape, ndim, ndim))
    for a in range(ndim):
        hessian[..., a, a] = second_difference(phi, units[a], quadratic, periodic) / spacing[a]**2
    for a, b in combinations(range(ndim), 2):
        mixed = sum(s * t * shifted(ghosted, s * units[a] + t * units[b]) for s in (1, -1) for t in (1, -1)) / 4
        hessian[..., a, b] = hessian[..., b, a] = mixed / (spacing[a] * spacing[b])
    return hessian


def centred_log_determinant(phi, quadratic, spacing, periodic):
    """NaN where the Hessian is not positive definite."""
    hessian = centred_hessian(phi, quadratic, spacing, periodic)
    positive = np.linalg.eigvalsh(hessian)[..., 0] > 0
    return np.where(positive, np.linalg.slogdet(hessian)[1], np.nan)


def log_determinant(phi, scheme, quadratic, spacing, periodic):
    function = monotone_log_determinant if scheme == "monotone" else centred_log_determinant
    return function(phi, quadratic, spacing, periodic)
