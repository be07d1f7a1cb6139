"""Sinkhorn on grids against sums over all pairs of cells, against closed forms for Gaussians, and against its theory."""
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logsumexp
from tools import random_density

import pmapde
from pmapde import Grid, GridDensity, LogDensity, Status, TransportProblem, exact, sinkhorn
from pmapde.gibbs import AxisKernel, GibbsKernel, half_sweep, log_masses


class Dense:
    """Sinkhorn over all pairs of cells, in the Kantorovich potentials ``f = |x|^2/2 - u``, ``g = |y|^2/2 - v``.

    Shares nothing with the package but the densities: no axes, no affine map, images of periodic axes one by one.
    """

    def __init__(self, problem, epsilon):
        images = 3 + math.ceil(math.sqrt(80 * epsilon))
        self.problem, self.epsilon = problem, epsilon
        self.x, self.y = (grid.cell_centres().reshape(grid.ndim, -1).T for grid in (problem.grid, problem.target_grid))
        self.mu = problem.source_values.ravel() * problem.grid.cell_volume
        self.nu = problem.target_values.ravel() * problem.target_grid.cell_volume
        turns = np.meshgrid(*[np.arange(-images, images + 1) * length if wraps else [0.0]
                              for wraps, length in zip(problem.grid.periodic, problem.grid.lengths)], indexing="ij")
        self.lifted = self.y + np.stack([turn.ravel() for turn in turns], axis=1)[:, None]  # (images, m, d)
        with np.errstate(divide="ignore"):
            self.log_mu, self.log_nu = np.log(self.mu), np.log(self.nu)
        costs = ((self.x[:, None] - self.lifted[:, None])**2).sum(axis=-1) / 2  # (images, n, m)
        self.log_images = -costs / epsilon
        self.log_kernel = logsumexp(self.log_images, axis=0)

    def g(self, f):
        return -self.epsilon * logsumexp(self.log_kernel + (f / self.epsilon + self.log_mu)[:, None], axis=0)

    def f(self, g):
        return -self.epsilon * logsumexp(self.log_kernel + g / self.epsilon + self.log_nu, axis=1)

    def plan(self, f, g):
        """Over the images too, ``(images, n, m)``."""
        return np.exp(self.log_images + (f / self.epsilon + self.log_mu)[:, None] + g / self.epsilon + self.log_nu)

    def of(self, plan):
        """Kantorovich potentials of a SinkhornPlan."""
        return ((self.x**2).sum(axis=1) / 2 - plan.potential.ravel(),
                (self.y**2).sum(axis=1) / 2 - plan.dual_potential.ravel())


def spread(difference):
    return float(np.ptp(difference)) / 2


def kl(p, q):
    """Generalised, with ``0 log 0 = 0``."""
    return float(np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / q), 0).sum() - p.sum() + q.sum())


def problem_of(name, rng=0):
    rng = np.random.default_rng(rng)
    grids = {
        "square": (Grid((9, 7)), Grid((9, 7))),
        "boxes": (Grid((9, 7), [(0, 1), (2, 2.5)]), Grid((6, 10), [(-3, -1), (5, 5.2)])),
        "torus": (Grid((9, 7), [(0, 1), (0, 0.8)], periodic=True),
                  Grid((6, 10), [(0.3, 1.3), (-0.9, -0.1)], periodic=True)),
        "mixed": (Grid((8, 6), periodic=(True, False)), Grid((8, 9), [(0, 1), (4, 6)], periodic=(True, False))),
        "cube": (Grid((4, 5, 3), [(0, 1), (0, 2), (1, 1.4)]), Grid((5, 4, 6), [(1, 3), (0, 1), (1, 1.4)])),
        "torus3d": (Grid((3, 4, 3), periodic=True), Grid((4, 3, 3), periodic=(True, True, True))),
    }[name]
    source, target = (random_density(grid.shape, rng, 1) for grid in grids)
    source.flat[3] = target.flat[[0, -2]] = 0.0
    return TransportProblem(GridDensity(source, grids[0]), GridDensity(target, grids[1]))


@pytest.mark.parametrize("name", ["square", "boxes", "torus", "mixed", "cube", "torus3d"])
@pytest.mark.parametrize("epsilon", [0.3, 0.03, 2e-4])
def test_sweeps_are_those_over_all_pairs(name, epsilon):
    problem = problem_of(name)
    dense = Dense(problem, epsilon)
    start = problem.quadratic(problem.grid.cell_centres()) + np.random.default_rng(5).random(problem.grid.shape) / 50
    plan = sinkhorn(problem, epsilon, 3, start=start)
    f = (dense.x**2).sum(axis=1) / 2 - start.ravel()
    errors = []
    for _ in range(4):
        g, before = dense.g(f), f
        f = dense.f(g)
        errors.append(np.abs(np.exp((before - f) / epsilon) * dense.mu - dense.mu).sum())
    ours = dense.of(plan)
    scale = 1e-13 * max(1, epsilon, np.abs(before).max())
    assert spread(ours[0] - before) < scale and spread(ours[1] - g) < scale
    assert plan.marginal_error == pytest.approx(errors, rel=1e-9, abs=1e-12 / epsilon)
    assert plan.status is Status.SWEEPS_DONE and plan.success and plan.stats["sweeps"] == 3

    pairs = dense.plan(*ours)
    rho = pairs.sum(axis=(0, 2))
    assert pairs.sum(axis=(0, 1)) == pytest.approx(dense.nu, abs=1e-11)
    assert plan.source_marginal.ravel() * problem.grid.cell_volume == pytest.approx(rho, abs=1e-11)
    move = dense.lifted[:, None] - dense.x[:, None]
    assert plan.cost == pytest.approx((pairs[..., None] * move**2).sum(), rel=1e-9)
    f, g = ours
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = np.nansum(pairs * np.log(pairs / (dense.mu[:, None] * dense.nu)))
    assert plan.entropy == pytest.approx(entropy, rel=1e-8, abs=1e-9)
    assert plan.entropic_cost == pytest.approx(plan.cost + 2 * epsilon * entropy, rel=1e-9)
    assert plan.dual_cost == pytest.approx(2 * (f @ dense.mu + g @ dense.nu), rel=1e-9, abs=1e-11)
    conditional = np.exp(dense.log_images + g / epsilon + dense.log_nu + (f / epsilon)[:, None])
    mean = ((conditional[..., None] * move).sum(axis=(0, 2)).T / conditional.sum(axis=(0, 2)))
    assert plan.displacement.reshape(problem.ndim, -1) == pytest.approx(mean, abs=1e-10)


