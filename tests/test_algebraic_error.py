"""What the iteration leaves, held against solutions to tight tolerances: data made to deceive the estimates."""
import math

import numpy as np
import pytest
from test_full_multigrid import SMOOTH, counts

import pmapde
from pmapde.linear.geometric import GeometricMultigrid
from pmapde.monge_ampere import MongeAmpere
from pmapde.negative_norm import block_sums, gradient_size, without_mean

PROMISED = 0.2


def varying_noise(shape, size):
    """Noise whose level varies: what a Newton step leaves of it is smooth, and moves the map more than the noise."""
    x, y = ((np.indices(shape)[a] + 0.5) / shape[a] for a in (0, 1))
    noise = np.random.default_rng(3).standard_normal(shape)
    source = (1 + 0.4 * np.cos(np.pi * x) * np.cos(2 * np.pi * y)) * (1 + size * x * noise)
    return pmapde.TransportProblem(source, np.ones(shape))


def noisy_gaussian(n, floor, size):
    x, y = ((np.indices((n, n))[a] + 0.5) / n for a in (0, 1))
    bump = np.exp(-((x - 0.5)**2 + (y - 0.5)**2) / (2 * 0.1**2)) + floor
    noise = np.clip(1 + size * x * np.random.default_rng(3).standard_normal((n, n)), 0.05, None)
    return pmapde.TransportProblem(bump * noise, np.ones((n, n)))


def photons(shape, counts_of_one):
    x, y = ((np.indices(shape)[a] + 0.5) / shape[a] for a in (0, 1))
    light = 0.05 + np.exp(-((x - 0.5)**2 + (y - 0.5)**2) / 0.05)
    return pmapde.TransportProblem(np.random.default_rng(3).poisson(counts_of_one * light) + 1.0, np.ones(shape))


def varying_checks(shape, wraps):
    index = np.indices(shape)
    x = (index[0] + 0.5) / shape[0]
    grid = pmapde.Grid(shape, [(0, 1)] * len(shape), wraps)
    return pmapde.TransportProblem(1 + 0.1 * np.cos(np.pi * x)**2 * (-1.0)**index.sum(axis=0), np.ones(shape),
                                   grid=grid)


def narrow_box(aspect, n, uneven):
    grid = pmapde.Grid((aspect * n, n), [(0, aspect), (0, 1)])
    x, y = grid.cell_centres()
    return pmapde.TransportProblem(1 + 0.4 * np.cos(2 * np.pi * x / aspect) + uneven * np.cos(2 * np.pi * y),
                                   np.ones(grid.shape), grid=grid)


def unseen_target(n=512, size=1e-5):
    """A bump of three cells in the source, which coarse grids see, excuses a residual on the finest; that of a target
    that is zero on all coarser grids, and smooth on the finest."""
    grid = pmapde.Grid((n, n))
    x, y = grid.cell_centres()
    bump = np.exp(-((x - 0.3)**2 + (y - 0.6)**2) / (2 * (3 / n)**2))
    source = pmapde.GridDensity((1 + 0.4 * np.cos(np.pi * y)) * (1 + 0.01 * bump), grid, points=True)
    target = pmapde.LogDensity(lambda q: np.log1p(size * np.cos(np.pi * q[:, 0]) * np.sin(np.pi * q[:, 0] * n)**2))
    return pmapde.TransportProblem(source, target, target_grid=grid)


CASES = {"noise 5 %": lambda: varying_noise((256, 256), 0.05), "noise 0.5 %": lambda: varying_noise((256, 256), 0.005),
         "noise in 3D": lambda: varying_noise((32, 33, 32), 0.1), "photons": lambda: photons((256, 256), 1000),
         "checks": lambda: varying_checks((256, 256), False),
         "checks on a torus": lambda: varying_checks((32, 32, 32), True),
         "narrow box": lambda: narrow_box(16, 64, 1e-2), "narrower": lambda: narrow_box(48, 32, 1e-3),
         "noise on a peak": lambda: noisy_gaussian(256, 1e-5, 0.04),
         "more on less contrast": lambda: noisy_gaussian(256, 1e-4, 0.03), "unseen target": unseen_target}


@pytest.mark.parametrize(("name", "coarsest"), [*((name, None) for name in CASES), ("noise 5 %", 128)])
def test_what_is_left_is_a_fifth_of_the_discretisation_error_at_most(name, coarsest):
    problem, method = CASES[name](), pmapde.PseudoTransient(coarsest=coarsest)
    solution, tight = pmapde.solve(problem, method), pmapde.solve(problem, method, tolerance=1e-10)
    assert solution.success and tight.success
    left = math.sqrt((problem.source_values * ((solution.displacement - tight.displacement)**2).sum(axis=0)).sum()
                     * problem.grid.cell_volume)
    assert left < PROMISED * solution.map_error  # observed 0.001 to 0.17; up to 2.1 by Newton's own estimate
    assert left < 3 * solution.algebraic_error
    assert abs(solution.cost - tight.cost) <= solution.cost_error + tight.cost_error


