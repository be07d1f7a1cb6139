"""Sinkhorn on grids against sums over all pairs of cells, closed forms for Gaussians, and its theory."""
import math

import bench_sinkhorn
import numba
import numpy as np
import pytest
import random_fields
from scipy.special import logsumexp
from tools import random_density

import pmapde
from pmapde import Grid, GridDensity, LogDensity, Status, TransportProblem, entropic, exact, rates, sinkhorn
from pmapde.gaussian import GaussianFlow
from pmapde.gibbs import AxisKernel, GibbsKernel, half_sweep, log_masses, memory_needed


class Dense:
    """Sinkhorn over all pairs of cells, in the Kantorovich potentials ``f = |x|^2/2 - u``, ``g = |y|^2/2 - v``.

    Shares nothing with the package but the densities: no axes, no affine map, images of periodic axes one by one.
    """

    def __init__(self, problem, epsilon):
        images = 2 + math.ceil(math.sqrt(80 * epsilon))
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
    return TransportProblem(GridDensity(source, grids[0]), GridDensity(target, grids[1]), floor=0.0)


@pytest.mark.parametrize("name", ["square", "boxes", "torus", "mixed", "cube", "torus3d"])
@pytest.mark.parametrize("epsilon", [0.1, 0.02, 2e-4])
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
@pytest.mark.parametrize("epsilon", [0.1, 0.02, 1e-4])
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


def test_sums_are_right_for_rough_lines_on_few_cells_at_low_temperatures():
    """Spacings far apart, cells far wider than the blur, values far steeper than the kernel: nothing that matters may
    be too small for the exponential domain of the second way."""
    rng, tilted = np.random.default_rng(0), 0
    for _ in range(400):
        n, m = rng.integers(3, 14, 2)
        nodes, places = (np.arange(n) + 0.5) / n, (np.arange(m) + 0.5) / m
        stiffness = 10**rng.uniform(2, 4.5)
        log_kernel = -stiffness * (places[:, None] - nodes)**2
        values = 10**rng.uniform(2, 6) * rng.standard_normal((n, 70))
        kernel, expected = AxisKernel(log_kernel, (nodes, places, stiffness, 0.0)), log_kernel[:, :, None] + values
        expected = logsumexp(expected, axis=1)
        assert np.abs(kernel(values, 0) - expected).max() < 1e-14 * max(1e3, np.abs(expected).max(), -log_kernel.min())
        tilted += kernel.refused - kernel.slow
    assert tilted > 2000  # by the second way


def test_values_that_are_not_numbers_survive():
    log_kernel = -np.linspace(0, 30, 20)[:, None] * np.linspace(0, 30, 16)
    for parabola in (None, (np.linspace(0, 1, 16), np.linspace(0, 1, 20), 100.0, 0.0)):
        values = np.random.default_rng(0).random((16, 70)) * 2000
        values[3, 5] = np.nan
        sums = AxisKernel(log_kernel, parabola)(values, 0)
        assert np.isnan(sums[:, 5]).all() and np.isfinite(np.delete(sums, 5, axis=1)).all()


# Gaussians: u_n = x'A_n x / 2 + b_n'x, v_n = y'B_n y / 2 + beta_n'y, up to constants


class GaussianSinkhorn:
    """The recursion of the coefficients, for ``mu = N(m_mu, P^-1)`` and ``nu = N(m_nu, Q^-1)``."""

    def __init__(self, epsilon, source, target, a, b):
        self.epsilon, self.a, self.b = epsilon, a, b
        (self.m_mu, s_mu), (self.m_nu, self.s_nu) = source, target
        self.p, self.q = np.linalg.inv(s_mu), np.linalg.inv(self.s_nu)

    def conjugate(self):
        big_b = np.linalg.inv(self.a + self.epsilon * self.p)
        return big_b, big_b @ (self.epsilon * self.p @ self.m_mu - self.b)

    def sweep(self):
        big_b, beta = self.conjugate()
        self.a = np.linalg.inv(big_b + self.epsilon * self.q)
        self.b = self.a @ (self.epsilon * self.q @ self.m_nu - beta)

    def marginal(self):
        """Mean and covariance of the source marginal."""
        big_b, beta = self.conjugate()
        return big_b @ self.m_nu + beta, big_b @ self.s_nu @ big_b + self.epsilon * big_b


