"""Hard data: a small battery with an independent verdict, no silent failure, zeros, remedies that work."""
import dataclasses
import functools
import time
import warnings

import numpy as np
import pytest
import random_fields
import verdict
from random_fields import KINDS, pair

import pmapde
from pmapde import barycentric, conservation, exact, fallback, remedies, transport
from pmapde.equation import new_stats
from pmapde.linear.geometric import GeometricMultigrid
from pmapde.linear.solver import LinearSolver
from pmapde.monge_ampere import MongeAmpere
from pmapde.status import Status
from pmapde.transfer import average, interpolate_cubic
from pmapde.transport import PiecewiseAffineMap


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pmapde.StencilWarning)
        yield


EQUATION = pmapde.PseudoTransient(entropic=False)
"""Without the plans that make up for it."""


def solved(source, target, floor=None, **arguments):
    return pmapde.solve(pmapde.TransportProblem(source, target, floor=floor), **arguments)


@pytest.mark.parametrize("shape", [(16, 16), (8, 10, 12)])
@pytest.mark.parametrize("kind", KINDS)
def test_random_densities_have_their_contrast_and_repeat(kind, shape):
    source, target = pair(kind, shape, 1e3, 7)
    for values in (source, target):
        assert values.shape == shape
        assert values.max() == 1 and values.min() == pytest.approx(1e-3)
    assert not np.array_equal(source, target)
    assert np.array_equal(pair(kind, shape, 1e3, 7)[1], target)


def test_rough_fields_are_rougher_than_smooth_ones():
    rng = np.random.default_rng(0)
    jumps = [np.abs(np.diff(random_fields.unit(random_fields.gaussian((64, 64), s, rng)), axis=0)).mean()
             for s in (0.25, 1.0, 2.5)]
    assert jumps[0] > 1.3 * jumps[1] > 1.3**2 * jumps[2]


@pytest.mark.parametrize("contrast", [10.0, 1e3, 1e6])
@pytest.mark.parametrize("kind", KINDS)
def test_no_failure_is_silent(kind, contrast):
    """Sound, or an honest status; up to a contrast of 1000 sound."""
    source, target = pair(kind, (32, 32), contrast, 0)
    solution = solved(source, target, method=None if contrast < 1e4 else pmapde.PseudoTransient(subdivision=1))
    judged = verdict.judge(solution, source, target)
    if contrast < 1e4:
        assert solution.success, str(solution)
    if solution.success:
        assert judged.sound, judged
    assert judged.outside == 0 and judged.folded == 0  # straightened even where the mass is misplaced


@pytest.mark.parametrize("kind", KINDS)
def test_rough_volumes_are_sound(kind):
    source, target = pair(kind, (16, 16, 16), 10.0, 0)
    solution = solved(source, target)
    assert solution.success and verdict.judge(solution, source, target).sound


def test_the_verdict_sees_misplaced_mass_folds_and_points_outside():
    class Made:
        def __init__(self, function):
            self.map = function
    source = np.ones((32, 32))
    half = np.repeat([1.0, 3.0], 16)[:, None] * source
    identity = Made(lambda x: x)
    assert verdict.judge(identity, source, source) == verdict.Verdict(*[pytest.approx(0, abs=1e-12)] * 2, 0, 0, 0)
    assert verdict.judge(identity, source, half).misplaced == pytest.approx(0.25)
    assert verdict.judge(Made(lambda x: x[:, ::-1]), source, source).folded == pytest.approx(1)
    turned = verdict.judge(Made(lambda x: 1 - x), source, source)
    assert turned.folded == 0 and turned.crooked == pytest.approx(1)  # a half turn keeps the orientation
    assert verdict.judge(Made(lambda x: x + 0.1), source, source).outside > 1000


def test_the_correction_moves_the_mass_to_its_place_and_leaves_smooth_data_alone():
    for kind, contrast, misplaced in (("white noise", 10.0, 0.011), ("microscopy", 1e3, 0.031)):  # observed
        source, target = pair(kind, (32, 32), contrast, 0)
        plain = solved(source, target, method=pmapde.PseudoTransient(conserve=False))
        assert plain.push_forward_error == pytest.approx(misplaced, rel=0.1)
        assert plain.status is (Status.MASS_MISPLACED if misplaced > 0.018 else Status.CONVERGED)
        solution = solved(source, target)
        assert solution.success and solution.push_forward_error < 0.7 * misplaced
        record = solution.stats["misplaced"][0]["by round"]
        assert record[0] == pytest.approx(plain.push_forward_error, rel=0.05)
        assert min(record) == pytest.approx(solution.push_forward_error, rel=0.05)
    smooth = exact.manufactured((64, 64)).problem
    one, other = (pmapde.solve(smooth, pmapde.PseudoTransient(conserve=c)) for c in (True, False))
    assert np.array_equal(one.potential, other.potential)


def test_a_misplaced_map_is_raised_with_its_remedy_and_a_finer_grid_is_one():
    source, target = pair("microscopy", (32, 32), 1e3, 0)
    method = pmapde.PseudoTransient(conserve=False)
    with pytest.raises(pmapde.SolverError, match="MASS_MISPLACED: .* use a finer grid") as caught:
        solved(source, target, method=method, throw=True)
    assert caught.value.solution.push_forward_error > 0.02
    fine = [np.kron(values, np.ones((4, 4))) for values in (source, target)]
    assert solved(*fine).success
    floored = pmapde.TransportProblem(source, target, floor=0.3)
    assert pmapde.solve(floored).success


