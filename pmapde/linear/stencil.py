"""The linearised operator as a variable-coefficient stencil: apply it, or get its sparse matrix."""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix

from ..ghosts import fold
from ..kernels import stencil_2d, stencil_3d


def no_drift(shape):
    """Zeros, of which one layer along the first axis stands for all: nothing that sweeps would have to read."""
    return np.zeros((len(shape), 1, *shape[1:]))


@dataclass(frozen=True)
class Stencil:
    """The linear operator ``A w = shift w - J w`` with ``J w = sum_k W_k D_k w + sum_a B_a (w(+1_a) - w(-1_a))``.

    ``weights`` (K, *shape) multiply second differences along ``offsets`` (K, d), whose first d rows are the axes;
    ``drift`` (d, *shape), or :func:`no_drift`, multiplies central differences. Index space: no spacing appears.
    ``row_weight`` (*shape): the rows times this density are nearly symmetric (the divergence form of the
    linearisation); for the preconditioners.
    """

    weights: np.ndarray
    drift: np.ndarray
    offsets: np.ndarray
    periodic: tuple
    shift: float = 0.0
    row_weight: np.ndarray = None

    @property
    def shape(self):
        return self.weights.shape[1:]

    @cached_property
    def radius(self):
        return int(np.abs(self.offsets).max())

    def apply(self, field, out=None):
        """``A field`` for a field on the grid."""
        if self.radius > 1:
            return (self._matrix @ field.ravel()).reshape(self.shape)
        kernels = stencil_2d if field.ndim == 2 else stencil_3d
        out = np.empty(self.shape) if out is None else out
        padded = np.empty(tuple(n + 2 for n in self.shape))
        kernels.pad(field, self.periodic, padded)
        kernels.apply_stencil(self.weights, self.drift, self.shift, padded, out)
        return out

    def diagonal(self):
        return self.shift + 2 * self.weights.sum(axis=0)

    @cached_property
    def _matrix(self):
        return self.matrix()

    def matrix(self):
        """``A`` as a scipy CSR matrix; ghost neighbours are folded back into the grid."""
        kernels = stencil_2d if len(self.shape) == 2 else stencil_3d
        size, count = int(np.prod(self.shape)), 2 * len(self.offsets) + 1
        columns, values = np.empty((size, count), dtype=np.int32), np.empty((size, count))
        neighbours = [fold(np.arange(-self.radius, n + self.radius), n, wraps)
                      for n, wraps in zip(self.shape, self.periodic)]
        kernels.stencil_rows(self.weights, self.drift, self.offsets, self.shift, *neighbours, columns, values)
        matrix = csr_matrix((values.ravel(), columns.ravel(), np.arange(0, size * count + 1, count, dtype=np.int32)),
                            (size, size))
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        return matrix
