"""Sparse LU: the last resort on grids small enough for it."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import bmat, csc_matrix
from scipy.sparse.linalg import splu

SMALL = 64
"""Unknowns up to which a matrix is inverted."""


@dataclass(frozen=True)
class Direct:
    """Exact solve by sparse LU of the operator bordered by the constants, up to ``largest`` unknowns (2D, 3D)."""

    largest: tuple = (70_000, 15_000)
    name = "direct"
    setup_work, cycle_work = {2: 2000.0, 3: 20000.0}, {2: 50.0, 3: 200.0}  # work units by dimension, see pmapde.work
    bytes_per_cell = {2: 5000, 3: 50000}
    uses_blas = True
    keep = False

    def affords(self, stencil):
        return np.prod(stencil.shape) <= self.largest[len(stencil.shape) - 2]

    def build(self, stencil, threads=1):
        if not self.affords(stencil):
            raise ValueError(f"Direct(largest={self.largest}) is too small for {np.prod(stencil.shape)} unknowns; "
                             f"use AlgebraicMultigrid().")
        return _Direct(stencil)


class _Direct:
    def __init__(self, stencil):
        matrix = stencil.matrix().tocoo()
        self.inverse = BorderedMatrix(matrix.data, matrix.row, matrix.col, matrix.shape[0])

    def apply(self, residual, threads=1):
        """The solution, with one ghost layer."""
        return np.pad(self.inverse.solve(residual), 1)


class BorderedMatrix:
    """LU of ``[[A, 1], [1', 0]]``: solves ``A w + c = rhs`` for the mean-free ``w``, whatever the constant c.

    ``A`` is the sum of its entries, given by their values, rows and columns. The inverse instead where it is small: a
    sparse LU takes a millisecond to set up, whatever the size.
    """

    def __init__(self, values, rows, columns, size):
        if size <= SMALL:
            bordered = np.ones((size + 1, size + 1))
            bordered[:size, :size] = np.bincount(rows * size + columns, values, size * size).reshape(size, size)
            bordered[size, size] = 0.0
            self._solve = np.linalg.inv(bordered).__matmul__
        else:
            matrix, ones = csc_matrix((values, (rows, columns)), (size, size)), csc_matrix(np.ones((size, 1)))
            self._solve = splu(bmat([[matrix, ones], [ones.T, None]], format="csc")).solve

    def solve(self, residual):
        return self._solve(np.append(np.ravel(residual), 0.0))[:-1].reshape(residual.shape)
