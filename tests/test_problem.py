"""Bad input is refused with one sentence that names the argument; good input is normalised and never modified."""
import numpy as np
import pytest

import pmapde
from pmapde.problem import ZERO_FLOOR

ONES = np.ones((8, 8))


def with_value(value):
    array = np.ones((8, 8))
    array[2, 3] = value
    return array


@pytest.mark.parametrize(("source", "error", "message"), [
    (with_value(np.nan), ValueError, r"`source` must be finite, got nan at \(2, 3\)"),
    (with_value(np.inf), ValueError, r"`source` must be finite, got inf at \(2, 3\)"),
    (with_value(-1e-3), ValueError, r"`source` must be non-negative, got -0.001 at \(2, 3\)"),
    (0 * ONES, ValueError, "`source` must have positive mass"),
    (np.ones(8), ValueError, "`source` must have two or three axes"),
    (np.ones((2, 2, 2, 2)), ValueError, "`source` must have two or three axes"),
    (np.ones((1, 8)), ValueError, "at least two cells along every axis"),
    (np.ones((0, 8)), ValueError, "at least two cells along every axis"),
    (ONES + 1j, TypeError, "`source` must be an array of real numbers, got dtype complex128"),
    (np.full((4, 4), "a"), TypeError, "`source` must be an array of real numbers"),
    (np.full((4, 4), None), TypeError, "`source` must be an array of real numbers, got dtype object"),
    (pmapde.LogDensity(lambda x: x[:, 0]), ValueError, "`grid` is needed where `source` is a LogDensity"),
])
def test_bad_sources_are_named(source, error, message):
    with pytest.raises(error, match=message):
        pmapde.TransportProblem(source, ONES)


def test_zeros_are_refused_by_the_equation_only():
    for name, problem in (("source", pmapde.TransportProblem(with_value(0), ONES, floor=0.0)),
                          ("target", pmapde.TransportProblem(ONES, with_value(0), floor=0.0))):
        with pytest.raises(ValueError, match=f"`{name}` is zero in 1 of 64 cells .* pass a positive floor"):
            pmapde.solve(problem)
        assert pmapde.sinkhorn(problem, 0.1, 1).success


@pytest.mark.parametrize(("arguments", "message"), [
    ({"floor": -0.1}, r"`floor` must be a number in \[0, 1\)"),
    ({"floor": 1.0}, r"`floor` must be a number in \[0, 1\)"),
    ({"grid": pmapde.Grid((8, 9))}, "`source` of shape .* does not fit its grid"),
    ({"grid": pmapde.Grid((8, 8), periodic=True), "target_grid": pmapde.Grid((8, 8))}, "periodic along the same axes"),
    ({"grid": pmapde.Grid((8, 8), periodic=True),
      "target_grid": pmapde.Grid((8, 8), box=[(0, 2), (0, 1)], periodic=True)}, "equal periods"),
    ({"interpolation": "quintic"}, "`interpolation` must be 'linear' or 'cubic'"),
])
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        pmapde.TransportProblem(ONES, ONES, **arguments)


def test_source_and_target_of_different_dimension_are_refused():
    with pytest.raises(ValueError, match="same number of axes"):
        pmapde.TransportProblem(ONES, np.ones((4, 4, 4)))


@pytest.mark.parametrize(("arguments", "message"), [
    (((8,),), "two or three whole numbers"), (((8, 1),), "at least two cells"), (((8.5, 8),), "whole numbers"),
    (((8, 8), [(0, 1)]), "one .lower, upper. pair per axis"), (((8, 8), [(1, 0), (0, 1)]), "lower < upper"),
    (((8, 2), None, (False, True)), "three cells along a periodic axis"),
    (((8, 8), [(0, np.inf), (0, 1)]), "finite"), (((8, 8), None, (True,)), "one flag or one per axis"),
])
def test_bad_grids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        pmapde.Grid(*arguments)


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"tolerance": -1.0}, ValueError, "`tolerance` must be"),
    ({"tolerance": "tight"}, ValueError, "`tolerance` must be"),
    ({"threads": 0}, ValueError, "`threads` must be a whole number"), ({"max_steps": 0}, ValueError, "`max_steps`"),
    ({"max_steps": True}, ValueError, "`max_steps`"),
    ({"max_seconds": "a minute"}, ValueError, "`max_seconds` must be"),
    ({"callback": 3}, TypeError, "`callback` must be callable, got int"),
    ({"method": "newton"}, TypeError, "`method` must be"), ({"method": pmapde.BackwardEuler(0.1)}, TypeError, "steps"),
])
def test_bad_settings_of_solve_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        pmapde.solve(pmapde.TransportProblem(ONES, ONES), **arguments)


