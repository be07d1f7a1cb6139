"""Black-box multigrid in 3D with planes instead of lines: how many cycles smoothing that leaves nothing out would take.

Every plane is solved exactly, by a sparse factorisation, so the counts are a lower bound of those with a cycle per
plane; set-up and seconds mean nothing.
"""
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import splu

from pmapde.linear.black_box import BlackBoxMultigrid, _Hierarchy, _pattern


@dataclass(frozen=True)
class BlackBoxPlanes(BlackBoxMultigrid):
    name = "black box, planes"

    def build(self, stencil, threads=1):
        return _Planes(stencil, self, threads)


class _Planes(_Hierarchy):
    """Zebra plane relaxation: even planes, then odd ones, across every axis in turn."""

    def _level(self, rows, ratio, half):
        level = super()._level(rows, ratio, half)
        matrix = csr_matrix((rows.ravel(), _pattern(rows.shape, self.periodic)), shape=(rows[0].size,) * 2)
        cells = np.arange(rows[0].size).reshape(rows.shape[1:])
        level.pivots = []
        for axis, n in enumerate(cells.shape):
            colours = [np.take(cells, np.arange(first, n, 2), axis).ravel() for first in range(min(2, n))]
            level.pivots.append([(chosen, matrix[chosen], splu(matrix[chosen][:, chosen].tocsc()))
                                 for chosen in colours])
        return level

    def _relax(self, level, axis, backward):
        values, right = level.field[self.inside].ravel(), level.rhs.ravel()
        for chosen, rows, factor in reversed(level.pivots[axis]) if backward else level.pivots[axis]:
            values[chosen] += factor.solve(right[chosen] - rows @ values)
        level.field[self.inside] = values.reshape(level.rhs.shape)

    nbytes = 0
