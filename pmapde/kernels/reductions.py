"""Passes over flat arrays in fixed blocks, so that sums do not depend on the number of threads.

``reassoc`` lets the compiler add in vectors; NaN and infinity survive it. BLAS is avoided: its threads fight numba's.
"""
import numpy as np
from numba import njit, prange

BLOCK = 8192


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"reassoc"})
def subtract(values, image, low, high, reference, sums):
    """``values -= image``; per block the sums of ``v - reference`` and its square,
    and how many are not in ``[low, high]``."""
    for block in prange(sums.shape[0]):
        begin = np.int64(block) * BLOCK
        end = min(begin + BLOCK, values.shape[0])
        total, squares, outside = 0.0, 0.0, 0
        for k in range(begin, end):
            value = values[k] - image[k]
            values[k] = value
            outside += 0 if (value >= low) & (value <= high) else 1
            deviation = value - reference
            total += deviation
            squares += deviation * deviation
        sums[block, 0], sums[block, 1], sums[block, 2] = total, squares, outside


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"reassoc"})
def weighted_squares(values, weight, sums):
    """Per block the sum of ``weight values^2``."""
    for block in prange(sums.shape[0]):
        begin = np.int64(block) * BLOCK
        total = 0.0
        for k in range(begin, min(begin + BLOCK, values.shape[0])):
            total += weight[k] * values[k] * values[k]
        sums[block] = total


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"reassoc"})
def inner_blocks(first, second, sums):
    """Per block the sum of ``first second``."""
    for block in prange(sums.shape[0]):
        begin = np.int64(block) * BLOCK
        total = 0.0
        for k in range(begin, min(begin + BLOCK, first.shape[0])):
            total += first[k] * second[k]
        sums[block] = total
