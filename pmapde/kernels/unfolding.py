"""Straightening folds: the sweeps of ``PiecewiseAffineMap.unfolded``, on lists of nodes and lattice cells.

Lists hold flat indices into the padded lattice of nodes; a lattice cell is known by its first corner. Serial: lists are
short, and their order decides nothing.
"""
import numpy as np
from numba import njit

from .transport import _orientation


@njit(cache=True, error_model="numpy")
def around(items, count, start, width, low, high, periodic, shape, strides, seen, stamp, out):
    """All ``items`` moved by ``start``, ..., ``start + width - 1`` along every axis, each once, wrapped on periodic
    axes, without those outside ``[low, high]``; returns how many. ``seen`` holds the ``stamp`` of those in ``out``."""
    found = 0
    for k in range(count):
        for number in range(width ** len(strides)):
            rest, digits, flat, inside = items[k], number, 0, True
            for a in range(len(strides)):
                at = rest // strides[a]
                rest -= at * strides[a]
                at += start + digits % width
                digits //= width
                if periodic[a]:
                    at = (at - low[a]) % shape[a] + low[a]
                elif at < low[a] or at > high[a]:
                    inside = False
                flat += at * strides[a]
            if inside and seen[flat] != stamp:
                seen[flat] = stamp
                out[found] = flat
                found += 1
    return found


@njit(cache=True, error_model="numpy")
def towards_mean(nodes, chosen, count, weight, light, keep, velocity, change, strides, shape):
    """Moves the ``chosen`` nodes towards the mean of their neighbours, all from where they are before: by less, the
    more ``weight`` they carry compared with ``light``; and on by the share ``keep`` of how they moved last."""
    dimension = len(strides)
    for k in range(count):
        here, rest, index = chosen[k], chosen[k], 0
        for a in range(dimension):
            at = rest // strides[a]
            rest -= at * strides[a]
            index = index * shape[a] + at - 1
        share = 0.8 * light / (light + weight[index])
        for c in range(dimension):
            mean = 0.0
            for a in range(dimension):
                mean += nodes[c, here + strides[a]] + nodes[c, here - strides[a]]
            change[c, k] = share * (mean / (2 * dimension) - nodes[c, here]) + keep * velocity[c, here]
    for k in range(count):
        for c in range(dimension):
            velocity[c, chosen[k]] = change[c, k]
            nodes[c, chosen[k]] += change[c, k]


@njit(cache=True, error_model="numpy")
def still_folded(nodes, cells, count, strides, permutations):
    """Keeps those of the ``cells`` that have a simplex turned over, at the front; returns how many."""
    dimension = len(strides)
    matrix, kept = np.empty((dimension, dimension)), 0
    for k in range(count):
        for s in range(permutations.shape[0]):
            if not _orientation(nodes, cells[k], strides, permutations[s], matrix) > 0.0:
                cells[kept] = cells[k]
                kept += 1
                break
    return kept