def symmetric_power(matrix, power):
    values, vectors = np.linalg.eigh(matrix)
    return vectors * values**power @ vectors.T


def closed_form(epsilon, p, q, a, sweeps):
    """``A_n`` without the recursion: it is symplectic, and its powers are hyperbolic functions of ``n theta``."""
    root = symmetric_power(q, 0.5)
    r = symmetric_power(root @ p @ root, 0.5)
    values, vectors = np.linalg.eigh(r)
    theta = np.arcsinh(epsilon * values / 2)
    ratio = np.sinh(2 * sweeps * theta) / np.sinh(2 * theta)

    def function(diagonal):
        return vectors * diagonal @ vectors.T

    s11 = function(np.cosh(2 * sweeps * theta) + ratio * (1 - np.cosh(2 * theta)))
    s12, s21 = function(ratio * epsilon * values**2), function(ratio * epsilon)
    s22 = function(np.cosh(2 * sweeps * theta) + ratio * (1 + epsilon**2 * values**2 - np.cosh(2 * theta)))
    start = root @ a @ root
    inverse = np.linalg.inv(root)
    return inverse @ (s11 @ start + s12) @ np.linalg.inv(s21 @ start + s22) @ inverse


GAUSSIANS = ((np.array([0.2, -0.1]), np.array([[0.5, 0.2], [0.2, 0.4]])),
             (np.array([-0.1, 0.3]), np.array([[0.45, -0.15], [-0.15, 0.35]])))


def test_the_gaussian_recursion_is_its_closed_form_and_has_the_known_limit():
    (_, s_mu), (_, s_nu) = GAUSSIANS
    assert np.abs(s_mu @ s_nu - s_nu @ s_mu).max() > 0.01  # they do not commute
    for epsilon in (0.3, 0.01):
        chain = GaussianSinkhorn(epsilon, *GAUSSIANS, np.eye(2), np.zeros(2))
        for n in range(1, 21):
            chain.sweep()
            assert chain.a == pytest.approx(closed_form(epsilon, chain.p, chain.q, np.eye(2), n), abs=1e-12)
    for _ in range(3000):
        chain.sweep()
    mean, covariance = chain.marginal()
    assert mean == pytest.approx(GAUSSIANS[0][0], abs=1e-12) and covariance == pytest.approx(s_mu, abs=1e-12)
    root = symmetric_power(s_mu, 0.5)
    limit = np.linalg.inv(root) @ symmetric_power(root @ s_nu @ root, 0.5) @ np.linalg.inv(root)
    shifted = chain.a + epsilon / 2 * chain.p  # the half-shift
    assert np.abs(chain.a - limit).max() > 100 * np.abs(shifted - limit).max() > 0


def test_gaussian_recursion_on_a_grid():
    epsilon, sweeps = 0.1, 12
    grid, target_grid = Grid((88, 90), [(-4, 4.2), (-4.1, 4)]), Grid((92, 84), [(-4.2, 4), (-4, 4)])
    densities = [LogDensity(lambda x, m=m, s=s: -0.5 * np.einsum("ni,ij,nj->n", x - m, np.linalg.inv(s), x - m))
                 for m, s in GAUSSIANS]
    problem = TransportProblem(*densities, grid=grid, target_grid=target_grid)
    x, y = (g.cell_centres().reshape(2, -1).T for g in (grid, target_grid))
    plan = sinkhorn(problem, epsilon, sweeps, start=(x**2).sum(axis=1).reshape(grid.shape) / 2)
    chain = GaussianSinkhorn(epsilon, *GAUSSIANS, np.eye(2), np.zeros(2))
    for _ in range(sweeps):
        chain.sweep()
    for points, potential, (a, b) in ((x, plan.potential, (chain.a, chain.b)),
                                      (y, plan.dual_potential, chain.conjugate())):
        core = (np.abs(points) < 1.5).all(axis=1)
        exactly = np.einsum("ni,ij,nj->n", points, a, points) / 2 + points @ b
        assert core.sum() > 500 and spread((potential.ravel() - exactly)[core]) < 1e-6
        assert spread((potential.ravel() - (points**2).sum(axis=1) / 2)[core]) > 0.1  # the control
    mean, covariance = chain.marginal()
    rho = plan.source_marginal.ravel() * grid.cell_volume
    assert rho @ x == pytest.approx(mean, abs=1e-5)
    assert (x - mean).T @ (rho[:, None] * (x - mean)) == pytest.approx(covariance, abs=1e-4)