def test_subdivided_cells_give_a_solution_on_the_grid_asked_for(tmp_path):
    source, target = pair("log-Gaussian", (32, 32), 1e3, 0)
    solution = solved(source, target)
    assert solution.success and solution.subdivision > 1
    assert solution.displacement.shape == (2, 32, 32) and solution.potential.shape == (32, 32)
    centres = solution.problem.grid.cell_centres().reshape(2, -1)
    assert np.allclose(solution.map(centres.T).T.reshape(2, 32, 32), centres.reshape(2, 32, 32) + solution.displacement)
    assert solution.push_forward().sum() / 32**2 == pytest.approx(1)
    y = np.random.default_rng(1).random((500, 2))
    assert np.abs(solution.map(solution.inverse_map(y)) - y).max() < 1e-12
    solution.save(tmp_path / "fine")
    again = pmapde.load(tmp_path / "fine")
    assert np.array_equal(again.displacement, solution.displacement)
    assert np.array_equal(again.map(y), solution.map(y))


def test_finer_cells_start_from_a_convex_potential_where_the_interpolant_is_none():
    """A kinked potential, sampled at the coarse cells: the cubic interpolant overshoots, its convex hull does not."""
    n = 32
    source, target = pair("shapes", (n, n), 1e3, 1)
    problem = pmapde.TransportProblem(source, target)
    fine = conservation.subdivided(problem)
    operator = MongeAmpere(fine)
    x = problem.grid.cell_centres()
    kinked = np.maximum(0.4 * (x[0] - 0.3), 0.4 * (x[1] - 0.6)) - 0.4 * (x**2).sum(axis=0) / 2
    cubic = interpolate_cubic(kinked, fine.grid.shape, fine.grid.periodic)
    start = remedies.start_on_finer_cells(kinked, operator)
    assert operator.margin(cubic) < 0 < operator.margin(start)
    size = [operator.mean_free_rms(operator.evaluate(phi, True, linearise=False).residual) for phi in (cubic, start)]
    assert size[1] < 0.5 * size[0]
    smooth = pmapde.solve(exact.manufactured((n, n)).problem).displacement_potential
    operator = MongeAmpere(conservation.subdivided(exact.manufactured((n, n)).problem))
    assert np.array_equal(remedies.start_on_finer_cells(smooth, operator),
                          interpolate_cubic(smooth, (2 * n, 2 * n), (False, False)))


@pytest.mark.parametrize(("kind", "seed"), [("Cauchy", 1), ("Cauchy", 2), ("shapes", 0), ("shapes", 7)])
def test_hard_pairs_in_space_are_solved_without_finer_cells(kind, seed):
    """Corrected over the blocks that are judged, the second of them on the swapped side; and the solution's count of
    the misplaced mass, which the correction aims at, is the verdict's."""
    source, target = pair(kind, (16, 16, 16), 1e3, seed)
    solution = solved(source, target, method=EQUATION)
    found = verdict.judge(solution, source, target)
    assert solution.success and found.sound
    assert all(tried["parts"] == 1 for tried in solution.stats["attempts"])
    assert solution.swapped == ((kind, seed) == ("Cauchy", 2))
    assert abs(found.misplaced - solution.push_forward_error) < 0.004  # observed up to 0.0031


def test_masses_that_were_corrected_are_counted_in_pieces():
    """A target with the masses that whole cells seem to bring looks right unless their images are cut."""
    grid = pmapde.Grid((16, 16, 16))
    displacement = np.zeros((3, 16, 16, 16))
    displacement[0] = 0.05 * np.sin(np.pi * grid.cell_centres()[0])
    moved = PiecewiseAffineMap(grid, grid, displacement)
    source = np.full((16, 16, 16), 1e-6)
    source[7] = 16.0
    target = conservation.repeated(moved.deposited(source, grid.with_shape((2, 2, 2)), False), 8)
    target *= source.mean() / target.mean()
    assert moved.misplaced_mass(source, target) < 1e-6
    assert moved.misplaced_mass(source, target, finely=True) > 0.003  # observed 0.0038; with ever finer pieces 0.0044


def test_a_drift_beyond_the_weights_does_not_spoil_the_multigrid_of_a_volume():
    """The target jumps from cell to cell: cell Péclet numbers above 1, where central differences oscillate."""
    problem = pmapde.TransportProblem(*pair("shapes", (16, 16, 16), 1e3, 7))
    operator = MongeAmpere(problem, "centred")
    evaluation = operator.evaluate(np.zeros((16, 16, 16)), extend=True)
    stencil = operator.stencil(evaluation, shift=10.0)
    assert (np.abs(stencil.drift) > stencil.weights[:3]).any()
    result = LinearSolver(pmapde.BlackBoxMultigrid(), new_stats()).solve(stencil, evaluation.residual, 0.1)
    assert result.converged and result.applications <= 12  # observed 7; 23 with the weights as they are


def test_cells_are_halved_only_where_that_may_help():
    assert conservation.halvings(32**2, 1, 8, 2) == 3 and conservation.halvings(512**2, 1, 8, 2) == 1
    assert conservation.halvings(16**3, 1, 8, 3) == 2 and conservation.halvings(16**3, 4, 4, 3) == 0
    assert conservation.worth_halving(0.05, 1) and not conservation.worth_halving(0.06, 1)
    assert conservation.worth_halving(0.06, 2) and not conservation.worth_halving(0.019, 0)


