"""Passes over whole arrays whose sums do not depend on the number of threads, without BLAS, whose threads fight
numba's."""
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


def log_ratio(values, factor, image, low, high):
    """``values = log(values factor) - image``, NaN where there is no logarithm (``factor`` None: one); the mean of the
    result, the RMS of the rest, and how many values are not in ``[low, high]``."""
    from .kernels import reductions
    sums = np.empty((_blocks(values.size), 3))
    first = values.flat[0] * (1.0 if factor is None else factor.flat[0])
    # sums of deviations from it: the mean may be large
    reference = math.log(first) - float(image.flat[0]) if 0 < first < math.inf else 0.0
    factor = np.empty(0) if factor is None else factor.ravel()
    reductions.log_ratio(values.ravel(), factor, image.ravel(), low, high, reference, sums)
    total, squares, outside = (float(column) for column in sums.sum(axis=0))
    mean = total / values.size
    if not math.isfinite(squares):
        return math.nan, math.nan, int(outside)
    return reference + mean, math.sqrt(max(squares / values.size - mean * mean, 0.0)), int(outside)


def combine(keep, values, gain, others):
    """``values = keep values + gain others``, contiguous arrays."""
    from .kernels import reductions
    reductions.combine(keep, values.reshape(-1), gain, others.reshape(-1))


def _blocks(size):
    from .kernels.reductions import BLOCK
    return -(-size // BLOCK)
