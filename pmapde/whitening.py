"""Affine coordinates in which a distribution has about mean zero and unit covariance."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Whitening:
    """``x = mean + root z``, with any root of the covariance; the caller chooses which.

    Examples
    --------
    >>> whitening = Whitening(np.array([1.0, 2.0]), np.array([[2.0, 0.0], [1.0, 0.5]]))
    >>> x = whitening.backward(np.array([[1.0, 2.0]]))
    >>> x, whitening.forward(x), whitening.log_determinant
    (array([[3., 4.]]), array([[1., 2.]]), 0.0)
    """

    mean: np.ndarray
    root: np.ndarray

    @property
    def log_determinant(self):
        """Of ``x`` in ``z``."""
        return float(np.linalg.slogdet(self.root)[1])

    def forward(self, x):
        """``z`` for ``x``, both (n, d)."""
        return np.linalg.solve(self.root, (x - self.mean).T).T

    def backward(self, z):
        """``x`` for ``z``, both (n, d)."""
        return self.mean + z @ self.root.T

    def log_volume(self, x):
        """Logarithm of the determinant of ``dx/dz`` at ``x`` (n, d), (n,): constant."""
        return np.full(len(x), self.log_determinant)