# theory


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(7)
    return TransportProblem(random_density((24, 20), rng), random_density((20, 26), rng))


def test_divergences_fall_interlaced_and_add_up(pair):
    """``KL(mu | rho_{n+1}) <= KL(nu | nu'_n) <= KL(mu | rho_n)``, and their sum is what the dual function gains."""
    epsilon, dense = 2e-3, Dense(pair, 2e-3)
    records = []
    plan = sinkhorn(pair, epsilon, 25, callback=records.append)
    assert len(records) == 25 and [sweep.number for sweep in records] == list(range(25))
    source, target = plan.history["source_kl"], plan.history["target_kl"]
    assert np.isnan(target[0])
    assert (np.diff(source) < 0).all() and (np.diff(target[1:]) < 0).all()
    assert (source[1:] < target[1:]).all() and (target[1:] < source[:-1]).all()

    # once more from the plans themselves, summed over all pairs of cells
    x2 = (dense.x**2).sum(axis=1) / 2
    q = pair.quadratic(pair.grid.cell_centres()).ravel()
    f = [x2 - q - sweep.phi.ravel() for sweep in records]
    g = [dense.g(potential) for potential in f]
    total = 0.0
    for n in range(24):
        rho = dense.plan(f[n], g[n]).sum(axis=(0, 2))
        between = dense.plan(f[n + 1], g[n]).sum(axis=(0, 1))
        assert kl(dense.mu, rho) == pytest.approx(source[n], rel=1e-8)
        assert kl(rho, dense.mu) == pytest.approx(plan.history["source_reverse_kl"][n], rel=1e-8)
        assert kl(dense.nu, between) == pytest.approx(target[n + 1], rel=1e-8)
        assert kl(between, dense.nu) == pytest.approx(plan.history["target_reverse_kl"][n + 1], rel=1e-8)
        total += kl(dense.mu, rho) + kl(dense.nu, between)
    gain = (f[24] - f[0]) @ dense.mu + (g[24] - g[0]) @ dense.nu
    assert gain == pytest.approx(epsilon * total, rel=1e-11)


def test_a_sweep_preserves_order_and_constants_and_is_nonexpansive(pair):
    kernel, (log_mu, log_nu) = GibbsKernel.of_problem(pair, 1e-3), log_masses(pair)

    def sweep(phi):
        psi, _ = half_sweep(kernel, kernel.to_target, log_mu, phi, None, None, 1.0)
        return half_sweep(kernel, kernel.to_source, log_nu, psi, None, None, 1.0)[0]

    rng = np.random.default_rng(3)
    first = 0.01 * rng.standard_normal(pair.grid.shape)
    above = first + 0.01 * rng.random(pair.grid.shape)
    assert (sweep(above) >= sweep(first) - 1e-15).all()
    assert sweep(first + 0.3) == pytest.approx(sweep(first) + 0.3, abs=1e-15)
    other = 0.01 * rng.standard_normal(pair.grid.shape)
    assert spread(sweep(other) - sweep(first)) < 0.9 * spread(other - first)


def sweeps_to(problem, tolerance, **arguments):
    plan = sinkhorn(problem, 2e-3, 3000, tolerance=tolerance, annealing=False, **arguments)
    assert plan.status is Status.MARGINALS_MET and plan.marginal_error[-1] <= tolerance
    return plan.stats["sweeps"], plan


def test_both_relaxations_are_faster_and_end_at_the_same_plan(pair):
    plain, reference = sweeps_to(pair, 1e-9, overrelaxation=1)
    longer, second = sweeps_to(pair, 1e-9, step=1.8 * 2e-3)
    automatic, third = sweeps_to(pair, 1e-9)
    assert plain > 200
    assert longer == pytest.approx(plain / 1.8, rel=0.1)
    assert automatic < plain / 3
    for plan in (second, third):
        assert spread(plan.potential - reference.potential) < 1e-9
        assert plan.debiased_cost == pytest.approx(reference.debiased_cost, rel=1e-9)


