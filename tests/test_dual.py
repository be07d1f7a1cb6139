"""W2^2 by the Kantorovich dual: a lower bound, closer than the map's cost on rough data, and then the cost reported."""
import numpy as np
import pytest
from random_fields import pair

import pmapde
from pmapde import dual
from pmapde.dual import kantorovich_dual


def exact_cost_1d(weights):
    """W2^2 from a histogram on the unit interval to the uniform density, by its quantile function (midpoint rule)."""
    edges = np.linspace(0, 1, len(weights) + 1)
    mass = np.concatenate([[0], np.cumsum(weights) / np.sum(weights)])
    s = (np.arange(2**20) + 0.5) / 2**20
    return float(np.mean((np.interp(s, mass, edges) - s) ** 2))


def rough_product(shape, contrast):
    """A product density of independent cells, and its W2^2 to the uniform one."""
    rng = np.random.default_rng(1)
    factors = [np.exp(rng.uniform(0, np.log(contrast), n)) for n in shape]
    source = factors[0]
    for factor in factors[1:]:
        source = np.multiply.outer(source, factor)
    return source, sum(exact_cost_1d(factor) for factor in factors)


def cost_of_the_map(solution):
    return float(((solution.displacement**2).sum(axis=0) * solution.problem.source_masses).mean())


@pytest.mark.parametrize(("shape", "contrast"), [((32, 32), 3.0), ((32, 32), 30.0), ((48, 32), 10.0),
                                                 ((128, 128), 10.0), ((16,) * 3, 10.0), ((32,) * 3, 10.0)])
def test_a_lower_bound_and_closer_on_rough_data(shape, contrast):
    source, exact = rough_product(shape, contrast)
    solution = pmapde.solve(pmapde.TransportProblem(source, np.ones(shape)))
    assert solution.success
    assert solution.dual_cost < 1.005 * exact  # between the centres, where the map jumps, transforms may be too low
    assert abs(solution.dual_cost / exact - 1) < 0.02
    assert abs(solution.dual_cost - exact) <= abs(cost_of_the_map(solution) - exact)


@pytest.mark.parametrize("shape", [(32, 32), (32,) * 3])
def test_cost_is_the_dual_where_data_are_rough(shape):
    source, exact = rough_product(shape, 10.0)
    solution = pmapde.solve(pmapde.TransportProblem(source, np.ones(shape)))
    assert solution.stats["cost"] == "dual" and solution.cost == solution.dual_cost
    assert abs(solution.cost - exact) < solution.cost_error
    assert solution.cost_error >= abs(solution.cost - cost_of_the_map(solution))
    assert solution.w2 == pytest.approx(np.sqrt(solution.cost), rel=1e-15)


def test_cost_is_the_dual_of_an_entropic_plan():
    solution = pmapde.solve(pmapde.TransportProblem(*pair("shapes", (32, 32), 1e3, 3)))
    assert solution.blur > 0 and solution.stats["cost"] == "dual"
    assert solution.cost == solution.dual_cost
    assert solution.cost == pytest.approx(cost_of_the_map(solution), rel=0.03)


def test_cost_is_that_of_the_map_on_smooth_data_and_on_the_torus():
    x = (np.arange(64) + 0.5) / 64
    smooth = np.outer(1 + 0.6 * np.cos(np.pi * x), 1 + 0.6 * np.cos(np.pi * x))
    found = {wanted: pmapde.solve(pmapde.TransportProblem(smooth, np.ones((64, 64))), extrapolate=wanted)
             for wanted in (None, "cost")}
    assert {solution.stats["cost"] for solution in found.values()} == {"map", "extrapolated"}
    assert found[None].cost == pytest.approx(cost_of_the_map(found[None]), rel=1e-12)
    torus = pmapde.Grid((32, 32), periodic=True)
    rough = rough_product((32, 32), 10.0)[0]
    assert pmapde.solve(pmapde.TransportProblem(rough, np.ones((32, 32)), grid=torus)).stats["cost"] == "map"


@pytest.mark.parametrize("contrast", [10.0, 1e3])
def test_equal_rough_densities_have_no_negative_cost(contrast):
    """A dual may be; nor do they cost more than a fraction of a cell."""
    source = rough_product((32, 32), contrast)[0]
    solution = pmapde.solve(pmapde.TransportProblem(source, source))
    assert 0 <= solution.w2 < 0.3 / 32


