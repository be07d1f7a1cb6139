"""The problems of the benchmark: two arrays, and the answer, known or computed by other means, with its uncertainty."""
from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.sparse.linalg import LinearOperator, gmres

from . import exact, gallery
from .entropic import sinkhorn
from .grid import Grid
from .problem import TransportProblem
from .solver import solve
from .transfer import average

BLOCKS = {2: 8, 3: 4}
"""Nodes per axis over which masses are compared, on every grid."""
POINTS = {2: 4, 3: 2}
"""Points of a source cell, per axis, that carry its mass."""
FINEST = {2: 512, 3: 64}
"""Cells per axis on which answers about pixels are computed."""


@dataclass(frozen=True, eq=False)
class Case:
    """Two densities of mean one on the unit box, with the answer.

    Attributes
    ----------
    problem : str
    source, target : ndarray, (*shape)
    displacement : ndarray, (d, *shape)
        ``T(x) - x`` at the cell centres.
    cost : float
        W2^2, no factor one half.
    map_uncertainty, cost_uncertainty : float
        Of the answer, in the units of :meth:`errors`: zero where it is known.
    """

    problem: str
    source: np.ndarray
    target: np.ndarray
    displacement: np.ndarray
    cost: float
    map_uncertainty: float = 0.0
    cost_uncertainty: float = 0.0

    @property
    def grid(self):
        return "x".join(map(str, self.source.shape))

    def errors(self, answer):
        """Map error in L2(mu) over W2 (standing still is off by one), relative error of W2^2, misplaced mass.

        ``answer`` has ``displacement`` and ``cost``. Infinite where it is not finite; cells without mass do not count.
        """
        moved = np.where(self.source > 0, answer.displacement, 0.0)
        if not (np.isfinite(moved).all() and np.isfinite(answer.cost)):
            return math.inf, math.inf, math.inf
        with np.errstate(over="ignore"):
            squares = ((moved - self.displacement)**2).sum(axis=0)
            map_error = math.sqrt(float((squares * self.source).mean()) / self.cost)
        return map_error, float(abs(answer.cost / self.cost - 1)), self.misplaced(moved)

    def misplaced(self, displacement):
        """Fraction of the source's mass that ``x + displacement`` leaves in the wrong place.

        Masses are weighed with the hat functions of 8^2 or 4^3 nodes, half the L1 distance. The displacement is
        interpolated linearly between the cell centres, and constant beyond the outermost.
        """
        arrived, wanted = _weighed(self.source, displacement), _weighed(self.target, np.zeros_like(displacement))
        return 0.5 * float(np.abs(arrived - wanted).sum())


def _weighed(density, displacement):
    """Masses under hat functions, of points that move by ``displacement``; clipped to the box."""
    ndim, shape = density.ndim, np.array(density.shape)[:, None]
    count, points = BLOCKS[ndim], POINTS[ndim]
    index, total = np.indices(density.shape).reshape(ndim, -1), np.zeros((count,) * ndim)
    mass = (density / density.sum()).ravel() / points**ndim
    for part in np.ndindex(*(points,) * ndim):
        place = index + ((np.array(part) + 0.5) / points - 0.5)[:, None]
        moved = np.stack([map_coordinates(field, place, order=1, mode="nearest") for field in displacement])
        at = np.clip((place + 0.5) / shape + moved, 0.0, 1.0) * (count - 1)
        low = np.minimum(at.astype(int), count - 2)
        for corner in np.ndindex(*(2,) * ndim):
            side = np.array(corner)[:, None]
            weight = np.where(side, at - low, 1 - (at - low)).prod(axis=0) * mass
            total += np.bincount(np.ravel_multi_index(low + side, total.shape), weight, total.size).reshape(total.shape)
    return total


# Known answers


THIRDS = np.array([3.0, 2.0, 3.0]) / 8
"""Weights of the centres of the thirds of a cell that make its average, order 4."""


def _known(name, build, shape):
    """A problem of :mod:`pmapde.exact`, its densities as the averages over the cells: what an array is taken for."""
    problem, thirds = build(shape), build(tuple(3 * n for n in shape)).problem

    def averages(values):
        for axis in range(values.ndim):
            parts = values.reshape(*values.shape[:axis], -1, 3, *values.shape[axis + 1:])
            values = np.moveaxis(parts, axis + 1, -1) @ THIRDS
        return values / values.mean()
    return Case(name, averages(thirds.source_values), averages(thirds.target_values), problem.displacement(),
                problem.cost)


def _cosine(shape):
    return _known(f"separable cosine{_places(shape)}", exact.separable_cosine, shape)


