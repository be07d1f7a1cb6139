"""Ghost layers: what a cell beyond the boundary stands for (even reflection, or wrap-around)."""
from __future__ import annotations

import numpy as np


def fold(index, n, periodic):
    """Cell indices outside ``0..n-1`` brought back by wrap-around or even reflection about the faces."""
    if periodic:
        return index % n
    index = index % (2 * n)
    return min(index, 2 * n - 1 - index) if isinstance(index, int) else np.minimum(index, 2 * n - 1 - index)


def fill_ghosts(padded, width, periodic):
    """Fill the ghost layers of ``padded`` from its interior, in place, axis after axis (corners included)."""
    for axis, wraps in enumerate(periodic):
        view = padded.swapaxes(0, axis)  # the order of the other axes does not matter
        n = view.shape[0] - 2 * width
        for layer in range(1, width + 1):
            below = fold(-layer, n, wraps)
            view[width - layer] = view[width + below]
            view[width + n - 1 + layer] = view[width + n - 1 - below]