def test_a_time_limit_holds_inside_a_linear_solve(monkeypatch):
    """The clock is set forward by every application of the preconditioner: the first linear solve is cut."""
    source, target = pair("shapes", (32, 32), 1e3, 1)
    applications, begin, build = [], time.perf_counter(), GeometricMultigrid.build

    def slow(self, stencil, threads):
        preconditioner = build(self, stencil, threads)

        class Slow:
            def apply(self, field, threads):
                applications.append(len(applications))
                return preconditioner.apply(field, threads)
        return Slow()
    monkeypatch.setattr(GeometricMultigrid, "build", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: begin + 10.0 * len(applications))
    solution = solved(source, target, method=pmapde.PseudoTransient(linear=GeometricMultigrid()), tolerance=1e-8,
                      max_seconds=35)
    assert solution.status is Status.MAX_SECONDS and len(applications) == 4


def test_masses_near_the_limit_are_counted_finely():
    """The verdict's points against the solver's overlaps, on a pair of which either side of 2 % was said before."""
    source, target = pair("log-Gaussian", (32, 32), 1e6, 22)
    solution = pmapde.solve(pmapde.TransportProblem(target, source), pmapde.PseudoTransient(subdivision=1))
    found, _ = verdict.misplaced_mass(solution, target, source)
    assert 0.01 < found < 0.03
    assert solution.push_forward_error == pytest.approx(found, abs=5e-4)


def test_masses_of_smooth_maps_in_space_are_found_from_fewer_cells(monkeypatch):
    """On large grids only; rough maps are counted cell by cell whatever their size."""
    smooth = exact.manufactured((48, 48, 48)).problem
    rough = pmapde.TransportProblem(*pair("white noise", (12, 12, 12), 1e3, 0))
    for problem, same in ((smooth, False), (rough, True)):
        transport_map = pmapde.solve(problem, pmapde.PseudoTransient(subdivision=1)).transport_map
        monkeypatch.setattr(transport, "LARGE", 2**18)
        every = transport_map.misplaced_mass(problem.source_values, problem.target_values)
        monkeypatch.setattr(transport, "LARGE", 1)
        few = transport_map.misplaced_mass(problem.source_values, problem.target_values)
        assert (few == every) == same
        assert same or abs(few - every) < transport.SMALL_ERROR / 4


def test_folds_are_straightened_and_nothing_else_is_touched():
    grid = pmapde.Grid((24, 24))
    rng = np.random.default_rng(2)
    displacement = np.zeros((2, 24, 24))
    displacement[:, 8:12, 8:12] = 0.08 * rng.standard_normal((2, 4, 4))
    crumpled = PiecewiseAffineMap(grid, grid, displacement)
    assert crumpled.folded_mass(np.ones((24, 24))) > 0
    straight = crumpled.unfolded(np.ones((24, 24)))
    assert straight.folded_mass(np.ones((24, 24))) == 0
    assert not straight.displacement[:, 20:, 20:].any()


def test_a_target_rougher_than_the_source_is_solved_from_the_other_side():
    n = 32
    x, y = pmapde.Grid((n, n)).cell_centres()
    two = (np.hypot(x - 0.27, y - 0.3) < 0.18) | (np.hypot(x - 0.72, y - 0.7) < 0.2)
    solution = solved(np.ones((n, n)), two.astype(float))
    assert solution.success and solution.swapped
    attempts = solution.stats["attempts"]
    assert [tried["swapped"] for tried in attempts][:2] == [False, True]
    assert all(tried["work"] > 0 and tried["seconds"] > 0 for tried in attempts)
    assert f"attempts  {len(attempts)}, {sum(tried['work'] for tried in attempts):.1f} work units" in str(solution)
    back = solved(two.astype(float), np.ones((n, n)))
    assert solution.cost == pytest.approx(back.cost, rel=1e-4)  # its floored densities are normalised twice
    assert verdict.judge(solution, np.ones((n, n)), two.astype(float)).sound


@pytest.mark.parametrize("name", ["hole", "disconnected", "bars"])
def test_sources_that_vanish_on_regions_need_no_floor(name):
    n = 64
    x, y = pmapde.Grid((n, n)).cell_centres()
    source = {"hole": np.hypot(x - 0.5, y - 0.5) > 0.25, "bars": (6 * x) % 1 < 0.5,
              "disconnected": (np.hypot(x - 0.27, y - 0.3) < 0.18) | (np.hypot(x - 0.72, y - 0.7) < 0.2)}[name]
    solution = solved(source.astype(float), np.ones((n, n)))
    assert solution.success
    assert np.array_equal(solution.problem.source_support, source)
    assert verdict.judge(solution, source.astype(float), np.ones((n, n))).sound


def test_the_limit_of_a_vanishing_floor_is_reached_where_the_source_has_mass():
    n = 64
    x, y = pmapde.Grid((n, n)).cell_centres()
    source = (np.hypot(x - 0.5, y - 0.5) > 0.25).astype(float)
    maps = [pmapde.solve(pmapde.TransportProblem(source, np.ones((n, n)), floor=floor)).displacement
            for floor in (1e-2, 1e-3, 1e-4)]
    inside = source > 0
    changes = [np.abs(a - b)[:, inside].mean() for a, b in zip(maps, maps[1:])]
    assert changes[1] < 0.3 * changes[0]  # first order in the floor


