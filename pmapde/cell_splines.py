"""Splines of densities on cells: their coefficients, and the kernels that evaluate and average them over images."""
from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from .ghosts import fold
from .threads import in_parts

POLE = math.sqrt(3) - 2
"""Of cubic splines: what a coefficient depends on decays like its powers, to 5e-19 over ``DECAY`` cells."""
DECAY = 32


def extended(values, periodic, width=2):
    """``values`` with ghost layers, even about no-flux faces."""
    for axis, (n, wraps) in enumerate(zip(values.shape, periodic)):
        values = np.take(values, fold(np.arange(-width, n + width), n, wraps), axis=axis)
    return np.ascontiguousarray(values)


def centre_values(padded, faces):
    """Values at the cell centres of a smooth density: its averages less a 24th of their second differences, order 4.

    ``padded``: averages with one ghost layer; ``faces``: per axis, whether there is a no-flux face at either end, where
    second differences are those of the next cell (order 3).
    """
    inside = (slice(1, -1),) * padded.ndim
    values = padded[inside].copy()
    for axis, (lower, upper) in enumerate(faces):
        lines = np.moveaxis(padded[(*inside[:axis], slice(None), *inside[axis + 1:])], axis, 0)
        bent = np.diff(lines, 2, axis=0) / 24
        if lower and upper and len(bent) == 2:
            continue
        if lower:
            bent[0] = bent[1]
        if upper:
            bent[-1] = bent[-2]
        values -= np.moveaxis(bent, 0, axis)
    return values


def spline_coefficients(values, periodic):
    """Of the cubic spline through ``values``, with two ghost layers, and whether some were clipped: those below half
    the smallest of the values around, or above twice the largest: beyond a face, noise is extrapolated."""
    coefficients = values
    for axis, wraps in enumerate(periodic):
        coefficients = _filtered(coefficients, axis, wraps)
    around = extended(values, periodic)
    clipped = bool((coefficients < 0.5 * around).any() or (coefficients > 2 * around).any())
    if clipped:  # hardly ever, and the filters take longer than the spline
        around, inside = extended(values, periodic, 3), (slice(1, -1),) * values.ndim
        lowest, highest = (find(around, 3)[inside] for find in (ndimage.minimum_filter, ndimage.maximum_filter))
        np.clip(coefficients, lowest / 2, 2 * highest, out=coefficients)
    return coefficients, clipped


def _filtered(values, axis, wraps):
    """The coefficients along one axis, with ghost layers."""
    lines = np.moveaxis(values, axis, -1)
    n, mode = lines.shape[-1], "grid-wrap" if wraps else "reflect"
    found = np.empty((*lines.shape[:-1], n + 4))
    inner = found[..., 2:-2]
    in_parts(lambda part: ndimage.spline_filter1d(np.ascontiguousarray(lines[part]), 3, -1, inner[part], mode),
             len(lines), lines.size)
    sides = found, found[..., ::-1]
    if wraps or n == 2:
        for side, places in zip(sides, ([-2, -1], [n + 1, n])):
            for ghost, place in zip((0, 1), fold(np.array(places), n, wraps)):
                side[..., ghost] = inner[..., place]
    else:
        _end_as_parabolas(sides, n)
    return np.moveaxis(found, -1, axis)


def _end_as_parabolas(sides, n):
    """Coefficients of the even spline become those of the one whose outermost third differences vanish, and get their
    ghosts: what the two differ by is a multiple of ``POLE**i`` at either end, ``i`` the cells from it."""
    bends = [2 * side[..., 2] - 3 * side[..., 3] + side[..., 4] for side in sides]
    scale = 1 / ((1 - POLE) ** 3 * (POLE**-2 - POLE ** (2 * n - 6)))
    decay = POLE ** np.arange(min(n, DECAY))
    changes = [scale * (own / POLE + other * POLE ** (n - 3)) for own, other in (bends, bends[::-1])]
    for side, change in zip(sides, changes):
        side[..., 2:2 + len(decay)] += change[..., None] * decay
    for side in sides:
        for ghost in (1, 0):
            side[..., ghost] = 3 * side[..., ghost + 1] - 3 * side[..., ghost + 2] + side[..., ghost + 3]


def at_knots(coefficients):
    """Values at the cell centres of the spline with these ``coefficients``, whose two ghost layers go."""
    values = coefficients
    for axis in range(values.ndim):
        line = np.moveaxis(values, axis, 0)
        values = np.moveaxis((line[1:-3] + 4 * line[2:-2] + line[3:-1]) / 6, 0, axis)
    return values


def multilinear(values):
    """Of cell averages ``values`` with two ghost layers: values at the centres, with one ghost layer, whose multilinear
    interpolant has these averages, nearly, and their integrals along the last axis up to the centres.

    Interpolating the averages themselves would add an eighth of their second difference along every axis; what would
    flow over each face to undo that is bounded by an eighth of the smaller side: positive, and no mass lost.
    """
    inside = (slice(1, -1),) * values.ndim
    cells = values[inside].copy()
    for axis in range(values.ndim):
        line = values[tuple(slice(None) if a == axis else slice(1, -1) for a in range(values.ndim))]
        low, high = (np.take(line, np.arange(k, line.shape[axis] - 1 + k), axis=axis) for k in (0, 1))
        bound = np.minimum(low, high)
        cells -= np.diff(np.clip(high - low, -bound, bound), axis=axis) / 8
    sums = np.zeros(cells.shape)
    np.cumsum(0.5 * (cells[..., 1:] + cells[..., :-1]), axis=-1, out=sums[..., 1:])
    sums -= sums[..., 1:2] - 0.125 * (3 * cells[..., 1:2] + cells[..., :1])  # from the lower face on
    return cells, sums


def _in_cells(grid, face, step, scale):
    """Positions ``face + step i + scale (phi[i] - phi[i - 1])`` in index coordinates."""
    return (face - grid.lower) / grid.spacing, step / grid.spacing, scale / grid.spacing


def at_images(spline, grid, phi, face, step, scale, derivatives, value, drift):
    """A density at the images of the cells of another grid, midway between ``face + step i + scale (phi[i] -
    phi[i - 1])`` and the same at ``i + 1`` along every axis; with ``derivatives`` those of its logarithm in the
    differences ``phi[i + 1] - phi[i - 1]``.

    ``spline``: coefficients with two ghost layers, cells, periodic axes, and whether it is cubic, on ``grid``. ``phi``
    has one ghost layer. Written to ``value`` (*shape) and ``drift`` (d, *shape).
    """
    from .kernels.interpolation import images_2d, images_3d
    kernel = images_2d if grid.ndim == 2 else images_3d
    kernel(*spline, *_in_cells(grid, face, step, scale), phi, derivatives, value, drift)


def over_images(cells_and_sums, grid, phi, face, step, scale, derivatives, value, drift, moment):
    """The same for the exact mean of the density, :func:`multilinear` between its cell centres, over the whole images
    (boxes); ``moment`` (d, *shape): derivatives in the second differences along the axes."""
    from .kernels.averages import average_2d, average_3d
    kernel = average_2d if grid.ndim == 2 else average_3d
    kernel(*cells_and_sums, np.array(grid.periodic), *_in_cells(grid, face, step, scale), phi, derivatives, value,
           drift, moment)
