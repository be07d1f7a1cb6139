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
    """Sum of ``weight |values|^2``, contiguous arrays, ``values`` component first."""
    from .kernels import reductions
    sums = np.empty(_blocks(weight.size))
    reductions.weighted_squares(values.reshape(len(values), -1), weight.ravel(), sums)
    return float(sums.sum())


def logarithm(values, shift):
    """``log values + shift`` of positive numbers, and the RMS of ``log values``."""
    from .kernels import reductions
    out, sums = np.empty(values.shape), np.empty(_blocks(values.size))
    reductions.logarithms(values.ravel(), shift, out.reshape(-1), sums)
    squares = float(sums.sum())
    if math.isnan(squares):  # numbers below the normal ones
        out = np.log(values)
        squares = inner(out, out)
        out += shift
    return out, math.sqrt(squares / values.size)


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


def jacobi_step(values, residual, mean, weights, damping):
    """``values`` after a damped Jacobi step for ``residual - mean`` with the diagonal ``2 sum weights``; none where
    that is not positive."""
    from .kernels import reductions
    out = np.empty(values.shape)
    reductions.jacobi(values.ravel(), residual.ravel(), mean, weights.reshape(len(weights), -1), damping,
                      out.reshape(-1))
    return out


def _blocks(size):
    from .kernels.reductions import BLOCK
    return -(-size // BLOCK)
