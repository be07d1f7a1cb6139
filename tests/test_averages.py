"""Means of a rough target over the images of the cells: against quadrature, and the mass of images that tile."""
import numpy as np
import pytest
from reference import padded, second_difference, shifted

from pmapde import Grid, GridDensity

BOUNDARIES = {"no-flux": (False, False, False), "periodic": (True, True, True), "mixed": (True, False, True)}


def averages(density, phi, face, step, scale):
    """Means, and their derivatives in centred and in second differences; ``phi`` with ghosts."""
    shape = tuple(n - 2 for n in phi.shape)
    value, drift, moment = np.empty(shape), np.empty((phi.ndim, *shape)), np.empty((phi.ndim, *shape))
    density.over_images(phi, face, step, scale, True, value, drift, moment)
    again = np.empty(shape)
    density.over_images(phi, face, step, scale, False, again, drift[:, :0], moment[:, :0])
    assert np.array_equal(value, again, equal_nan=True)
    return value, drift, moment


def hats(points, n, periodic):
    """Values of the hat functions of ``n`` cells of width 1 at points on an axis, (points, n)."""
    if not periodic:
        points = np.clip(points, 0.0, n)
    cells = np.arange(-2 * n, 3 * n)
    weights = np.maximum(1 - np.abs(points[:, None] - 0.5 - cells), 0.0)
    folded = np.zeros((len(points), n))
    for k, column in zip(cells, weights.T):
        if periodic:
            folded[:, k % n] += column
        elif -1 <= k <= n:
            folded[:, min(max(k, 0), n - 1)] += column
    return folded


def mean_hats(low, high, n, periodic):
    """Means of the hat functions over an interval, exact: Gauss points between the kinks."""
    low, high = sorted((low, high))
    kinks = np.arange(np.ceil(low - 0.5), np.floor(high + 0.5) + 1) + np.array([[0.0], [0.5]])
    edges = np.unique(np.clip([low, high, *kinks.ravel(), 0.0, n], low, high))
    nodes, weights = np.polynomial.legendre.leggauss(2)
    middle, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    points = (middle[:, None] + half[:, None] * nodes).ravel()
    return (half[:, None] * weights).ravel() @ hats(points, n, periodic) / (high - low)


def spans(phi, face, step, scale, periodic):
    """Lower and upper faces of the images, (d, *shape) each."""
    low, high, ghosted = [], [], padded(phi, periodic)
    for axis, unit in enumerate(np.eye(phi.ndim, dtype=int)):
        index = np.arange(phi.shape[axis]).reshape([-1 if b == axis else 1 for b in range(phi.ndim)])
        low.append(face[axis] + step[axis] * index + scale[axis] * (phi - shifted(ghosted, -unit)))
        high.append(face[axis] + step[axis] * (index + 1) + scale[axis] * (shifted(ghosted, unit) - phi))
    return np.array(low), np.array(high)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("shape", "target_shape"), [((7, 6), (5, 9)), ((4, 3, 5), (5, 4, 3))])
