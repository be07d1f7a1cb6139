"""Toy distributions to sample from, in two and three dimensions."""
from __future__ import annotations

import numpy as np


def _moons(n, rng):
    """Two half circles of radius 1, noise 0.1."""
    angle, upper = np.pi * rng.random(n), rng.random(n) < 0.5
    moons = np.where(upper[:, None], np.stack([np.cos(angle), np.sin(angle)], axis=1),
                     np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1))
    return moons + 0.1 * rng.standard_normal((n, 2))


def _circle(n, rng):
    angle = 2 * np.pi * rng.random(n)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _ring(n, rng):
    """The unit circle, noise 0.1."""
    return _circle(n, rng) + 0.1 * rng.standard_normal((n, 2))


def _rings(n, rng):
    """Circles of radius 1 and 2, equal masses, noise 0.1."""
    return _circle(n, rng) * rng.integers(1, 3, (n, 1)) + 0.1 * rng.standard_normal((n, 2))


def _spirals(n, rng):
    """Two interleaved spirals of three quarters of a turn and more, noise 0.1."""
    angle = np.pi * (0.5 + 2 * np.sqrt(rng.random(n)))
    arm = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (angle / np.pi)[:, None]
    return arm * rng.choice([-1.0, 1.0], (n, 1)) + 0.1 * rng.standard_normal((n, 2))


def _gaussians(count):
    def draw(n, rng):
        angle = 2 * np.pi * rng.integers(0, count, n) / count
        return 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.3 * rng.standard_normal((n, 2))
    draw.__doc__ = f"{count} Gaussians of width 0.3 on a circle of radius 2."
    return draw


def _checkerboard(n, rng):
    """Uniform on the dark squares of a 4 x 4 board of side 4."""
    column, row = rng.integers(0, 4, n), rng.integers(0, 2, n)
    return np.stack([column, 2 * row + column % 2], axis=1) - 2.0 + rng.random((n, 2))


def _helix(n, rng):
    """Two turns of radius 1 and height 2, noise 0.12."""
    angle = 4 * np.pi * rng.random(n)
    curve = np.stack([np.cos(angle), np.sin(angle), angle / (2 * np.pi) - 1], axis=1)
    return curve + 0.12 * rng.standard_normal((n, 3))


def _mixture3d(n, rng):
    """Four anisotropic Gaussians in space, masses 0.4, 0.3, 0.2, 0.1."""
    centres = np.array([[0, 0, 0], [2, 1, 0], [-1, 2, 1], [0, -1.5, 2]], float)
    widths = np.array([[0.6, 0.3, 0.3], [0.3, 0.6, 0.3], [0.3, 0.3, 0.6], [0.4, 0.4, 0.4]])
    which = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
    return centres[which] + widths[which] * rng.standard_normal((n, 3))


_TOYS = {"moons": (2, _moons), "ring": (2, _ring), "rings": (2, _rings), "spirals": (2, _spirals),
         "five_gaussians": (2, _gaussians(5)), "eight_gaussians": (2, _gaussians(8)),
         "checkerboard": (2, _checkerboard), "helix": (3, _helix), "mixture3d": (3, _mixture3d)}


def names(ndim=None):
    """Names of the toys, of one dimension if given.

    >>> names(3)
    ['helix', 'mixture3d']
    """
    return [name for name, (dimension, _) in _TOYS.items() if ndim in (None, dimension)]


def draw(name, n, rng):
    """``n`` independent samples, (n, d).

    Parameters
    ----------
    name : str
        One of :func:`names`.
    n : int
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        For a name that is not there.

    Examples
    --------
    >>> draw("helix", 5, np.random.default_rng(1)).shape
    (5, 3)
    """
    if name not in _TOYS:
        raise ValueError(f"`name` {name!r} is no toy; known names: {', '.join(_TOYS)}.")
    return _TOYS[name][1](n, rng)