def test_defect_is_nothing_where_the_mass_is_in_its_place():
    grid = pmapde.Grid((16, 16), periodic=(True, False))
    values = 1 + np.random.default_rng(3).random((16, 16))
    identity = PiecewiseAffineMap(grid, grid, np.zeros((2, 16, 16)))
    assert np.abs(conservation.defect(identity, values, grid, values)).max() < 1e-12
    assert conservation.defect(identity, values, grid, values[::-1])[1:-1, 1:-1].std() > 1e-3


def test_cost_agrees_with_the_extrapolated_linear_programme():
    pytest.importorskip("ot", reason="needs POT (extra 'peers')")
    from bench_robustness import extrapolated_cost
    for kind in ("Gaussian, moderate", "logit"):
        source, target = pair(kind, (16, 16), 10.0, 0)
        assert solved(source, target).cost == pytest.approx(extrapolated_cost(source, target), rel=0.05)


def test_large_folds_are_straightened_without_moving_the_mass_around_them():
    """A disc of 70 cells across that is mirrored, in a gap of the density."""
    grid = pmapde.Grid((128, 128))
    x, y = grid.cell_centres()
    distance, displacement = np.hypot(x - 0.5, y - 0.5), np.zeros((2, 128, 128))
    displacement[0] = np.where(distance < 0.3, -1.5 * (x - 0.5), 0.0)
    source = np.where(distance < 0.36, 1e-3, 1.0)
    straight = PiecewiseAffineMap(grid, grid, displacement).unfolded(source)
    assert straight.folded_mass(source) == 0  # without momentum 1359 of 4627 cells stayed folded
    assert np.abs(straight.displacement)[:, source == 1].max() < 1e-3


@pytest.mark.parametrize(("shape", "periodic"), [((24, 20), True), ((24, 20), (True, False)), ((10, 9, 8), True),
                                                 ((24, 20), False), ((10, 9, 8), False)])
def test_folds_are_straightened_through_faces(shape, periodic):
    grid, rng, dimension = pmapde.Grid(shape, periodic=periodic), np.random.default_rng(0), len(shape)
    displacement = np.zeros((dimension, *shape))
    corner = (slice(None), *(slice(0, 3),) * dimension)
    displacement[corner] = rng.normal(scale=1.2 / min(shape), size=displacement[corner].shape)
    source = 0.5 + rng.random(shape)
    folded = PiecewiseAffineMap(grid, grid, displacement)
    assert folded.folded_mass(source) > 0
    straight = folded.unfolded(source)
    assert straight.folded_mass(source) == 0
    if periodic is True:  # wherever they are
        shift = tuple(range(1, 1 + dimension))
        moved = PiecewiseAffineMap(grid, grid, np.roll(displacement, shift, shift)).unfolded(
            np.roll(source, shift, tuple(range(dimension))))
        np.testing.assert_allclose(moved.displacement, np.roll(straight.displacement, shift, shift), atol=1e-12)


def test_a_correction_that_is_cut_short_ends_with_the_map_that_would_do(monkeypatch):
    """1.1 % misplaced after the first round, 0.5 % after the second."""
    source, target = pair("white noise", (32, 32), 10.0, 0)
    problem, clock, good = pmapde.TransportProblem(source, target), [0.0], []

    def watch(step):
        if step.good is not None:
            good.append(step.good)
            clock[0] = 1e9

    in_time = pmapde.solve(problem)
    monkeypatch.setattr("pmapde.solver.time.perf_counter", lambda: clock[0])
    solution = pmapde.solve(problem, max_seconds=1e6, callback=watch)
    assert len(good) == 1 and solution.success and len(solution.stats["attempts"]) == 1
    assert solution.push_forward_error == good[0].judged[1] > in_time.push_forward_error
    strict = pmapde.solve(problem, max_seconds=1e6 + 1e9, tolerance=1e-6, callback=watch)
    assert good[-1].residual <= 1e-6 and strict.success


def test_a_run_cut_short_on_finer_cells_ends_with_the_best_map_so_far(monkeypatch):
    source, target = pair("log-Gaussian", (32, 32), 1e6, 5)
    problem, clock, finer = pmapde.TransportProblem(source, target), [0.0], []

    def watch(step):
        if step.grid.size > problem.grid.size and step.newton_iterations:
            finer.append(step)
            clock[0] = 1e9

    monkeypatch.setattr("pmapde.solver.time.perf_counter", lambda: clock[0])
    solution = pmapde.solve(problem, EQUATION, max_seconds=1e6, callback=watch)
    good = finer[0].good
    assert solution.status is Status.MAX_SECONDS and len(finer) == 1
    assert good.status is Status.CONVERGED and good.grid.shape == problem.grid.shape
    assert good.judged[1] > conservation.LIMIT  # or finer cells were not tried
    last = solution.stats["attempts"][-1]
    assert last["status"] == "MAX_SECONDS"
    assert solution.push_forward_error == min(attempt["misplaced"] for attempt in solution.stats["attempts"])


