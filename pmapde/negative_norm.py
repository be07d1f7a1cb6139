"""What a residual says about the error of the map: the negative norm of it, in which smooth parts count most."""
from __future__ import annotations

import math

import numpy as np
from scipy import fft

from .kernels.transfer import add_blocks

EDGE, SHORT = 4, 64
"""Cells per axis whose residuals are taken together, but on axes of fewer cells: rough parts hardly count."""


def block_sums(residual, reference, density, grid, start=None):
    """Integrals of ``density (residual - reference)``, and of ``density``, over blocks of cells of ``grid``, (2, ...).

    The arrays are of the whole grid, or of a part of it that begins at the cell ``start``: the sums then are its share.
    """
    edge = [EDGE if n >= SHORT else 1 for n in grid.shape]
    sums = np.zeros([2, *(-(-n // e) for n, e in zip(grid.shape, edge))])
    start = (0,) * grid.ndim if start is None else start
    if grid.ndim == 2:  # a slab of one cell
        add_blocks(residual[:, None], reference, density[:, None], (start[0], 0, start[1]), (edge[0], 1, edge[1]),
                   sums[:, :, None])
    else:
        add_blocks(residual, reference, density, tuple(start), tuple(edge), sums)
    sums *= grid.cell_volume
    return sums


def without_mean(sums):
    """Integrals of ``density (residual - mean)``, the mean being that under the density, from :func:`block_sums`."""
    moments, masses = sums
    return moments - moments.sum() / masses.sum() * masses


def gradient_size(sums, grid, slopes):
    """RMS of ``grad w`` for ``sum_a d_aa w / slopes_a = s``, even about faces or periodic; ``s``: the ``sums`` relative
    to the mass of a block under a constant density of mass one. Its mean does not count.

    One fast transform of each axis. The last block of an axis may be smaller than the others, which is neglected.
    """
    squares, over = np.zeros(sums.shape), np.zeros(sums.shape)
    modes = sums * sums.size
    for axis, (n, wraps) in enumerate(zip(sums.shape, grid.periodic)):
        turns = fft.fftfreq(n, 1 / n) if wraps else np.arange(n) / 2
        k = (2 * np.pi / grid.lengths[axis] * turns).reshape([-1 if a == axis else 1 for a in range(sums.ndim)]) ** 2
        squares += k
        over += k / slopes[axis]
    cosine = [axis for axis, wraps in enumerate(grid.periodic) if not wraps]
    modes = fft.dctn(modes, axes=cosine, norm="ortho") if cosine else modes
    if len(cosine) < sums.ndim:
        modes = fft.fftn(modes, axes=[axis for axis, wraps in enumerate(grid.periodic) if wraps], norm="ortho")
    over.flat[0] = math.inf
    return math.sqrt(float((squares * (np.abs(modes) / over) ** 2).sum()) / sums.size)