def _manufactured(shape):
    return _known("manufactured, array target", exact.manufactured, shape)


def _contrast(shape):
    """The source's densities span six orders of magnitude in 2D."""
    build = partial(exact.gaussians, source_deviation=(0.15,) * 3, target_deviation=(0.3,) * 3)
    return _known(f"narrow to wide Gaussian{_places(shape)}", build, shape)


def _places(shape):
    return " 3D" if len(shape) == 3 else ""


def _zeros(shape):
    """``(1 - |x - c|^2 / r^2)_+`` to the same of twice the radius: ``T(x) = c + 2 (x - c)`` where there is mass."""
    centre, radius, ndim = np.array([0.45, 0.55, 0.5])[:len(shape)], 0.2, len(shape)

    def bump(r):
        return gallery.cell_averages(lambda x: np.maximum(1 - ((x - centre)**2).sum(axis=1) / r**2, 0.0), shape)
    source, target = bump(radius), bump(2 * radius)
    moved = Grid(shape).cell_centres() - centre.reshape(-1, *[1] * ndim)
    # the mean of |x - c|^2 under the density (1 - |x - c|^2 / r^2)_+
    return Case(f"bump to wider bump, zeros around{_places(shape)}", source / source.mean(), target / target.mean(),
                moved, radius**2 * ndim / (ndim + 4))


# Computed answers


class SpectralReference:
    """Transport of a smooth density to the uniform one, by means that share nothing with the package's scheme.

    Cosine collocation of ``det(I + D2 phi) = mu`` on ``n x n`` points, Newton with GMRES along ``1 + t (mu - 1)``. The
    cell averages given are turned into point values in the cosine basis. From n = 128 to 256 the map of the two
    Gaussians changes by 2e-8 and the cost by 2e-9 of itself, though the bumps have a slope of some thousandths at the
    faces.
    """

    def __init__(self, averages):
        n = len(averages)
        self.waves = np.pi * np.arange(n)
        angles = self.waves / (2 * n)
        smoothing = np.sinc(angles / np.pi)
        self.mu = self._values(self._coefficients(averages / averages.mean()) / np.outer(smoothing, smoothing))
        self.phi = np.zeros((n, n))
        for t in (0.25, 0.5, 0.75, 1.0):
            self._newton(1 + t * (self.mu - 1))
        self.cost = float(((self._gradient(self._centres(n))**2).sum(axis=0) * self.mu).mean())

    def _centres(self, n):
        return np.outer((np.arange(n) + 0.5) / n, self.waves)

    def _coefficients(self, values):
        c = dctn(values, type=2) / values.size
        c[0] /= 2
        c[:, 0] /= 2
        return c

    def _values(self, c, first=np.cos, second=np.cos):
        angles = self._centres(len(c))
        return first(angles) @ c @ second(angles).T

    def _hessian(self, c):
        k = self.waves
        return (self._values(-k[:, None]**2 * c), self._values(-k**2 * c),
                self._values(np.outer(k, k) * c, np.sin, np.sin))

    def _gradient(self, angles):
        cos, sin, k = np.cos(angles), np.sin(angles), self.waves
        return np.stack([-sin @ (k[:, None] * self.phi) @ cos.T, -cos @ (self.phi * k) @ sin.T])

    def _newton(self, mu):
        laplacian = -(self.waves[:, None]**2 + self.waves**2)
        laplacian[0, 0] = np.inf
        for _ in range(20):
            xx, yy, xy = self._hessian(self.phi)
            excess = self._coefficients(mu - ((1 + xx) * (1 + yy) - xy**2))
            excess[0, 0] = 0
            if np.abs(excess).max() < 1e-13:
                return

            def linearised(v, xx=xx, yy=yy, xy=xy):
                a, b, c = self._hessian(v.reshape(mu.shape) / laplacian)  # preconditioned from the right
                out = self._coefficients((1 + yy) * a + (1 + xx) * b - 2 * xy * c)
                out[0, 0] = v[0]  # the constant is free: pin it
                return out.ravel()

            operator = LinearOperator((mu.size, mu.size), linearised, dtype=float)
            correction, _ = gmres(operator, excess.ravel(), rtol=1e-6, restart=60, maxiter=5)
            self.phi = self.phi + correction.reshape(mu.shape) / laplacian
        raise RuntimeError(f"the spectral reference did not converge: {np.abs(excess).max():.1e} left")

    def displacement(self, n):
        """At the centres of ``n x n`` cells."""
        return self._gradient(self._centres(n))


@cache
def _two_gaussians_reference(n=256):
    return SpectralReference(gallery.load("two_gaussians", (n, n)))


