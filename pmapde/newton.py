"""Damped inexact Newton for ``F(x) = 0``: knows no equation, only arrays and two functions."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .reductions import advanced


@dataclass(frozen=True)
class Newton:
    """Settings of the damped inexact Newton method.

    Parameters
    ----------
    max_halvings : int
        Halvings of a step before it is refused (a smaller implicit step is tried then).
    forcing : float
        Largest relative tolerance of the linear solves (0.5 for the first on a grid of rough data); tightened as Newton
        converges, choice 2 of Eisenstat & Walker (1996), eq. (2.6) with gamma = 0.9 and exponent 2.

    Good values: the defaults.
    """

    max_halvings: int = 5
    forcing: float = 0.1

    def __post_init__(self):
        if not (self.max_halvings >= 0 and 0 < self.forcing < 1):
            raise ValueError(f"Newton needs max_halvings >= 0 and 0 < forcing < 1, got {self}.")

    def next_forcing(self, norm, previous, tolerance):
        """Relative tolerance of the next linear solve; not tighter than the final tolerance asks for."""
        eta = self.forcing if previous is None else min(self.forcing, 0.9 * (norm / previous) ** 2)
        return min(self.forcing, max(eta, 0.3 * tolerance / norm, 1e-6))


@dataclass(frozen=True)
class Iterate:
    """One damped iteration: the point reached, ``F`` there and its RMS norm; ``damping`` 0 where it was refused."""

    x: np.ndarray
    value: np.ndarray
    norm: float
    damping: float
    evaluations: int


def damped_step(function, x, value, norm, correction, settings):
    """The longest of ``x + correction, x + correction / 2, ...`` that lowers the norm of ``function``.

    ``function`` returns a value and its norm, NaN where ``x`` is outside its domain; such points are refused like any
    that does not fulfil the sufficient decrease ``|F| <= (1 - 1e-4 damping) |F(x)|`` (Armijo).
    """
    damping = 1.0
    for trial in range(settings.max_halvings + 1):
        point = advanced(x, damping, correction)
        reached, new_norm = function(point)
        if new_norm <= (1 - 1e-4 * damping) * norm:
            return Iterate(point, reached, new_norm, damping, trial + 1)
        damping /= 2
    return Iterate(x, value, norm, 0.0, settings.max_halvings + 1)
