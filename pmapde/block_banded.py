"""Symmetric positive definite matrices between tensor products of B-splines: Cholesky, and the inverse near the
diagonal."""
from __future__ import annotations

import numpy as np
from scipy import linalg

REACH = 3
"""Cubic B-splines overlap that many neighbours to either side; differences of order three reach as far."""


class BlockBanded:
    """A symmetric matrix whose blocks further than ``REACH`` from the diagonal vanish.

    One block row per B-spline along the first axis, of ``m = count^(d - 1)`` functions each: factorised in ``O(count
    m^3)`` operations instead of ``O(count^3 m^3)``.

    Parameters
    ----------
    blocks : ndarray, (count, REACH + 1, m, m)
        ``blocks[i, k]`` is the block in row ``i + k`` and column ``i``; what would be below the last row is not used.

    Examples
    --------
    >>> import numpy as np
    >>> matrix = BlockBanded(np.zeros((5, 4, 2, 2)))
    >>> matrix.blocks[:, 0] += 4 * np.eye(2)
    >>> factor = matrix.factor()
    >>> factor.solve(np.ones(10))[:3]
    array([0.25, 0.25, 0.25])
    >>> factor.inverse().blocks[2, 0]
    array([[0.25, 0.  ],
           [0.  , 0.25]])
    """

    def __init__(self, blocks):
        self.blocks = blocks
        self.count, _, self.m, _ = blocks.shape

    def __add__(self, other):
        return BlockBanded(self.blocks + other.blocks)

    def __mul__(self, number):
        return BlockBanded(self.blocks * number)

    __rmul__ = __mul__

    def trace(self):
        return float(np.trace(self.blocks[:, 0], axis1=1, axis2=2).sum())

    def factor(self):
        """The Cholesky factor; LinAlgError if the matrix is not positive definite."""
        return BlockCholesky(self)


class BlockCholesky:
    """``L``, lower triangular, of ``L L'``; its blocks are stored as those of :class:`BlockBanded`."""

    def __init__(self, matrix):
        self.count, self.m = matrix.count, matrix.m
        self.blocks = lower = matrix.blocks.copy()
        for i in range(self.count):
            for j in range(max(0, i - REACH), i):
                done = lower[j, i - j:]
                lower[i, :len(done)] -= (done.reshape(-1, self.m) @ done[0].T).reshape(done.shape)
            lower[i, 0] = linalg.cholesky(lower[i, 0], lower=True)
            below = self._below(i)
            if len(below):
                below[:] = linalg.solve_triangular(lower[i, 0], below.T, lower=True).T

    def _below(self, i):
        """The blocks of a column below the diagonal, (rows, m)."""
        return self.blocks[i, 1:self.count - i].reshape(-1, self.m)

    def _rows(self, i):
        """Of those blocks."""
        return slice((i + 1) * self.m, (i + 1) * self.m + len(self._below(i)))

    def solve(self, right):
        """``(L L')^-1 right``, (count m,)."""
        x = right.copy()
        for i in range(self.count):
            own = slice(i * self.m, (i + 1) * self.m)
            x[own] = linalg.solve_triangular(self.blocks[i, 0], x[own], lower=True)
            x[self._rows(i)] -= self._below(i) @ x[own]
        for i in reversed(range(self.count)):
            own = slice(i * self.m, (i + 1) * self.m)
            x[own] -= self._below(i).T @ x[self._rows(i)]
            x[own] = linalg.solve_triangular(self.blocks[i, 0], x[own], lower=True, trans=True)
        return x

    def inverse(self):
        """The blocks of ``(L L')^-1`` near the diagonal, exactly, as a BlockBanded matrix: from the last column to the
        first (Takahashi, Fagan & Chen, 8th PICA Conference, 1973)."""
        found = np.zeros_like(self.blocks)
        for i in reversed(range(self.count)):
            own = linalg.solve_triangular(self.blocks[i, 0], np.eye(self.m), lower=True)
            below = self._below(i) @ own
            rows = len(below) // self.m
            around = np.empty((rows, self.m, rows, self.m))
            for a in range(rows):
                for b in range(a + 1):
                    around[a, :, b] = found[i + 1 + b, a - b]
                    around[b, :, a] = found[i + 1 + b, a - b].T
            reached = around.reshape(len(below), len(below)) @ below
            found[i, 1:rows + 1] = -reached.reshape(rows, self.m, self.m)
            found[i, 0] = own.T @ own + below.T @ reached
        return BlockBanded(found)
