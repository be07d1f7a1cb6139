"""Sample clouds: checks, whitening, the box they are given, references to draw noise from."""
from __future__ import annotations

import inspect
import math
import warnings

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import qmc, truncnorm

from .density import GridDensity, LogDensity
from .grid import Grid
from .whitening import Whitening

DEGENERATE = 1e-12
"""Smallest eigenvalue of a covariance, relative to the largest, that is not taken for zero (columns scaled to one)."""
LARGEST = 1e100
"""Numbers whose squares are far from overflow."""
CONSTANT = 1e-12
"""Deviation of a column, in its largest number, that rounding errors may have."""
LEVELS = 8
"""Different values that a column must have: splines resolve fewer as spikes, of which likelihood is never tired."""
REACH = 5.0
"""Deviations where a Gaussian reference ends; a wider box of the data holds rarer samples than its tails would be."""
QUARTILES = 4
"""Cells that the middle half of the data must span along every axis."""
TENTH, NARROW = 0.1, 0.5
"""A share of the data that must span so many cells, whatever the direction, or there is a warning."""
DIRECTIONS, SLAB_SAMPLES, FEW = 64, 20_000, 20
"""In which slabs are looked for; how many samples are, at most; how many say something at least."""
THIN, CENTRES, NEIGHBOURS = 0.1, 1000, 12
"""Deviation across a curve, or a sheet, in distances of the knots, below which it is smeared to about twice as much and
more; the places that are looked at; how many samples around one say something."""


class ResolutionWarning(UserWarning):
    """Samples have details that the grid does not resolve."""


def checked_samples(X, least=1):
    """``X`` as a float64 array (n, d), d = 2 or 3, finite, of at least ``least`` rows; one sentence otherwise."""
    if np.ma.is_masked(X):
        raise ValueError("`X` must have no masked values; drop their rows or impute them first.")
    array = np.asarray(X)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"`X` must be an array of real numbers, got dtype {array.dtype}; convert it first.")
    if array.ndim != 2 or array.shape[1] not in (2, 3):
        raise ValueError(f"`X` must have shape (n, 2) or (n, 3), got {array.shape}; choose two or three columns.")
    array = np.array(array, dtype=np.float64, order="C")
    bad = ~np.isfinite(array)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"`X` must be finite, got {array[row, column]} in row {row}, column {column} "
                         f"({int(bad.any(axis=1).sum())} such rows); drop or impute them first.")
    if len(array) < least:
        raise ValueError(f"`X` must have at least {least} samples in {array.shape[1]}D, got {len(array)}.")
    return array


def checked_columns(X):
    """One sentence where a column of samples is constant, has few values or is out of range."""
    size = np.abs(X).max(axis=0)
    odd = np.flatnonzero((size > LARGEST) | (size > 0) & (size < 1 / LARGEST))
    if len(odd):
        raise ValueError(f"`X` must be of moderate size, column {odd[0]} reaches {size[odd[0]]:g}; change its unit.")
    constant = np.flatnonzero(X.std(axis=0) <= CONSTANT * size)
    if len(constant):
        raise ValueError(f"`X` must vary along every column, column {constant[0]} is constant at "
                         f"{X[0, constant[0]]:g}; leave it out.")
    levels = [len(np.unique(column)) for column in X.T]
    if min(levels) < LEVELS:
        raise ValueError(f"`X` must vary continuously, column {np.argmin(levels)} has only {min(levels)} different "
                         f"values; leave it out, or add noise as wide as their distance.")


def whitening(X):
    """The :class:`Whitening` of samples by the symmetric root of their covariance, which is the Brenier map between the
    Gaussians N(0, I) and N(mean, covariance)."""
    mean, scale = X.mean(axis=0), X.std(axis=0)
    eigenvalues = np.linalg.eigvalsh(np.cov(((X - mean) / scale).T))
    if eigenvalues[0] <= DEGENERATE * eigenvalues[-1]:
        raise ValueError("`X` lies on a line or a plane (its covariance is singular), a density needs all "
                         "directions; leave a column out or reduce the dimension first.")
    values, vectors = np.linalg.eigh(np.cov((X - mean).T))
    return Whitening(mean, vectors * np.sqrt(values) @ vectors.T)


def sample_box(Z, cells, margin, tail_mass):
    """A grid around whitened samples, which of them are inside, and the mass that may be outside.

    Faces at the quantiles ``tail_mass / (2 d)`` and ``1 - tail_mass / (2 d)`` of every coordinate (the extremes for 0),
    ``margin`` times the width further out. The mass outside is at most, in expectation over the samples and whatever
    their distribution, the share of samples outside plus ``2 d / (n + 1)``: a new sample is as likely as any of the
    others to be the extreme one of a coordinate.
    """
    n, d = Z.shape
    low, high = np.quantile(Z, [tail_mass / (2 * d), 1 - tail_mass / (2 * d)], axis=0)
    reach = margin * (high - low)
    grid = Grid((cells,) * d, list(zip(low - reach, high + reach)))
    inside = ((grid.lower < Z) & (grid.lower + grid.lengths > Z)).all(axis=1)
    middle = np.diff(np.quantile(Z, [0.25, 0.75], axis=0), axis=0)[0] / grid.spacing
    if middle.min() < QUARTILES:
        raise ValueError(f"`X` has heavy tails or outliers: the middle half of it spans {middle.min():.1f} of {cells} "
                         f"cells of its box; leave some out with tail_mass=0.01, raise cells=, or transform the data.")
    return grid, inside, float((~inside).mean() + 2 * d / (n + 1))


