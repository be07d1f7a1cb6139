"""Sums over whole arrays that do not depend on the number of threads, without BLAS, whose threads fight numba's."""
from __future__ import annotations

import math

import numpy as np


def inner(first, second):
    """Sum of the products of two contiguous arrays."""
    from .kernels import reductions
    sums = np.empty(_blocks(first.size))
    reductions.inner_blocks(first.ravel(), second.ravel(), sums)
    return float(sums.sum())


def weighted_square(values, weight):
    """Sum of ``weight values^2``, contiguous arrays."""
    from .kernels import reductions
    sums = np.empty(_blocks(values.size))
    reductions.weighted_squares(values.ravel(), weight.ravel(), sums)
    return float(sums.sum())


def rms(values):
    """Root mean square; NaN and infinity survive."""
    return math.sqrt(inner(values, values) / values.size)


def subtract(values, image, low, high):
    """``values -= image``; the mean of the result, the RMS of the rest,
    and how many values are not in ``[low, high]``."""
    from .kernels import reductions
    sums = np.empty((_blocks(values.size), 3))
    reference = float(values.flat[0] - image.flat[0])  # sums of deviations from it: the mean may be large
    reductions.subtract(values.ravel(), image.ravel(), low, high, reference, sums)
    total, squares, outside = (float(column) for column in sums.sum(axis=0))
    mean = total / values.size
    if not math.isfinite(squares):
        return math.nan, math.nan, int(outside)
    return reference + mean, math.sqrt(max(squares / values.size - mean * mean, 0.0)), int(outside)


def _blocks(size):
    from .kernels.reductions import BLOCK
    return -(-size // BLOCK)