@pytest.mark.parametrize("name", ["square", "boxes", "torus", "mixed", "cube", "torus3d"])
@pytest.mark.parametrize("epsilon", [0.3, 0.03, 1e-4])
def test_map_between_the_grid_points_is_the_entropic_formula(name, epsilon):
    problem = problem_of(name)
    plan = sinkhorn(problem, epsilon, 5)
    dense = Dense(problem, epsilon)
    points = problem.grid.lower + np.random.default_rng(0).uniform(-0.2, 1.2, (40, problem.ndim)) * problem.grid.lengths
    costs = ((points[:, None] - dense.lifted[:, None])**2).sum(axis=-1) / 2
    logs = (dense.of(plan)[1] - costs) / epsilon + dense.log_nu
    weights = np.exp(logs - logs.max(axis=(0, 2), keepdims=True))
    expected = ((weights[..., None] * dense.lifted[:, None]).sum(axis=(0, 2)).T / weights.sum(axis=(0, 2))).T
    forward = plan.transport_map.forward(np.ascontiguousarray(points.T)).T
    assert forward == pytest.approx(expected, abs=1e-11)
    moved = plan.map(points)
    turns = (moved - forward) / np.where(problem.grid.periodic, problem.grid.lengths, 1)
    assert turns == pytest.approx(np.round(turns), abs=1e-12)
    box = np.array(problem.target_grid.box)
    assert ((moved >= box[:, 0]) & (moved <= box[:, 1]))[:, list(problem.grid.periodic)].all()
    assert plan.map(problem.grid.cell_centres().reshape(problem.ndim, -1).T) == pytest.approx(
        plan.map(dense.x), abs=0)


# the sums


@pytest.mark.parametrize(("n", "m", "spread_of_values"), [
    (50, 37, 1.0), (37, 50, 500.0), (64, 64, 2000.0), (70, 41, 3e4), (5, 130, 1e5)])
@pytest.mark.parametrize("period", [0.0, 1.0])
@pytest.mark.parametrize("epsilon", [1e-2, 3e-4, 2e-5])
def test_sums_are_right_whatever_the_range_of_the_values(n, m, spread_of_values, period, epsilon):
    """Rough lines, smooth lines, lines with holes, lines without any mass; three ways of summing, one result."""
    rng = np.random.default_rng(1)
    nodes, places = (np.arange(n) + 0.5) / n, 0.4 * bool(period) + (np.arange(m) + 0.5) / m
    images = (np.arange(-3, 4) * period)[:, None, None] if period else np.zeros((1, 1, 1))
    log_kernel = logsumexp(-(places[:, None] - nodes - images)**2 / (2 * epsilon), axis=0)
    smooth = np.cos(2 * np.pi * nodes[:, None] + rng.uniform(0, 6, 150)) * rng.random(150)
    values = spread_of_values * np.where(np.arange(150) < 40, rng.random((n, 150)), smooth)
    values[rng.random((n, 150)) < 0.1] = -np.inf
    values[:, [17, 140]] = -np.inf
    with np.errstate(invalid="ignore"):
        expected = logsumexp(log_kernel[:, :, None] + values, axis=1)
    for parabola in (None, (nodes, places, 1 / (2 * epsilon), period)):
        kernel = AxisKernel(log_kernel, parabola)
        for _ in range(2):  # the second time with another band
            sums = kernel(values, 0)
            assert np.isneginf(sums[:, [17, 140]]).all()
            seen = np.isfinite(expected)
            assert (np.isneginf(sums) == ~seen).all()
            scale = max(10, np.abs(expected[seen]).max(), 0.01 / epsilon)  # of what is added up
            assert np.abs(sums[seen] - expected[seen]).max() < 1e-14 * scale
        assert kernel(np.ascontiguousarray(values.T), 1) == pytest.approx(sums.T, rel=1e-13, abs=1e-12)
        if spread_of_values > 1000 and log_kernel.min() < -1000:  # the control: beyond the first way
            assert kernel.refused > 50
            assert parabola is not None or kernel.slow == kernel.refused
            # what the second way cannot do: lines side by side that have nothing in common
            assert parabola is None or spread_of_values > 1e4 or kernel.slow < kernel.refused


def test_values_that_are_not_numbers_survive():
    log_kernel = -np.linspace(0, 30, 20)[:, None] * np.linspace(0, 30, 16)
    for parabola in (None, (np.linspace(0, 1, 16), np.linspace(0, 1, 20), 100.0, 0.0)):
        values = np.random.default_rng(0).random((16, 70)) * 2000
        values[3, 5] = np.nan
        sums = AxisKernel(log_kernel, parabola)(values, 0)
        assert np.isnan(sums[:, 5]).all() and np.isfinite(np.delete(sums, 5, axis=1)).all()
