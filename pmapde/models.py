"""Unnormalised log-densities of two and three parameters, for `pmapde posterior`, the tests and the benchmarks."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, log_expit


@dataclass(frozen=True)
class Model:
    """A log-density (n, d) to (n,), and what :class:`BrenierPosterior` needs to know of it.

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> model = pmapde.models.MODELS["two_modes"]
    >>> model.names, model.log_density(np.zeros((1, 2))).shape
    (('x', 'y'), (1,))
    """

    log_density: Callable
    names: tuple
    about: str
    start: tuple
    scale: tuple
    bounds: tuple = None

    def posterior(self, **settings):
        """A :class:`BrenierPosterior` of this model, not fitted yet."""
        from .variational import BrenierPosterior
        return BrenierPosterior(self.log_density, start=self.start, scale=self.scale, bounds=self.bounds, **settings)


def _normal(x, mean, sd):
    return -0.5 * ((x - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)


def banana(x):
    """A normal of standard deviations 2 and 1, bent along a parabola (after Haario, Saksman & Tamminen 1999)."""
    return _normal(x[:, 0], 0.0, 2.0) + _normal(x[:, 1], 0.3 * x[:, 0] ** 2, 1.0)


def funnel(x):
    """Neal's funnel (2003, Ann. Statist. 31): v of standard deviation 3, x of variance exp(v)."""
    return _normal(x[:, 0], 0.0, 3.0) + _normal(x[:, 1], 0.0, np.exp(x[:, 0] / 2))


def two_modes(x):
    """Three tenths of a unit normal at (3, 0), seven at (-3, -1)."""
    parts = [np.log(weight) + _normal(x[:, 0], a, 1.0) + _normal(x[:, 1], b, 1.0)
             for weight, a, b in ((0.3, 3.0, 0.0), (0.7, -3.0, -1.0))]
    return np.logaddexp(*parts)


SCHOOLS = np.array([[28, 8, -3, 7, -1, 1, 18, 12], [15, 10, 16, 11, 9, 11, 10, 18]], float)
"""Estimated effects of coaching and their standard errors (Rubin 1981, J. Educ. Statist. 6, Table 1)."""


def eight_schools(x):
    """Mean and log spread of the effects, the eight effects integrated out; priors N(0, 5), half-Cauchy(5)."""
    mean, log_spread = x.T
    spread = np.exp(log_spread)
    likelihood = sum(_normal(effect, mean, np.sqrt(error**2 + spread**2)) for effect, error in SCHOOLS.T)
    return likelihood + _normal(mean, 0.0, 5.0) + np.log(2 / np.pi / 5) - np.log1p((spread / 5) ** 2) + log_spread


RINGS = np.array([[66, 70, 69, 68, 67, 72, 73, 70, 57, 63, 70, 78, 67, 53, 67, 75, 70, 81, 76, 79, 75, 76, 58],
                  [50] * 6 + [100] * 2 + [200] * 15,
                  [0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 2, 0, 1]], float)
"""Joint temperature (F), leak-check pressure (psi), damaged rings of six, of the 23 flights before Challenger's last
(Dalal, Fowlkes & Hoadley 1989, JASA 84, Table 1)."""


def rings(x):
    """Logistic regression of damage on temperature and pressure (standardised); priors N(0, 2.5), N(0, 10)."""
    temperature, pressure, damaged = RINGS
    scores = (x[:, :1] + x[:, 1:2] * (temperature - temperature.mean()) / temperature.std()
              + x[:, 2:] * (pressure - pressure.mean()) / pressure.std())
    ways = gammaln(7) - gammaln(damaged + 1) - gammaln(7 - damaged)
    likelihood = (ways + damaged * log_expit(scores) + (6 - damaged) * log_expit(-scores)).sum(axis=1)
    return likelihood + _normal(x[:, 0], 0.0, 10.0) + _normal(x[:, 1:], 0.0, 2.5).sum(axis=1)


MODELS = {
    "banana": Model(banana, ("x", "y"), "a bent normal", (0, 0), (1, 1)),
    "funnel": Model(funnel, ("v", "x"), "Neal's funnel, truncated to |v| <= 3", (0, 0), (1, 1),
                    ((-3.0, 3.0), (-np.inf, np.inf))),
    "two_modes": Model(two_modes, ("x", "y"), "a mixture of two normals", (0, 0), (1, 1)),
    "eight_schools": Model(eight_schools, ("mean", "log_spread"), "Rubin's eight schools, effects integrated out",
                           (5, 1), (5, 1)),
    "rings": Model(rings, ("intercept", "temperature", "pressure"), "logistic regression, Challenger's rings",
                   (0, 0, 0), (2, 1, 1)),
}