def test_continuation_in_contrast_solves_what_newtons_method_does_not():
    """Binary shapes of contrast 1e6: 300 steps were not enough without it, on either grid."""
    source, target = pair("shapes", (32, 32), 1e6, 2)
    problem = pmapde.TransportProblem(source, target)
    plain = pmapde.solve(problem, pmapde.PseudoTransient(conserve=False), max_steps=150)
    assert plain.status is Status.MAX_STEPS
    solution = pmapde.solve(problem, pmapde.PseudoTransient(subdivision=1, entropic=False))
    stages = solution.stats["continued"]
    assert stages and all(stage["powers"][-1] == 1 for stage in stages)
    assert solution.status in (Status.CONVERGED, Status.MASS_MISPLACED)  # the equation is solved
    assert solution.residual < 1e-3


def test_powers_of_a_problem_lead_from_uniform_densities_to_its_own():
    source, target = pair("logit", (16, 16), 1e3, 0)
    problem = pmapde.TransportProblem(source, target)
    flat, same = problem.powered(0.0), problem.powered(1.0)
    assert np.allclose(flat.source_values, 1) and flat.target.is_uniform
    assert np.allclose(same.source_values, problem.source_values, rtol=1e-12)
    assert np.allclose(same.target_values, problem.target_values, rtol=1e-12)
    half = problem.powered(0.5).source_values
    assert half.max() / half.min() == pytest.approx(1e3**0.5) and half.mean() == pytest.approx(1)
    function = pmapde.LogDensity(lambda x: -(x**2).sum(axis=1))
    assert not pmapde.TransportProblem(source, function).may_be_powered


def test_an_inverse_that_puts_the_mass_in_its_place_is_a_solution():
    """Though the map it is the inverse of does not quite: each is judged by its own target."""
    x, y = pmapde.Grid((32, 32)).cell_centres()
    source, target = ((6 * x) % 1 < 0.5).astype(float), ((5 * y) % 1 < 0.5).astype(float)
    problem = pmapde.TransportProblem(source, target)
    back = pmapde.solve(problem.swapped(), pmapde.PseudoTransient(subdivision=1, conserve=False))
    for status in (Status.MASS_MISPLACED, Status.CONVERGED, Status.MAX_STEPS):
        found = fallback.inverted(problem, lambda *rest, status=status: dataclasses.replace(back, status=status),
                                  pmapde.PseudoTransient(), np.inf)
        if status is Status.MAX_STEPS:
            assert found.status is status
        else:
            assert found.success == (found.push_forward_error <= conservation.LIMIT and found.folded_mass == 0)


def test_gaps_on_both_sides_are_solved_on_finer_cells_of_the_swapped_problem():
    """The swapped map is a success, but its inverse gives space to the gaps, half a cell at every edge."""
    x, y = pmapde.Grid((64, 64)).cell_centres()
    source, target = (np.hypot(x - 0.5, y - 0.5) > 0.25).astype(float), ((6 * x) % 1 < 0.5).astype(float)
    back = solved(target, source)
    assert back.success and back.subdivision == 1
    assert not fallback.sampled_inverse(pmapde.TransportProblem(source, target), back).success  # observed 2.8 %
    solution = solved(source, target, method=EQUATION)
    assert solution.success and solution.swapped and verdict.judge(solution, source, target).sound
    assert [attempt["swapped"] for attempt in solution.stats["attempts"]] == [False, True, True]  # what came closer


def test_no_attempt_repeats_another():
    def attempts(shape, **settings):
        problem = pmapde.TransportProblem(np.ones(shape), np.ones(shape))
        return fallback._finer(problem, pmapde.PseudoTransient(**settings))
    assert attempts((64, 64)) == [(1, None), (4, 1), (8, 1), (8, None)]
    assert attempts((512, 512)) == [(1, None), (2, 1), (2, None)]
    assert attempts((64, 64), radius=2, subdivision=2) == [(1, 2), (2, 2)]
    assert attempts((32, 32, 32)) == [(1, None), (2, 1)]
    assert attempts((128, 128, 128)) == [(1, None)]


def test_what_was_straightened_is_told_where_it_is_straightened_early():
    source, target = (pmapde.gallery.load(name, (256, 256)) for name in ("grace_hopper", "relief"))
    solution = solved(source, target, floor=0.03)
    assert solution.success and solution.folded_mass == 0
    problem = solution.problem
    displacement = MongeAmpere(problem, "monotone").displacement(solution.displacement_potential)
    before = PiecewiseAffineMap(problem.grid, problem.target_grid, displacement)
    assert 0 < solution.straightened_mass == before.folded_mass(problem.source_values)


def test_a_chain_cut_short_says_that_time_was_missing():
    source, target = pair("shapes", (32, 32), 1e3, 2)
    problem = pmapde.TransportProblem(source, target)
    failed = pmapde.solve(problem, pmapde.PseudoTransient(conserve=False))
    assert failed.status is Status.MASS_MISPLACED

    def attempt(problem, method, extrapolate, start, seconds, steps):  # the whole time goes into the first one
        time.sleep(0.02)
        return failed
    cut = fallback.solve(attempt, problem, pmapde.PseudoTransient(), None, None, 0.01)
    assert cut.status is Status.MAX_SECONDS and len(cut.stats["attempts"]) == 1