@pytest.mark.parametrize("origin", [1e3, 1e6])
def test_far_from_the_origin(origin):
    source, target = pair("white noise", (32, 32), 10.0, 0)
    costs = [pmapde.solve(pmapde.TransportProblem(source, target, grid=pmapde.Grid((32, 32), [(a, a + 1)] * 2))).cost
             for a in (0.0, origin)]
    assert costs[1] == pytest.approx(costs[0], rel=1e-8)


def test_parts_of_the_finer_grid(monkeypatch):
    """Sixteen parts of a coarse source would be 4096 cells of a fine target."""
    sizes = []
    real = dual.legendre_conjugate
    monkeypatch.setattr(dual, "legendre_conjugate",
                        lambda u, grid, other, between: (sizes.append(other.size), real(u, grid, other, between))[1])
    rng = np.random.default_rng(0)
    problem = pmapde.TransportProblem(rng.random((16, 16)), rng.random((128, 128)))
    kantorovich_dual(problem, np.zeros((16, 16)))
    assert max(sizes) == dual.EXTRAPOLATED[2] and min(sizes) == (16 * 4)**2  # extrapolated from halves


def test_a_dual_worse_than_the_map_is_not_taken():
    """Nearly equal densities: the potential's error is as large as the cost, and the estimate says so."""
    rng = np.random.default_rng(5)
    x = (np.arange(32) + 0.5) / 32
    factors = [np.exp(rng.uniform(0, np.log(10), 32)) for _ in range(2)]
    moved = [factor * (1 + 0.03 * np.cos(np.pi * x)) for factor in factors]

    def quantiles(weights, s):
        mass = np.concatenate([[0], np.cumsum(weights) / weights.sum()])
        return np.interp(s, mass, np.linspace(0, 1, 33))
    s = (np.arange(2**20) + 0.5) / 2**20
    exact = sum(float(np.mean((quantiles(a, s) - quantiles(b, s))**2)) for a, b in zip(factors, moved))
    solution = pmapde.solve(pmapde.TransportProblem(np.outer(*factors), np.outer(*moved)))
    assert solution.stats["cost"] == "map" and solution.dual_cost < 0.7 * solution.cost
    assert abs(solution.cost - exact) < solution.cost_error


def test_for_no_flux_boxes():
    torus = pmapde.Grid((8, 8), periodic=True)
    solution = pmapde.solve(pmapde.TransportProblem(1 + np.eye(8), np.ones((8, 8)), grid=torus))
    with pytest.raises(ValueError, match="no-flux"):
        _ = solution.dual_cost


def test_second_order_in_the_parts_of_cells():
    """At the potential of a smooth problem: the midpoint rule is what is left, and extrapolated."""
    x = (np.arange(32) + 0.5) / 32
    problem = pmapde.TransportProblem(np.outer(1 + 0.6 * np.cos(np.pi * x), 1 + 0.6 * np.cos(np.pi * x)),
                                      np.ones((32, 32)))
    phi = pmapde.solve(problem).displacement_potential
    values = [dual._sampled(problem, phi, (parts, parts)) for parts in (2, 4, 8, 16)]
    changes = np.abs(np.diff(values))
    assert (changes[:-1] / changes[1:] > 3.5).all() and changes[0] < 1e-3 * values[0]
    limit = values[-1] + (values[-1] - values[-2]) / 3
    assert abs(kantorovich_dual(problem, phi) - limit) < 0.2 * abs(values[-1] - limit)  # observed 0.03


@pytest.mark.parametrize(("kind", "shape"), [("Gaussian, rough", (32, 32)), ("log-Gaussian", (32, 32)),
                                             ("Cauchy", (32, 32)), ("shapes", (32, 32)), ("photographs", (32, 32)),
                                             ("Gaussian, rough", (16,) * 3), ("log-Gaussian", (16,) * 3)])
def test_extrapolation_is_as_good_as_more_parts_on_rough_data(kind, shape):
    solution = pmapde.solve(pmapde.TransportProblem(*pair(kind, shape, 10.0, 1)))
    problem, phi = solution.problem, solution.displacement_potential
    fine, finer = (dual._sampled(problem, phi, (parts, parts)) for parts in ((16, 32) if len(shape) == 2 else (4, 8)))
    limit = finer + (finer - fine) / 3
    assert abs(kantorovich_dual(problem, phi) - limit) < abs(fine - limit)