@pytest.mark.parametrize("name", ["cosine", "manufactured"])
@pytest.mark.parametrize("shape", [(128, 128), (64, 64, 64)])
def test_the_discretisation_error_is_estimated_at_tight_tolerances_too(name, shape):
    problem = SMOOTH[name](shape)
    solution = pmapde.solve(problem.problem, tolerance=1e-8)
    assert solution.map_error == pytest.approx(problem.map_error(solution.displacement), rel=0.2)


@pytest.mark.parametrize("periodic", [False, True, (True, False)])
def test_the_negative_norm_of_a_wave(periodic):
    grid, slopes = pmapde.Grid((128, 96), [(0, 2), (1, 4)], periodic), np.array([1.0, 0.5])
    x, y = ((centre - low) / length for centre, low, length in zip(grid.cell_centres(), grid.lower, grid.lengths))
    waves = np.cos(2 * np.pi * x) * np.cos(4 * np.pi * y)
    k = np.array([2 * np.pi / 2, 4 * np.pi / 3])
    exact = np.sqrt((k**2).sum()) / (k**2 / slopes).sum() * np.sqrt((waves**2).mean())
    density = np.full(grid.shape, 1 / grid.lengths.prod())
    whole = block_sums(7 + waves, 6.5, density, grid)
    assert whole.shape == (2, 32, 24) and whole[1].sum() == pytest.approx(1.0)
    assert gradient_size(without_mean(whole), grid, slopes) == pytest.approx(exact, rel=0.03)  # of blocks of four cells
    parts = sum(block_sums(7 + waves[rows, columns], 6.5, density[rows, columns], grid, (rows.start, columns.start))
                for rows in (slice(0, 50), slice(50, 128)) for columns in (slice(0, 31), slice(31, 96)))
    np.testing.assert_allclose(parts, whole, atol=1e-15)


def test_a_constant_residual_says_nothing():
    """It is the drift of the flow, whatever the density; means are those under the source."""
    problem = noisy_gaussian(64, 1e-3, 0.0)
    solution = pmapde.solve(problem, tolerance=1e-10)
    operator, phi = MongeAmpere(problem, solution.scheme), solution.displacement_potential
    x, y = problem.grid.cell_centres()
    wrong = phi + 1e-6 * np.cos(np.pi * x) * np.cos(2 * np.pi * y)
    moved = operator.displacement(wrong) - operator.displacement(phi)
    error = math.sqrt((problem.source_values * (moved**2).sum(axis=0)).mean())
    evaluation = operator.evaluate(wrong)
    said = operator.algebraic_error(evaluation)
    assert 0.5 * error < said < 2 * error  # observed 0.9
    evaluation.residual += 1.0
    assert operator.algebraic_error(evaluation) == pytest.approx(said, rel=1e-6)


def test_residuals_tell_the_error_of_a_potential():
    """Smooth errors of a small size, on a density that is not."""
    problem = pmapde.TransportProblem(*(1 + 0.5 * np.cos(k * np.pi * (np.indices((128, 128))[0] + 0.5) / 128)
                                        for k in (1, 2)))
    operator, solution = MongeAmpere(problem), pmapde.solve(problem, tolerance=1e-10)
    x, y = problem.grid.cell_centres()
    wrong = solution.displacement_potential + 1e-5 * np.cos(np.pi * x) * np.cos(2 * np.pi * y)
    moved = operator.displacement(wrong) - solution.displacement
    error = math.sqrt((problem.source_values * (moved**2).sum(axis=0)).mean())
    assert operator.algebraic_error(operator.evaluate(wrong)) == pytest.approx(error, rel=0.3)


@pytest.mark.parametrize("shape", [(1536, 96), (64, 2048), (1000, 31), (96, 6, 5), (8, 128, 64)])
def test_cycles_do_not_mind_narrow_boxes(shape):
    """Smooth waves along the longest axis, in cells that are cubic."""
    grid = pmapde.Grid(shape, [(0, n / max(shape)) for n in shape])
    wave = np.cos(4 * np.pi * grid.cell_centres()[int(np.argmax(shape))])
    operator = MongeAmpere(pmapde.TransportProblem(np.ones(shape), np.ones(shape), grid=grid),
                           "monotone" if len(shape) == 2 else "centred")
    stencil = operator.linearise(np.zeros(shape))
    inside = (slice(1, -1),) * len(shape)
    correction = GeometricMultigrid().build(stencil).apply(wave)[inside]
    left = stencil.apply(np.ascontiguousarray(correction)) - wave
    assert np.linalg.norm(left - left.mean()) < 0.2 * np.linalg.norm(wave)  # 0.6 and more where short axes kept 4 cells


def test_iterations_go_on_where_the_residual_says_so():
    assert counts(pmapde.solve(varying_noise((256, 256), 0.05)), "newton_iterations")[-1] == 2