@pytest.mark.parametrize("size", [0.01, 0.6])  # the larger one folds images, and sends them beyond faces and periods
def test_averages_are_exact(size, shape, target_shape, boundary):
    periodic, rng = BOUNDARIES[boundary][:len(shape)], np.random.default_rng(1)
    target_grid = Grid(target_shape, [(0.0, 1.0), (-1.0, 0.4), (2.0, 2.7)][:len(shape)], periodic)
    density = GridDensity(0.1 + rng.random(target_shape), target_grid)
    phi = size * rng.standard_normal(shape)
    arguments = target_grid.lower + 0.01, target_grid.lengths / shape, np.array([0.9, 1.0, 1.3])[:len(shape)]
    value, _, _ = averages(density, padded(phi, periodic), *arguments)
    lows, highs = ((bound - target_grid.lower.reshape((-1,) + (1,) * len(shape)))
                   / target_grid.spacing.reshape((-1,) + (1,) * len(shape))
                   for bound in spans(phi, *arguments, periodic))
    assert (highs < lows).any() == (size > 0.1)
    for cell in np.ndindex(shape):
        expected = density._multilinear[0][(slice(1, -1),) * len(shape)]
        for axis, n in enumerate(target_shape):
            means = mean_hats(lows[axis][cell], highs[axis][cell], n, periodic[axis])
            expected = np.tensordot(means, expected, (0, 0))
        width = np.abs([highs[axis][cell] - lows[axis][cell] for axis in range(len(shape))])
        if (width > 2e-3).all() and not (np.array(periodic) & (width > target_shape)).any():
            assert abs(value[cell] / expected - 1) < 1e-11, cell


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", [(9, 8), (6, 5, 7)])
def test_derivatives_of_the_averages(shape, boundary):
    periodic, rng, ndim = BOUNDARIES[boundary][:len(shape)], np.random.default_rng(2), len(shape)
    density = GridDensity(0.1 + rng.random(shape), Grid(shape, periodic=periodic))
    phi, direction = (size * rng.standard_normal(shape) for size in (0.01, 1.0))
    arguments = np.zeros(ndim), 1 / np.array(shape), np.array(shape, float)
    value, drift, moment = averages(density, padded(phi, periodic), *arguments)
    ghosted = padded(direction, periodic)
    expected = 0.0
    for axis, unit in enumerate(np.eye(ndim, dtype=int)):
        expected += drift[axis] * (shifted(ghosted, unit) - shifted(ghosted, -unit))
        expected += moment[axis] * second_difference(direction, unit, np.zeros(ndim), periodic)
    step = 1e-7
    plus, minus = (averages(density, padded(phi + sign * step * direction, periodic), *arguments)[0]
                   for sign in (1, -1))
    found = (np.log(plus) - np.log(minus)) / (2 * step)
    # the second derivative jumps where a box's face passes a centre: no better than first order there
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.median(np.abs(found - expected)) < 1e-7 * np.abs(expected).max()


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("ndim", [2, 3])
def test_images_that_tile_share_out_the_mass(ndim, periodic):
    shape, target_shape = (12, 10, 9)[:ndim], (11, 14, 8)[:ndim]
    rng, grid = np.random.default_rng(3), Grid(shape, periodic=periodic)
    density = GridDensity(rng.random(target_shape)**8, Grid(target_shape, periodic=periodic)).normalised()
    phi = np.zeros(shape)
    for axis, n in enumerate(shape):  # a sum over the axes: the images are a grid of boxes
        phi = phi + (0.3 / n**2 * rng.random(n)).reshape([-1 if b == axis else 1 for b in range(ndim)])
    ghosted = padded(phi, (periodic,) * ndim)
    value, _, _ = averages(density, ghosted, np.zeros(ndim), grid.spacing, 1 / grid.spacing)
    volume = 1.0
    for axis, h in enumerate(grid.spacing):
        unit = np.eye(ndim, dtype=int)[axis]
        widths = second_difference(phi, unit, np.eye(ndim)[axis] * h**2, (periodic,) * ndim) / h
        assert widths.min() > 0
        volume = volume * widths
    assert value.max() > 10 * value.min()
    assert abs((value * volume).sum() - 1) < 1e-12


@pytest.mark.parametrize("periodic", [False, True])
def test_cell_averages_of_the_interpolant_are_those_of_the_density(periodic):
    errors = []
    for n in (32, 64):
        grid = Grid((n, n), periodic=periodic)
        x, y = 2 * np.pi * grid.cell_centres()
        values = 1 + 0.5 * np.cos(x) * np.cos(2 * y)
        value, _, _ = averages(GridDensity(values, grid), np.zeros((n + 2, n + 2)), np.zeros(2), grid.spacing,
                               1 / grid.spacing)
        errors.append(np.abs(value - values).max())
    assert np.log2(errors[0] / errors[1]) > 3.8  # observed 3.97


def test_the_interpolant_of_spikes_is_positive_and_keeps_the_mass():
    for shape in ((9, 7), (6, 5, 7)):
        values = np.random.default_rng(5).random(shape)**20
        cells = GridDensity(values)._multilinear[0][(slice(1, -1),) * len(shape)]
        assert (cells >= (0.499 if len(shape) == 2 else 0.249) * values).all()
        assert cells.sum() == pytest.approx(values.sum(), rel=1e-13)


def test_nan_stays_where_it_is():
    phi = np.zeros((8, 8))
    phi[3, 4] = np.nan
    density = GridDensity(1 + np.random.default_rng(4).random((8, 8)))
    value, _, _ = averages(density, padded(phi, (False, False)), np.zeros(2), np.full(2, 1 / 8), np.full(2, 8.0))
    assert np.isnan(value).sum() == 5
    assert np.isnan(value[[2, 3, 3, 3, 4], [4, 3, 4, 5, 4]]).all()