@pytest.mark.slow
def test_bars_on_both_sides():
    """Zeros in source and target, across each other; solved from the other side."""
    x, y = pmapde.Grid((64, 64)).cell_centres()
    source, target = ((6 * x) % 1 < 0.5).astype(float), ((5 * y) % 1 < 0.5).astype(float)
    solution = solved(source, target, method=EQUATION)
    assert solution.success and solution.swapped
    assert verdict.judge(solution, source, target).sound


def test_what_has_failed_is_not_straightened_nor_counted_finely(monkeypatch):
    """Both may take longer than the run did."""
    for name in ("unfolded", "deposited"):
        original = getattr(PiecewiseAffineMap, name)

        def watched(self, *arguments, original=original, name=name, **options):
            assert name == "deposited" and options["widest"] >= 1 / transport.BLOCK
            return original(self, *arguments, **options)
        monkeypatch.setattr(PiecewiseAffineMap, name, watched)
    monkeypatch.setattr(transport, "NEAR_THE_LIMIT", (0, 1))
    source, target = pair("log-Gaussian", (64, 64), 1e6, 0)
    solution = solved(source, target, method=pmapde.PseudoTransient(conserve=False), max_steps=1)
    assert solution.status is pmapde.Status.MAX_STEPS and solution.folded_mass > 0.01 < solution.push_forward_error


def test_straightening_ends_with_its_budget(monkeypatch):
    """Not with the sweeps: what is left stays folded, and is counted."""
    grid, ones = pmapde.Grid((32, 32)), np.ones((32, 32))
    mirrored = PiecewiseAffineMap(grid, grid, np.stack([0.9 - 1.9 * grid.cell_centres()[0], np.zeros((32, 32))]))
    assert mirrored.unfolded(ones).folded_mass(ones) == 0
    left = []
    for work in (10_000, 1_000_000, 10_000_000):
        monkeypatch.setattr(transport, "UNFOLDING_WORK", (work, 0))
        left.append(mirrored.unfolded(ones).folded_mass(ones))
    assert left[0] > left[1] > left[2] > 0.5


@pytest.mark.parametrize("shape", [(33, 31), (7, 13), (12, 9, 10)])
def test_the_verdict_has_equal_blocks_where_eight_does_not_divide_the_cells(shape):
    """Those of the solver; masses of blocks that end within a cell are shared."""
    rng = np.random.default_rng(2)
    source, target = (rng.random(shape) + 1 for _ in range(2))
    solution = solved(source, target)
    found = verdict.judge(solution, source, target)
    assert found.misplaced == pytest.approx(solution.push_forward_error, abs=2e-3)
    for shifted in (False, True):
        masses = verdict.block_masses(target, verdict.block_edges(shape, shifted))
        assert masses.sum() == pytest.approx(1) and masses.min() > 0
        widths = [np.diff(ends) for ends in verdict.block_edges(shape, shifted)]
        equal = verdict.block_masses(np.ones(shape), verdict.block_edges(shape, shifted))
        np.testing.assert_allclose(equal, functools.reduce(np.multiply.outer, widths))


def test_the_verdict_has_more_points_in_heavy_cells():
    """A cell that holds a seventh of the mass, and its image that share of the target."""
    source = np.full((12, 12, 12), 1e-3)
    source[5, 6, 5] = 0.3
    counts = verdict.points_per_axis(source / source.sum())
    assert counts[5, 6, 5] == 24 and np.median(counts) == 12
    solution = solved(source, np.ones((12, 12, 12)), method=pmapde.PseudoTransient(conserve=False, scheme="monotone"))
    found, _ = verdict.misplaced_mass(solution, source, np.ones((12, 12, 12)))
    problem = solution.problem
    overlaps = solution.transport_map.misplaced_mass(problem.source_masses, problem.target_masses, finely=True)
    assert found == pytest.approx(overlaps, abs=2e-3)


@pytest.mark.parametrize(("kind", "shape", "contrast", "seed", "parts"), [
    ("shapes", (64, 64), 1e6, 5, 1), ("log-Gaussian", (32, 32), 1e6, 3, 4), ("shapes", (16, 16, 16), 1e3, 7, 2)])
def test_entropic_plans_put_the_mass_where_the_equation_does_not(kind, shape, contrast, seed, parts):
    """The order of attempts, and what the solution says of its map: the verdict's masses, cost, no error estimates."""
    source, target = pair(kind, shape, contrast, seed)
    solution = solved(source, target)
    attempts = solution.stats["attempts"]
    assert solution.status is Status.MARGINALS_MET and solution.subdivision == parts
    assert [attempt.get("swapped") for attempt in attempts][:3] == [False, True, None]
    assert [attempt["parts"] for attempt in attempts[2:]] == [2**k for k in range(len(attempts) - 2)]
    assert solution.blur == attempts[-1]["blur"] == pytest.approx(barycentric.BLUR[len(shape)] / shape[0] / parts)
    assert all(attempt["misplaced"] > solution.push_forward_error for attempt in attempts[:-1])
    found = verdict.judge(solution, source, target)
    assert found.sound and found.misplaced == pytest.approx(solution.push_forward_error, abs=1e-3)
    assert all(np.isnan([solution.residual, solution.map_error, solution.drift])) and solution.cost_error > 0
    assert solution.dual_cost == pytest.approx(solution.cost, rel=0.03)
    assert "entropic" in str(solution) and solution.summary()["residual"] is None
    again = pmapde.solve(solution.problem, EQUATION, max_seconds=1.0)
    assert again.blur == 0 and again.status is not Status.MARGINALS_MET


