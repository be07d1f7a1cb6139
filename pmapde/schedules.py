"""Step sizes of mirror descent: callables of the iteration number k = 0, 1, ... and of the explicit step limit there.

The limit (see :func:`pmapde.explicit_limit`, and ``limits`` of :class:`~pmapde.mirror.MirrorRun`) is what an explicit
step may be at most; a schedule is free to ignore it.
Any callable ``(k, limit) -> eta > 0`` will do. With ``relative=True`` the first step is given in units of the limit.
"""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """``eta_k = first * factor(k)``, times the limit where ``relative``."""

    name: str
    first: float
    factor: object
    relative: bool = False

    def __post_init__(self):
        if not self.first > 0:
            raise ValueError(f"the first step of a schedule must be positive, got {self.first!r}.")

    def __call__(self, k, limit):
        return self.first * self.factor(k) * (limit if self.relative else 1.0)


def constant(eta, relative=False):
    """``eta_k = eta``.

    >>> constant(0.5)(7, 1.0), constant(0.5, relative=True)(7, 0.01)
    (0.5, 0.005)
    """
    return Schedule(f"constant {eta:g}", eta, lambda k: 1.0, relative)


def inverse_sqrt(eta, relative=False):
    """``eta_k = eta / sqrt(k + 1)``."""
    return Schedule(f"{eta:g} / sqrt(k + 1)", eta, lambda k: (k + 1) ** -0.5, relative)


def inverse(eta, relative=False):
    """``eta_k = eta / (k + 1)``."""
    return Schedule(f"{eta:g} / (k + 1)", eta, lambda k: 1 / (k + 1), relative)


def polynomial(eta, power, relative=False):
    """``eta_k = eta (k + 1)^power``; growing for a positive power."""
    return Schedule(f"{eta:g} (k + 1)^{power:g}", eta, lambda k: float(k + 1) ** power, relative)


def geometric(eta, ratio, relative=False):
    """``eta_k = eta ratio^k``: for the implicit scheme, which then converges geometrically.

    >>> geometric(0.1, 2.0)(3, None)
    0.8
    """
    if not ratio > 0:
        raise ValueError(f"`ratio` must be positive, got {ratio!r}.")
    return Schedule(f"{eta:g} * {ratio:g}^k", eta, lambda k: float(ratio) ** k, relative)


def automatic(safety=0.9):
    """``eta_k = safety * limit``: an explicit step that is safe for ``safety < 1``, by linear stability and because
    convexity is kept."""
    return Schedule(f"{safety:g} of the limit", safety, lambda k: 1.0, True)
