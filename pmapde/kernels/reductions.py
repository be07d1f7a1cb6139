"""Passes over flat arrays in fixed blocks, so that sums do not depend on the number of threads.

``reassoc`` lets the compiler add in vectors; NaN and infinity survive it. BLAS is avoided: its threads fight numba's.
"""
import math

import numpy as np
from numba import njit, prange

BLOCK, SHORT = 8192, 1024


MANTISSA, HALF, TWO_52, BITS = (np.uint64(number) for number in (2**52 - 1, 1022 << 52, 1075 << 52, 52))
LN2_HIGH, LN2_LOW, ROOT_HALF = 6.93147180369123816490e-01, 1.90821492927058770002e-10, math.sqrt(0.5)
SMALLEST, OFFSET = 2.0**-1022, 2.0**52 + 1022.0
"""The bits of a mantissa, of 1/2 and of 2^52, and how many there are; log 2 in two parts, so that multiples of the
first are exact; the smallest number with a full mantissa; what 2^52 plus the exponent's bits is too large by."""


@njit(cache=True, error_model="numpy")
def _log(values, out):
    """``out = log values`` for positive normal numbers, NaN for all others; below an ulp off.

    The compiler has no vectors of logarithms: the exponent k from the bits, ``log(1 + f)`` of the rest from the odd
    series in ``s = f / (2 + f)``, its remainder a minimax polynomial (Ng, the method of fdlibm's ``e_log.c``).
    """
    bits, integers = values.view(np.uint64), np.empty(values.shape[0], dtype=np.uint64)
    floats = integers.view(np.float64)
    for q in range(values.shape[0]):
        integers[q] = (bits[q] >> BITS) | TWO_52
    for q in range(values.shape[0]):
        out[q] = floats[q] - OFFSET  # exponent of a mantissa in [1/2, 1)
    for q in range(values.shape[0]):
        integers[q] = (bits[q] & MANTISSA) | HALF
    for q in range(values.shape[0]):
        low = floats[q] < ROOT_HALF
        f = (2.0 * floats[q] if low else floats[q]) - 1.0
        k = out[q] - 1.0 if low else out[q]
        s = f / (2.0 + f)
        z, half = s * s, 0.5 * f * f
        w = z * z
        rest = (w * (0.3999999999940941908 + w * (0.2222219843214978396 + w * 0.1531383769920937332))
                + z * (0.6666666666666735130 + w * (0.2857142874366239149 + w * (0.1818357216161805012
                                                                                 + w * 0.1479819860511658591))))
        value = k * LN2_HIGH - ((half - (s * (half + rest) + k * LN2_LOW)) - f)
        out[q] = value if (values[q] >= SMALLEST) & (values[q] < math.inf) else math.nan


@njit(cache=True, error_model="numpy", fastmath={"reassoc"})
def _moments(logs, image, low, high, reference, out):
    """``out = logs - image``, and the sums of ``log_ratio`` over it."""
    total, squares, outside = 0.0, 0.0, 0.0
    for q in range(out.shape[0]):
        value = logs[q] - image[q]
        out[q] = value
        outside += 0.0 if (value >= low) & (value <= high) else 1.0
        deviation = value - reference
        total += deviation
        squares += deviation * deviation
    return total, squares, outside


@njit(cache=True, parallel=True, error_model="numpy")
def log_ratio(values, factor, image, low, high, reference, sums):
    """``values = log(values factor) - image`` (an empty ``factor`` stands for one), NaN where there is no logarithm;
    per block the sums of ``v - reference`` and its square, and how many are not in ``[low, high]``."""
    for block in prange(sums.shape[0]):
        begin = np.int64(block) * BLOCK
        end = min(begin + BLOCK, values.shape[0])
        sums[block, 0], sums[block, 1], sums[block, 2] = 0.0, 0.0, 0.0
        for part in range(begin, end, SHORT):
            count = min(SHORT, end - part)
            here, logs = values[part:part + count], np.empty(count)
            if factor.shape[0] > 0:
                scale = factor[part:part + count]
                for q in range(count):
                    here[q] *= scale[q]
            _log(here, logs)
            total, squares, outside = _moments(logs, image[part:part + count], low, high, reference, here)
            sums[block, 0] += total
            sums[block, 1] += squares
            sums[block, 2] += outside


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"reassoc"})
def logarithms(values, shift, out, sums):
    """``out = log values + shift``, NaN where there is no logarithm or the number is not normal; per block the sum of
    the squares of ``log values``."""
    for block in prange(sums.shape[0]):
        begin = np.int64(block) * BLOCK
        end, total = min(begin + BLOCK, values.shape[0]), 0.0
        for part in range(begin, end, SHORT):
            logs = out[part:min(part + SHORT, end)]
            _log(values[part:min(part + SHORT, end)], logs)
            for q in range(logs.shape[0]):
                total += logs[q] * logs[q]
                logs[q] += shift
        sums[block] = total


