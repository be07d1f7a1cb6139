"""Densities that jump to zero: the masses of the cells at the edge, and a continuation beyond it."""
from __future__ import annotations

import numpy as np
from scipy import ndimage

LATTICE = {2: (233, (1, 144)), 3: (101, (1, 26, 40))}
"""Points in a cell at an edge, and the generator of the rank-1 lattice that they are (of all, the one with the least
P_2): along an edge that is parallel to an axis, the points of a product grid would all err alike."""
TAPER = 5.0
"""Standard deviation, in cells, of the Gaussian by which a density falls off beyond its edge."""
NEAR = 1 / 32
"""How close to a face it is looked for an edge, in half cells."""
ZERO, TINY = 100.0, 16.0
"""How much lower than the highest a logarithm is taken for minus infinity; and from where on edges do not count."""
CHUNK = 2**18
"""Points at a time."""


def log_masses(log_density, axes, shape, zero=ZERO):
    """Logarithms of the masses of the cells of a product grid, and of the values behind them, both ``shape``; the
    relative error of the whole mass that comes from the cells at an edge, estimated from the two halves of the points
    in each.

    One point a cell, of second order where the density is smooth; those of ``LATTICE`` in the cells at an edge, where
    one would be of first order.

    Values lower than the highest by more than ``zero`` are taken for zeros, so that a penalty is an edge too.

    Parameters
    ----------
    log_density : callable
        (n, d) to (n,), ``-inf`` where the density is zero.
    axes : callable
        ``axes(axis, n)``: edges (n + 1,), the outermost possibly infinite, centres and logarithms of the widths of
        ``n`` cells, (n,) each; those of a multiple of ``n`` are parts of them.
    shape : tuple of int
    """
    d = len(shape)
    parts, generator = LATTICE[d]
    covers = [axes(axis, n) for axis, n in enumerate(shape)]
    mesh = np.stack(np.meshgrid(*[_with_faces(ends, centres) for ends, centres, _ in covers], indexing="ij"), -1)
    values = log_density(mesh.reshape(-1, d)).reshape([n + 2 for n in shape])
    highest = values.max()
    values[values < highest - zero] = -np.inf
    cells = np.argwhere(_at_edge(values == -np.inf, values > highest - TINY))
    values = values[(slice(1, -1),) * d]
    masses = values.copy()
    for axis, (_, _, widths) in enumerate(covers):
        masses += widths.reshape([-1 if a == axis else 1 for a in range(d)])
    if len(cells) == 0:
        return masses, values, 0.0
    fine = [axes(axis, parts * n)[1:] for axis, n in enumerate(shape)]
    inside, gaps = np.outer(np.arange(parts), generator) % parts, []
    alike = (d - 1) * np.log(parts)  # of parts^d pieces of a cell, every point stands for so many
    step = max(1, CHUNK // len(inside))
    for some in (cells[start:start + step] for start in range(0, len(cells), step)):
        index = (parts * some[:, None] + inside).reshape(-1, d)
        logs = log_density(np.stack([fine[axis][0][index[:, axis]] for axis in range(d)], -1))
        logs = (logs + sum(fine[axis][1][index[:, axis]] for axis in range(d)) + alike).reshape(len(some), -1)
        one, other = (np.logaddexp.reduce(logs[:, half::2], axis=1) for half in (0, 1))
        masses[tuple(some.T)] = np.logaddexp(one, other)
        gaps.append(np.stack([one, other]))
    highest = masses.max()
    if highest == -np.inf:
        return masses, values, 0.0
    one, other = np.exp(np.concatenate(gaps, axis=1) - highest)
    return masses, values, float(np.sqrt(((one - other) ** 2).sum()) / np.exp(masses - highest).sum())


def _with_faces(ends, centres):
    """One point more at either face, just inside: an edge may lie beyond the outermost centre."""
    first, last = (end + NEAR * (centre - end) if np.isfinite(end) else centre
                   for end, centre in ((ends[0], centres[0]), (ends[-1], centres[-1])))
    return np.concatenate([[first], centres, [last]])


def _at_edge(zero, high):
    """Cells, all but the outermost, next to which the density is zero, and next to which it is high."""
    return (ndimage.maximum_filter(zero, 3) & ndimage.maximum_filter(high, 3))[(slice(1, -1),) * zero.ndim]


def continued(values):
    """Logarithms of a density on the cells of a grid, those of zeros replaced: by the value of the nearest cell where
    it is positive, falling off as a Gaussian of the distance, so that a grid resolves what is left of the edge."""
    zero = values == -np.inf
    if not zero.any() or zero.all():
        return values
    distance, nearest = ndimage.distance_transform_edt(zero, return_indices=True)
    return values[tuple(nearest)] - 0.5 * (distance / TAPER) ** 2
