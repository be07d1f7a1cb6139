"""Second order in potential, map and W2^2 on problems with known answers, on every pair of grids."""
import functools

import numpy as np
import pytest
from tools import orders, solve_exact

import pmapde
from pmapde import exact

PROBLEMS_2D = {
    "separable cosine, box, uniform target": exact.separable_cosine,
    "separable cosine, torus, uniform target": functools.partial(exact.separable_cosine, periodic=True),
    "non-separable, box, uniform target": functools.partial(exact.manufactured, uniform_target=True),
    "non-separable, box, non-uniform target": exact.manufactured,
    "non-separable, torus, non-uniform target": functools.partial(exact.manufactured, periodic=True),
    "non-separable, box, target given as an array": functools.partial(exact.manufactured, array_target=True),
    "expanding Gaussians": exact.gaussians,
}
PROBLEMS_3D = {
    "separable cosine, box": exact.separable_cosine,
    "non-separable, box, non-uniform target": exact.manufactured,
    "non-separable, torus, non-uniform target": functools.partial(exact.manufactured, periodic=True),
}


def errors(problem):
    solution = solve_exact(problem)
    return (problem.potential_error(solution.potential), problem.map_error(solution.displacement),
            abs(solution.cost / problem.cost - 1))


@pytest.mark.parametrize("name", PROBLEMS_2D)
def test_second_order_in_2d_on_every_pair_of_grids(name):
    table = np.array([errors(PROBLEMS_2D[name]((n, n))) for n in (32, 64, 128, 256)])
    observed = np.array([orders(column) for column in table.T])
    assert observed.min() > 1.9, observed  # observed 1.975 to 2.006 over all problems, quantities and pairs
    assert observed.max() < 2.1, observed


@pytest.mark.parametrize("name", PROBLEMS_3D)
def test_second_order_in_3d_on_every_pair_of_grids(name):
    table = np.array([errors(PROBLEMS_3D[name]((n, n, n))) for n in (16, 32, 64)])
    observed = np.array([orders(column) for column in table.T])
    assert observed.min() > 1.9, observed  # observed 1.975 to 2.006 over all problems, quantities and pairs
    assert observed.max() < 2.1, observed


def test_separable_cosine_at_256_is_as_accurate_as_promised():
    problem = exact.separable_cosine((256, 256))
    solution = solve_exact(problem)
    assert problem.map_error(solution.displacement) < 6e-6  # observed 4.8e-6
    assert abs(solution.cost / problem.cost - 1) < 1.5e-4  # observed 1.0e-4


def test_non_separable_with_non_uniform_target_at_256_is_as_accurate():
    problem = exact.manufactured((256, 256))
    solution = solve_exact(problem)
    assert problem.map_error(solution.displacement) < 6e-6  # observed 8.9e-7
    assert abs(solution.cost / problem.cost - 1) < 1.5e-4  # observed 3.5e-5


def test_separable_cosine_in_3d_at_64_is_as_accurate_as_promised():
    problem = exact.separable_cosine((64, 64, 64))
    solution = solve_exact(problem)
    assert problem.map_error(solution.displacement) < 1.2e-4  # observed 9.4e-5


@pytest.mark.parametrize("shape", [(37, 64), (50, 33), (96, 17)])
def test_odd_and_unequal_axes_are_as_accurate_as_their_coarser_axis(shape):
    problem = exact.manufactured(shape)
    coarse = exact.manufactured((min(shape),) * 2)
    assert (problem.map_error(solve_exact(problem).displacement)
            < 1.2 * coarse.map_error(solve_exact(coarse).displacement))


def test_default_tolerance_leaves_the_discretisation_error():
    problem = exact.manufactured((128, 128))
    default = problem.map_error(solve_exact(problem).displacement)
    tight = problem.map_error(solve_exact(problem, tolerance=1e-10).displacement)
    assert default == pytest.approx(tight, rel=0.01)  # observed 1.4e-3


def test_tail_matched_gaussians_reproduce_the_affine_map():
    problem = exact.gaussians((64, 64), kind="tail_matched")
    solution = solve_exact(problem, tolerance=1e-10)
    assert problem.map_error(solution.displacement) < 1e-10  # the affine map is exact on the grid


@pytest.mark.parametrize("kind", ["manufactured", "separable_cosine", "gaussians"])
def test_both_schemes_are_of_second_order(kind):
    """The other tests take the default, which is one of them."""
    measured = {"monotone": [], "centred": []}
    for n in (32, 64, 128):
        problem = getattr(exact, kind)((n, n))
        for scheme, found in measured.items():
            solution = solve_exact(problem, tolerance=1e-9, method=pmapde.PseudoTransient(scheme=scheme))
            assert solution.scheme == scheme
            found.append(problem.map_error(solution.displacement))
    for found in measured.values():
        assert (np.log2(np.divide(found[:-1], found[1:])) > 1.9).all()
