"""The monotone operator on the 26 neighbours: the infimum over all non-negative weights, and what follows from it."""
import itertools

import numpy as np
import pytest
from reference import centred_log_determinant
from test_kernels import error_on_quadratic, largest_fall, operator, random_potential, smooth_potential
from tools import orders, solve_exact

import pmapde
from pmapde import exact
from pmapde.grid import Grid
from pmapde.kernels import monge_ampere_3d_monotone as kernel
from pmapde.monge_ampere import EXTENSION


def network(weights, offsets):
    """``sum_k w_k v_k v_k'``."""
    return np.einsum("k,ki,kj->ij", weights, offsets, offsets)


def seen_through(p, number):
    """Value and weights of the kernel for second differences ``p`` along a superbase, and its offsets."""
    value, weights = kernel._seen_through(tuple(p), np.inf, kernel.workspace())
    return np.log(value), np.array(weights), kernel.OFFSETS[kernel.SUPERBASES[number]].astype(float)


def test_there_are_28_superbases_each_with_six_of_the_13_offsets():
    assert kernel.SUPERBASES.shape == (28, 6)
    for edges in kernel.SUPERBASES:
        a, b, c, ab, ac, bc = kernel.OFFSETS[edges]
        assert abs(round(np.linalg.det([a, b, c]))) == 1
        for one, other, difference in ((a, b, ab), (a, c, ac), (b, c, bc)):
            assert any(np.array_equal(one - sign * other, turn * difference)
                       for sign, turn in itertools.product((1, -1), repeat=2))


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
def test_value_of_a_superbase_is_the_infimum_over_all_non_negative_weights(spread):
    """Primal feasible weights with the dual's value: no duality gap, so both are optimal, faces included."""
    rng, faces = np.random.default_rng(0), 0
    for _ in range(300):
        p = np.exp(spread * rng.standard_normal(6))
        value, weights, offsets = seen_through(p, rng.integers(28))
        assert (weights >= 0).all()
        assert abs(weights @ p - np.linalg.slogdet(network(weights, offsets))[1] - 3 - value) < 1e-9
        faces += (weights == 0).any()
        other = weights * np.exp(0.3 * rng.standard_normal(6)) + 0.01 * rng.random(6)
        assert other @ p - np.linalg.slogdet(network(other, offsets))[1] - 3 >= value - 1e-12
    assert faces > 100


def test_exact_on_quadratics_whose_inverse_has_an_obtuse_superbase_in_the_stencil():
    op, rng = operator((7, 7, 7), "monotone"), np.random.default_rng(1)
    worst = 0.0
    for number in range(28):
        offsets = kernel.OFFSETS[kernel.SUPERBASES[number]]
        matrix = np.linalg.inv(network(rng.exponential(size=6) + 0.01, offsets))
        worst = max(worst, error_on_quadratic(op, matrix / np.linalg.det(matrix) ** (1 / 3)))
    assert worst < 1e-11  # observed 7e-14
    axes, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    assert error_on_quadratic(op, axes @ np.diag([0.05, 1.0, 20.0]) @ axes.T) > 0.1  # too anisotropic


def test_condition_4_is_within_reach_in_every_orientation():
    op, rng = operator((7, 7, 7), "monotone"), np.random.default_rng(2)
    for _ in range(40):
        axes, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        assert error_on_quadratic(op, axes @ np.diag([0.5, 2.0 ** rng.uniform(-1, 1), 2.0]) @ axes.T) < 1e-11


@pytest.mark.parametrize("periodic", [False, True])
def test_never_falls_when_neighbours_rise(periodic):
    rng = np.random.default_rng(3)
    assert largest_fall(operator((8, 7, 6), "monotone", periodic), periodic, rng) < 1e-10  # observed 4e-15
    assert largest_fall(operator((8, 7, 6), "centred", periodic), periodic, rng) > 0.1


def test_log_determinant_is_concave_and_close_to_the_centred_one_on_smooth_potentials():
    op, rng = operator((8, 7, 6), "monotone"), np.random.default_rng(4)
    for _ in range(10):
        one, other, t = random_potential(op, rng), random_potential(op, rng), rng.random()
        values = [op.log_determinant(phi) for phi in (one, other, t * one + (1 - t) * other)]
        assert (t * values[0] + (1 - t) * values[1] - values[2]).max() < 1e-10
    gaps = []
    for n in (12, 24, 48):
        op = operator((n, n, n), "monotone")
        phi = smooth_potential(op.grid)
        gaps.append(np.abs(op.log_determinant(phi)
                           - centred_log_determinant(phi, op.quadratic, op.grid.spacing, op.grid.periodic)).max())
    assert orders(gaps)[-1] > 1.6  # observed 1.71; the kinks between superbases fade slowly


