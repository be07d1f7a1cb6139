"""Tensor products of uniform cubic B-splines on a box, and their Gram matrices at scattered points."""
from __future__ import annotations

import numpy as np
from scipy import sparse

from .block_banded import REACH, BlockBanded


def _weights(fraction, order, width):
    """The four cubic B-splines that overlap a knot interval, or a derivative of them; shape (n, 4)."""
    f, g = fraction, 1 - fraction
    if order == 0:
        rows = (g**3, 3 * f**3 - 6 * f**2 + 4, 3 * g**3 - 6 * g**2 + 4, f**3)
    elif order == 1:
        rows = (-3 * g**2, 9 * f**2 - 12 * f, -9 * g**2 + 12 * g, 3 * f**2)
    else:
        rows = (6 * g, 18 * f - 12, 18 * g - 12, 6 * f)
    return np.stack(rows, axis=1) / (6 * width**order)


class TensorSplines:
    """``sum_j theta_j prod_a B_{j_a}(x_a)``: uniform knots, ``count`` cubic B-splines along every axis of a box.

    Parameters
    ----------
    box : sequence of (lower, upper)
    count : int
        B-splines per axis, at least 4; the knots are ``(upper - lower) / (count - 3)`` apart.

    Examples
    --------
    >>> splines = TensorSplines([(0, 1), (0, 2)], 6)
    >>> indices, values = splines.local(np.array([[0.3, 1.7]]))
    >>> indices.shape, float(values.sum().round(12))      # a partition of unity
    ((1, 16), 1.0)
    """

    def __init__(self, box, count):
        self.lower = np.array([pair[0] for pair in box], float)
        self.widths = (np.array([pair[1] for pair in box]) - self.lower) / (count - 3)
        self.count, self.ndim, self.size = count, len(box), count ** len(box)
        self.block = self.size // count  # functions that share their place along the first axis

    def _axis(self, x, axis, order):
        """First B-spline and weights (n, 4) at coordinates ``x``; those outside the box are moved to it."""
        position = np.clip((x - self.lower[axis]) / self.widths[axis], 0, self.count - 3)
        first = np.minimum(position.astype(int), self.count - 4)
        return first, _weights(position - first, order, self.widths[axis])

    def local(self, points, orders=None):
        """Indices (n, 4^d) and values (n, 4^d) of the functions that do not vanish at points (n, d); ``orders`` of
        derivatives per axis."""
        indices, values = np.zeros((len(points), 1), int), np.ones((len(points), 1))
        for axis, order in enumerate(orders or (0,) * self.ndim):
            first, weights = self._axis(points[:, axis], axis, order)
            along = first[:, None] + np.arange(4)
            indices = (self.count * indices[:, :, None] + along[:, None, :]).reshape(len(points), -1)
            values = (values[:, :, None] * weights[:, None, :]).reshape(len(points), -1)
        return indices, values

    def on_grid(self, coefficients, grid):
        """Values at the cell centres of a grid."""
        values = coefficients.reshape((self.count,) * self.ndim)
        for axis in range(self.ndim):
            first, weights = self._axis(grid.centres(axis), axis, 0)
            dense = np.zeros((grid.shape[axis], self.count))
            np.put_along_axis(dense, first[:, None] + np.arange(4), weights, axis=1)
            values = np.moveaxis(np.tensordot(dense, values, axes=(1, axis)), 0, axis)
        return values

    def penalty(self, order, ridge):
        """``sum_a`` of squared differences of the given order along axis a (P-splines, Eilers & Marx, Statistical
        Science 11, 1996), plus ``ridge`` times the identity. Polynomials of a lower order per axis are free.

        Returns
        -------
        csr_matrix and BlockBanded
            The same matrix, to be multiplied by and to be added.
        """
        difference = np.diff(np.eye(self.count), order, axis=0)
        one, eye, total = sparse.csr_matrix(difference.T @ difference), sparse.identity(self.count), 0
        for axis in range(self.ndim):
            factors = [one if a == axis else eye for a in range(self.ndim)]
            product = factors[0]
            for factor in factors[1:]:
                product = sparse.kron(product, factor)
            total = total + product
        total = (total + ridge * sparse.identity(self.size)).tocsr()
        whole, m = self.zeros(), self.block
        for i in range(self.count):
            for k in range(min(REACH + 1, self.count - i)):
                whole.blocks[i, k] = total[(i + k) * m:(i + k + 1) * m, i * m:(i + 1) * m].toarray()
        return total, whole

    def zeros(self):
        return BlockBanded(np.zeros((self.count, REACH + 1, self.block, self.block)))

    def places(self, first):
        """Where in the flat ``blocks`` of a BlockBanded matrix the entries between the functions of cells are: starts
        (n,) for cells whose first functions are given, plus offsets (4^d, 4^d) that they share."""
        m, inner = self.block, np.zeros(1, int)
        for _ in range(self.ndim - 1):
            inner = (self.count * inner[:, None] + np.arange(4)).ravel()
        row, within = np.repeat(np.arange(4), len(inner)), np.tile(inner, 4)
        upper = row[:, None] < row
        low, high = np.minimum(row[:, None], row), np.maximum(row[:, None], row)
        one, other = np.where(upper, within, within[:, None]), np.where(upper, within[:, None], within)
        offsets = ((REACH + 1) * low + high - low) * m**2 + m * one + other
        row, within = np.divmod(first, m)
        return (REACH + 1) * m**2 * row + (m + 1) * within, offsets