@njit(cache=True, error_model="numpy", fastmath={"reassoc"})
def _weighted(values, weight):
    """Sum of ``weight values^2``: on its own it is vectorised, inside the loops below it is not."""
    total = 0.0
    for k in range(weight.shape[0]):
        total += weight[k] * (values[k] * values[k])
    return total


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"reassoc"})
def weighted_squares(values, weight, sums):
    """Per block the sum of ``weight |values|^2``, ``values`` (components, n)."""
    for block in prange(sums.shape[0]):
        begin = np.int64(block) * BLOCK
        end, total = min(begin + BLOCK, weight.shape[0]), 0.0
        for component in range(values.shape[0]):
            total += _weighted(values[component, begin:end], weight[begin:end])
        sums[block] = total


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"reassoc"})
def weighted_sums(values, weight, sums):
    """Per block the sums of ``weight values`` and of ``weight``."""
    for block in prange(sums.shape[0]):
        begin = np.int64(block) * BLOCK
        moment, total = 0.0, 0.0
        for k in range(begin, min(begin + BLOCK, values.shape[0])):
            moment += weight[k] * values[k]
            total += weight[k]
        sums[block, 0], sums[block, 1] = moment, total


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"reassoc"})
def deviations(values, reference, sums):
    """Per block the sums of ``v - reference`` and its square."""
    for block in prange(sums.shape[0]):
        begin = np.int64(block) * BLOCK
        total, squares = 0.0, 0.0
        for k in range(begin, min(begin + BLOCK, values.shape[0])):
            deviation = values[k] - reference
            total += deviation
            squares += deviation * deviation
        sums[block, 0], sums[block, 1] = total, squares


@njit(cache=True, error_model="numpy", fastmath={"reassoc"})
def _squared_steps(values, others):
    """Sum of ``(others - values)^2``, as long as ``values``."""
    total = 0.0
    for k in range(values.shape[0]):
        step = others[k] - values[k]
        total += step * step
    return total


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"reassoc"})
def squared_differences(field, weight, sums):
    """Per slab of the first axis the sum of the squared differences of neighbours, those along axis a times
    ``weight[a]``."""
    for i in prange(field.shape[0]):
        total = 0.0
        for j in range(field.shape[1]):
            row = field[i, j]
            if i + 1 < field.shape[0]:
                total += weight[0] * _squared_steps(row, field[i + 1, j])
            if j + 1 < field.shape[1]:
                total += weight[1] * _squared_steps(row, field[i, j + 1])
            total += weight[2] * _squared_steps(row[:-1], row[1:])
        sums[i] = total


@njit(cache=True, parallel=True, error_model="numpy")
def shift(values, amount, out):
    """``out = values + amount``."""
    for block in prange((values.shape[0] + BLOCK - 1) // BLOCK):
        begin = np.int64(block) * BLOCK
        for k in range(begin, min(begin + BLOCK, values.shape[0])):
            out[k] = values[k] + amount


@njit(cache=True, parallel=True, error_model="numpy")
def advance(values, factor, change, out):
    """``out = values + factor change``, 3D; ``change`` may be part of a larger array."""
    for i in prange(values.shape[0]):
        for j in range(values.shape[1]):
            here, step, there = values[i, j], change[i, j], out[i, j]
            for k in range(here.shape[0]):
                there[k] = here[k] + factor * step[k]


@njit(cache=True, parallel=True, error_model="numpy")
def combine(keep, values, gain, others):
    """``values = keep values + gain others``."""
    for block in prange((values.shape[0] + BLOCK - 1) // BLOCK):
        begin = np.int64(block) * BLOCK
        for k in range(begin, min(begin + BLOCK, values.shape[0])):
            values[k] = keep * values[k] + gain * others[k]


@njit(cache=True, parallel=True, error_model="numpy")
def jacobi(values, residual, mean, weights, damping, out):
    """``out = values + damping (residual - mean) / (2 sum weights)``, ``weights`` (K, n); ``values`` where the sum is
    not positive."""
    for block in prange((values.shape[0] + SHORT - 1) // SHORT):
        begin = np.int64(block) * SHORT
        end = min(begin + SHORT, values.shape[0])
        total = np.zeros(end - begin)
        for k in range(weights.shape[0]):
            part = weights[k, begin:end]
            for q in range(end - begin):
                total[q] += part[q]
        for q in range(end - begin):
            step = (residual[begin + q] - mean) / (2.0 * total[q])
            out[begin + q] = values[begin + q] + (damping * step if total[q] > 0.0 else 0.0)