@pytest.mark.parametrize(("build", "error", "message"), [
    (lambda: pmapde.PseudoTransient(scheme="upwind"), ValueError, "`scheme` must be"),
    (lambda: pmapde.PseudoTransient(linear="amg"), TypeError, "`linear` must be"),
    (lambda: pmapde.PseudoTransient(cut=2.0), ValueError, "0 < cut < 1"),
    (lambda: pmapde.BackwardEuler(0.0), ValueError, "`step` must be a positive time"),
    (lambda: pmapde.Newton(forcing=1.5), ValueError, "0 < forcing < 1"),
    (lambda: pmapde.GeometricMultigrid(pre=0, post=0), ValueError, "`pre` and `post`"),
    (lambda: pmapde.AlgebraicMultigrid(coarsening="none"), ValueError, "`coarsening` must be"),
    (lambda: pmapde.LogDensity(3.0), TypeError, "`function` must be callable"),
])
def test_bad_settings_are_refused_when_built(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_the_floor_of_zeros_adds_little_mass_where_a_peak_holds_most_of_it():
    """1e-4 of the maximum of one bright cell in the dark would be a tenth of the mass, and more."""
    bright = np.zeros((32, 32))
    bright[5, 9] = 7.0
    for sides in ((ONES, bright), (bright, ONES)):
        problem = pmapde.TransportProblem(*sides)
        assert 0 < problem.floor < ZERO_FLOOR and max(problem.floor_mass) == pytest.approx(1e-3, rel=2e-3)
        assert problem.swapped().floor_mass == problem.floor_mass[::-1]
    half = pmapde.TransportProblem(with_value(0) * (np.arange(8) < 4), ONES, floor=0.01)
    assert half.floor_mass == (pytest.approx(0.01 * 33 / (31 + 0.01 * 33)), 0.0)
    assert pmapde.TransportProblem(ONES, ONES, floor=0.01).floor_mass == (0, 0)
    assert pmapde.TransportProblem(ONES, ONES).floor_mass == (0, 0)


def test_zeros_get_a_floor_of_their_own():
    for source, target in ((with_value(0), ONES), (ONES, with_value(0))):
        problem = pmapde.TransportProblem(source, target)
        assert problem.floor == ZERO_FLOOR
        assert min(problem.source_values.min(), problem.target_values.min()) > 0
    assert not pmapde.TransportProblem(with_value(0), ONES).source_support[2, 3]
    assert pmapde.TransportProblem(ONES, ONES).floor == 0 and pmapde.TransportProblem(ONES, ONES).source_support.all()


@pytest.mark.parametrize("kind", [np.float32, np.int16, np.uint8, bool])
def test_any_real_dtype_order_and_read_only_array_is_taken_and_left_alone(kind):
    source = np.asfortranarray(np.arange(1, 49).reshape(6, 8) % 5 + 1).astype(kind)
    copy = source.copy()
    source.flags.writeable = False
    problem = pmapde.TransportProblem(source, np.ones((5, 7)))
    assert problem.source_values.sum() * problem.grid.cell_volume == pytest.approx(1)
    assert pmapde.solve(problem).success
    assert np.array_equal(source, copy)


def test_extreme_scales_do_not_overflow():
    source = 1 + np.random.default_rng(1).random((8, 8))
    for scale in (1e-300, 1e300):
        problem = pmapde.TransportProblem(source * scale, ONES * scale)
        assert problem.source_log_mass == pytest.approx(np.log(scale) + np.log(source.mean()))
        assert pmapde.solve(problem).success


def test_sums_of_huge_values_do_not_overflow():
    assert pmapde.solve(pmapde.TransportProblem(np.full((4, 4), 1e308), ONES)).success


@pytest.mark.filterwarnings("ignore:the Hessian of the potential is too anisotropic")  # so it is
def test_an_absurdly_stretched_box_ends_in_a_status():
    grid = pmapde.Grid((32, 32), box=[(0, 1e9), (0, 1)], periodic=(False, True))
    x = grid.cell_centres() / grid.lengths[:, None, None]
    source, target = (1 + a * np.cos(2 * np.pi * x[0]) * np.cos(2 * np.pi * x[1]) for a in (0.1, 0.4))
    assert isinstance(pmapde.solve(pmapde.TransportProblem(source, target, grid=grid)).status, pmapde.Status)


def test_numpy_scalars_are_numbers():
    problem = pmapde.TransportProblem(ONES, ONES)
    assert pmapde.solve(problem, tolerance=np.float32(1e-6), threads=np.int64(1), max_steps=np.int64(5)).success


def test_log_masses_are_kept():
    grid = pmapde.Grid((64, 64), box=[(-6, 6), (-6, 6)])
    normal = pmapde.LogDensity(lambda x: 5 - 0.5 * (x**2).sum(axis=1), gradient=lambda x: -x)
    problem = pmapde.TransportProblem(normal, normal, grid=grid)
    assert problem.source_log_mass == pytest.approx(5 + np.log(2 * np.pi), abs=1e-8)
    solution = pmapde.solve(problem)
    assert solution.success and np.abs(solution.displacement).max() < 1e-8


def test_differenced_gradients_serve_like_given_ones():
    def log_density(x):
        return 0.3 * np.cos(np.pi * x[:, 0]) * np.cos(np.pi * x[:, 1])

    def gradient(x):
        a, b = np.pi * x.T
        return -0.3 * np.pi * np.stack([np.sin(a) * np.cos(b), np.cos(a) * np.sin(b)], axis=1)
    costs = [pmapde.solve(pmapde.TransportProblem(ONES, pmapde.LogDensity(log_density, g)), tolerance=1e-9).cost
             for g in (None, gradient)]
    assert costs[0] == pytest.approx(costs[1], rel=1e-9)