@pytest.mark.parametrize("epsilon", [2e-3, 5e-4])
def test_full_steps_are_stable_below_two_epsilon_and_not_above(pair, epsilon):
    for factor in (0.1, 1.0, 1.9, 1.98):
        errors = sinkhorn(pair, epsilon, 300, step=factor * epsilon).marginal_error
        assert errors[300] < errors[100] < errors[20] < errors[0]
    errors = sinkhorn(pair, epsilon, 400, step=2.02 * epsilon).marginal_error
    assert errors[300] > 1 > 10 * errors[60]
    assert sinkhorn(pair, epsilon, 600, step=2.1 * epsilon).status is Status.DIVERGED


def test_debiased_cost_is_zero_for_equal_densities_only(pair):
    values = pair.source_values.copy()
    values[5:9, 3:8] = 0
    for grid in (Grid(values.shape), Grid(values.shape, [(2, 3), (0, 1)], periodic=True)):
        density = GridDensity(values, grid)
        plan = sinkhorn(TransportProblem(density, density), 1e-3, tolerance=1e-9)
        assert abs(plan.debiased_cost) < 1e-12 < 1e-3 < plan.entropic_cost
        assert np.abs(plan.debiased_displacement).max() < 1e-7
    moved = np.roll(values, 3, axis=1)
    periodic = [GridDensity(array, Grid(values.shape, periodic=True)) for array in (values, moved)]
    assert sinkhorn(TransportProblem(*periodic), 1e-3).debiased_cost > 1e-3


def test_costs_and_map_approach_those_of_optimal_transport():
    """The entropic cost of the plan is O(epsilon) off, debiased O(epsilon^2), and so are the maps."""
    known = exact.separable_cosine((64, 64), 0.4, periodic=True)
    rows = []
    for epsilon in (4e-3, 2e-3, 1e-3):
        plan = sinkhorn(known.problem, epsilon, tolerance=1e-8)
        rows.append([abs(plan.cost / known.cost - 1), abs(plan.debiased_cost / known.cost - 1),
                     known.map_error(plan.displacement), known.map_error(plan.debiased_displacement)])
    rates = np.log2(np.array(rows[:-1]) / np.array(rows[1:]))
    assert rates[:, [0, 2]] == pytest.approx(1, abs=0.25)
    assert (rates[:, 1] > 1.7).all() and (np.array(rows)[:, 3] < 0.4 * np.array(rows)[:, 2]).all()


def test_annealing_and_over_relaxation_pay_at_small_temperatures():
    known = exact.separable_cosine((48, 48))
    epsilon = (0.7 / 48)**2
    cold, warm = (sinkhorn(known.problem, epsilon, tolerance=1e-4, iterations=5000, **arguments)
                  for arguments in ({"annealing": False, "overrelaxation": 1}, {}))
    assert cold.success and warm.success
    assert warm.stats["sweeps"] < cold.stats["sweeps"] / 8
    assert known.potential_error(warm.potential) < 3e-4
    assert abs(warm.debiased_cost / known.cost - 1) < 1e-3


@pytest.mark.parametrize("cells", [0.5, 0.25])
def test_potentials_at_temperatures_below_the_grid(cells):
    """Far below the cells nothing over- or underflows, and the potentials are those over all pairs."""
    problem = problem_of("square")
    epsilon = (cells / 9)**2 / 10
    plan, dense = sinkhorn(problem, epsilon, 200), Dense(problem, epsilon)
    q = problem.quadratic(dense.x.T)
    f = (dense.x**2).sum(axis=1) / 2 - q
    for _ in range(200):
        f = dense.f(dense.g(f))
    assert spread(dense.of(plan)[0] - f) < 1e-13


