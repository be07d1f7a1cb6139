"""Transport problems with known answers: for tests, benchmarks and convergence studies.

Every constructor takes the number of cells per axis, so that a study is
``for n in (32, 64, 128): manufactured((n, n))``.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from .density import GridDensity, LogDensity, checked_values, floored
from .gallery import CosineSum, cell_averages, displacement_potential, warped
from .grid import Grid
from .problem import TransportProblem


@dataclass(frozen=True, eq=False)
class ExactProblem:
    """A transport problem with its exact map, potential and cost.

    Attributes
    ----------
    name : str
    problem : TransportProblem
    map : callable
        The Brenier map ``T = grad u``, points ``(n, d)`` to ``(n, d)``; not wrapped on periodic axes.
    potential : callable
        ``u`` up to a constant, points ``(n, d)`` to ``(n,)``.
    cost : float
        Integral of ``|T(x) - x|^2 dmu`` (no factor one half).

    Examples
    --------
    >>> exact = separable_cosine((32, 32))
    >>> round(exact.cost, 6), exact.map_error(exact.displacement())
    (0.009119, 0.0)
    """

    name: str
    problem: TransportProblem
    map: Callable
    potential: Callable
    cost: float

    def displacement(self):
        """``T(x) - x`` at the cell centres, ``(d, *shape)``."""
        points = _centres(self.problem.grid)
        return (self.map(points) - points).T.reshape(-1, *self.problem.grid.shape)

    def map_error(self, displacement):
        """L2(mu) norm of the error of a displacement ``(d, *shape)`` given at the cell centres."""
        grid, displacement = self.problem.grid, np.asarray(displacement)
        _check_shape(displacement, (grid.ndim, *grid.shape), "displacement")
        squares = ((displacement - self.displacement())**2).sum(axis=0)
        return float(np.sqrt((squares * self.problem.source_values).sum() * grid.cell_volume))

    def potential_error(self, potential):
        """Half the range of the error of a potential ``shape`` given at the cell centres: sup modulo constants."""
        grid, potential = self.problem.grid, np.asarray(potential)
        _check_shape(potential, grid.shape, "potential")
        return float(np.ptp(potential - self.potential(_centres(grid)).reshape(grid.shape)) / 2)


def _check_shape(array, shape, name):
    if array.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}, got {array.shape}.")


def _centres(grid):
    return grid.cell_centres().reshape(grid.ndim, -1).T


def _uniform(grid):
    return GridDensity(np.ones(grid.shape), grid)


def separable_cosine(shape, amplitude=0.6, periodic=False):
    """``mu = prod_i (1 + a cos 2 pi x_i)`` on the unit box or torus to the uniform density.

    ``T_i = x_i + a sin(2 pi x_i) / (2 pi)``, ``W2^2 = d a^2 / (8 pi^2)``: in one dimension ``T`` is the cumulative
    distribution function, and products of one-dimensional problems transport axis by axis. It fixes the faces (the
    sine vanishes on them) and is one-periodic, so the same formulas hold on box and torus.

    Parameters
    ----------
    shape : tuple of int
        Cells per axis, two or three axes.
    amplitude : float in (-1, 1)
        The contrast is ``((1 + |a|) / (1 - |a|))^d``.
    periodic : bool

    Examples
    --------
    >>> separable_cosine((16, 16, 16)).map(np.array([[0.25, 0.5, 0.75]])).round(4)
    array([[0.3455, 0.5   , 0.6545]])
    """
    if not -1 < amplitude < 1:
        raise ValueError(f"`amplitude` must be in (-1, 1) for the density to be positive, got {amplitude!r}.")
    grid, turn = Grid(shape, periodic=periodic), 2 * np.pi

    def log_source(x):
        return np.log1p(amplitude * np.cos(turn * x)).sum(axis=1)

    def potential(x):
        return (x**2 / 2 - amplitude * np.cos(turn * x) / turn**2).sum(axis=1)

    return ExactProblem("separable_cosine", TransportProblem(LogDensity(log_source), _uniform(grid), grid=grid),
                        lambda x: x + amplitude * np.sin(turn * x) / turn, potential,
                        grid.ndim * amplitude**2 / (8 * np.pi**2))


def manufactured(shape, strength=0.5, periodic=False, uniform_target=False, array_target=False,
                 interpolation="cubic"):
    """A chosen non-separable potential ``u = |x|^2/2 + phi``, a chosen target ``g``, and the source they imply.

    ``mu = g(grad u) det D2u`` (the method of manufactured solutions). ``phi`` is the sum of two products of cosines
    of :func:`pmapde.gallery.displacement_potential`, with eigenvalues of ``D2 phi`` within ``+-strength``;
    ``g(y) = 1 + cos(pi y_1) cos(2 pi y_2) [cos(2 pi y_3)] / 2`` on the box and ``1 + cos(2 pi y_1 + 0.5)
    cos(2 pi y_2) [cos(2 pi y_3)] / 2`` on the torus, of unit mass. Exact on the no-flux box: the normal derivative of
    ``phi`` vanishes on every face and ``u`` is strictly convex, so ``grad u`` is a bijection of the box that sends
    faces to themselves.

    Parameters
    ----------
    shape : tuple of int
        Cells per axis, two or three axes.
    strength : float in [0, 1)
        ``D2u`` has its eigenvalues in ``[1 - strength, 1 + strength]``.
    periodic : bool
        On the torus, with a ``phi`` and a ``g`` that are periodic and have no mirror symmetry.
    uniform_target : bool
        ``g = 1`` instead.
    array_target : bool
        The target as a :class:`GridDensity` of its averages over the cells of ``shape``, interpolated by
        ``interpolation``, instead of the formula: the known map is then that of the limit.

    Notes
    -----
    The cost is the midpoint sum over 64 points per axis (48 in 3D): spectrally accurate, as the integrand continues
    evenly through the faces to a smooth periodic function.

    Examples
    --------
    >>> exact = manufactured((32, 32))
    >>> bool(abs(exact.problem.source_log_mass) < 1e-12)    # the implied source has unit mass
    True
    """
    grid = Grid(shape, periodic=periodic)
    phi = displacement_potential(grid.ndim, strength, periodic)
    g = _target_wave(grid.ndim, periodic, 0.0 if uniform_target else 0.5)

    def gradient_map(x):
        return x + phi.gradient(x)

    def log_source(x):
        return np.log1p(g.value(gradient_map(x))) + np.log(np.linalg.det(np.eye(grid.ndim) + phi.hessian(x)))

    if uniform_target:
        target = _uniform(grid)
    elif array_target:
        target = GridDensity(cell_averages(lambda y: 1 + g.value(y), shape), grid, interpolation)
    else:
        target = LogDensity(lambda y: np.log1p(g.value(y)), lambda y: g.gradient(y) / (1 + g.value(y))[:, None])
    points = _centres(grid.with_shape((64 if grid.ndim == 2 else 48,) * grid.ndim))
    cost = float(np.mean((phi.gradient(points)**2).sum(axis=1) * np.exp(log_source(points))))
    return ExactProblem("manufactured", TransportProblem(LogDensity(log_source), target, grid=grid), gradient_map,
                        lambda x: (x**2).sum(axis=1) / 2 + phi.value(x), cost)


def _target_wave(ndim, periodic, amplitude):
    """``g - 1`` of :func:`manufactured`."""
    waves = (2 * np.pi, 2 * np.pi, 2 * np.pi) if periodic else (np.pi, 2 * np.pi, 2 * np.pi)
    phases = (0.5, 0.0, 0.0) if periodic else (0.0, 0.0, 0.0)
    return CosineSum((amplitude,), (waves[:ndim],), (phases[:ndim],))


def gaussians(shape, kind="expanding", source_deviation=(0.22, 0.25, 0.24), target_deviation=(0.35, 0.4, 0.5),
              source_mean=(0.45, 0.55, 0.5), target_mean=(0.55, 0.5, 0.45), tail=3.0):
    """Gaussian to Gaussian, both truncated to boxes, with diagonal covariances.

    ``kind="expanding"``: both on the unit box, the source narrower. The map is ``T_i = G_i^-1(F_i(x_i))`` with the
    truncated one-dimensional distribution functions, evaluated from the nearer tail; it bends near the faces.
    ``kind="tail_matched"``: each on its own box, mean ``+- tail`` deviations, which the affine map of the means and
    deviations sends onto each other: truncated mass to truncated mass, so that map is exact. It is also the affine
    starting guess of a solver: a test of boxes and units, not of convergence.

    Parameters
    ----------
    shape : tuple of int
        Cells per axis, two or three axes; of both boxes.
    kind : {"expanding", "tail_matched"}
    source_deviation, target_deviation, source_mean, target_mean : float or sequence of at least d floats
        Per axis; entries beyond the number of axes are not used.
    tail : float
        Half width of the tail-matched boxes in deviations.

    Notes
    -----
    Cost: tail-matched in closed form, expanding by 401 points of double-exponential quadrature per axis, to 1e-14.
    The expanding potential is the integral of ``T``, to 1e-11 for deviations above a tenth of the box.

    Examples
    --------
    >>> gaussians((16, 16), "tail_matched").problem.slopes.round(3)     # ratios of the deviations
    array([1.591, 1.6  ])
    """
    ndim = len(shape)
    means = [_per_axis(mean, ndim) for mean in (source_mean, target_mean)]
    deviations = [_per_axis(deviation, ndim) for deviation in (source_deviation, target_deviation)]
    if kind == "tail_matched":
        boxes = [tuple(zip(m - tail * s, m + tail * s)) for m, s in zip(means, deviations)]
        map_axis, potential_axis, cost = _affine(means, deviations, tail)
    elif kind == "expanding":
        boxes = [((0.0, 1.0),) * ndim] * 2
        map_axis, potential_axis, cost = _monotone(means, deviations)
    else:
        raise ValueError(f"`kind` must be 'expanding' or 'tail_matched', got {kind!r}.")
    source, target = (LogDensity(lambda x, m=m, s=s: -0.5 * (((x - m) / s)**2).sum(axis=1),
                                 lambda x, m=m, s=s: -(x - m) / s**2) for m, s in zip(means, deviations))
    grids = [Grid(shape, box) for box in boxes]
    return ExactProblem(f"gaussians_{kind}", TransportProblem(source, target, grid=grids[0], target_grid=grids[1]),
                        lambda x: np.stack([map_axis[i](x[:, i]) for i in range(ndim)], axis=1),
                        lambda x: sum(potential_axis[i](x[:, i]) for i in range(ndim)), cost)


def _per_axis(value, ndim):
    return np.full(ndim, float(value)) if np.ndim(value) == 0 else np.array(value[:ndim], float)


def _affine(means, deviations, tail):
    """Maps, potentials per axis and cost where both boxes are cut at the same number of deviations."""
    maps = [np.polynomial.Polynomial([m_target - s_target / s * m, s_target / s])
            for m, m_target, s, s_target in zip(*means, *deviations)]
    mass = ndtr(tail) - ndtr(-tail)
    variance = 1 - 2 * tail * np.exp(-tail**2 / 2) / np.sqrt(2 * np.pi) / mass  # of the truncated standard normal
    cost = float(((means[1] - means[0])**2 + (deviations[1] - deviations[0])**2 * variance).sum())
    return maps, [transport.integ() for transport in maps], cost


def _monotone(means, deviations):
    """Maps, potentials per axis and cost of Gaussians truncated to [0, 1].

    All integrals in ``t`` of ``x = 1 / (1 + exp(-pi sinh t))``, the double-exponential substitution: it resolves the
    layers of ``T`` at the faces, where a short stretch of one density can hold the mass of a long one of the other.
    """
    t = np.linspace(-_FACE, _FACE, 401)
    x = _from_line(t)
    maps, potentials, cost = [], [], 0.0
    for m, m_target, s, s_target in zip(*means, *deviations):
        transport = _monotone_map(m, s, m_target, s_target)
        density = np.exp(-((x - m) / s)**2 / 2) / np.sqrt(2 * np.pi) / s / (ndtr((1 - m) / s) - ndtr(-m / s))
        cost += float(((transport(x) - x)**2 * density * _line_slope(t)).sum() * (t[1] - t[0]))
        maps.append(transport)
        potentials.append(_line_integral(transport))
    return maps, potentials, cost


_FACE = 3.2  # _from_line(3.2) is within 5e-17 of the face


def _from_line(t):
    return 1 / (1 + np.exp(-np.pi * np.sinh(t)))


def _line_slope(t):
    return np.pi * np.cosh(t) * _from_line(t) * _from_line(-t)


def _line_integral(function):
    """The integral of ``function`` over [0, 1] from a face to the argument, by a Chebyshev interpolant in ``t``."""
    integral = np.polynomial.Chebyshev.interpolate(lambda t: function(_from_line(t)) * _line_slope(t), 400,
                                                   domain=[-_FACE, _FACE]).integ()

    def evaluate(x):
        x = np.clip(x, 1e-17, 1 - 1e-16)  # the logarithm of the faces themselves
        return integral(np.clip(np.arcsinh(np.log(x / (1 - x)) / np.pi), -_FACE, _FACE))

    return evaluate


def _monotone_map(m, s, m_target, s_target):
    """The increasing map of N(m, s^2) onto N(m_target, s_target^2), both truncated to [0, 1]."""
    low, high = -m / s, (1 - m) / s
    low_target, high_target = -m_target / s_target, (1 - m_target) / s_target
    ratio = (ndtr(high_target) - ndtr(low_target)) / (ndtr(high) - ndtr(low))

    def transport(x):
        z = (np.asarray(x, float) - m) / s
        # Each half from its own tail: 1 - ndtr would lose the digits of the upper one.
        below = ndtri(ndtr(low_target) + ratio * (ndtr(np.minimum(z, 0)) - ndtr(low)))
        above = -ndtri(ndtr(-high_target) + ratio * (ndtr(-np.maximum(z, 0)) - ndtr(-high)))
        return m_target + s_target * np.where(z < 0, below, above)

    return transport


def warped_image(values, strength=0.5, floor=0.0):
    """An image or volume and its push-forward by a known smooth gradient map: a known answer on real data.

    The target is :func:`pmapde.gallery.warped` of the source, sampled on the same grid: the map is exact for the
    interpolated image, and met on refinement of the image as far as the image is resolved.

    Parameters
    ----------
    values : array_like, two or three axes
    strength : float in [0, 1)
    floor : float
        Raises ``values`` to ``floor * max`` before they are warped (so the map stays known).

    Notes
    -----
    The cost takes the image as constant on its cells; ``|grad phi|^2`` is averaged by three Gauss points per axis.

    Examples
    --------
    >>> from pmapde import gallery
    >>> exact = warped_image(gallery.load("two_gaussians", (32, 32)))
    >>> 0 < exact.cost < 0.01
    True
    """
    values = floored(checked_values(values, "values"), floor)
    phi = displacement_potential(values.ndim, strength)
    squares = cell_averages(lambda x: (phi.gradient(x)**2).sum(axis=1), values.shape)
    return ExactProblem("warped_image", TransportProblem(values, warped(values, strength)),
                        lambda x: x + phi.gradient(x), lambda x: (x**2).sum(axis=1) / 2 + phi.value(x),
                        float((squares * values).sum() / values.sum()))
