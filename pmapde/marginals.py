"""Columns with long tails brought near the normal, one by one, before they are whitened together."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import ndtri

from .whitening import Whitening

LONG = 1.4
"""Range of a column, in that of as many normal samples, from which on its tails are long."""
QUANTILES = 4000
"""Quantiles of a column that the transform is fitted to."""
SLIGHT = 1e-4
"""Penalty on the parameters' squares: near the normal, or the log-normal, they are hardly determined."""


@dataclass(frozen=True)
class JohnsonSU:
    """``z = skew + power arcsinh((x - centre) / scale)``, increasing. Where ``z`` is normal, ``x`` has an unbounded
    distribution of Johnson's (1949, Biometrika 36, Systems of frequency curves), log-normal in the limit.

    Powers become exponential tails, exponential ones nearly normal. Fitted by maximum likelihood.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.exp(np.random.default_rng(0).standard_normal(2000))
    >>> transform = JohnsonSU.fitted(x)
    >>> z = transform.forward(x)
    >>> bool(np.ptp(x) > 20 and np.ptp(z) < 8), bool(np.allclose(transform.backward(z), x))
    (True, True)
    """

    centre: float
    scale: float
    skew: float
    power: float

    @classmethod
    def fitted(cls, column):
        """Of one column of samples, (n,)."""
        count = min(len(column), QUANTILES)
        x = np.quantile(column, (np.arange(count) + 0.5) / count)
        low, middle, high = np.quantile(x, [0.25, 0.5, 0.75])
        unit = (high - low) / 1.35 or float(x.std())

        def of(parameters):
            centre, log_scale, skew, log_power = (float(value) for value in parameters)
            return cls(middle + unit * centre, unit * math.exp(log_scale), skew, math.exp(log_power))

        def loss(parameters):
            transform = of(parameters)
            likelihood = np.mean(0.5 * transform.forward(x) ** 2 - transform.log_slope(x))
            return likelihood + SLIGHT * (parameters @ parameters)
        return of(minimize(loss, np.zeros(4), method="Nelder-Mead", bounds=[(-20, 20)] * 4,
                           options={"maxiter": 4000, "xatol": 1e-4, "fatol": 1e-8}).x)

    def forward(self, x):
        return self.skew + self.power * np.arcsinh((x - self.centre) / self.scale)

    def backward(self, z):
        return self.centre + self.scale * np.sinh((z - self.skew) / self.power)

    def log_slope(self, x):
        """Logarithm of ``dz/dx``."""
        return math.log(self.power / self.scale) - 0.5 * np.log1p(((x - self.centre) / self.scale) ** 2)


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Columns transformed one by one (None: left as they are), then whitened; the interface of a :class:`Whitening`."""

    columns: tuple
    whitening: Whitening

    def forward(self, x):
        """``z`` for ``x``, both (n, d)."""
        return self.whitening.forward(straightened(x, self.columns))

    def backward(self, z):
        """``x`` for ``z``, both (n, d)."""
        x = self.whitening.backward(z)
        return np.column_stack([column.backward(values) if column else values
                                for column, values in zip(self.columns, x.T)])

    def log_volume(self, x):
        """Logarithm of the determinant of ``dx/dz`` at ``x`` (n, d), (n,)."""
        slopes = [column.log_slope(values) for column, values in zip(self.columns, x.T) if column]
        return self.whitening.log_volume(x) - sum(slopes)


def long_tailed(X):
    """A transform for every column of ``X`` whose tails are long, None for the others."""
    usual = 2 * ndtri(1 - 1 / len(X)) * X.std(axis=0)
    return tuple(JohnsonSU.fitted(column) if np.ptp(column) > LONG * most else None
                 for column, most in zip(X.T, usual))


def straightened(x, columns):
    """The columns of ``x`` transformed, (n, d)."""
    return np.column_stack([column.forward(values) if column else values for column, values in zip(columns, x.T)])