class Design:
    """The functions at points, sorted by knot cell: all points of a cell share their 4^d functions, so that Gram
    matrices and leverages are sums over cells of small dense products.

    Attributes
    ----------
    order : ndarray, (n,)
        Where the sorted points come from; everything else is in sorted order.
    """

    def __init__(self, splines, points):
        indices, self.values = splines.local(points)
        self.order = np.argsort(indices[:, 0], kind="stable")
        indices, self.values, self.points, self.splines = (
            indices[self.order], self.values[self.order], points[self.order], splines)
        first = np.flatnonzero(np.diff(indices[:, 0], prepend=-1))
        self.cells = [slice(start, stop) for start, stop in zip(first, [*first[1:], len(points)])]
        self.functions = indices[first]
        self._starts, self._offsets = splines.places(self.functions[:, 0])
        row = np.arange(4**splines.ndim) // 4**(splines.ndim - 1)
        self._stored = row[:, None] >= row
        self.matrix = self._sparse(indices, self.values)
        self._indices = indices

    def _sparse(self, indices, values):
        rows = np.arange(0, indices.size + 1, indices.shape[1])
        return sparse.csr_matrix((values.ravel(), indices.ravel(), rows), shape=(len(indices), self.splines.size))

    def derivative(self, orders):
        """The same for a partial derivative."""
        other = object.__new__(Design)
        other.__dict__.update(self.__dict__, values=self.splines.local(self.points, tuple(orders))[1])
        other.matrix = self._sparse(self._indices, other.values)
        return other

    def gram(self, weights):
        """``sum_i w_i b(x_i) b(x_i)'``, BlockBanded."""
        total = self.splines.zeros()
        flat, offsets = total.blocks.reshape(-1), self._offsets[self._stored]
        for part, start in zip(self.cells, self._starts):
            rows = self.values[part]
            flat[start + offsets] += ((weights[part, None] * rows).T @ rows)[self._stored]
        return total

    def between(self, matrix):
        """Cell by cell: its points, its functions, and the entries of a BlockBanded matrix between these."""
        flat = matrix.blocks.reshape(-1)
        for part, functions, start in zip(self.cells, self.functions, self._starts):
            yield part, functions, flat[start + self._offsets]

    def leverages(self, inverse):
        """``b(x_i)' inverse b(x_i)``, (n,)."""
        out = np.empty(len(self.values))
        for part, _, entries in self.between(inverse):
            rows = self.values[part]
            out[part] = ((rows @ entries) * rows).sum(axis=1)
        return out
