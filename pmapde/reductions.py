"""Passes over whole arrays whose sums do not depend on the number of threads, without BLAS, whose threads fight
numba's."""
from __future__ import annotations

import math

import numpy as np


def inner(first, second):
    """Sum of the products of two contiguous arrays."""
    return _weighted_sums(first, second)[0]


def weighted_mean(values, weight):
    """Mean of ``values`` under ``weight``, and the sum of the latter; contiguous arrays."""
    moment, total = _weighted_sums(values, weight)
    return moment / total, total


def _weighted_sums(values, weight):
    """Sums of ``weight values`` and of ``weight``."""
    from .kernels import reductions
    sums = np.empty((_blocks(values.size), 2))
    reductions.weighted_sums(values.ravel(), weight.ravel(), sums)
    return tuple(float(column) for column in sums.sum(axis=0))


def gradient_norm(field, spacing):
    """RMS over the cells of the gradient of ``field``, forward differences inside the grid."""
    from .kernels import reductions
    first, *others = (1 / h**2 for h in spacing)
    weight, sums = np.array([first, *[0.0] * (3 - field.ndim), *others]), np.empty(len(field))
    reductions.squared_differences(_slabs(np.ascontiguousarray(field)), weight, sums)
    return math.sqrt(float(sums.sum()) / field.size)


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
    return *_mean_and_rest(total / values.size, squares / values.size, reference), int(outside)


def moments(values):
    """Mean of a contiguous array and RMS of the rest; NaN where a value is not finite."""
    from .kernels import reductions
    sums, reference = np.empty((_blocks(values.size), 2)), float(values.flat[0])  # as in log_ratio
    reductions.deviations(values.ravel(), reference, sums)
    return _mean_and_rest(*(float(column) / values.size for column in sums.sum(axis=0)), reference)


def _mean_and_rest(mean, square, reference):
    """The same from the means of deviations from a reference, and of their squares."""
    if not math.isfinite(square):
        return math.nan, math.nan
    return reference + mean, math.sqrt(max(square - mean * mean, 0.0))


def shifted(values, amount, out=None):
    """``values + amount``, contiguous arrays; written to ``out``, perhaps ``values`` itself, if given."""
    from .kernels import reductions
    out = np.empty(values.shape) if out is None else out
    reductions.shift(values.ravel(), amount, out.reshape(-1))
    return out


def advanced(values, factor, change):
    """``values + factor change``; ``change`` may be the inside of a padded array."""
    from .kernels import reductions
    out = np.empty(values.shape)
    reductions.advance(_slabs(values), factor, _slabs(change), _slabs(out))
    return out


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


def sparse(shape):
    """Slices that leave about a thousand cells of a 2D grid, four of a 3D one, evenly spread."""
    return tuple(slice(None, None, max(1, n // (32 if len(shape) == 2 else 16))) for n in shape)


def _slabs(field):
    """A field in 3D; in 2D as slabs of one row."""
    return field[:, None] if field.ndim == 2 else field


def _blocks(size):
    from .kernels.reductions import BLOCK
    return -(-size // BLOCK)