# threads, failures, input


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize("shape", [(150, 140), (40, 30, 32)])
def test_results_do_not_depend_on_the_number_of_threads(shape):
    rng = np.random.default_rng(2)
    problem = TransportProblem(random_density(shape, rng), random_density(shape, rng))
    plans = [sinkhorn(problem, 1e-4, 4, threads=threads) for threads in (1, 2)]
    assert (plans[0].potential == plans[1].potential).all() and (plans[0].displacement == plans[1].displacement).all()
    assert (plans[0].marginal_error == plans[1].marginal_error).all() and plans[0].cost == plans[1].cost
    points = rng.random((50, len(shape)))
    assert (plans[0].map(points) == plans[1].map(points)).all()


def test_failures_are_statuses_with_the_partial_plan(pair):
    plan = sinkhorn(pair, 1e-4, 5, tolerance=1e-9)
    assert plan.status is Status.MAX_SWEEPS and not plan.success and plan.stats["sweeps"] == 5
    with pytest.raises(pmapde.SolverError) as caught:
        sinkhorn(pair, 1e-4, 5, tolerance=1e-9, throw=True)
    assert caught.value.solution.stats["sweeps"] == 5
    assert sinkhorn(pair, 1e-4, max_seconds=0).status is Status.MAX_SECONDS
    again = sinkhorn(pair, 1e-3, 400, tolerance=1e-6, annealing=False, start=plan.potential)
    assert again.success
    stopped = sinkhorn(pair, 1e-3, callback=lambda sweep: sweep.final and sweep.number == 7)
    assert stopped.status is Status.STOPPED and 7 <= stopped.stats["sweeps"] <= 8
    # whatever ended it: v is the conjugate of u, and the error reported is that of this pair
    for plan in (stopped, again, sinkhorn(pair, 1e-3, 400, tolerance=1e-6)):
        dense = Dense(pair, 1e-3)
        f, g = dense.of(plan)
        assert spread(dense.g(f) - g) < 1e-14
        rho = dense.plan(f, g).sum(axis=(0, 2))
        assert np.abs(rho - dense.mu).sum() == pytest.approx(plan.marginal_error[-1], rel=1e-6)


def test_the_sweeps_asked_for_are_made_even_if_the_marginals_are_exact():
    plan = sinkhorn(TransportProblem(np.ones((8, 8)), np.ones((8, 8))), 1e6, 20)
    assert plan.status is Status.SWEEPS_DONE and plan.stats["sweeps"] == 20 and plan.marginal_error[-1] < 1e-14


@pytest.mark.parametrize("length", [1e-6, 1e6])
def test_units_do_not_matter(length):
    """The same problem in other units, on boxes far apart."""
    plans = []
    for unit in (1.0, length):
        problem = problem_of("boxes")
        grids = [Grid(grid.shape, np.array(grid.box) * unit) for grid in (problem.grid, problem.target_grid)]
        plans.append(sinkhorn(TransportProblem(GridDensity(problem.source_values, grids[0]),
                                               GridDensity(problem.target_values, grids[1])), 1e-3 * unit**2, 30))
    one, other = plans
    assert other.potential == pytest.approx(one.potential * length**2, abs=1e-11 * length**2)
    assert other.cost == pytest.approx(one.cost * length**2, rel=1e-10)
    assert other.debiased_cost == pytest.approx(one.debiased_cost * length**2, rel=1e-10)


def test_point_masses():
    """Dirac to two Diracs: everything is known."""
    epsilon, source, target = 1e-3, np.zeros((10, 10)), np.zeros((10, 10))
    source[2, 3] = target[0, 0] = target[7, 8] = 1
    for pair in ((source, target), (target, source)):
        problem, far = TransportProblem(*pair, floor=0.0), 0.315
        plan = sinkhorn(problem, epsilon)
        assert plan.success and plan.cost == pytest.approx(far) and plan.entropic_cost == pytest.approx(far)
        assert plan.debiased_cost == pytest.approx(far - epsilon * math.log(2))