def test_the_map_of_an_entropic_plan_is_of_first_order_and_has_no_folds():
    """On smooth data, where nobody asks for it: three terms of the error, of which that at the faces is the largest."""
    errors = []
    for n in (32, 64, 128):
        known = exact.manufactured((n, n))
        plain = pmapde.solve(known.problem, pmapde.PseudoTransient(conserve=False))
        found = barycentric.barycentric(known.problem, plain, 1)
        assert found.status is Status.MARGINALS_MET and found.folded_mass == found.straightened_mass == 0
        points = known.problem.grid.cell_centres().reshape(2, -1).T
        errors.append(np.sqrt(((found.map(points) - plain.map(points))**2).sum(axis=1).mean()))
    assert np.all(np.array(errors) < 0.3 / np.array([32, 64, 128])), errors


def test_plans_do_not_stand_in_for_what_was_asked_of_the_equation():
    source, target = pair("shapes", (32, 32), 1e6, 2)
    problem = pmapde.TransportProblem(source, target)
    assert pmapde.solve(problem).status is Status.MARGINALS_MET
    asked = pmapde.solve(problem, tolerance=1e-6, max_seconds=2.0)  # a residual: plans have none
    assert asked.blur == 0 and all("blur" not in attempt for attempt in asked.stats["attempts"])
    limited = pmapde.solve(problem, max_steps=3)
    assert limited.status is Status.MAX_STEPS and limited.blur == 0


def test_a_limited_time_leaves_some_for_a_plan(monkeypatch):
    source, target = pair("shapes", (32, 32), 1e6, 2)
    problem = pmapde.TransportProblem(source, target)
    failed = pmapde.solve(problem, EQUATION, max_steps=1)
    given = []

    def attempt(problem, method, extrapolate, start, seconds, steps):
        given.append(seconds)
        return dataclasses.replace(failed, status=Status.MAX_SECONDS)
    kept = fallback.SECONDS_KEPT[0] * problem.grid.size
    late = fallback.solve(attempt, problem, pmapde.PseudoTransient(), None, None, 100.0, entropic=True)
    assert late.status is Status.MARGINALS_MET
    assert given[0] == pytest.approx(100.0 - kept, abs=1e-3)
    monkeypatch.setattr(fallback, "barycentric", lambda problem, failed, parts, seconds, threads: dataclasses.replace(
        failed, status=Status.MASS_MISPLACED, blur=0.1, push_forward_error=0.5))
    late = fallback.solve(attempt, problem, pmapde.PseudoTransient(), None, None, 100.0, entropic=True)
    assert late.status is Status.MAX_SECONDS


def test_a_plan_that_runs_away_is_no_solution(monkeypatch):
    problem = pmapde.TransportProblem(*pair("shapes", (16, 16), 1e3, 2))
    failed = pmapde.solve(problem, EQUATION, max_steps=1)
    plan = pmapde.sinkhorn(problem, 1e-3, 1)
    nowhere = np.full(problem.target_grid.shape, np.nan)
    monkeypatch.setattr(barycentric, "sinkhorn", lambda *_, **__: dataclasses.replace(
        plan, status=Status.MARGINALS_MET, dual_displacement_potential=nowhere))
    found = barycentric.barycentric(problem, failed, 1)
    assert found.status is Status.NONFINITE and np.isnan(found.push_forward_error)
    monkeypatch.setattr(barycentric, "sinkhorn", lambda *_, **__: dataclasses.replace(
        plan, status=Status.DIVERGED, history={"source_error": np.array([1e4])}))
    found = barycentric.barycentric(problem, failed, 1)
    assert found.status is Status.DIVERGED and np.isnan(found.push_forward_error)