def narrowest_tenth(Z):
    """Width of the narrowest slab, over many directions, that holds a tenth of the points (n, d), more if they are
    few."""
    some, d = Z[:: -(-len(Z) // SLAB_SAMPLES)], Z.shape[1]
    if d == 2:
        angle = np.pi * np.arange(DIRECTIONS) / DIRECTIONS
        directions = np.stack([np.cos(angle), np.sin(angle)])
    else:  # the axes, and a spiral on half of the sphere
        height = (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS
        angle, radius = np.pi * (3 - math.sqrt(5)) * np.arange(DIRECTIONS), np.sqrt(1 - height**2)
        directions = np.hstack([np.eye(3), np.stack([radius * np.cos(angle), radius * np.sin(angle), height])])
    ordered, step = np.sort(some @ directions, axis=0), max(FEW, int(TENTH * len(some)))
    return float((ordered[step:] - ordered[:-step]).min())


def thinnest_tenth(Z):
    """Deviation across them of the points (n, d) within a distance of one from a point, for the tenth of the points
    where it is least; infinite where fewer than half of the points have neighbours enough.

    Half the distance (0.45 in space) where they fill it, a quarter at a straight edge.
    """
    some = Z[:: -(-len(Z) // SLAB_SAMPLES)]
    places = some[:: -(-len(some) // CENTRES)]
    around = [near for near in cKDTree(some).query_ball_point(places, 1.0) if len(near) >= NEIGHBOURS]
    if len(around) < len(places) / 2:
        return math.inf
    least = [np.linalg.eigvalsh(np.cov(some[near].T))[0] for near in around]
    return math.sqrt(max(float(np.quantile(least, TENTH)), 0.0))


def warn_of_thin_parts(Z, grid, details):
    """A :class:`ResolutionWarning` where samples lie in clusters narrower than cells of the grid, or along curves or
    sheets much thinner than ``details``: the distance of knots, or what else stands for it, along every axis."""
    span = narrowest_tenth(Z / grid.spacing)
    if span < NARROW:
        warnings.warn(f"a tenth of `X` lies within a slab of {span:.2f} cells of the grid: clusters so narrow are "
                      f"smeared; fit distant clusters one by one, raise cells=, or spread repeated values.",
                      ResolutionWarning, stacklevel=3)
        return
    thin = thinnest_tenth(Z / details)
    if thin < THIN:
        warnings.warn(f"a tenth of `X` lies along curves or sheets, or in clusters, of which the deviation across is "
                      f"{thin:.2f} of the finest details the model has: they are smeared; raise functions= of "
                      f"the ratio and cells=, or fit parts of the data one by one.",
                      ResolutionWarning, stacklevel=3)


def stream(d, rng, sequence):
    """A function of m that returns the next m points of the unit cube, (m, d): ``"independent"``, or ``"sobol"``,
    scrambled Sobol' points (any m)."""
    if sequence not in ("independent", "sobol"):
        raise ValueError(f"`sequence` must be 'independent' or 'sobol', got {sequence!r}.")
    if sequence == "independent":
        return lambda m: rng.random((m, d))
    name = "rng" if "rng" in inspect.signature(qmc.Sobol).parameters else "seed"  # scipy 1.15 renamed it
    points = qmc.Sobol(d, **{name: rng})

    def following(m):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that m is not a power of two
            return points.random(m)
    return following


def uniforms(n, d, rng, sequence):
    """The first ``n`` points of a :func:`stream`, (n, d)."""
    return stream(d, rng, sequence)(n)


class Reference:
    """The noise: a density on a box in whitened coordinates, and draws from it.

    ``"gaussian"``: standard normal, cut off at the box of the data, at ``REACH`` at the latest; ``"uniform"`` on that
    box; a :class:`~pmapde.LogDensity` on that box, or a :class:`~pmapde.GridDensity` on its own; both are drawn as
    their averages over the cells.
    """

    def __init__(self, kind, grid):
        self.kind, self.grid = kind, grid
        if isinstance(kind, GridDensity):
            if kind.grid.ndim != grid.ndim or any(kind.grid.periodic):
                raise ValueError(f"`reference` must be a density on a {grid.ndim}D no-flux box, got one on "
                                 f"{kind.grid}.")
            self.grid, self.density = kind.grid, kind
        elif isinstance(kind, LogDensity):
            self.density = kind
        elif isinstance(kind, str) and kind in ("gaussian", "uniform"):
            if kind == "gaussian":
                self.grid = grid = Grid(grid.shape, [(max(low, -REACH), min(high, REACH)) for low, high in grid.box])
            values = np.zeros(grid.shape) if kind == "uniform" else -0.5 * (grid.cell_centres() ** 2).sum(axis=0)
            self.density = GridDensity(np.exp(values - values.max()), grid, points=True)
        else:
            raise ValueError(f"`reference` must be 'gaussian', 'uniform', a LogDensity or a GridDensity, got {kind!r}.")

    def draw(self, n, rng, values, sequence="independent"):
        """``n`` draws, (n, d); ``values`` are those of the density at the cells, for those without a formula."""
        lower, upper = self.grid.lower, self.grid.lower + self.grid.lengths
        formula = isinstance(self.kind, str)
        uniform = uniforms(n, self.grid.ndim + (not formula), rng, sequence)  # one more for the cell
        if formula:
            if self.kind == "uniform":
                return lower + uniform * (upper - lower)
            return np.clip(truncnorm.ppf(uniform, lower, upper), lower, upper)
        cumulative = np.cumsum(values.ravel())
        cells = np.searchsorted(cumulative, uniform[:, 0] * cumulative[-1], side="right")
        index = np.stack(np.unravel_index(np.minimum(cells, self.grid.size - 1), self.grid.shape), axis=1)
        return lower + (index + uniform[:, 1:]) * self.grid.spacing