def test_tolerances_below_rounding_end_at_rounding(pair):
    plan = sinkhorn(pair, 5e-3, tolerance=1e-300)
    assert plan.success and plan.marginal_error[-1] < 1e-12


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"epsilon": 0.0}, ValueError, "`epsilon` must be a positive temperature, got 0.0"),
    ({"epsilon": -1}, ValueError, "`epsilon` must be"), ({"epsilon": np.nan}, ValueError, "`epsilon` must be"),
    ({"epsilon": 1e-300}, ValueError, "`epsilon` must be at least 1.0e-15 here"),
    ({"epsilon": 1e7}, ValueError, r"`epsilon` must be at most 1.0e\+06 on this box"),
    ({"epsilon": "small"}, ValueError, "`epsilon` must be"), ({"epsilon": True}, ValueError, "`epsilon` must be"),
    ({"iterations": 0}, ValueError, "`iterations` must be a whole number >= 1"),
    ({"iterations": 2.5}, ValueError, "`iterations` must be a whole number >= 1"),
    ({"tolerance": 3}, ValueError, r"`tolerance` must be an L1 distance in \(0, 2\), got 3"),
    ({"tolerance": 0}, ValueError, "`tolerance` must be"),
    ({"overrelaxation": 2}, ValueError, r"`overrelaxation` must be 'auto' or a number in \(0, 2\), got 2"),
    ({"overrelaxation": "most"}, ValueError, "`overrelaxation` must be"),
    ({"step": 0}, ValueError, "`step` must be a positive length"),
    ({"step": 0.1, "overrelaxation": 1.5}, ValueError, "`step` and `overrelaxation` are two ways"),
    ({"annealing": 1.5}, ValueError, r"`annealing` must be False or a factor in \(0, 1\)"),
    ({"annealing": 0.5, "start": np.zeros((8, 6))}, ValueError, "`start` and `annealing` exclude each other"),
    ({"start": np.zeros((6, 8))}, ValueError, r"`start` must be finite .* shape \(8, 6\), got shape \(6, 8\)"),
    ({"start": np.full((8, 6), np.inf)}, ValueError, "`start` must be finite"),
    ({"start": np.full((8, 6), "a")}, ValueError, "`start` must be finite values of a potential, real numbers"),
    ({"max_seconds": -1}, ValueError, "`max_seconds` must be"), ({"callback": 3}, TypeError, "`callback` must be"),
    ({"threads": 0}, ValueError, "`threads` must be a whole number"),
])
def test_bad_arguments_are_named(arguments, error, message):
    problem = TransportProblem(np.ones((8, 6)), np.ones((8, 6)))
    with pytest.raises(error, match=message) as caught:
        sinkhorn(problem, **{"epsilon": 0.1, **arguments})
    assert "\n" not in str(caught.value)


def test_temperatures_at_which_a_period_is_nothing_are_refused():
    torus = TransportProblem(np.ones((8, 6)), np.ones((8, 6)), grid=Grid((8, 6), [(0, 2), (0, 1)], periodic=True))
    assert sinkhorn(torus, 100).success
    with pytest.raises(ValueError, match=r"`epsilon` must be at most 1.0e\+02 on this torus"):
        sinkhorn(torus, 101)


def test_what_is_not_a_problem_or_points_is_named():
    with pytest.raises(TypeError, match="`problem` must be a pmapde.TransportProblem, got ndarray"):
        sinkhorn(np.ones((4, 4)), 0.1)
    plan = sinkhorn(TransportProblem(np.ones((8, 6)), np.ones((8, 6))), 0.1, 1)
    with pytest.raises(ValueError, match=r"`points` must be real numbers of shape \(n, 2\)"):
        plan.map(np.zeros(2))


def test_half_shift_goes_there_and_back(pair):
    u = pair.quadratic(pair.grid.cell_centres())
    shifted = pmapde.half_shift(pair, u, -0.1)
    assert shifted == pytest.approx(u + 0.05 * np.log(pair.source_values))
    assert pmapde.half_shift(pair, shifted, 0.1) == pytest.approx(u)
    with pytest.raises(ValueError, match="`potential` must have shape"):
        pmapde.half_shift(pair, u.T, 0.1)
    with pytest.raises(ValueError, match="cells without mass"):
        pmapde.half_shift(problem_of("square"), np.zeros((9, 7)), 0.1)


