"""Tensor products of uniform cubic B-splines on a box, and their Gram matrices at scattered points."""
from __future__ import annotations

import numpy as np
from scipy import sparse


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
        Science 11, 1996), plus ``ridge`` times the identity. Polynomials of a lower order per axis are free."""
        difference = np.diff(np.eye(self.count), order, axis=0)
        one, eye, total = sparse.csr_matrix(difference.T @ difference), sparse.identity(self.count), 0
        for axis in range(self.ndim):
            factors = [one if a == axis else eye for a in range(self.ndim)]
            product = factors[0]
            for factor in factors[1:]:
                product = sparse.kron(product, factor)
            total = total + product
        return (total + ridge * sparse.identity(self.size)).toarray()


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
        self.cells = [(slice(start, stop), indices[start])
                      for start, stop in zip(first, [*first[1:], len(points)])]
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
        """``sum_i w_i b(x_i) b(x_i)'``, (size, size)."""
        total = np.zeros((self.splines.size, self.splines.size))
        for part, functions in self.cells:
            rows = self.values[part]
            total[functions[:, None], functions] += (weights[part, None] * rows).T @ rows
        return total

    def leverages(self, inverse):
        """``b(x_i)' inverse b(x_i)``, (n,)."""
        out = np.empty(len(self.values))
        for part, functions in self.cells:
            rows = self.values[part]
            out[part] = ((rows @ inverse[functions[:, None], functions]) * rows).sum(axis=1)
        return out