def test_nothing_is_begun_behind_a_side_that_ran_out_of_time(monkeypatch):
    """The swapped side may break off and end with what it had before: finer equations would then be written into the
    checkpoint behind a grid that is half done."""
    problem = pmapde.TransportProblem(*pair("shapes", (16, 16), 1e3, 2))
    failed = dataclasses.replace(pmapde.solve(problem, EQUATION, max_steps=1), status=Status.MASS_MISPLACED)
    clock, begun = [0.0], []

    def attempt(problem, method, extrapolate, start, seconds, steps):
        begun.append(method.subdivision)
        return failed

    def inverted(problem, attempt, method, seconds, steps):
        clock[0] += seconds
        return failed
    monkeypatch.setattr(fallback.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(fallback, "inverted", inverted)
    monkeypatch.setattr(fallback, "barycentric", lambda *_: dataclasses.replace(failed, blur=0.1))
    cut = fallback.solve(attempt, problem, pmapde.PseudoTransient(), None, None, 100.0, entropic=True)
    assert cut.status is Status.MAX_SECONDS and begun == [1]
    assert [("blur" in tried) for tried in cut.stats["attempts"]][:3] == [False, False, True]


def test_a_request_to_stop_is_heard_while_an_inverse_is_corrected(monkeypatch):
    asked, next_problem = [], conservation.Correction.next_problem

    def corrected(self):
        asked.append(self.inverse)
        return next_problem(self)
    monkeypatch.setattr(conservation.Correction, "next_problem", corrected)
    problem = pmapde.TransportProblem(*pair("shapes", (16, 16, 16), 1e3, 1))
    solution = pmapde.solve(problem, callback=lambda step: True in asked)
    assert True in asked and solution.status is Status.STOPPED
    assert not any("blur" in attempt for attempt in solution.stats["attempts"])


def test_the_step_limit_that_is_reported_is_the_callers():
    """The limit of a side that waits for plans is our own: what ended the last attempt is told."""
    problem = pmapde.TransportProblem(*pair("shapes", (16, 16), 1e3, 2))
    cut = dataclasses.replace(pmapde.solve(problem, EQUATION, max_steps=1), push_forward_error=0.02)
    assert cut.status is Status.MAX_STEPS
    chain = fallback._Chain(problem, None, pmapde.PseudoTransient(), None, None, np.inf, 300)
    chain.book(cut, swapped=False, parts=1)
    chain.book(dataclasses.replace(cut, status=Status.MASS_MISPLACED, push_forward_error=0.03), swapped=False, parts=1)
    ended = chain.ended()
    assert ended.status is Status.MASS_MISPLACED and ended.push_forward_error == 0.02


def bright_pixel():
    target = np.zeros((64, 64))
    target[:, :32], target[40, 10] = 1, 1000
    return np.ones((64, 64)), target


def stars():
    rng = np.random.default_rng(3)
    target = np.zeros((64, 64))
    target[tuple(rng.integers(0, 64, (2, 30)))] = rng.pareto(1, 30)
    return np.ones((64, 64)), target


@pytest.mark.parametrize("densities", [bright_pixel, stars])
def test_zeros_beside_peaks(densities):
    """A floor relative to the peak would be a tenth of the mass, and the map that of another problem."""
    source, target = densities()
    solution = solved(source, target)
    assert solution.success and verdict.judge(solution, source, target).sound


def test_arrays_of_any_contrast():
    x = (np.arange(64) + 0.5) / 64
    target = np.maximum(np.exp(-((x[:, None] - 0.5)**2 + (x - 0.5)**2) / (2 * 0.01**2)), 1e-30)
    solution = solved(np.ones((64, 64)), target)
    assert solution.success and verdict.judge(solution, np.ones((64, 64)), target).sound


def test_what_is_tried_after_a_start_has_failed():
    """As the remedy of MAX_SECONDS has it: a run goes on from its potential, and has all ways round a failure."""
    problem = pmapde.TransportProblem(*pair("shapes", (48, 48), 1e6, 4))
    part = pmapde.solve(problem, max_steps=5)
    solution = pmapde.solve(problem, start=part.potential)
    assert not part.success and solution.success
    assert [attempt["swapped"] for attempt in solution.stats["attempts"][:2]] == [False, True]


@pytest.mark.parametrize("box", [[(0, 1), (0, 1000)], [(0, 1), (0, 1.5)]])
@pytest.mark.parametrize("periodic", [False, (True, False)])
def test_plans_are_for_nearly_cubic_cells(box, periodic):
    """One temperature blurs by many cells along an axis otherwise, and may be out of bounds on a torus."""
    source, target = pair("shapes", (32, 32), 1e6, 2)
    grid = pmapde.Grid((32, 32), box, periodic)
    problem = pmapde.TransportProblem(source, target, grid=grid, target_grid=grid)
    assert not barycentric.is_for(problem)
    solution = pmapde.solve(problem, pmapde.PseudoTransient(subdivision=1), max_seconds=0.5)
    assert solution.blur == 0 and not any("blur" in attempt for attempt in solution.stats["attempts"])


def test_masses_are_counted_where_a_map_jumps_across_a_diagonal():
    """The images of cells reach as far as their diagonal neighbours: against points of every cell."""
    source, target = pair("shapes", (32, 32, 32), 1e3, 1)
    problem = pmapde.TransportProblem(source, target)
    plain = pmapde.solve(problem, EQUATION, max_steps=1)
    found = barycentric.barycentric(problem, plain, 2)
    blocks = problem.target_grid.with_shape((4, 4, 4))
    arrived = found.transport_map.deposited(conservation.repeated(problem.source_masses, 2), blocks, False,
                                            widest=1 / transport.BLOCK**2) * found.transport_map.grid.cell_volume
    wanted = average(problem.target_masses, blocks.shape) * blocks.cell_volume
    counted = 0.5 * np.abs(arrived - wanted).sum()
    assert counted == pytest.approx(verdict.misplaced_mass(found, source, target)[0], rel=0.01)


def test_straightening_leaves_the_mass_where_it_is():
    """Light nodes give way first, also once the neighbourhood has grown: in space the folds of the map of a plan were
    straightened at the price of as much misplaced mass again."""
    problem = pmapde.TransportProblem(*pair("shapes", (32, 32, 32), 1e3, 2))
    cells = barycentric.cells_of(problem, 2)
    plan = pmapde.sinkhorn(cells, cells.grid.spacing[0]**2, tolerance=2e-3)
    folded = PiecewiseAffineMap(cells.grid, problem.target_grid, 0.999 * plan.displacement)
    source = conservation.repeated(problem.source_masses, 2)
    straight = folded.unfolded(source)
    assert folded.folded_mass(source) > 0 and straight.folded_mass(source) == 0
    before, after = (each.misplaced_mass(source, problem.target_masses, True) for each in (folded, straight))
    assert after < 1.1 * before