@pytest.mark.parametrize("periodic", [(False,) * 3, (True,) * 3, (True, False, True)])
def test_linearisation_is_an_m_matrix_and_equals_its_sparse_rows(periodic):
    op = operator((7, 6, 8), "monotone", periodic)
    stencil = op.linearise(random_potential(op, np.random.default_rng(5)), shift=0.3)
    matrix = stencil.matrix().toarray()
    assert (matrix - np.diag(np.diag(matrix))).max() <= 0
    field = np.random.default_rng(6).standard_normal(op.grid.shape)
    assert np.allclose(stencil.apply(field).ravel(), matrix @ field.ravel(), rtol=0, atol=1e-12 * np.abs(matrix).max())


@pytest.mark.parametrize("rough", [False, True])
def test_linearisation_is_the_derivative_of_the_residual(rough):
    grid = Grid((10, 9, 11))
    turns = 2 * np.pi * grid.cell_centres()
    target = 1 + 0.3 * np.cos(turns[0] + 0.4) * np.cos(turns[1]) + (3 * (turns[0] > np.pi) if rough else 0)
    op = operator(grid.shape, "monotone", target=target)
    phi = smooth_potential(grid) + 1e-4 * np.random.default_rng(7).standard_normal(grid.shape)  # off the kinks
    direction = np.cos(turns[0] / 2) * np.cos(turns[1]) / (2 * np.pi)**2
    step, stencil = 1e-6, op.linearise(phi)
    slope = (op.residual(phi + step * direction) - op.residual(phi - step * direction)) / (2 * step)
    error = np.abs(slope + stencil.apply(direction))
    assert np.median(error) < 1e-6 * np.abs(slope).max()
    assert (error > 1e-4 * np.abs(slope).max()).mean() < 0.02  # where a superbase changes within the step


def test_extension_is_finite_and_its_weights_non_negative_everywhere():
    op, rng = operator((8, 7, 6), "monotone"), np.random.default_rng(8)
    for margin in (0.6, 0.2, -1.0, -30.0):
        phi = random_potential(op, rng, margin)
        residual, extended = op.residual(phi), op.evaluate(phi, extend=True)
        inside = (residual >= EXTENSION[0]) & (residual <= EXTENSION[1])
        assert np.array_equal(extended.residual[inside], residual[inside])
        assert extended.extended == (~inside).sum()
        assert np.isfinite(extended.residual).all() and (extended.weights >= 0).all()
        assert (extended.residual >= residual - 1e-12)[~np.isnan(residual)].all()  # tangents of a concave function


@pytest.mark.parametrize("linear", [pmapde.GeometricMultigrid(), pmapde.BlackBoxMultigrid(),
                                    pmapde.AlgebraicMultigrid(), pmapde.Direct()], ids=lambda method: method.name)
def test_every_linear_solver_takes_the_27_point_rows(linear):
    op = operator((16, 15, 14), "monotone", target=1 + 0.2 * np.random.default_rng(9).random((16, 15, 14)))
    from pmapde.equation import new_stats
    from pmapde.linear.solver import LinearSolver
    stencil = op.linearise(smooth_potential(op.grid))
    rhs = np.random.default_rng(10).standard_normal(op.grid.shape)
    result = LinearSolver(linear, new_stats()).solve(stencil, rhs, 1e-8)
    assert result.converged and result.applications < 30


def test_solutions_are_second_order():
    errors = []
    for n in (12, 24, 48):
        problem = exact.manufactured((n,) * 3)
        solution = solve_exact(problem, method=pmapde.PseudoTransient(scheme="monotone"))
        x = problem.problem.grid.cell_centres().reshape(3, -1).T
        errors.append(np.sqrt(((solution.map(x) - problem.map(x)) ** 2).sum(axis=1).mean()))
    assert orders(errors).min() > 1.8


@pytest.mark.parametrize("spread", [0.02, 0.5, 1.5])
def test_superbases_that_are_given_up_early_were_not_the_least(spread):
    """The bound in closed form against all 28 superbases solved to the end, from flat to wild second differences."""
    rng, space, weights = np.random.default_rng(8), kernel.workspace(), np.empty(13)
    plain = (kernel.OFFSETS**2).sum(axis=1)
    for _ in range(200):
        differences = plain * np.exp(spread * rng.standard_normal(13))
        determinant, active = kernel._least(differences, space, int(rng.integers(28)), weights)
        each = [kernel._seen_through(tuple(differences[edges]), np.inf, space) for edges in kernel.SUPERBASES]
        least = min(value for value, _ in each)
        assert determinant == pytest.approx(least, rel=1e-12) and each[active][0] == pytest.approx(least, rel=1e-12)
        assert weights @ differences == pytest.approx(3, rel=1e-9)  # the logarithm's degree