def _two_gaussians(shape):
    source, reference = gallery.load("two_gaussians", shape), _two_gaussians_reference()
    return Case("two Gaussians to uniform", source / source.mean(), np.ones(shape), reference.displacement(shape[0]),
                reference.cost, 2e-8 / math.sqrt(reference.cost), 2e-9)


class PixelReference:
    """Transport between densities that are constant on pixels, from grids far finer than the pixels.

    The answer is that of :func:`pmapde.solve` on the finest grid. Its uncertainty is what it differs by from the grid
    of half as many cells, or from the debiased Sinkhorn map and cost there (one cell of blur, no numerics in common),
    whichever is more.
    """

    def __init__(self, source, target, finest):
        self.source, self.target, self.finest = source, target, finest
        shapes = ((finest,) * source.ndim, (finest // 2,) * source.ndim)
        fine, coarse = (solve(self._problem(shape), throw=True) for shape in shapes)
        plan = sinkhorn(coarse.problem, 1 / shapes[1][0]**2, tolerance=1e-4, throw=True)
        self._displacement, self.cost = fine.displacement, fine.cost
        others = ((coarse.displacement, coarse.cost), (plan.debiased_displacement, plan.debiased_cost))
        self.cost_uncertainty = max(abs(cost / self.cost - 1) for _, cost in others)
        mine, mass = self.displacement(shapes[1]), coarse.problem.source_values
        self.map_uncertainty = max(math.sqrt(float((((moved - mine)**2).sum(axis=0) * mass).mean()) / self.cost)
                                   for moved, _ in others)

    def _problem(self, shape):
        return TransportProblem(_cut(self.source, shape), _cut(self.target, shape))

    def displacement(self, shape):
        """At the centres of coarser cells: the mean over the fine cells around."""
        field, part = self._displacement, self.finest // shape[0]
        for axis in range(1, field.ndim):
            middle = (np.arange(shape[axis - 1]) + 0.5) * part - 0.5
            low, high = (np.take(field, side.astype(int), axis) for side in (np.floor(middle), np.ceil(middle)))
            field = (low + high) / 2
        return field

    def case(self, name, shape):
        source, target = _cut(self.source, shape), _cut(self.target, shape)
        return Case(name, source / source.mean(), target / target.mean(), self.displacement(shape), self.cost,
                    self.map_uncertainty, self.cost_uncertainty)


def _cut(values, shape):
    """Whole pixels cut into cells, or the averages of whole pixels."""
    if shape[0] < values.shape[0]:
        return average(values, shape)
    for axis, n in enumerate(shape):
        values = np.repeat(values, n // values.shape[axis], axis)
    return values


@cache
def _photographs_reference():
    def pixels(name):
        return 0.05 * 255 + average(gallery.load(name, (256, 256)), (32, 32))
    return PixelReference(pixels("mri"), pixels("grace_hopper"), FINEST[2])


@cache
def _noise_reference():
    rng = np.random.default_rng(0)

    def noise():
        field = gaussian_filter(rng.standard_normal((4, 4, 4)), 0.5, mode="reflect")
        return np.exp(0.6 * field / field.std())
    return PixelReference(noise(), noise(), FINEST[3])


def _photographs(shape):
    return _photographs_reference().case("photographs, 32^2 pixels", shape)


def _noise(shape):
    return _noise_reference().case("noise 3D, 4^3 pixels", shape)


@dataclass(frozen=True)
class Family:
    """A problem on many grids: number of axes, kind of data, the smallest grid, the cases, and what grids divide."""

    ndim: int
    kind: str
    smallest: int
    build: object
    finest: int = 0

    def fits(self, n):
        """Whether it can be had on ``n`` cells per axis; pixels only where these are cut or averaged whole."""
        return n >= self.smallest and self.finest % n == 0

    def case(self, n):
        return self.build((n,) * self.ndim)


FAMILIES = {
    "cosine": Family(2, "smooth", 8, _cosine),
    "array": Family(2, "smooth", 8, _manufactured),
    "gaussians": Family(2, "smooth", 8, _two_gaussians),
    "contrast": Family(2, "high contrast", 8, _contrast),
    "photographs": Family(2, "rough", 32, _photographs, FINEST[2]),
    "zeros": Family(2, "zeros", 8, _zeros),
    "cosine3d": Family(3, "smooth", 8, _cosine),
    "contrast3d": Family(3, "high contrast", 8, _contrast),
    "noise3d": Family(3, "rough", 8, _noise, FINEST[3]),
    "zeros3d": Family(3, "zeros", 8, _zeros),
}
