"""Chebyshev semi-iteration: cycles that converge slowly, combined."""
from __future__ import annotations

import math

import numpy as np

from ..reductions import combine


class Chebyshev:
    """Combines the corrections of cycles whose errors shrink by factors in ``[0, slowest]`` (Golub & Varga 1961).

    The k-th correction is ``keep`` times the one before plus ``gain`` times the cycle's, such that the error after k of
    them is a Chebyshev polynomial of the cycle. It needs no inner products, one more field, and an estimate of
    ``slowest``; modes that are slower still converge, at a rate that tells by how much (:meth:`slowest_at`).

    Parameters
    ----------
    slowest : float
        Largest factor, in (0, 1), by which a cycle reduces a part of the error.
    shape : tuple of int
        Of the corrections.

    Attributes
    ----------
    rate : float
        Asymptotic factor by which a step reduces the error.
    left : float
        Bound of the error after the steps so far, relative to that before.
    """

    def __init__(self, slowest, shape):
        self._centre, self._reach = 1 - slowest / 2, slowest / 2  # of the eigenvalues of cycle times operator
        root = math.sqrt(1 - slowest)
        self.rate, self.steps, self.left, self._before = (1 - root) / (1 + root), 0, 1.0, math.nan
        self._correction = np.empty(shape)

    def next(self, field):
        """The correction to add where ``field`` is the cycle's; overwritten by the next."""
        self.steps += 1
        if self.steps == 1:
            self._before, self.left = 1.0, self._reach / self._centre
            return np.multiply(field, 1 / self._centre, out=self._correction)
        ratio = self.left / self._before  # of successive Chebyshev polynomials at the centre
        following = 1 / (2 * self._centre / self._reach - ratio)
        self._before, self.left = self.left, self.left * following
        combine(following * ratio, self._correction, 2 * following / self._reach, field)
        return self._correction

    def slowest_at(self, rate):
        """The ``slowest`` factor that explains an observed ``rate`` above the asymptotic one."""
        return 1 - self._centre + self._reach * math.cosh(math.log(rate / self.rate))
