"""The back-and-forth method of the benchmarks on problems with known answers."""
import back_and_forth as baf
import numpy as np
import pytest
from scipy.fft import dctn, idctn

from pmapde import exact, gallery
from pmapde.grid import Grid


@pytest.mark.parametrize("shape", [(12, 9), (5, 7, 6)])
def test_c_transform_is_the_minimum_over_all_cells(shape):
    potential = np.random.default_rng(0).standard_normal(shape) / 50
    points = Grid(shape).cell_centres().reshape(len(shape), -1).T
    costs = ((points[:, None] - points)**2).sum(axis=2) / 2
    direct = (costs - potential.ravel()).min(axis=1).reshape(shape)
    assert baf.c_transform(potential) == pytest.approx(direct, abs=1e-14)


def test_conjugating_three_times_is_conjugating_once():
    once = baf.c_transform(np.random.default_rng(1).standard_normal((20, 17)))
    assert baf.c_transform(baf.c_transform(once)) == pytest.approx(once, abs=1e-13)


@pytest.mark.parametrize("shape", [(16, 12), (8, 6, 7)])
def test_push_forward_keeps_the_mass_and_stays_without_a_potential(shape):
    mass = np.random.default_rng(2).random(shape)
    assert baf.push_forward(mass, np.random.default_rng(3).random(shape) / 10).sum() == pytest.approx(mass.sum())
    assert baf.push_forward(np.ones(shape), np.zeros(shape)) == pytest.approx(np.ones(shape), abs=1e-13)


@pytest.mark.parametrize("sizes", [(24, 48, 96), (10, 20)])
def test_push_forward_follows_the_known_map(sizes):
    errors, ndim = [], 5 - len(sizes)
    for n in sizes:
        problem = exact.separable_cosine((n,) * ndim, 0.4)
        points = problem.problem.grid.cell_centres().reshape(ndim, -1).T
        psi = ((points**2).sum(axis=1) / 2 - problem.potential(points)).reshape(problem.problem.grid.shape)
        # In H^-1: pointwise the samples make a moiré that does not fade.
        excess = dctn(baf.push_forward(problem.problem.source_values, psi) - 1, norm="ortho")
        errors.append(np.sqrt((excess**2 / baf.poisson_symbol(excess.shape)).mean()))
    assert errors[-1] < 0.003 and all(fine < 0.6 * coarse for coarse, fine in zip(errors, errors[1:]))


def test_poisson_symbol_inverts_the_laplacian_with_no_flux():
    field = np.random.default_rng(4).standard_normal((9, 14))
    ghosted = np.pad(field, 1, mode="symmetric")
    negative = sum(n**2 * (2 * field - ghosted[low] - ghosted[high]) for n, low, high in (
        (9, np.s_[:-2, 1:-1], np.s_[2:, 1:-1]), (14, np.s_[1:-1, :-2], np.s_[1:-1, 2:])))
    back = idctn(dctn(negative, norm="ortho") / baf.poisson_symbol(field.shape), norm="ortho")
    assert back == pytest.approx(field - field.mean(), abs=1e-12)


@pytest.mark.parametrize("build", [exact.separable_cosine, exact.manufactured, exact.gaussians])
def test_back_and_forth_converges_at_first_order(build):
    errors, costs, duals = [], [], []
    for n in (32, 64, 128):
        problem = build((n, n))
        result = baf.solve(problem.problem.source_values, problem.problem.target_values)
        assert result.reason == "stalled" and result.iterations < 40
        errors.append(problem.map_error(result.displacement))
        costs.append(abs((result.displacement**2).sum(axis=0).ravel() @ problem.problem.source_values.ravel() / n**2
                         / problem.cost - 1))
        duals.append(abs(result.cost / problem.cost - 1))
    assert errors[-1] < 6e-4 and errors[0] / errors[-1] > 3  # 4 would be first order, but the floor wobbles
    assert costs[-1] < 1e-3
    assert duals[0] / duals[-1] > 11  # second order is 16


def test_back_and_forth_in_three_dimensions():
    problem = exact.separable_cosine((16, 16, 16))
    result = baf.solve(problem.problem.source_values, problem.problem.target_values)
    assert problem.map_error(result.displacement) < 5e-3


def test_back_and_forth_stops_where_told_and_refuses_other_shapes():
    density = gallery.load("cosine", (16, 16))
    assert baf.solve(density, np.ones((16, 16)), iterations=2).reason == "iterations"
    assert baf.solve(density, np.ones((16, 16)), tolerance=0.1).reason == "converged"
    with pytest.raises(ValueError, match="same shape"):
        baf.solve(density, np.ones((16, 15)))