@pytest.mark.parametrize("name", ["boxes", "torus", "cube"])
def test_a_loaded_plan_is_the_saved_one(name, tmp_path):
    plan = sinkhorn(problem_of(name), 0.02, tolerance=1e-5)
    plan.save(tmp_path / "plan")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.npz"]
    loaded = pmapde.load(tmp_path / "plan.npz")
    assert loaded.status is plan.status and loaded.stats == plan.stats and str(loaded) == str(plan)
    assert (loaded.potential == plan.potential).all() and (loaded.dual_potential == plan.dual_potential).all()
    assert (loaded.marginal_error == plan.marginal_error).all()
    points = np.random.default_rng(0).random((20, plan.problem.ndim))
    assert loaded.map(points) == pytest.approx(plan.map(points), abs=1e-14)
    content = (tmp_path / "plan.npz").read_bytes()
    (tmp_path / "plan.npz").write_bytes(content[:len(content) // 2])
    with pytest.raises(ValueError, match="is not a result saved by pmapde"):
        pmapde.load(tmp_path / "plan.npz")


@pytest.mark.parametrize("epsilon", [5e-3, pytest.param(1e-3, marks=pytest.mark.slow)])
def test_potentials_are_those_of_pot(epsilon):
    """24 x 24 cells, unequal boxes; POT's dual variables carry epsilon times the logarithm of the weights."""
    ot = pytest.importorskip("ot")
    rng = np.random.default_rng(11)
    problem = TransportProblem(GridDensity(random_density((24, 24), rng), Grid((24, 24))),
                               GridDensity(random_density((24, 24), rng), Grid((24, 24), [(0.1, 1.2), (0, 0.9)])))
    plan = sinkhorn(problem, epsilon, tolerance=1e-12)
    dense = Dense(problem, epsilon)
    costs = ((dense.x[:, None] - dense.y)**2).sum(axis=2) / 2
    _, log = ot.bregman.sinkhorn_log(dense.mu, dense.nu, costs, epsilon, numItermax=20000, stopThr=1e-13, log=True,
                                     warn=False)
    for ours, theirs, weights in zip(dense.of(plan), (log["log_u"], log["log_v"]), (dense.log_mu, dense.log_nu)):
        assert spread(ours - epsilon * (theirs - weights)) < 1e-9


def test_the_benchmark_compares_before_it_times(monkeypatch):
    [row] = bench_sinkhorn.sweep_times((16, 16), 2, "solved", {}, rounds=1)
    assert row["outcome"] == "ok" and np.isfinite(row["CPU ms per sweep"])

    class Wrong(bench_sinkhorn.Ours):
        name = "wrong"

        def run(self, sweeps):
            return super().run(sweeps) + 1e-6 * self.half

    monkeypatch.setattr(bench_sinkhorn, "solvers", lambda *given: [bench_sinkhorn.Ours(*given[:3]), Wrong(*given[:3])])
    right, wrong = bench_sinkhorn.sweep_times((16, 16), 2, "from 0", {}, rounds=1)
    assert right["outcome"] == "ok" and wrong["outcome"] == "FAILED" and wrong["CPU ms per sweep"] == ""


def test_memory_does_not_grow_with_the_sweeps():
    import tracemalloc
    problem = TransportProblem(np.ones((60, 50)), 1 + np.random.default_rng(0).random((60, 50)))
    peaks = []
    for sweeps in (2, 2, 100):
        tracemalloc.start()
        sinkhorn(problem, 1e-3, sweeps)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 4 * 60 * 50 * 8


@pytest.mark.parametrize(("shape", "target_shape", "periodic"), [
    ((200, 180), (200, 180), False), ((200, 180), (200, 180), True), ((600, 8), (600, 8), True),
    ((20, 24, 28), (20, 24, 28), False), ((90, 80), (180, 160), False)])
def test_memory_stays_within_the_estimate(shape, target_shape, periodic):
    import tracemalloc
    rng, epsilon = np.random.default_rng(0), 1e-4
    grids = [Grid(which, periodic=periodic) for which in (shape, target_shape)]
    problem = TransportProblem(*[GridDensity(1 + rng.random(grid.shape), grid) for grid in grids])
    sinkhorn(problem, epsilon, 1).summary()  # what is cached stays
    tracemalloc.start()
    try:
        plan = sinkhorn(problem, epsilon, 3, tolerance=1e-12)
        plan.summary(), plan.debiased_displacement
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    estimate = memory_needed(*grids, epsilon)
    assert 0.25 * estimate < peak < estimate


def test_what_does_not_fit_is_refused_before_anything_is_allocated(monkeypatch):
    problem = TransportProblem(np.ones((64, 64)), np.ones((64, 64)))
    monkeypatch.setattr(pmapde.memory, "available_memory", lambda: 2.0**20)
    monkeypatch.setattr(pmapde.entropic, "_run", None)
    with pytest.raises(MemoryError, match="a grid of 64x64 cells needs about .* GiB are available; use a coarser"):
        sinkhorn(problem, 1e-3)


def test_steps_follow_the_linear_theory():
    """Stable below two epsilon, unstable above, at the factors of the linearised sweep."""
    measured, theory, _ = rates.steps(quick=True).series
    assert measured.x.tolist() == [0.5, 1.0, 1.5, 1.95, 2.05, 2.2]
    assert measured.y == pytest.approx(theory.y, abs=3e-3)
    assert ((measured.y < 1) == (measured.x < 2)).all()


def test_the_gaussian_recursion_tends_to_the_flow():
    """``n`` sweeps are a time ``n epsilon``: first order, from half-shifted starts second; no grid."""
    flow = GaussianFlow(GAUSSIANS[0][0], GAUSSIANS[0][1], GAUSSIANS[1][0], GAUSSIANS[1][1])
    time, errors = 0.4, []
    for epsilon in (0.02, 0.01, 0.005):
        errors.append([])
        for shift in (0.0, 0.5):
            p = np.linalg.inv(GAUSSIANS[0][1])
            start = np.eye(2) - shift * epsilon * p, shift * epsilon * p @ GAUSSIANS[0][0]
            chain = GaussianSinkhorn(epsilon, *GAUSSIANS, *start)
            for _ in range(round(time / epsilon)):
                chain.sweep()
            read = chain.a + shift * epsilon * p
            errors[-1].append(np.abs(read - flow.hessian(time)).max())
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert orders[:, 0] == pytest.approx(1, abs=0.1) and orders[:, 1] == pytest.approx(2, abs=0.1)


def test_over_relaxation_that_runs_away_is_taken_back(monkeypatch):
    """Begun far from the limit, where the theory of the factor does not hold: half as far, from the best sweep."""
    taken_back = []

    class Eager(entropic._OverRelaxation):
        def __init__(self, factor):
            super().__init__(factor)
            self.factor = 1.98 if self.automatic else self.factor

        def retreats(self):
            taken_back.append(super().retreats())
            return taken_back[-1]

    x, y = pmapde.Grid((48, 48)).cell_centres()
    source, target = (np.where(np.hypot(x - a, y - b) < 0.1, 1.0, 1e-3) for a, b in ((0.2, 0.3), (0.8, 0.6)))
    problem = pmapde.TransportProblem(source, target)
    plain, hot = pmapde.sinkhorn(problem, 1e-4, tolerance=1e-7), pmapde.sinkhorn(problem, 4e-4, tolerance=1e-3)
    monkeypatch.setattr(entropic, "_OverRelaxation", Eager)
    monkeypatch.setattr(entropic, "DIVERGED", 0.2)
    plan = pmapde.sinkhorn(problem, 1e-4, tolerance=1e-7, iterations=5000, start=hot.potential)
    assert taken_back and all(taken_back) and plan.success
    assert np.ptp(plan.potential - plain.potential) < 1e-5


@pytest.mark.parametrize("seed", [1, 17])
def test_annealing_leaves_few_sweeps_at_loose_marginals(seed):
    """Slow modes are gone before the finest grid: 150 sweeps and more if temperatures are left at an error of 0.05."""
    problem = pmapde.TransportProblem(*random_fields.pair("shapes", (128, 128), 1e3, seed))
    plan = pmapde.sinkhorn(problem, 0.49 / 128**2, tolerance=2e-3)
    assert plan.success and plan.stats["sweeps"] <= 60 and sum(plan.stats["anneal"]) <= 400
